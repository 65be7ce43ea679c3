"""Facts about this machine, found by trying where that is possible. Nothing here judges or changes
anything.
"""

from __future__ import annotations

import ctypes
import importlib.util
import mmap
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from testbed.core.errors import MachineError, TestbedError
from testbed.core.paths import cache_dir
from testbed.core.sandbox import CONFINE
from testbed.guest.boot import memory_folder
from testbed.guest.kernel import Kernel, find_kernel, missing_tools
from testbed.guest.linux_source import find_source
from testbed.plan.model import Capture, Isolation, Where

PROJECT = Path(__file__).parent.parent.parent
CONTROLLERS = ("cpu", "memory", "pids")  # control groups (v2) that limit a host
# Debian's packages of scripts/packages that bring programs for runs, and the program by which each
# is recognised.
PROGRAMS = {
    "dockerd": "docker.io",
    "mnexec": "mininet",
    "crun": "crun",
    "tcpdump": "tcpdump",
    "ip": "iproute2",
    "ping": "iputils-ping",
    "ps": "procps",
    "nsenter": "util-linux",
}
OTHER_PROGRAMS = ("sudo", "vagrant")
LONGEST_TRY_S = 300  # a first import of torch takes more than 60 s on a processor that is emulated
CAP_NET_ADMIN, CAP_SYS_ADMIN = 12, 21
PTRACE_TRACEME = 0
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Machine:
    """What was seen. A field `..._error` is empty where the thing works, else says what the system
    said.
    """

    architecture: str
    system: str
    root: bool
    administers: bool  # has CAP_NET_ADMIN and CAP_SYS_ADMIN
    programs: frozenset[str]
    python: tuple[int, int]
    torch_error: str
    ptrace_error: str
    yama_scope: int | None  # Yama's kernel.yama.ptrace_scope; None: no Yama
    namespaces_error: (
        str  # of making namespaces for a guest: as root, or as a user in a user namespace
    )
    memory_folder: Path
    memory_free: int
    memory_error: str
    cache_error: str
    cache_free: int
    kernel: Kernel | None
    kernel_error: str
    kernel_source: Path | None
    missing_tools: tuple[str, ...]
    netem_error: str
    cgroups_error: str
    vagrantfile: bool
    ray: bool


def look() -> Machine:
    """Look at this machine; takes about two seconds, most of it an import of torch."""
    cache, cache_error = _cache()
    kernel, kernel_error = (None, "") if cache_error else _kernel()
    place, source = memory_folder(), None if cache_error else find_source()
    return Machine(
        architecture=platform.machine(),
        system=platform.system(),
        root=os.geteuid() == 0,
        administers=administers(),
        programs=frozenset(
            name for name in (*PROGRAMS, *OTHER_PROGRAMS) if shutil.which(name, path=search_path())
        ),
        python=(sys.version_info.major, sys.version_info.minor),
        torch_error=_tried([sys.executable, "-c", "import torch"]),
        ptrace_error=try_ptrace(),
        yama_scope=_number(Path("/proc/sys/kernel/yama/ptrace_scope")),
        namespaces_error=try_namespaces(),
        memory_folder=place,
        memory_free=shutil.disk_usage(place).free if place.is_dir() else 0,
        memory_error=try_memory(place),
        cache_error=cache_error,
        cache_free=0 if cache is None else shutil.disk_usage(cache).free,
        kernel=kernel,
        kernel_error=kernel_error,
        kernel_source=None if source is None else source.path,
        missing_tools=tuple(missing_tools()),
        netem_error=try_netem(),
        cgroups_error=try_cgroups(),
        vagrantfile=(PROJECT / "Vagrantfile").is_file(),
        ray=importlib.util.find_spec("ray") is not None,
    )


