"""Boot a guest that runs one command on the host's files, and look after it until it has ended.

    with start_guest(kernel, command, writable=folder, ...) as guest:
        while guest.status() is None:
            guest.clock(), guest.cpu_seconds()

The guest sees the host's files read-only below a copy-on-write layer; only `writable` is shared.
Its root could mount more of them; what keeps it from changing them is `confine`, where the host
allows that. It has no network interface of the host's. It ends with the process that started it,
however that ends.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from testbed.core.errors import MachineError
from testbed.core.paths import cache_dir
from testbed.core.sandbox import CONFINE
from testbed.guest.kernel import Kernel
from testbed.runfolder.files import open_plain, read_plain

EPOCH_NS = (
    1_735_689_600 * 10**9
)  # virtual time starts at 2025-01-01T00:00:00Z, so that runs can be laid side by side
# Slices of 20 ms in which nothing moves, before the kernel takes the CPU from a process. Fewer make
# runs differ by microseconds, for then the order of processes depends on how fast this machine
# computes.
PATIENCE_SLICES = 100
EXIT_FILE = "raw/exit"
INIT = Path(__file__).parent / "init"
SHM = Path("/dev/shm")
WRITABLE = "writable"  # in a starter's folder: a link to the run folder
TEMPORARY = "temporary"  # in a starter's folder: a link to what it would have removed
MEMORY_SLACK = 2**26  # bytes of the file system that holds the guest's memory, for its own records
HIDDEN = (Path("/tmp"), Path("/run"), Path("/dev/shm"))  # the guest has its own


@dataclass(frozen=True)
class ClockReading:
    """The guest kernel's last report: its clock, and the process that had the CPU."""

    time_ns: int  # virtual time since boot
    forced_ns: int  # the part of it that was forced on because a process span
    pid: int
    host: str  # node name (hostname) of that process
    command: str


