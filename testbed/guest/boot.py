"""Boot a guest that runs one command on the host's files, and look after it until it has ended.

    with start_guest(GuestSpec(kernel, command, writable=folder, ...)) as guest:
        while guest.status() is None:
            guest.clock(), guest.cpu_seconds()

The guest sees the host's files read-only below a copy-on-write layer; only the folder `writable` is
shared. The guest's root could mount more of the host's files; the sandbox in which the guest's
kernel runs keeps it from changing them, where the host allows that. The guest has no network
interface of the host's. It ends with the process that started it, however that ends.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from testbed.core.errors import MachineError
from testbed.core.leftovers import Kind, Note, note
from testbed.core.paths import cache_dir
from testbed.core.sandbox import CONFINE
from testbed.guest.clock import ClockReading, read_clock
from testbed.guest.kernel import Kernel
from testbed.guest.session import kill_session, session_cpu_seconds
from testbed.runfolder.files import read_plain

Clock = Literal["virtual", "real"]

# Virtual time starts at 2025-01-01T00:00:00Z, so that runs can be laid side by side.
EPOCH_NS = 1_735_689_600 * 10**9
# Slices of 20 ms in which nothing moves, before the kernel takes the CPU from a process. Fewer make
# runs differ by microseconds, for then the order of processes depends on how fast this machine
# computes.
PATIENCE_SLICES = 100
EXIT_FILE = "raw/exit"
INIT = Path(__file__).parent / "init"
SHM = Path("/dev/shm")
MEMORY_SLACK = 2**26  # bytes of the file system that holds the guest's memory, for its own records
HIDDEN = (Path("/tmp"), Path("/run"), SHM)  # the guest has its own
# glibc registers a place in its heap for restartable sequences; Linux kills a process that has
# unmapped the place. A static kernel program has its heap where the guest's processes have memory.
NO_RSEQ = "glibc.pthread.rseq=0"
UML_VARIABLES = ("TMP", "TEMP")  # as TMPDIR, which alone is meant to name the folder of its memory


@dataclass(frozen=True)
class GuestSpec:
    """What a guest is and does.

    Attributes:
        kernel: what is booted.
        command: what the guest's root runs, with the rights of the caller on the host.
        writable: the one folder of the host that the guest can change; holds a folder ``raw``.
        memory_bytes: all of the guest's memory, which the host gives as it is used.
        clock: virtual, or the host's.
        clock_file: where the guest's kernel reports its clock (virtual clock only).
        console: file for what the guest's kernel and the command print; None: the terminal of this
            process, for input too.
        readable: folders that the command needs although they lie below /tmp or /run, of which the
            guest has its own.
        environment: variables of the command, besides those that every guest has.
        cpu: of the host, which other guests may use as well; None: one that no other guest has, if
            there is any.
    """

    kernel: Kernel
    command: Sequence[str]
    writable: Path
    memory_bytes: int
    clock: Clock
    clock_file: Path
    console: Path | None
    readable: Sequence[Path] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    cpu: int | None = None


@dataclass
class Guest:
    """A running guest."""

    process: subprocess.Popen[bytes]
    writable: Path
    clock_file: Path

    def status(self) -> int | None:
        """Give the command's exit status, None while it runs, -1 if the guest ended without one.

        All that the command wrote is on the host's disk before its status is, so nobody has to wait
        for the shutdown.
        """
        alive = self.process.poll() is None
        try:
            return int(read_plain(self.writable / EXIT_FILE))
        except (OSError, ValueError):
            return None if alive else -1

    def clock(self) -> ClockReading | None:
        """Give the newest report of the guest's clock; None before the first, and if it is real."""
        return read_clock(self.clock_file)

    def pause(self) -> None:
        """Stop the guest's kernel and a virtual clock; processes stop at their next trap."""
        os.kill(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused guest go on; nothing happens to one that is not paused."""
        os.kill(self.process.pid, signal.SIGCONT)

    def cpu_seconds(self) -> float:
        """Give the host's CPU time for the guest's kernel and all of the guest's processes."""
        return session_cpu_seconds(self.process.pid)


@contextmanager
def start_guest(spec: GuestSpec) -> Iterator[Guest]:
    """Boot a guest for the block, and end it afterwards.

    Raises:
        MachineError: the kernel has no virtual time, or the memory file does not fit.
    """
    check_guest(spec.kernel, spec.clock, spec.memory_bytes)
    with note(Kind.RUN, spec.writable) as records, _pinned(spec.cpu) as pin:
        (records.folder / "uml").mkdir()
        (records.folder / "job").write_text(_job(spec))
        process = _start_kernel(spec, [*pin, *_sandbox(spec, records)], records)
        try:
            _pid_file(records).write_text(f"{process.pid}")
            yield Guest(process, spec.writable, spec.clock_file)
        finally:
            kill_session(process.pid, await_memory=False)
            # The kernel gives its memory back for some tenths of a second; only the end of this
            # program waits for that.
            threading.Thread(target=process.wait).start()


def end_abandoned_guest(left: Note) -> None:
    """End the guest that a killed process has left, if that is what the note is about."""
    try:
        pid = int(_pid_file(left).read_text())
        command_line = Path("/proc", str(pid), "cmdline").read_bytes()
    except (OSError, ValueError):
        return
    if _guest_argument(left).encode() in command_line:
        kill_session(pid, await_memory=True)


def check_guest(kernel: Kernel, clock: Clock, memory_bytes: int) -> None:
    """Check that such a guest can be started.

    UML's memory is a file in $TMPDIR or /dev/shm that grows as it is used.

    Raises:
        MachineError: the kernel has no virtual time, or the memory file does not fit.
    """
    if clock == "virtual" and not kernel.virtual_time:
        raise MachineError(
            f"{kernel.path} has no virtual clock\n  unset TESTBED_KERNEL, or use --clock real"
        )
    folder = memory_folder()
    free = shutil.disk_usage(folder).free
    if free < memory_bytes:
        raise MachineError(
            f"the guest needs up to {memory_bytes / 2**30:.1f} GiB in {folder}, "
            f"which has {free / 2**30:.1f} GiB free\n"
            "  set a larger folder with TMPDIR, or use fewer or smaller hosts"
        )


def memory_folder() -> Path:
    """Give the folder in which UML makes the file that is a guest's memory."""
    return Path(os.environ.get("TMPDIR") or SHM).absolute()


def _pid_file(records: Note) -> Path:
    return records.folder / "pid"


def _guest_argument(records: Note) -> str:
    """Give the kernel argument that tells `init` its folder, and others whose guest this is."""
    return f"TESTBED_GUEST={records.folder}"


def _job(spec: GuestSpec) -> str:
    """Write what `init` is to do, as a script of the shell."""
    hidden: list[str] = []
    for folder in spec.readable:
        if any(folder.is_relative_to(hidden_folder) for hidden_folder in HIDDEN):
            hidden.append(str(folder))
    variables = [f"{name}={value}" for name, value in spec.environment.items()]
    return (
        f"writable={shlex.quote(str(spec.writable))}\n"
        f"readable=({shlex.join(hidden)})\n"
        f"python={shlex.quote(sys.executable)}\n"
        f"exit_file={EXIT_FILE}\n"
        f"command=({shlex.join([*variables, *spec.command])})\n"
    )


@contextmanager
def _pinned(cpu: int | None) -> Iterator[list[str]]:
    """Give the words that pin a command to a CPU; None: to one that no other guest has.

    UML's kernel and its processes run in turns and never at once. On one CPU a turn costs a third
    of what it costs across two (a system call 21 us instead of 85 on a small cloud machine). If all
    CPUs are taken, the command is not pinned.
    """
    if cpu is not None:
        yield _pin_to(cpu)
        return
    folder = cache_dir() / "cpus"
    folder.mkdir(exist_ok=True)
    for candidate in sorted(os.sched_getaffinity(0), reverse=True):
        with (folder / str(candidate)).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield _pin_to(candidate)
            return
    yield []


def _pin_to(cpu: int) -> list[str]:
    return ["taskset", "--cpu-list", str(cpu)]


def _sandbox(spec: GuestSpec, records: Note) -> list[str]:
    """Give the words that keep a command from changing anything but the guest's own folders."""
    folders = [records.folder / "uml", spec.writable]
    memory = memory_folder()
    in_shm = any(path.is_relative_to(SHM) for path in (*folders, *spec.readable))
    own_shm_bytes = 0
    if memory == SHM and not in_shm:
        own_shm_bytes = spec.memory_bytes + MEMORY_SLACK
    else:
        folders.append(memory)
    words = [sys.executable, "-IS", str(CONFINE), str(os.getpid()), str(own_shm_bytes)]
    return [*words, *map(str, folders), "--"]


def _start_kernel(
    spec: GuestSpec, wrapper: Sequence[str], records: Note
) -> subprocess.Popen[bytes]:
    """Start UML in a separate session, as the command of `wrapper`.

    It does not outlive this process: the kernel dies with its parent, and its processes with it.
    """
    kernel = spec.kernel.path.absolute()
    arguments = _kernel_arguments(spec, records)
    environment = dict(os.environ)
    for name in UML_VARIABLES:
        environment.pop(name, None)
    environment["GLIBC_TUNABLES"] = NO_RSEQ
    with spec.console.open("ab") if spec.console else nullcontext() as out:
        return subprocess.Popen(
            [*wrapper, str(kernel), *arguments],
            env=environment,
            stdin=subprocess.DEVNULL if spec.console else None,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _kernel_arguments(spec: GuestSpec, records: Note) -> list[str]:
    if spec.console is None:
        console = ["con0=fd:0,fd:1", "quiet", "loglevel=0"]
    else:
        console = ["con0=null,fd:1", "quiet"]
    arguments = [
        f"mem={spec.memory_bytes // 2**20}M",
        "root=/dev/root",
        "rootfstype=hostfs",
        "rootflags=/",
        "ro",
        f"init={INIT}",
        "con=null",
        *console,
        "ssl=null",
        "ipv6.disable_ipv6=1",
        f"umid={records.name}",
        f"uml_dir={records.folder}/uml",
        _guest_argument(records),
    ]
    if spec.kernel.seccomp:
        arguments.append("seccomp=auto")
    if spec.clock == "virtual":
        # The kernel's command line cannot carry a path with blanks.
        clock_link = records.folder / "clock"
        clock_link.symlink_to(spec.clock_file)
        arguments += [
            "time-travel=inf-cpu",
            f"time-travel-start={EPOCH_NS}",
            f"time-travel-status={clock_link}",
            f"time-travel-patience={PATIENCE_SLICES}",
        ]
    return arguments
