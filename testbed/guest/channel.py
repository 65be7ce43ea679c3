"""Exchange requests and replies with a resident guest, as files in a folder that both sides see.

Each request has an identifier and these files:

    ID.request    the request, a JSON object
    ID.NAME       a stream: output of the guest about the request, written as produced
    ID.NAME       a signal: an empty file by which the sender asks for, say, an interrupt
    ID.reply      the outcome of the request, a JSON object; written after all output

Requests and replies appear atomically. The guest polls the folder, because no event on the host can
wake a process of the guest. The user of a channel declares the models of requests and replies, and
the names of streams and signals.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel

from testbed.runfolder.files import MOST_AT_A_TIME, open_plain, read_plain, replace_text

REQUEST = "request"
REPLY = "reply"

RequestT = TypeVar("RequestT", bound=BaseModel)
ReplyT = TypeVar("ReplyT", bound=BaseModel)


@dataclass(frozen=True)
class Exchange(Generic[RequestT, ReplyT]):
    """A request with its streams, signals and reply."""

    folder: Path
    identifier: str
    request_model: type[RequestT]
    reply_model: type[ReplyT]

    @property
    def sender(self) -> int:
        """Process id, on the host, of the sender of the request."""
        return int(self.identifier.partition("-")[0])

    def request(self) -> RequestT:
        """Read the request.

        Raises:
            OSError: the request cannot be read; the request may have been removed.
            ValueError: the file does not contain a request of this channel.
        """
        return self.request_model.model_validate_json(read_plain(self._file(REQUEST)))

    def answer(self, reply: ReplyT) -> None:
        """Write the reply, which completes the request."""
        replace_text(self._file(REPLY), reply.model_dump_json())

    def reply(self) -> ReplyT | None:
        """Read the reply; None while the request is in progress."""
        try:
            return self.reply_model.model_validate_json(read_plain(self._file(REPLY)))
        except (OSError, ValueError):
            return None

    def signal(self, name: str) -> None:
        """Send the signal `name` of this channel to the process that carries out the request."""
        replace_text(self._file(name), "")

    def is_signalled(self, name: str) -> bool:
        """Return whether the sender has sent the signal `name`."""
        return self._file(name).exists()

    def write(self, stream: str, data: bytes) -> None:
        """Append to a stream; hostfs writes back closed files, so the host sees data at once."""
        with self._file(stream).open("ab") as file:
            file.write(data)

    def read(self, stream: str, offset: int) -> bytes:
        """Return bytes of a stream from `offset` on, not all at a time; empty: none yet."""
        try:
            file = open_plain(self._file(stream))
        except FileNotFoundError:
            return b""
        with file:
            file.seek(offset)
            return file.read(MOST_AT_A_TIME)

    def remove(self) -> None:
        """Remove all files of the request."""
        self._file(REQUEST).unlink(missing_ok=True)
        for path in self.folder.glob(f"{self.identifier}.*"):
            path.unlink(missing_ok=True)

    def _file(self, name: str) -> Path:
        return self.folder / f"{self.identifier}.{name}"


@dataclass(frozen=True)
class Channel(Generic[RequestT, ReplyT]):
    """A folder of requests, with the models of requests and replies."""

    folder: Path
    request_model: type[RequestT]
    reply_model: type[ReplyT]

    def post(self, request: RequestT) -> Exchange[RequestT, ReplyT]:
        """Write a request into the folder."""
        identifier = f"{os.getpid()}-{secrets.token_hex(4)}"
        path = self.folder / f"{identifier}.{REQUEST}"
        replace_text(path, request.model_dump_json())
        return self._exchange(identifier)

    def exchanges(self) -> Iterator[Exchange[RequestT, ReplyT]]:
        """Yield all requests in the folder, sorted by identifier, including answered ones."""
        paths = sorted(self.folder.iterdir())
        for path in paths:
            if path.suffix == f".{REQUEST}":
                yield self._exchange(path.stem)

    def _exchange(self, identifier: str) -> Exchange[RequestT, ReplyT]:
        return Exchange(self.folder, identifier, self.request_model, self.reply_model)