@dataclass
class Guest:
    """A running guest."""

    process: subprocess.Popen[bytes]
    writable: Path
    clock_file: Path

    def status(self) -> int | None:
        """None while the command runs; else its exit status, or -1 when the guest ended without
        one.

        All that the command wrote is on the host's disk before its status is, so nobody has to wait
        for the shutdown.
        """
        alive = self.process.poll() is None
        try:
            return int(read_plain(self.writable / EXIT_FILE))
        except (OSError, ValueError):
            return None if alive else -1

    def clock(self) -> ClockReading | None:
        """The newest report of the guest's clock; None before the first, and on the host's
        clock.
        """
        return read_clock(self.clock_file)

    def pause(self) -> None:
        """Stop the guest's kernel. Its processes stop at their next trap, and a virtual clock
        stands still.
        """
        os.kill(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused guest go on; nothing happens to one that is not paused."""
        os.kill(self.process.pid, signal.SIGCONT)

    def cpu_seconds(self) -> float:
        """Host CPU time of the guest's kernel and of all its processes, of which the host knows
        each one.
        """
        return session_cpu_seconds(self.process.pid)


def read_clock(path: Path) -> ClockReading | None:
    """What a guest's kernel has reported in `path`; None if it has not yet."""
    try:
        with open_plain(path) as file:
            text = file.read().decode(errors="replace")
    except OSError:
        return None
    match = re.match(r"(\d+) (\d+) \d+ (-?\d+) (\S+) (.*)", text)
    if match is None:
        return None
    time_ns, forced_ns, pid, host, command = match.groups()
    return ClockReading(int(time_ns), int(forced_ns), int(pid), host, command.strip())


def session_cpu_seconds(session: int) -> float:
    """CPU time of all processes of a session, and of those that they have waited for."""
    ticks = 0
    for stat in _stats_of_session(session):
        ticks += int(stat[11]) + int(stat[12]) + int(stat[13]) + int(stat[14])
    return ticks / os.sysconf("SC_CLK_TCK")


@contextmanager
def start_guest(
    kernel: Kernel,
    command: Sequence[str],
    *,
    writable: Path,
    memory_bytes: int,
    clock: Literal["virtual", "real"],
    console: Path | None,
    clock_file: Path,
    readable: Sequence[Path] = (),
    environment: dict[str, str] | None = None,
    cpu: int | None = None,
) -> Iterator[Guest]:
    """Boot `kernel` and run `command` in it as the guest's root, with the rights of the caller on
    the host.

    Args:
        writable: the one folder of the host that the guest can change; holds a folder ``raw``.
        readable: folders that `command` needs although they lie below /tmp or /run, of which the
            guest has its own.
        console: file for what the guest's kernel and `command` print; None: this process's
            terminal, for input too.
        clock_file: file that the guest's kernel keeps its clock in (virtual clock only).
        cpu: of the host, which other guests may use as well; None: one that no other guest has, if
            there is any.

    Raises:
        MachineError: the kernel has no virtual time, or the memory file does not fit.
    """
    check_guest(kernel, clock, memory_bytes)
    with _note(WRITABLE, writable) as folder:
        (folder / "uml").mkdir()
        (folder / "job").write_text(_job(command, writable, readable, environment or {}))
        with _one_cpu() if cpu is None else nullcontext(_pin_to(cpu)) as pin:
            words = [*pin, *_confined(memory_bytes, [folder / "uml", writable], readable)]
            process = _launch(kernel, words, folder, memory_bytes, clock, console, clock_file)
            try:
                (folder / "pid").write_text(f"{process.pid}")
                yield Guest(process, writable, clock_file)
            finally:
                _kill_session(process.pid, to_the_end=False)
                # It gives its memory back for some tenths of a second; only the end of this program
                # waits for that.
                threading.Thread(target=process.wait).start()


def _job(
    command: Sequence[str], writable: Path, readable: Sequence[Path], environment: dict[str, str]
) -> str:
    hidden = [str(p) for p in readable if any(p.is_relative_to(place) for place in HIDDEN)]
    variables = [f"{name}={value}" for name, value in environment.items()]
    return (
        f"writable={shlex.quote(str(writable))}\n"
        f"readable=({shlex.join(hidden)})\n"
        f"python={shlex.quote(sys.executable)}\n"
        f"exit_file={EXIT_FILE}\n"
        f"command=({shlex.join([*variables, *command])})\n"
    )


@contextmanager
def _one_cpu() -> Iterator[list[str]]:
    """The words that pin a command to one CPU, another for each guest as long as there are enough.

    UML's kernel and its processes run in turns and never at once. On one CPU a turn costs a third
    of what it costs across two (a system call 21 us instead of 85 on a small cloud machine).
    """
    places = cache_dir() / "cpus"
    places.mkdir(exist_ok=True)
    for cpu in sorted(os.sched_getaffinity(0), reverse=True):
        with (places / str(cpu)).open("w") as place:
            try:
                fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield _pin_to(cpu)
            return
    yield []


def _pin_to(cpu: int) -> list[str]:
    return ["taskset", "--cpu-list", str(cpu)]


def _confined(memory_bytes: int, shared: Sequence[Path], readable: Sequence[Path]) -> list[str]:
    """The words that keep a command from changing anything but the folders `shared` and the guest's
    memory.
    """
    memory, size = memory_folder(), 0
    if memory == SHM and not any(path.is_relative_to(SHM) for path in (*shared, *readable)):
        size = memory_bytes + MEMORY_SLACK  # in a /dev/shm of its own
    folders = [*shared, *[memory] * (size == 0)]
    return [
        sys.executable,
        "-IS",
        str(CONFINE),
        str(os.getpid()),
        str(size),
        *map(str, folders),
        "--",
    ]


def _launch(
    kernel: Kernel,
    words: list[str],
    folder: Path,
    memory_bytes: int,
    clock: str,
    console: Path | None,
    clock_file: Path,
) -> subprocess.Popen[bytes]:
    ends = ("con0=null,fd:1", "quiet") if console else ("con0=fd:0,fd:1", "quiet", "loglevel=0")
    arguments = [
        f"mem={memory_bytes // 2**20}M",
        "root=/dev/root",
        "rootfstype=hostfs",
        "rootflags=/",
        "ro",
        f"init={INIT}",
        "con=null",
        *ends,
        "ssl=null",
        "ipv6.disable_ipv6=1",
        f"umid={folder.name}",
        f"uml_dir={folder}/uml",
        f"TESTBED_GUEST={folder}",
    ]
    if kernel.seccomp:
        arguments += ["seccomp=auto"]
    if clock == "virtual":
        clock_link = folder / "clock"  # the kernel's command line cannot carry a path with blanks
        clock_link.symlink_to(clock_file)
        arguments += [
            "time-travel=inf-cpu",
            f"time-travel-start={EPOCH_NS}",
            f"time-travel-status={clock_link}",
        ]
        arguments += [f"time-travel-patience={PATIENCE_SLICES}"]
    environment = {
        name: value for name, value in os.environ.items() if name not in ("TMP", "TEMP")
    }  # UML knows them
    with console.open("ab") if console else nullcontext() as out:
        # A guest does not outlive its starter: the kernel program dies with us, and its processes
        # with it.
        return subprocess.Popen(
            [*words, str(kernel.path.absolute()), *arguments],
            env=environment,
            stdin=subprocess.DEVNULL if console else None,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def memory_folder() -> Path:
    """Where UML makes the file that is a guest's memory."""
    return Path(os.environ.get("TMPDIR") or SHM).absolute()


def check_guest(kernel: Kernel, clock: Literal["virtual", "real"], memory_bytes: int) -> None:
    """Check that `start_guest` can do it. UML's memory is a file in $TMPDIR or /dev/shm that grows
    as it is used.

    Raises:
        MachineError: the kernel has no virtual time, or the memory file does not fit.
    """
    if clock == "virtual" and not kernel.virtual_time:
        raise MachineError(
            f"{kernel.path} has no virtual time\n  unset TESTBED_KERNEL, or use --clock real"
        )
    place = memory_folder()
    free = shutil.disk_usage(place).free
    if free < memory_bytes:
        raise MachineError(
            f"the guest needs up to {memory_bytes / 2**30:.1f} GiB in {place}, which has {free / 2**30:.1f} GiB free\n"
            "  name a larger folder with TMPDIR, or run fewer or smaller hosts"
        )


@contextmanager
def removed_if_killed(temporary: Path) -> Iterator[None]:
    """If this process is killed within the block, `remove_stale_guests` removes the folder
    `temporary`.
    """
    with _note(TEMPORARY, temporary):
        yield


@contextmanager
def returned_if_killed(run: Path) -> Iterator[None]:
    """If this process is killed within the block, `remove_stale_guests` returns the folder
    `run`.
    """
    with _note(WRITABLE, run):
        yield


@contextmanager
def _note(name: str, folder: Path) -> Iterator[Path]:
    """Keep for `remove_stale_guests` what this process is busy with, in a folder that bears its
    number.
    """
    note = cache_dir() / "guests" / f"{os.getpid()}-{secrets.token_hex(3)}"
    note.mkdir(parents=True)
    try:
        (note / name).symlink_to(folder)
        yield note
    finally:
        shutil.rmtree(note, ignore_errors=True)


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """A new folder, which is removed after the block, or by `remove_stale_guests` if this process
    is killed within.
    """
    path = Path(tempfile.gettempdir(), prefix + secrets.token_hex(4))
    with removed_if_killed(path):
        path.mkdir(mode=0o700)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


def remove_stale_guests() -> list[Path]:
    """End guests whose starter is gone, remove what they left, and return the folders that they
    could write to, or that the starter was still busy with.
    """
    guests = cache_dir() / "guests"
    left: list[Path] = []
    if not guests.is_dir():
        return left
    for folder in guests.iterdir():
        starter = folder.name.split("-")[0]
        if starter.isdigit() and not Path("/proc", starter).exists():
            pid_file = folder / "pid"
            if pid_file.exists() and _is_guest(int(pid_file.read_text() or 0), folder):
                _kill_session(int(pid_file.read_text()))
            temporary = folder / TEMPORARY
            if temporary.is_symlink():
                shutil.rmtree(temporary.readlink(), ignore_errors=True)
            writable = folder / WRITABLE
            if writable.is_symlink():
                left.append(writable.readlink())
            shutil.rmtree(folder, ignore_errors=True)
    return left


def _is_guest(pid: int, folder: Path) -> bool:
    try:
        return f"TESTBED_GUEST={folder}".encode() in Path("/proc", str(pid), "cmdline").read_bytes()
    except OSError:
        return False


def _stats_of_session(session: int) -> Iterator[list[str]]:
    """Fields of /proc/PID/stat from the state on (proc(5): field 3 is at index 0) of the processes
    of a session.
    """
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                text = (entry / "stat").read_text()
            except OSError:
                continue
            fields = text[text.rindex(")") + 2 :].split()
            if fields[3] == str(session):
                yield [*fields, entry.name]


def _kill_session(session: int, *, to_the_end: bool = True) -> None:
    """Kill every process of the session until none is left (UML's processes are in groups of their
    own).

    Without `to_the_end`: until none has memory, and so none does anything any more but give back
    what it had.
    """
    for _attempt in range(100):
        living = [fields for fields in _stats_of_session(session) if fields[0] not in "ZX"]
        pids = [int(fields[-1]) for fields in living if to_the_end or fields[20] != "0"]
        if not pids:
            return
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.02)
