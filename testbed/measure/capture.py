"""Capture packets with tcpdump, and write a pcapng file for each interface."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from testbed.core.errors import InputError, MachineError, Place, RunError
from testbed.measure.pcapng import CapturedInterface, write_pcapng
from testbed.plan.model import CAPTURE_BUFFER_BYTES, HOST_INTERFACE, Capturing

# tcpdump reads packets from the ring within 1 s; packets still in the ring at its end are lost
HELD_BACK_S = 1.5
FILES = 4  # files that tcpdump fills in turn; a capture at its limit keeps the newest files
MEGABYTE = 1_000_000  # tcpdump's unit of file size
NO_EXPRESSION = "can't parse filter expression: "
WHEN_IDLE = ["chrt", "--idle", "0"]  # runs a command only while no other process can run


@dataclass(frozen=True)
class Tap:
    """An interface to capture.

    Attributes:
        path: the pcapng file to write.
        pid: a process in the interface's network namespace.
        interface: name of the interface.
        inbound: whether to capture only incoming packets.
    """

    path: Path
    pid: int
    interface: str
    inbound: bool


class PacketCount(NamedTuple):
    """tcpdump's counts for a capture: packets written, and packets dropped by the kernel."""

    written: int
    dropped: int


def check_filter(expression: str) -> None:
    """Check a capture filter by letting tcpdump compile the expression.

    Raises:
        InputError: `expression` is not valid in pcap-filter(7).
        MachineError: tcpdump is not installed.
    """
    command = ["tcpdump", "-d", "-y", "EN10MB", "--", expression]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise MachineError(
            "captures need tcpdump, which is not installed\n  install it with: make setup"
        ) from error

    if result.returncode == 0:
        return

    last_line = result.stderr.strip().splitlines()[-1]
    reason = last_line.removeprefix("tcpdump: ").removeprefix(NO_EXPRESSION)
    raise InputError(
        f"{expression!r} is not a valid filter: {reason}",
        place=Place(key="--capture-filter"),
        remedy="use tcpdump syntax, such as 'tcp port 29500' (man pcap-filter)",
    )


@contextmanager
def capturing(taps: Sequence[Tap], settings: Capturing, *, yielding: bool) -> Iterator[None]:
    """Capture packets of all taps within the block.

    Args:
        taps: interfaces to capture.
        settings: filter, snap length, and size limit of each capture.
        yielding: let captures run only while no other process can. On a virtual clock, such
            captures do not change the time, because they never run between two processes that wake
            at the same instant.

    Raises:
        RunError: a tcpdump process ended before the block.
    """
    prefix = WHEN_IDLE if yielding else []
    running: dict[Tap, subprocess.Popen[str]] = {}
    try:
        for tap in taps:
            running[tap] = _start(tap, settings, prefix)

        for tap, process in running.items():
            _wait_listening(tap, process)

        yield
        time.sleep(HELD_BACK_S if running else 0)
        for tap, process in running.items():
            status = process.poll()
            if status is not None:
                raise RunError(
                    f"tcpdump for {tap.path.name} ended during the run with status {status}"
                )
    finally:
        for process in running.values():
            process.send_signal(signal.SIGINT)

        for process in running.values():
            process.wait()


def _start(tap: Tap, settings: Capturing, prefix: list[str]) -> subprocess.Popen[str]:
    """Start tcpdump in a tap's namespace as the owner of the tap's folder; `prefix` comes first."""
    enter = ["nsenter", f"--net=/proc/{tap.pid}/ns/net", "--"]
    command = [*prefix, *enter, *_as_owner(tap.path.parent), *_tcpdump(tap, settings)]
    with log_of(tap.path).open("w") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            text=True,
        )


def _tcpdump(tap: Tap, settings: Capturing) -> list[str]:
    """Return the command line of tcpdump for a tap."""
    buffer_kib = CAPTURE_BUFFER_BYTES // 1024
    file_size = settings.limit_bytes // FILES // MEGABYTE
    command = ["tcpdump", "-i", tap.interface, "-s", str(settings.snap_bytes)]
    command += ["-B", str(buffer_kib), "-p", "-n", "-Z", "root", "--time-stamp-precision=nano"]
    command += ["-w", str(_pieces_of(tap.path)), "-C", str(file_size), "-W", str(FILES)]
    if tap.inbound:
        command += ["-Q", "in"]
    return [*command, "--", settings.filter]


def _as_owner(folder: Path) -> list[str]:
    """Return the command prefix that runs tcpdump as the owner of a folder, with capture rights.

    As root, tcpdump gives its files to root, which not every file system allows.
    """
    owner = folder.stat().st_uid
    if not owner:
        return []
    return ["setpriv", f"--reuid={owner}", "--inh-caps=+net_raw", "--ambient-caps=+net_raw"]


def log_of(capture: Path) -> Path:
    """Return the path of tcpdump's log for a capture."""
    return capture.with_suffix(".log")


def _pieces_of(capture: Path) -> Path:
    """Return the base path of tcpdump's files, to which tcpdump adds a digit."""
    return capture.with_suffix(".pcap")


def _wait_listening(tap: Tap, process: subprocess.Popen[str]) -> None:
    while "listening on" not in log_of(tap.path).read_text():
        if process.poll() is not None:
            reason = log_of(tap.path).read_text().strip()
            raise RunError(f"tcpdump cannot capture into {tap.path.name}: {reason}")
        time.sleep(0.005)


def finish(capture: Path, mac: str, settings: Capturing, host: str = "") -> None:
    """Write the pcapng file of a finished capture; do nothing if no files of tcpdump remain.

    Args:
        capture: path of the pcapng file.
        mac: hardware address of the interface.
        settings: settings of the capture.
        host: name of the host whose interface was captured, which is then part of the interface's
            name in the file: the interfaces of all hosts have the same name.

    Raises:
        OSError: a file cannot be read or written.
    """
    name = _pieces_of(capture)
    numbered = [name.with_name(f"{name.name}{number}") for number in range(FILES)]
    pieces = [piece for piece in numbered if piece.exists()]
    if not pieces:
        return

    log = log_of(capture).read_text(errors="replace")
    listening = re.search(r"listening on ([^,\s]+)", log)
    interface = listening[1] if listening else capture.stem
    if host:
        interface = f"{host}-{HOST_INTERFACE}"

    captured = CapturedInterface(interface, mac, settings.snap_bytes, settings.filter)
    write_pcapng(capture, pieces, captured)
    for piece in pieces:
        piece.unlink()


def counted(capture: Path) -> PacketCount | None:
    """Read tcpdump's packet counts of a capture; None if the log is missing or incomplete."""
    try:
        log = log_of(capture).read_text(errors="replace")
    except OSError:
        return None

    written = re.search(r"(\d+) packets? captured", log)
    dropped = re.search(r"(\d+) packets? dropped by kernel", log)
    if written is None or dropped is None:
        return None

    return PacketCount(int(written[1]), int(dropped[1]))
