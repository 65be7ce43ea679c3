"""Packet captures by tcpdump, one file per WAN port."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from testbed.errors import RunError

SNAP_BYTES = 128  # Ethernet, IPv4 and TCP headers with all options are at most 134 bytes; 74 are usual
BUFFER_KIB = 65536  # of the kernel's ring for one capture
HELD_BACK_S = 1.5  # tcpdump gets packets from the ring after at most 1 s, and what it has not got at its end is lost


@contextmanager
def capturing(points: Mapping[Path, tuple[int, str]]) -> Iterator[None]:
    """Capture within the block.

    Args:
        points: for each file to write, a process in the network namespace and the interface.

    Raises:
        RunError: a tcpdump ends before the block does.
    """
    running: dict[Path, subprocess.Popen[str]] = {}
    try:
        for path, (pid, interface) in points.items():
            running[path] = _start(path, pid, interface)
        for path, process in running.items():
            _wait_listening(path, process)
        yield
        time.sleep(HELD_BACK_S if running else 0)
        for path, process in running.items():
            if process.poll() is not None:
                raise RunError(f"tcpdump for {path.name} ended during the run with status {process.returncode}")
    finally:
        for process in running.values():
            process.send_signal(signal.SIGINT)
        for process in running.values():
            process.wait()


def _start(path: Path, pid: int, interface: str) -> subprocess.Popen[str]:
    tcpdump = [
        "tcpdump", "-i", interface, "-s", str(SNAP_BYTES), "-B", str(BUFFER_KIB), "-Z", "root", "-n",
        "--time-stamp-precision=nano", "-w", "-",  # a file of its own it would give to root, which not everyone may
    ]  # fmt: skip
    with path.with_suffix(".log").open("w") as log, path.open("wb") as out:
        return subprocess.Popen(
            ["nsenter", f"--net=/proc/{pid}/ns/net", "--", *tcpdump],
            stdin=subprocess.DEVNULL, stdout=out, stderr=log, text=True,
        )  # fmt: skip


def _wait_listening(path: Path, process: subprocess.Popen[str]) -> None:
    log = path.with_suffix(".log")
    while "listening on" not in log.read_text():
        if process.poll() is not None:
            raise RunError(f"tcpdump cannot capture into {path.name}: {log.read_text().strip()}")
        time.sleep(0.005)
