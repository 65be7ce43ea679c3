"""How the host asks a resident guest for something: files in a folder that both sides see.

Each request has an identifier and these files:

    ID.request    what is asked: a JSON object
    ID.NAME       a stream: what the guest prints about the request, while it prints it
    ID.NAME       a signal: an empty file by which the sender asks, say, for an end
    ID.reply      how the request ended: a JSON object; put there after all output

A request and a reply appear whole or not at all. The guest looks into the folder again and again,
because nothing that happens on the host can wake one of its processes. Whoever owns a channel
declares the models of its requests and replies, and the names of its streams and signals.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel

from testbed.runfolder.files import open_plain, read_plain, replace_text

REQUEST = "request"
REPLY = "reply"

RequestT = TypeVar("RequestT", bound=BaseModel)
ReplyT = TypeVar("ReplyT", bound=BaseModel)


@dataclass(frozen=True)
class Exchange(Generic[RequestT, ReplyT]):
    """A request and everything that belongs to it."""

    folder: Path
    identifier: str
    request_model: type[RequestT]
    reply_model: type[ReplyT]

    @property
    def sender(self) -> int:
        """The process of the host that posted the request."""
        return int(self.identifier.partition("-")[0])

    def request(self) -> RequestT:
        """Read what is asked.

        Raises:
            OSError: the request cannot be read; it may have been removed.
            ValueError: the request is not one of this channel.
        """
        return self.request_model.model_validate_json(read_plain(self._file(REQUEST)))

    def answer(self, reply: ReplyT) -> None:
        """Say how the request ended."""
        replace_text(self._file(REPLY), reply.model_dump_json())

    def reply(self) -> ReplyT | None:
        """Read how the request ended; None while it has not."""
        try:
            return self.reply_model.model_validate_json(read_plain(self._file(REPLY)))
        except (OSError, ValueError):
            return None

    def signal(self, name: str) -> None:
        """Send a signal, which is one of a channel's own, to whoever carries out the request."""
        replace_text(self._file(name), "")

    def is_signalled(self, name: str) -> bool:
        """Whether the sender has sent a signal."""
        return self._file(name).exists()

    def write(self, stream: str, data: bytes) -> None:
        """Add to a stream; the host sees it at once, as hostfs writes back a closed file."""
        with self._file(stream).open("ab") as file:
            file.write(data)

    def read(self, stream: str, offset: int) -> bytes:
        """Read a stream from a number of bytes on; empty while nothing was written."""
        try:
            file = open_plain(self._file(stream))
        except FileNotFoundError:
            return b""
        with file:
            file.seek(offset)
            return file.read()

    def remove(self) -> None:
        """Remove all files of the request."""
        self._file(REQUEST).unlink(missing_ok=True)
        for path in self.folder.glob(f"{self.identifier}.*"):
            path.unlink(missing_ok=True)

    def _file(self, name: str) -> Path:
        return self.folder / f"{self.identifier}.{name}"


@dataclass(frozen=True)
class Channel(Generic[RequestT, ReplyT]):
    """A folder of requests, and the models of what is written there."""

    folder: Path
    request_model: type[RequestT]
    reply_model: type[ReplyT]

    def post(self, request: RequestT) -> Exchange[RequestT, ReplyT]:
        """Put a request into the folder."""
        identifier = f"{os.getpid()}-{secrets.token_hex(4)}"
        path = self.folder / f"{identifier}.{REQUEST}"
        replace_text(path, request.model_dump_json())
        return self._exchange(identifier)

    def exchanges(self) -> Iterator[Exchange[RequestT, ReplyT]]:
        """Give all requests in the folder by their identifiers, those with a reply too."""
        paths = sorted(self.folder.iterdir())
        for path in paths:
            if path.suffix == f".{REQUEST}":
                yield self._exchange(path.stem)

    def _exchange(self, identifier: str) -> Exchange[RequestT, ReplyT]:
        return Exchange(self.folder, identifier, self.request_model, self.reply_model)
