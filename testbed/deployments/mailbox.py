"""How requests reach a guest: files in a folder that both sides see.

A request has an identifier, and these files:

    ID.json        the request; put there whole
    ID.out ID.err  what it prints, as it prints it
    ID.answer      how it ended; put there whole, after all output
    ID.interrupt   the sender wants it to end (SIGINT)
    ID.kill        the sender wants it ended (SIGKILL)

The guest looks into the folder again and again, because nothing that happens on the host can wake
one of its processes.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from testbed.plan.model import Frozen, Network
from testbed.runfolder.files import replace_text


class Request(Frozen):
    """What a guest is asked to do.

    exec: run the command `words` on `node`. prompt: carry out the line `words[0]` as Mininet's
    prompt does. set: change the links that differ in `network`. verify: measure; prints a JSON line
    per check. `node` is a name that people use.
    """

    kind: Literal["exec", "prompt", "set", "verify"]
    node: str = ""
    words: tuple[str, ...] = ()
    network: Network | None = None
    quick: bool = False


class Answer(Frozen):
    """How a request ended: the exit status as a shell has it, and the guest's clock (Unix time in
    ns).
    """

    status: int
    time_ns: int


@dataclass(frozen=True)
class Mail:
    """A request and all that belongs to it."""

    folder: Path
    identifier: str

    def file(self, kind: str) -> Path:
        """One of its files (see the module's text)."""
        return self.folder / f"{self.identifier}.{kind}"

    @property
    def sender(self) -> int:
        """The process on the host that put it there."""
        return int(self.identifier.partition("-")[0])

    def put(self, kind: str, text: str = "") -> None:
        """Make one of its files, so that a reader sees all of it or nothing."""
        replace_text(self.file(kind), text)

    def append(self, kind: str, data: bytes) -> None:
        """Add to one of its files; the other side sees it at once (hostfs writes a file back when
        it is closed).
        """
        with self.file(kind).open("ab") as file:
            file.write(data)

    def request(self) -> Request:
        """What is asked."""
        return Request.model_validate_json(self.file("json").read_text())

    def answer(self) -> Answer | None:
        """How it ended; None while it has not."""
        try:
            return Answer.model_validate_json(self.file("answer").read_text())
        except FileNotFoundError:
            return None

    def remove(self) -> None:
        """Remove all of its files."""
        for kind in ("json", "out", "err", "answer", "interrupt", "kill"):
            self.file(kind).unlink(missing_ok=True)


def post(folder: Path, request: Request) -> Mail:
    """Put `request` into `folder`."""
    mail = Mail(folder, f"{os.getpid()}-{secrets.token_hex(4)}")
    mail.put("json", request.model_dump_json())
    return mail


def mails(folder: Path) -> list[Mail]:
    """All requests in `folder`, answered ones too."""
    return [Mail(folder, path.stem) for path in sorted(folder.iterdir()) if path.suffix == ".json"]
