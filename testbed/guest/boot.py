"""Boot a guest that runs one command on the host's files, and end the guest afterwards.

    with start_guest(GuestSpec(kernel, command, writable=folder, ...)) as guest:
        while guest.status() is None:
            guest.clock(), guest.cpu_seconds()

The guest sees the host's files read-only below a copy-on-write layer; only the folder `writable` is
shared. Root in the guest could mount more of the host's files; where the host allows a sandbox, the
sandbox of the guest's kernel prevents changes to those files. The guest has no network interface of
the host. The guest ends with the process that started the guest, even if that process is killed.
"""

from __future__ import annotations

import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from testbed.core.errors import MachineError
from testbed.core.leftovers import Kind, Note, note
from testbed.core.paths import COMMON
from testbed.core.sandbox import CONFINE
from testbed.guest.clock import ClockReading, read_clock
from testbed.guest.cpus import GuestCpus, reserve_cpus
from testbed.guest.kernel import Kernel
from testbed.guest.session import kill_session, session_cpu_seconds
from testbed.guest.sites import SharedClock
from testbed.runfolder.files import read_plain

Clock = Literal["virtual", "real"]

# Virtual time starts at 2025-01-01T00:00:00Z, so that the records of runs can be compared directly.
EPOCH_NS = 1_735_689_600 * 10**9
# Slices of 20 ms of CPU time without progress before the kernel preempts a process. With fewer,
# process order depends on the machine's speed, and runs differ by microseconds.
PATIENCE_SLICES = 250
OPEN_FILES = 1024  # the usual limit of a process; with 64 the guest's kernel ends in a panic
EXIT_FILE = "raw/exit"
INIT = Path(__file__).parent / "init"
SHM = Path("/dev/shm")
MEMORY_SLACK = 2**26  # bytes for metadata of the file system that holds the memory
HIDDEN = (Path("/tmp"), Path("/run"), SHM)  # the guest has separate ones
# glibc registers an area of its heap for restartable sequences (rseq); Linux kills a process that
# has unmapped the area. The heap of a static kernel program lies where the guest's processes have
# memory.
NO_RSEQ = "glibc.pthread.rseq=0"
UML_VARIABLES = ("TMP", "TEMP")  # fallbacks of TMPDIR; only TMPDIR should name the folder


@dataclass(frozen=True)
class GuestSpec:
    """Kernel, command, memory, clock and folders of a guest.

    Attributes:
        kernel: the guest kernel.
        command: the command that root of the guest runs, with the caller's rights on the host.
        writable: the only folder of the host that the guest can change; contains a folder ``raw``.
        memory_bytes: size of the guest's memory; the host allocates pages on first use.
        clock: virtual or real.
        clock_file: the file in which the guest's kernel reports its clock (virtual clock only).
        console: file for the output of the guest's kernel and of the command; None: the terminal of
            this process, also for input.
        readable: folders below /tmp or /run that the command needs; the guest otherwise has its own
            /tmp and /run.
        environment: additional environment variables of the command.
        writable_from: the folder of the host that the guest sees as `writable`; None: the same.
        common: a folder of the host that several guests can change, as `COMMON` of each.
        clock_shared: the memory by which guests share their clock; None: the guest is alone.
        site: number of the guest among those that share their clock.
        cpu: the host's CPU for the guest, possibly shared with other guests; None: a CPU that no
            other guest has, if there is one, and possibly a second one (see `reserve_cpus`).
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
    writable_from: Path | None = None
    common: Path | None = None
    clock_shared: SharedClock | None = None
    site: int = 0
    cpu: int | None = None

    @property
    def shared_folder(self) -> Path:
        """The folder of the host that the guest can change."""
        return self.writable_from or self.writable


@dataclass
class Guest:
    """A running guest."""

    process: subprocess.Popen[bytes]
    writable: Path
    clock_file: Path

    def status(self) -> int | None:
        """Return the command's exit status; None while the command runs, -1 if the guest was lost.

        The command's output is on the host's disk before the status is, so callers need not wait
        for the shutdown.
        """
        alive = self.process.poll() is None
        try:
            return int(read_plain(self.writable / EXIT_FILE))
        except (OSError, ValueError):
            return None if alive else -1

    def clock(self) -> ClockReading | None:
        """Return the guest's newest clock report; None before the first and on the real clock."""
        return read_clock(self.clock_file)

    def pause(self) -> None:
        """Stop the guest's kernel and the virtual clock; processes stop at their next trap."""
        os.kill(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Resume the guest if the guest is paused."""
        os.kill(self.process.pid, signal.SIGCONT)

    def cpu_seconds(self) -> float:
        """Return the CPU time in s that the guest's kernel and processes have used on the host."""
        return session_cpu_seconds(self.process.pid)


@contextmanager
def start_guest(spec: GuestSpec) -> Iterator[Guest]:
    """Boot a guest for the duration of the block.

    Raises:
            MachineError: the kernel has no virtual time, or the guest's memory does not fit in its
            folder.
    """
    check_guest(spec.kernel, spec.clock, spec.memory_bytes)
    _allow_open_files()
    with (
        note(Kind.RUN, spec.writable) as records,
        reserve_cpus(spec.cpu, borrows=_borrows_cpu(spec)) as cpus,
    ):
        (records.folder / "uml").mkdir()
        (records.folder / "job").write_text(_job(spec))
        process = _start_kernel(spec, cpus, records)
        try:
            _pid_file(records).write_text(f"{process.pid}")
            yield Guest(process, spec.shared_folder, spec.clock_file)
        finally:
            kill_session(process.pid, await_memory=False)
            # The kernel takes some tenths of a second to release its memory; the program waits for
            # that only at exit.
            threading.Thread(target=process.wait).start()


def _borrows_cpu(spec: GuestSpec) -> bool:
    """Return whether the guest's processes may have another CPU than the guest's kernel.

    With a real clock two CPUs would change times; guests that share a clock have a CPU each.
    """
    return spec.kernel.two_cpus and spec.clock == "virtual" and spec.clock_shared is None


def end_abandoned_guest(left: Note) -> None:
    """End the guest that a killed process left behind, if the note refers to a guest."""
    try:
        pid = int(_pid_file(left).read_text())
        command_line = Path("/proc", str(pid), "cmdline").read_bytes()
    except (OSError, ValueError):
        return
    if _guest_argument(left).encode() in command_line:
        kill_session(pid, await_memory=True)


def check_guest(kernel: Kernel, clock: Clock, memory_bytes: int) -> None:
    """Check that a guest with this kernel, clock and memory can be started.

    UML keeps the guest's memory in a sparse file in $TMPDIR or /dev/shm.

    Args:
        kernel: the guest kernel.
        clock: the guest's clock.
        memory_bytes: size of the guest's memory.

    Raises:
        MachineError: the kernel has no virtual time, or the guest's memory does not fit in its
            folder.
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


def _allow_open_files() -> None:
    """Let this process and the guest's kernel open enough files.

    Raises:
        MachineError: the limit cannot be raised.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= OPEN_FILES:
        return
    if hard < OPEN_FILES:
        raise MachineError(
            f"a guest needs to open up to {OPEN_FILES} files, and the limit of this shell is "
            f"{hard}\n  raise it (ulimit -Hn), or use another shell"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, hard))


