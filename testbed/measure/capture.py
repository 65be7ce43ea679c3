"""Packet captures by tcpdump, and what is made of them: a pcapng file for each interface."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from testbed.core.errors import InputError, MachineError, Place, RunError
from testbed.measure.pcapng import Interface, write_pcapng
from testbed.plan.model import CAPTURE_BUFFER_BYTES, Capturing

# tcpdump gets packets from the ring after at most 1 s, and what it has not got at its end is lost
HELD_BACK_S = 1.5
FILES = 4  # that tcpdump fills in turn; of a capture that reaches its limit, the newest stay
MEGABYTE = 1_000_000  # tcpdump counts the size of a file in these
NO_EXPRESSION = "can't parse filter expression: "


@dataclass(frozen=True)
class Tap:
    """An interface to capture: where it is, the file that is to be made, and whether only what
    comes in counts.
    """

    path: Path
    pid: int  # of a process in the network namespace
    interface: str
    inbound: bool


def check_filter(expression: str) -> None:
    """Let tcpdump compile a filter.

    Raises:
        InputError: it is not an expression of pcap-filter(7).
        MachineError: there is no tcpdump.
    """
    command = ["tcpdump", "-d", "-y", "EN10MB", "--", expression]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise MachineError(
            "captures need tcpdump, which is not installed\n  make setup installs it"
        ) from error
    if done.returncode:
        said = (
            done.stderr.strip()
            .splitlines()[-1]
            .removeprefix("tcpdump: ")
            .removeprefix(NO_EXPRESSION)
        )
        raise InputError(
            f"{expression!r} is no filter: {said}",
            place=Place(key="--capture-filter"),
            remedy="write one as for tcpdump, such as 'tcp port 29500' (man pcap-filter)",
        )


@contextmanager
def capturing(taps: Sequence[Tap], settings: Capturing, *, yielding: bool) -> Iterator[None]:
    """Capture within the block.

    Args:
        taps: what is captured.
        settings: filter, snap length, limit of each capture.
        yielding: let captures wait until nothing else can run. On a virtual clock they then change
            no time, for they never come between two processes that are woken at the same instant.

    Raises:
        RunError: a tcpdump ends before the block does.
    """
    running: dict[Tap, subprocess.Popen[str]] = {}
    try:
        for tap in taps:
            running[tap] = _start(tap, settings, ["chrt", "--idle", "0"] if yielding else [])
        for tap, process in running.items():
            _wait_listening(tap, process)
        yield
        time.sleep(HELD_BACK_S if running else 0)
        for tap, process in running.items():
            if process.poll() is not None:
                raise RunError(
                    f"tcpdump for {tap.path.name} ended during the run with status {process.returncode}"
                )
    finally:
        for process in running.values():
            process.send_signal(signal.SIGINT)
        for process in running.values():
            process.wait()


def _start(tap: Tap, settings: Capturing, first: list[str]) -> subprocess.Popen[str]:
    file_size = settings.limit_bytes // FILES // MEGABYTE
    tcpdump = [
        "tcpdump",
        "-i",
        tap.interface,
        "-s",
        str(settings.snap_bytes),
        "-B",
        str(CAPTURE_BUFFER_BYTES // 1024),
        "-p",
        "-n",
        "-Z",
        "root",
        "--time-stamp-precision=nano",
        "-w",
        str(_pieces_of(tap.path)),
        "-C",
        str(file_size),
        "-W",
        str(FILES),
        *(["-Q", "in"] if tap.inbound else []),
        "--",
        settings.filter,
    ]
    with log_of(tap.path).open("w") as log:
        return subprocess.Popen(
            [
                *first,
                "nsenter",
                f"--net=/proc/{tap.pid}/ns/net",
                "--",
                *_as_owner(tap.path.parent),
                *tcpdump,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            text=True,
        )


def _as_owner(folder: Path) -> list[str]:
    """What lets tcpdump run as the owner of `folder`: as root it gives its files to root, which not
    everyone may.
    """
    owner = folder.stat().st_uid
    return (
        ["setpriv", f"--reuid={owner}", "--inh-caps=+net_raw", "--ambient-caps=+net_raw"]
        if owner
        else []
    )


def log_of(capture: Path) -> Path:
    """What tcpdump says about a capture."""
    return capture.with_suffix(".log")


def _pieces_of(capture: Path) -> Path:
    """tcpdump adds a digit to this name."""
    return capture.with_suffix(".pcap")


def _wait_listening(tap: Tap, process: subprocess.Popen[str]) -> None:
    while "listening on" not in log_of(tap.path).read_text():
        if process.poll() is not None:
            raise RunError(
                f"tcpdump cannot capture into {tap.path.name}: {log_of(tap.path).read_text().strip()}"
            )
        time.sleep(0.005)


def finish(capture: Path, mac: str, settings: Capturing) -> None:
    """Make the pcapng file of what tcpdump left, unless that has been done.

    Raises:
        OSError: a file cannot be read or written.
    """
    name = _pieces_of(capture)
    pieces = [piece for n in range(FILES) if (piece := name.with_name(f"{name.name}{n}")).exists()]
    if pieces:
        said = re.search(r"listening on ([^,\s]+)", log_of(capture).read_text(errors="replace"))
        interface = Interface(
            said[1] if said else capture.stem, mac, settings.snap_bytes, settings.filter
        )
        write_pcapng(capture, pieces, interface)
        for piece in pieces:
            piece.unlink()


def counted(capture: Path) -> tuple[int, int] | None:
    """How many packets tcpdump wrote, and how many the kernel had no room for; None if it did not
    say, or is cut.
    """
    try:
        said = log_of(capture).read_text(errors="replace")
    except OSError:
        return None
    numbers = [
        re.search(rf"(\d+) packets? {what}", said) for what in ("captured", "dropped by kernel")
    ]
    return (int(numbers[0][1]), int(numbers[1][1])) if numbers[0] and numbers[1] else None
