"""Facts about this machine, found by trying where that is possible. Nothing here judges or changes
anything.
"""

from __future__ import annotations

import importlib.util
import mmap
import os
import platform
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from testbed.core import linux
from testbed.core.errors import TestbedError
from testbed.core.paths import cache_dir
from testbed.core.sandbox import CONFINE
from testbed.execution.requirements import (
    PROGRAMS,
    administers,
    search_path,
    tried,
    try_cgroups,
    try_netem,
)
from testbed.guest.boot import memory_folder
from testbed.guest.kernel import Kernel, find_kernel, missing_tools
from testbed.guest.linux_source import find_source

PROJECT = Path(__file__).parent.parent.parent
OTHER_PROGRAMS = ("sudo", "vagrant")


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
        torch_error=tried([sys.executable, "-c", "import torch"]),
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


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def try_ptrace() -> str:
    """Trace a child as the guest's kernel does its processes (PTRACE_TRACEME, which Yama or seccomp
    may forbid).
    """
    if platform.system() != "Linux":
        return "only Linux has it"
    pid = os.fork()
    if pid == 0:
        try:
            linux.trace_me()
        except OSError as error:
            os._exit(error.errno or 1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status == 0:
        return ""
    reason = os.strerror(status) if status > 0 else f"signal {-status}"
    return f"PTRACE_TRACEME: {reason}"


def try_namespaces() -> str:
    """Keep a program to no folder at all, as a guest is kept to its own."""
    own = str(Path("/proc/self/ns/mnt").readlink()) if platform.system() == "Linux" else ""
    program = ["sh", "-c", 'test "$(readlink /proc/self/ns/mnt)" != "$0"', own]
    return tried([sys.executable, "-IS", str(CONFINE), str(os.getpid()), "0", "--", *program])


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
