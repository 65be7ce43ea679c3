"""The only way from the program to standard output and standard error.

`use_terminal` puts a `Terminal` in place of sys.stdout and sys.stderr, which shows control
characters instead of sending them (`testbed.core.plain_text`), whether a text comes from `print`,
from `typer.echo` or from a `new_console`. A reader that has gone, or a full disk behind a
redirection, ends the output and nothing else: `check_output` reports a failure once the command has
ended.

Only `raw_output` passes bytes on unchanged, for the output of a user's command (`testbed topo
exec`).
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any, BinaryIO, TextIO, cast

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from testbed.core.errors import StorageError
from testbed.core.plain_text import plain_text


class _Descriptor(io.RawIOBase):
    """A file descriptor that accepts everything; after a failure it discards what it gets."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.failure: OSError | None = None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._number

    def isatty(self) -> bool:
        return os.isatty(self._number)

    def write(self, data: Any) -> int:
        rest = memoryview(data)
        while rest and self.failure is None:
            try:
                rest = rest[os.write(self._number, rest) :]
            except BlockingIOError:
                select.select([], [self._number], [])
            except OSError as error:
                self.failure = error
        return len(data)


class Terminal(io.TextIOBase):
    """Standard output or standard error, in place of the stream of the same name."""

    def __init__(self, original: TextIO) -> None:
        self._original = original
        self._is_trusted = False
        self._descriptor: _Descriptor | None = None
        self._text = original
        try:
            self._descriptor = _Descriptor(original.fileno())
        except OSError:  # in memory, as in a test
            return
        self._text = io.TextIOWrapper(
            io.BufferedWriter(self._descriptor),
            encoding=original.encoding,
            errors="backslashreplace",
            line_buffering=bool(original.line_buffering) or self._descriptor.isatty(),
        )

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Name of the encoding."""
        return self._text.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        """How characters are written that the encoding lacks."""
        return self._text.errors

    @property
    def failure(self) -> OSError | None:
        """Why the output has ended early; None if it has not."""
        return None if self._descriptor is None else self._descriptor.failure

    @property
    def styled(self) -> TextIO:
        """The stream without the treatment of control characters, for a `new_console`."""
        return self._text

    @property
    def bytes(self) -> BinaryIO:
        """The stream of bytes, whose writer learns of failures."""
        self.flush()
        return self._original.buffer

    @contextmanager
    def trusted(self) -> Iterator[None]:
        """Pass everything on unchanged within the block: help texts, which typer styles."""
        self._is_trusted = True
        try:
            yield
        finally:
            self._is_trusted = False

    def writable(self) -> bool:
        """Return that the stream can be written."""
        return True

    def fileno(self) -> int:
        """Return the file descriptor."""
        return self._text.fileno()

    def isatty(self) -> bool:
        """Return whether the stream is a terminal."""
        return self._text.isatty()

    def write(self, text: str) -> int:
        """Write `text` with a visible sign for each control character."""
        self._text.write(text if self._is_trusted else plain_text(text))
        return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        self._text.flush()


class _PlainConsole(Console):
    """A console that shows the control characters of what it renders, and sends only its own."""

    @property
    def file(self) -> IO[str]:
        """The stream that the console writes to."""
        file = super().file
        return file.styled if isinstance(file, Terminal) else file

    @file.setter
    def file(self, new_file: IO[str]) -> None:
        self._file = new_file

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Render an object into segments without control characters."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(plain_text(segment.text), segment.style)


def use_terminal() -> None:
    """Put a `Terminal` in place of sys.stdout and sys.stderr."""
    sys.stdout = cast(TextIO, Terminal(sys.stdout))
    sys.stderr = cast(TextIO, Terminal(sys.stderr))


def new_console(
    *, stderr: bool = False, width: int | None = None, highlight: bool = True
) -> Console:
    """Return a console on standard output or standard error.

    Args:
        stderr: whether the console writes to standard error.
        width: columns; None: those of the terminal.
        highlight: whether numbers and names are coloured.
    """
    return _PlainConsole(stderr=stderr, width=width, highlight=highlight)


def raw_output() -> tuple[BinaryIO, BinaryIO]:
    """Return standard output and standard error as streams of bytes, for a user's command."""
    streams: list[BinaryIO] = []
    for stream in (sys.stdout, sys.stderr):
        streams.append(stream.bytes if isinstance(stream, Terminal) else stream.buffer)
    return streams[0], streams[1]


@contextmanager
def help_styled() -> Iterator[None]:
    """Pass on the styles of the help texts that typer prints within the block."""
    stream = sys.stdout
    if not isinstance(stream, Terminal):
        yield
        return
    with stream.trusted():
        yield


def check_output() -> None:
    """Check that everything arrived that was written to standard output.

    A pipe or a terminal whose other end has gone is no error.

    Raises:
        StorageError: The output was cut short, as by a full disk.
    """
    stream = sys.stdout
    if not isinstance(stream, Terminal):
        return
    stream.flush()
    failure = stream.failure
    if failure is None or failure.errno == errno.EPIPE or stream.isatty():
        return
    raise StorageError(
        f"cannot write to standard output: {failure.strerror}\n"
        "  everything else was done; print the results again to another file"
    )
