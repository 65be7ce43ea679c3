"""One command in a guest of its own, without a network: its output as it comes, or a terminal in
it.
"""

from __future__ import annotations

import sys
import tempfile
import termios
import time
import tty
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Literal

from testbed.guest.boot import Guest, start_guest
from testbed.guest.kernel import Kernel

Clock = Literal["virtual", "real"]
POLL_S = 0.02
POWER_OFF = "reboot: Power down"  # the kernel's last words
# The terminal is the guest's first console, which becomes the shell's controlling one, so that
# Ctrl-C reaches its jobs.
SHELL = ["setsid", "--ctty", "--wait", "sh", "-c", "exec bash -i <>/dev/tty0 >&0 2>&1"]


def execute(
    kernel: Kernel,
    command: Sequence[str],
    *,
    clock: Clock,
    memory_bytes: int,
    say: Callable[[str], None],
) -> int:
    """Run `command` in the present folder and hand on what it prints; its exit status, -1 if the
    guest was lost.

    Raises:
        MachineError: a guest cannot be started.
    """
    with _folder() as folder:
        console = folder / "console"
        console.touch()
        with (
            console.open() as output,
            _guest(kernel, command, clock, memory_bytes, folder, console) as guest,
        ):
            while (status := guest.status()) is None:
                say(_without_returns(output.read()))
                time.sleep(POLL_S)
            rest = _without_returns(output.read())
            say(rest.partition(POWER_OFF)[0])
            return status


def shell(kernel: Kernel, *, clock: Clock, memory_bytes: int) -> int:
    """A shell in the present folder on this terminal; its exit status, -1 if the guest was lost.

    Raises:
        MachineError: a guest cannot be started.
    """
    with (
        _folder() as folder,
        _raw_terminal(),
        _guest(kernel, SHELL, clock, memory_bytes, folder, None) as guest,
    ):
        while (status := guest.status()) is None:
            time.sleep(POLL_S)
        return status


def _guest(
    kernel: Kernel,
    command: Sequence[str],
    clock: Clock,
    memory_bytes: int,
    folder: Path,
    console: Path | None,
) -> AbstractContextManager[Guest]:
    here = Path.cwd()
    return start_guest(
        kernel,
        ["env", "-C", str(here), *command],
        writable=folder,
        memory_bytes=memory_bytes,
        clock=clock,
        console=console,
        clock_file=folder / "clock",
        readable=[here, Path(sys.prefix), Path(sys.base_prefix)],
    )


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="testbed-guest-") as name:
        folder = Path(name)
        (folder / "raw").mkdir()
        yield folder


@contextmanager
def _raw_terminal() -> Iterator[None]:
    """Every key goes to the guest's terminal, which knows what to do with it."""
    before = termios.tcgetattr(sys.stdin)
    tty.setraw(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _without_returns(text: str) -> str:
    return text.replace("\r", "")
