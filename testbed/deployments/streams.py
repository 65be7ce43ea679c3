"""Open the input and output of a request's command in the guest: pipes, or a terminal."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
from dataclasses import dataclass

from testbed.deployments.input import InputEvent, InputReceiver, TerminalSize
from testbed.deployments.requests import STDERR, STDOUT, Request, RequestExchange

MOST_LOOKS = 1000  # for input, without sleeping; tenths of a second of wall time
END_OF_INPUT = b"\x04"  # Ctrl-D, which a terminal turns into the end of the input


class Feed:
    """Input of a child: a pipe or a terminal, from the events that the sender writes."""

    def __init__(self, exchange: RequestExchange, fd: int, *, is_terminal: bool) -> None:
        self._events = InputReceiver(exchange)
        self.fd = fd
        self._is_terminal = is_terminal
        self._rest = b""  # arrived, but not yet taken by the child
        self._is_ending = False
        self._looks_left = MOST_LOOKS
        self.is_open = True
        os.set_blocking(fd, False)

    @property
    def is_blocked(self) -> bool:
        """Whether there is input that the child has not taken yet."""
        return self.is_open and bool(self._rest)

    def pass_on(self) -> bool:
        """Pass on as much of the input as the child takes; return whether anything was passed."""
        has_passed = self._write_rest()
        while self.is_open and not self._rest:
            event = next(self._events.new(), None)
            if event is None:
                return has_passed
            self._take(event)
            has_passed = True
        return has_passed

    def await_more(self) -> bool:
        """Look for input without sleeping, so that the virtual clock stands still meanwhile.

        Only a child that has taken all of its input waits for more, and only for a while: what the
        child waits for may depend on the network.

        Returns:
            Whether input has arrived.
        """
        while self.is_open and self._looks_left and not self._is_terminal and self._is_taken():
            self._looks_left -= 1
            if self.pass_on():
                return True
        return False

    def _is_taken(self) -> bool:
        """Return whether the child has read everything from its pipe."""
        waiting = struct.unpack("i", fcntl.ioctl(self.fd, termios.FIONREAD, struct.pack("i", 0)))
        return not self._rest and waiting == (0,)

    def close(self) -> None:
        """Close the input; a terminal belongs to the output, and stays open."""
        if self.is_open and not self._is_terminal:
            os.close(self.fd)
        self.is_open = False

    def _take(self, event: InputEvent) -> None:
        self._looks_left = MOST_LOOKS
        if event.size is not None and self._is_terminal:
            set_terminal_size(self.fd, event.size)
            return
        if event.kind == "data":
            self._rest = event.data
        elif event.kind == "end":
            self._is_ending = True
            if self._is_terminal:
                self._rest = END_OF_INPUT
        self._write_rest()

    def _write_rest(self) -> bool:
        """Write what the child has not taken yet; return whether the child took any of it."""
        before = len(self._rest)
        try:
            while self._rest:
                written = os.write(self.fd, self._rest)
                self._rest = self._rest[written:]
        except BlockingIOError:
            return len(self._rest) < before
        except OSError:  # the child has closed its input: discard the rest
            self._rest = b""
            self._is_ending = True
        if self._is_ending:
            self.close()
        return before > 0


@dataclass(frozen=True)
class Streams:
    """Input and output of a child.

    Attributes:
        outputs: the agent's ends of the outputs, each with its stream.
        child_ends: file descriptors of the child's input, output and error output.
        is_terminal: whether the three are a terminal.
        feed: the agent's end of the input; None for a child without input.
    """

    outputs: dict[int, str]
    child_ends: tuple[int, int, int]
    is_terminal: bool
    feed: Feed | None

    def take(self) -> None:
        """Make the child's ends the input and output of this process, in a new session."""
        os.setsid()
        if self.is_terminal:
            fcntl.ioctl(self.child_ends[0], termios.TIOCSCTTY, 0)
        for number, fd in enumerate(self.child_ends):
            os.dup2(fd, number)

    def close_ends(self) -> None:
        """Close the child's ends in the agent."""
        for fd in set(self.child_ends):
            os.close(fd)


def open_streams(exchange: RequestExchange, request: Request) -> Streams:
    """Open the input and output for the command of a request."""
    if request.terminal:
        return _open_terminal(exchange)
    out, out_end = os.pipe()
    err, err_end = os.pipe()
    outputs = {out: STDOUT, err: STDERR}
    if not request.has_input:
        nothing = os.open(os.devnull, os.O_RDONLY)
        return Streams(outputs, (nothing, out_end, err_end), is_terminal=False, feed=None)
    in_end, in_ = os.pipe()
    feed = Feed(exchange, in_, is_terminal=False)
    return Streams(outputs, (in_end, out_end, err_end), is_terminal=False, feed=feed)


def _open_terminal(exchange: RequestExchange) -> Streams:
    agents, childs = os.openpty()
    feed = Feed(exchange, agents, is_terminal=True)
    return Streams({agents: STDOUT}, (childs, childs, childs), is_terminal=True, feed=feed)


def set_terminal_size(fd: int, size: TerminalSize) -> None:
    """Set the size of a terminal, whose foreground processes get SIGWINCH."""
    packed = struct.pack("HHHH", size.rows, size.columns, 0, 0)
    fcntl.ioctl(fd, termios.TIOCSWINSZ, packed)