def memory_folder() -> Path:
    """Return the folder in which UML creates the file with the guest's memory."""
    return Path(os.environ.get("TMPDIR") or SHM).absolute()


def _pid_file(records: Note) -> Path:
    return records.folder / "pid"


def _guest_argument(records: Note) -> str:
    """Return the kernel argument that names the folder of `init` and the guest's owner."""
    return f"TESTBED_GUEST={records.folder}"


def _job(spec: GuestSpec) -> str:
    """Return the shell script that `init` runs."""
    hidden = [str(folder) for folder in outermost(spec.readable) if _is_hidden(folder)]
    variables = [f"{name}={value}" for name, value in spec.environment.items()]
    return (
        f"writable={shlex.quote(str(spec.writable))}\n"
        f"writable_from={shlex.quote(str(spec.shared_folder))}\n"
        f"common={COMMON}\n"
        f"common_from={shlex.quote(str(spec.common or ''))}\n"
        f"readable=({shlex.join(hidden)})\n"
        f"python={shlex.quote(sys.executable)}\n"
        f"exit_file={EXIT_FILE}\n"
        f"command=({shlex.join([*variables, *spec.command])})\n"
    )


def outermost(folders: Iterable[Path]) -> list[Path]:
    """Return the folders that lie in none of the others, sorted.

    A mount inside another one may be at a symbolic link, which leads elsewhere.
    """
    outer: list[Path] = []
    for folder in sorted(set(folders)):
        if not any(folder.is_relative_to(other) for other in outer):
            outer.append(folder)
    return outer


def _is_hidden(folder: Path) -> bool:
    return any(folder.is_relative_to(hidden_folder) for hidden_folder in HIDDEN)


def _sandbox(spec: GuestSpec, records: Note) -> list[str]:
    """Return the prefix that runs a command with write access to the guest's folders only."""
    folders = [records.folder / "uml", spec.shared_folder]
    if spec.common is not None:
        folders.append(spec.common)
    memory = memory_folder()
    visible = [*folders, *spec.readable]
    in_shm = any(path.is_relative_to(SHM) for path in visible)
    private_shm_bytes = 0
    if memory == SHM and not in_shm:
        private_shm_bytes = spec.memory_bytes + MEMORY_SLACK
    else:
        folders.append(memory)
    words = [sys.executable, "-IS", str(CONFINE)]
    words += [str(os.getpid()), str(private_shm_bytes)]
    return [*words, *map(str, folders), "--"]


def _start_kernel(spec: GuestSpec, cpus: GuestCpus, records: Note) -> subprocess.Popen[bytes]:
    """Start UML in a new session and a sandbox, on its CPUs.

    The kernel is killed when this process ends, and the guest's processes end with the kernel.
    """
    kernel = spec.kernel.path.absolute()
    wrapper = [*cpus.prefix(), *_sandbox(spec, records)]
    arguments = [*_kernel_arguments(spec, records), *cpus.arguments()]
    inherited = cpus.descriptors()
    if spec.clock_shared:
        inherited.append(spec.clock_shared.descriptor)
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
            pass_fds=inherited,
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
        # Otherwise these tables follow the guest's memory, and limits follow them (docs/limits.md).
        "thash_entries=65536",
        "uhash_entries=65536",
        # The memory limit of a host is for its programs: buffers of sockets would stop growing.
        "cgroup.memory=nosocket",
        f"umid={records.name}",
        f"uml_dir={records.folder}/uml",
        _guest_argument(records),
    ]
    if spec.kernel.seccomp:
        arguments.append("seccomp=auto")
    if spec.clock == "virtual":
        # The kernel's command line cannot carry a path with spaces.
        clock_link = records.folder / "clock"
        clock_link.symlink_to(spec.clock_file)
        arguments += [
            "time-travel=inf-cpu",
            f"time-travel-start={EPOCH_NS}",
            f"time-travel-status={clock_link}",
            f"time-travel-patience={PATIENCE_SLICES}",
            "random.seed=testbed",  # the kernel's random numbers repeat; see seed_kernel()
        ]
    if spec.clock_shared is not None:
        arguments += [
            f"time-travel-sites={spec.clock_shared.descriptor}",
            f"time-travel-site={spec.site}",
        ]
    return arguments
