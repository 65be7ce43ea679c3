"""Packet captures by tcpdump, a pcapng file for each interface (written by `testbed.measure.pcapng`)."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from testbed.errors import InputError, MachineError, Place, RunError
from testbed.measure import pcapng
from testbed.plan import CAPTURE_BUFFER_BYTES, Capturing

HELD_BACK_S = 1.5  # tcpdump gets packets from the ring after at most 1 s, and what it has not got at its end is lost
NO_EXPRESSION = "can't parse filter expression: "


@dataclass(frozen=True)
class Tap:
    """An interface to capture: where it is, its address, the file to write, and whether only what comes in counts."""

    path: Path
    pid: int  # of a process in the network namespace
    interface: str
    mac: str
    inbound: bool

    @property
    def log(self) -> Path:
        """What tcpdump says."""
        return self.path.with_suffix(".log")


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
        raise MachineError("captures need tcpdump, which is not installed\n  make setup installs it") from error
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1].removeprefix("tcpdump: ").removeprefix(NO_EXPRESSION)
        raise InputError(
            f"{expression!r} is no filter: {said}",
            place=Place(key="--capture-filter"),
            remedy="write one as for tcpdump, such as 'tcp port 29500' (man pcap-filter)",
        )


@contextmanager
def capturing(taps: Sequence[Tap], settings: Capturing, cuts: Path, *, yielding: bool) -> Iterator[None]:
    """Capture within the block.

    Args:
        taps: what is captured.
        settings: filter, snap length, limit of each capture.
        cuts: file for what was removed because of the limit (see `pcapng.Point`).
        yielding: let capturing wait until nothing else can run. On a virtual clock it then changes no time, for it
            never comes between two processes that are woken at the same instant.

    Raises:
        RunError: a tcpdump or the writer ends before the block does.
    """
    running: dict[Tap, subprocess.Popen[str]] = {}
    pipes: dict[Tap, int] = {}
    writer: subprocess.Popen[bytes] | None = None
    first = ["chrt", "--idle", "0"] if yielding else []
    try:
        for tap in taps:
            running[tap] = _start(tap, settings, pipes, first)
        writer = _start_writer(pipes, settings, cuts, first)
        for tap, process in running.items():
            _wait_listening(tap, process)
        yield
        time.sleep(HELD_BACK_S if running else 0)
        if writer.poll() is not None:
            raise RunError(f"the captures' writer ended during the run with status {writer.returncode}")
        for tap, process in running.items():
            if process.poll() is not None:
                raise RunError(f"tcpdump for {tap.path.name} ended during the run with status {process.returncode}")
    finally:
        for process in running.values():
            process.send_signal(signal.SIGINT)
        for process in running.values():
            process.wait()
        if writer is not None:
            writer.wait()


def _start(tap: Tap, settings: Capturing, pipes: dict[Tap, int], first: list[str]) -> subprocess.Popen[str]:
    tcpdump = [
        "tcpdump", "-i", tap.interface, "-s", str(settings.snap_bytes), "-B", str(CAPTURE_BUFFER_BYTES // 1024),
        "-p", "-n", "-Z", "root", "--time-stamp-precision=nano", "-w", "-",
        *(["-Q", "in"] if tap.inbound else []), "--", settings.filter,
    ]  # fmt: skip
    pipes[tap], end = os.pipe()
    try:
        with tap.log.open("w") as log:
            return subprocess.Popen(
                [*first, "nsenter", f"--net=/proc/{tap.pid}/ns/net", "--", *tcpdump],
                stdin=subprocess.DEVNULL, stdout=end, stderr=log, text=True,
            )  # fmt: skip
    finally:
        os.close(end)


def _start_writer(pipes: dict[Tap, int], settings: Capturing, cuts: Path, first: list[str]) -> subprocess.Popen[bytes]:
    points = [
        pcapng.Point(
            descriptor, str(tap.path), tap.interface, tap.mac,
            settings.snap_bytes, settings.limit_bytes, settings.filter, str(cuts),
        )
        for tap, descriptor in pipes.items()
    ]  # fmt: skip
    words = [*first, sys.executable, "-I", "-S", pcapng.__file__, json.dumps([asdict(point) for point in points])]
    try:
        return subprocess.Popen(words, stdin=subprocess.DEVNULL, pass_fds=[*pipes.values()])
    finally:
        for descriptor in pipes.values():
            os.close(descriptor)


def _wait_listening(tap: Tap, process: subprocess.Popen[str]) -> None:
    while "listening on" not in tap.log.read_text():
        if process.poll() is not None:
            raise RunError(f"tcpdump cannot capture into {tap.path.name}: {tap.log.read_text().strip()}")
        time.sleep(0.005)


def dropped(log: Path) -> int | None:
    """How many packets the kernel had no room for, as tcpdump said at its end; None if it did not say."""
    try:
        match = re.search(r"(\d+) packets? dropped by kernel", log.read_text(errors="replace"))
    except OSError:
        return None
    return int(match[1]) if match else None
