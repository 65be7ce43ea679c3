"""Run one command in a guest without a network: relay the output, or attach the terminal."""

from __future__ import annotations

import sys
import tempfile
import termios
import time
import tty
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from testbed.guest.boot import Clock, Guest, GuestSpec, start_guest
from testbed.guest.kernel import Kernel

POLL_S = 0.02
POWER_OFF = "reboot: Power down"  # the kernel's last message
# The guest's first console is the terminal. It becomes the shell's controlling terminal, so that
# Ctrl-C reaches the shell's jobs.
SHELL = ["setsid", "--ctty", "--wait", "sh", "-c", "exec bash -i <>/dev/tty0 >&0 2>&1"]


def execute(
    kernel: Kernel,
    command: Sequence[str],
    *,
    clock: Clock,
    memory_bytes: int,
    say: Callable[[str], None],
) -> int:
    """Run a command in the current folder inside a guest, and relay the command's output.

    Args:
        kernel: the guest kernel.
        command: the command and its arguments.
        clock: the guest's clock.
        memory_bytes: size of the guest's memory.
        say: called with each piece of the output.

    Returns:
        The command's exit status; -1 if the guest was lost.

    Raises:
        MachineError: a guest cannot be started.
    """
    with _shared_folder() as folder:
        console = folder / "console"
        console.touch()
        spec = _spec(kernel, command, clock, memory_bytes, folder, console)
        with console.open() as output, start_guest(spec) as guest:
            while (status := guest.status()) is None:
                say(_without_returns(output.read()))
                time.sleep(POLL_S)
            rest = _without_returns(output.read())
            say(rest.partition(POWER_OFF)[0])
            return status


def shell(kernel: Kernel, *, clock: Clock, memory_bytes: int) -> int:
    """Run a shell in the current folder inside a guest, on this terminal.

    Args:
        kernel: the guest kernel.
        clock: the guest's clock.
        memory_bytes: the guest's memory.

    Returns:
        The shell's exit status; -1 if the guest was lost.

    Raises:
        MachineError: a guest cannot be started.
    """
    with _shared_folder() as folder, _raw_terminal():
        spec = _spec(kernel, SHELL, clock, memory_bytes, folder, None)
        with start_guest(spec) as guest:
            return _wait(guest)


def _wait(guest: Guest) -> int:
    while (status := guest.status()) is None:
        time.sleep(POLL_S)
    return status


def _spec(
    kernel: Kernel,
    command: Sequence[str],
    clock: Clock,
    memory_bytes: int,
    folder: Path,
    console: Path | None,
) -> GuestSpec:
    present_folder = Path.cwd()
    return GuestSpec(
        kernel=kernel,
        command=["env", "-C", str(present_folder), *command],
        writable=folder,
        memory_bytes=memory_bytes,
        clock=clock,
        clock_file=folder / "clock",
        console=console,
        readable=[present_folder, Path(sys.prefix), Path(sys.base_prefix)],
    )


@contextmanager
def _shared_folder() -> Iterator[Path]:
    """Create a temporary folder that the guest can write to."""
    with tempfile.TemporaryDirectory(prefix="testbed-guest-") as name:
        folder = Path(name)
        (folder / "raw").mkdir()
        yield folder


@contextmanager
def _raw_terminal() -> Iterator[None]:
    """Put the terminal into raw mode, so that the guest's terminal receives every key."""
    before = termios.tcgetattr(sys.stdin)
    tty.setraw(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _without_returns(text: str) -> str:
    return text.replace("\r", "")
