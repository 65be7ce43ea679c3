"""The input of a request: events that the sender writes and the guest reads, in order.

Each event is one file ``ID.input-N`` of the request, numbered from 0, which the guest removes once
its command has taken the data. So the sender knows how much is on its way, and stops reading its
own input until the guest has caught up.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from testbed.deployments.requests import RequestExchange
from testbed.runfolder.files import open_plain, replace_bytes

Kind = Literal["data", "end", "size"]
MARKS: dict[bytes, Kind] = {b"d": "data", b"e": "end", b"s": "size"}  # first byte of a file
MOST_EVENTS = 8  # on their way at the same time
CHUNK_BYTES = 1 << 18
SIZE = re.compile(rb"(\d{1,5}) (\d{1,5})")


@dataclass(frozen=True)
class TerminalSize:
    """Size of a terminal in characters."""

    rows: int
    columns: int


@dataclass(frozen=True)
class InputEvent:
    """A piece of input, the end of the input, or a new size of the sender's terminal."""

    kind: Kind
    data: bytes = b""

    @property
    def size(self) -> TerminalSize | None:
        """The new size of the terminal; None for other events, or if damaged."""
        match = SIZE.fullmatch(self.data)
        if self.kind != "size" or match is None:
            return None
        rows, columns = map(int, match.groups())
        return TerminalSize(rows, columns)


class InputSender:
    """Writer of the input of one request, on the machine."""

    def __init__(self, exchange: RequestExchange) -> None:
        self._exchange = exchange
        self._sent = 0
        self._taken = 0
        self.ended = False

    def has_room(self) -> bool:
        """Return whether the guest has taken enough of the earlier input."""
        while self._taken < self._sent and not self._file(self._taken).exists():
            self._taken += 1
        return self._sent - self._taken < MOST_EVENTS

    def send(self, data: bytes) -> None:
        """Send a piece of input; no bytes mean the end of the input."""
        self.ended = not data
        self._write(b"d" + data if data else b"e")

    def resize(self, size: TerminalSize) -> None:
        """Send the new size of the terminal."""
        self._write(f"s{size.rows} {size.columns}".encode())

    def _write(self, content: bytes) -> None:
        replace_bytes(self._file(self._sent), content)
        self._sent += 1

    def _file(self, number: int) -> Path:
        return _event_file(self._exchange, number)


class InputReceiver:
    """Reader of the input of one request, in the guest."""

    def __init__(self, exchange: RequestExchange) -> None:
        self._exchange = exchange
        self._next = 0

    def new(self) -> Iterator[InputEvent]:
        """Yield the events that have arrived; an event is read when the caller asks for it."""
        while True:
            path = _event_file(self._exchange, self._next)
            try:
                with open_plain(path) as file:
                    content = file.read()
            except OSError:
                return
            self._next += 1
            path.unlink(missing_ok=True)
            kind = MARKS.get(content[:1])
            if kind is not None:
                yield InputEvent(kind, content[1:])


def _event_file(exchange: RequestExchange, number: int) -> Path:
    return exchange.folder / f"{exchange.identifier}.input-{number}"


def size_of_terminal(fd: int) -> TerminalSize:
    """Return the size of the terminal at a file descriptor.

    Raises:
        OSError: the file descriptor is not a terminal.
    """
    size = os.get_terminal_size(fd)
    return TerminalSize(size.lines, size.columns)
