"""Sources of the input of a request: bytes, a file or pipe, or the terminal of this process."""

from __future__ import annotations

import os
import select
import signal
import termios
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from testbed.deployments.input import CHUNK_BYTES, InputSender, size_of_terminal


class InputSource(Protocol):
    """Input of a request, sent in pieces as the guest takes them."""

    def send_available(self, sender: InputSender) -> bool:
        """Send a piece of input if there is one; return whether anything was sent."""


class BytesSource:
    """Input that is known in advance."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)

    def send_available(self, sender: InputSender) -> bool:
        """Send the next piece, or the end of the input."""
        if sender.ended or not sender.has_room():
            return False
        sender.send(bytes(self._data[:CHUNK_BYTES]))
        self._data = self._data[CHUNK_BYTES:]
        return True


class FileSource:
    """Input from a file, a pipe or a terminal, as it becomes available."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def send_available(self, sender: InputSender) -> bool:
        """Send what can be read without waiting, or the end of the input."""
        if sender.ended or not sender.has_room():
            return False
        readable, _, _ = select.select([self._fd], [], [], 0)
        if not readable:
            return False
        try:
            data = os.read(self._fd, CHUNK_BYTES)
        except OSError:  # a terminal that was closed
            data = b""
        sender.send(data)
        return True


class TerminalSource(FileSource):
    """Input from the terminal of this process, whose size the guest's terminal takes on."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self._size_fd = fd
        self._is_resized = True

    def resized(self, number: int, frame: object) -> None:
        """Note that the terminal has a new size; a signal handler."""
        self._is_resized = True

    def send_available(self, sender: InputSender) -> bool:
        """Send the size if it has changed, and what was typed."""
        if self._is_resized and not sender.ended and sender.has_room():
            self._is_resized = False
            sender.resize(size_of_terminal(self._size_fd))
            return True
        return super().send_available(sender)


@contextmanager
def raw_terminal(fd: int) -> Iterator[TerminalSource]:
    """Pass every key on to the guest within the block, Ctrl-C included; then restore the terminal.

    Args:
        fd: the terminal of this process.
    """
    source = TerminalSource(fd)
    before = termios.tcgetattr(fd)
    handler = None
    if threading.current_thread() is threading.main_thread():
        handler = signal.signal(signal.SIGWINCH, source.resized)
    tty.setraw(fd, termios.TCSADRAIN)  # what was typed before is kept
    try:
        yield source
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
        if handler is not None:
            signal.signal(signal.SIGWINCH, handler)