def require(where: Where, isolation: Isolation, capture: Capture) -> None:
    """Check what a run needs of this machine besides a guest kernel, as far as it takes no time.

    Raises:
        MachineError: something is missing.
    """
    wanted = [
        "mnexec",
        "ip",
        "nsenter",
        *["dockerd"] * (isolation == "container"),
        *["tcpdump"] * (capture != "none"),
    ]
    lacking = {
        PROGRAMS[name]: name for name in wanted if shutil.which(name, path=search_path()) is None
    }
    if lacking:
        packages = " ".join(lacking)
        raise MachineError(
            f"programs that this run needs are not installed: {', '.join(lacking.values())}\n"
            f"  apt-get install --no-install-recommends {packages}"
        )
    if where == "here":
        error = (
            "this needs root (CAP_NET_ADMIN and CAP_SYS_ADMIN)"
            if not administers()
            else try_cgroups()
        )
        if not error and (no_netem := try_netem()):
            error = f"this kernel makes no netem queue ({no_netem})"
        if error:
            raise MachineError(
                f"a run here is not possible: {error}\n  without --where here it uses a guest, which needs none of it"
            )


def search_path() -> str:
    """PATH with the folders of programs that a user may not have in theirs."""
    return os.pathsep.join(
        [os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"]
    )


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def administers() -> bool:
    """Whether this process may make network interfaces and mounts (proc(5): CapEff)."""
    if platform.system() != "Linux":
        return False
    status = dict(
        line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines()
    )
    rights = int(status["CapEff"], 16)
    return all(rights >> capability & 1 for capability in (CAP_NET_ADMIN, CAP_SYS_ADMIN))


def _tried(command: Sequence[str]) -> str:
    """Run `command`: empty if it ends well, else the last line of what it said."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=LONGEST_TRY_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    if done.returncode == 0:
        return ""
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"exit status {done.returncode}"


def try_ptrace() -> str:
    """Trace a child as the guest's kernel does its processes (PTRACE_TRACEME, which Yama or seccomp
    may forbid).
    """
    if platform.system() != "Linux":
        return "only Linux has it"
    pid = os.fork()
    if pid == 0:
        os._exit(0 if _libc.ptrace(PTRACE_TRACEME, 0, 0, 0) == 0 else ctypes.get_errno() or 1)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return (
        ""
        if status == 0
        else f"PTRACE_TRACEME: {os.strerror(status) if status > 0 else f'signal {-status}'}"
    )


def try_namespaces() -> str:
    """Keep a program to no folder at all, as a guest is kept to its own."""
    own = str(Path("/proc/self/ns/mnt").readlink()) if platform.system() == "Linux" else ""
    program = ["sh", "-c", 'test "$(readlink /proc/self/ns/mnt)" != "$0"', own]
    return _tried([sys.executable, "-IS", str(CONFINE), str(os.getpid()), "0", "--", *program])


def try_memory(folder: Path) -> str:
    """Map a file of `folder` for programs, as the guest's memory is."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.truncate(mmap.PAGESIZE)
            mmap.mmap(
                file.fileno(), mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
            ).close()
    except OSError as error:
        if isinstance(error, PermissionError) and os.access(folder, os.W_OK):
            return f"programs cannot be mapped from {folder} (mounted noexec)"
        return f"{folder}: {error.strerror}"
    return ""


def _cache() -> tuple[Path | None, str]:
    try:
        return cache_dir(), ""
    except TestbedError as error:
        return None, str(error).splitlines()[0]


def _kernel() -> tuple[Kernel | None, str]:
    try:
        return find_kernel(), ""
    except TestbedError as error:
        return None, str(error).splitlines()[0]


def try_netem() -> str:
    """Make a netem queue, in a network namespace of its own that ends with the try."""
    if not administers():
        return "needs root (CAP_NET_ADMIN and CAP_SYS_ADMIN)"
    return _tried(
        ["unshare", "--net", "tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"]
    )


def try_cgroups(root: Path = Path("/sys/fs/cgroup")) -> str:
    """Whether control groups (v2) with the controllers that limit a host are at `root`."""
    try:
        offered = (root / "cgroup.controllers").read_text().split()
    except OSError:
        return f"{root} is not that of control groups version 2"
    lacking = [name for name in CONTROLLERS if name not in offered]
    return f"{root} has no controllers {', '.join(lacking)}" if lacking else ""
