"""Collect facts about this machine, by trial where possible, without changing anything."""

from __future__ import annotations

import importlib.util
import mmap
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from testbed.core import linux
from testbed.core.errors import TestbedError
from testbed.core.installation import PROJECT, is_clone
from testbed.core.paths import cache_dir
from testbed.core.sandbox import CONFINE
from testbed.execution.requirements import (
    PROGRAMS,
    administers,
    missing_modules,
    search_path,
    tried,
    try_cgroups,
    try_netem,
)
from testbed.guest.boot import memory_folder
from testbed.guest.kernel import Kernel, find_kernel, missing_tools
from testbed.guest.linux_source import find_source
from testbed.workers.gpu.build import why_no_gpus

OTHER_PROGRAMS = ("sudo", "vagrant", "apt-get")
Fact = TypeVar("Fact")


@dataclass(frozen=True)
class Machine:
    """Facts about a machine.

    A field ``..._error`` is empty where the feature works, and else contains the system's error
    message.

    Attributes:
        architecture: As `uname -m` prints it.
        system: As `uname -s` prints it.
        root: Whether the user is root.
        administers: Whether this process has CAP_NET_ADMIN and CAP_SYS_ADMIN.
        programs: Names of the programs that were found.
        python: Version of the interpreter.
        missing_modules: Modules of the extra "run" that this Python lacks.
        torch_error: Error of importing torch; empty if there is none.
        ptrace_error: Error of tracing a child process.
        yama_scope: Value of kernel.yama.ptrace_scope; None: the kernel has no Yama.
        namespaces_error: Error of creating namespaces for a guest, as root or in a user namespace.
        memory_folder: Folder of the files that hold the memory of guests.
        memory_free: Bytes free in `memory_folder`.
        memory_error: Error of mapping a file of `memory_folder` as executable memory.
        cache_error: Error of writing to the cache folder.
        cache_free: Bytes free on the disk of the cache folder.
        kernel: The guest kernel; None: not built yet.
        kernel_error: Error of the guest kernel that TESTBED_KERNEL names.
        kernel_source: The Linux source from which the guest kernel is built.
        missing_tools: Missing programs that a build of the guest kernel needs.
        netem_error: Error of creating a netem queue.
        cgroups_error: Error of control groups version 2.
        clone: Whether this installation is a clone of the project, not a wheel.
        gpu_error: What the modelled GPUs lack to be compiled.
        vagrantfile: Whether there is a Vagrantfile.
        ray: Whether the Python package ray is installed.
    """

    architecture: str
    system: str
    root: bool
    administers: bool
    programs: frozenset[str]
    python: tuple[int, int]
    missing_modules: tuple[str, ...]
    torch_error: str
    ptrace_error: str
    yama_scope: int | None
    namespaces_error: str
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
    clone: bool
    vagrantfile: bool
    ray: bool
    gpu_error: str


def look() -> Machine:
    """Return the facts about this machine; takes about 2 s, mostly to import torch."""
    cache, cache_error = _try_to_find(cache_dir)
    kernel: Kernel | None = None
    kernel_error = ""
    kernel_source: Path | None = None
    if cache is not None:
        kernel, kernel_error = _try_to_find(find_kernel)
        source = find_source()
        kernel_source = None if source is None else source.path
    missing = missing_modules()
    torch_error = "" if "torch" in missing else tried([sys.executable, "-c", "import torch"])
    guest_memory = memory_folder()
    known_programs = (*PROGRAMS, *OTHER_PROGRAMS)
    path = search_path()
    return Machine(
        architecture=platform.machine(),
        system=platform.system(),
        root=os.geteuid() == 0,
        administers=administers(),
        programs=frozenset(name for name in known_programs if shutil.which(name, path=path)),
        python=(sys.version_info.major, sys.version_info.minor),
        missing_modules=tuple(missing),
        torch_error=torch_error,
        ptrace_error=try_ptrace(),
        yama_scope=_number_in(Path("/proc/sys/kernel/yama/ptrace_scope")),
        namespaces_error=try_namespaces(),
        memory_folder=guest_memory,
        memory_free=_free_bytes(guest_memory),
        memory_error=try_memory(guest_memory),
        cache_error=cache_error,
        cache_free=0 if cache is None else _free_bytes(cache),
        kernel=kernel,
        kernel_error=kernel_error,
        kernel_source=kernel_source,
        missing_tools=tuple(missing_tools()),
        netem_error=try_netem(),
        cgroups_error=try_cgroups(),
        clone=is_clone(),
        gpu_error=why_no_gpus(),
        vagrantfile=(PROJECT / "Vagrantfile").is_file(),
        ray=importlib.util.find_spec("ray") is not None,
    )


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free if folder.is_dir() else 0


def _number_in(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def try_ptrace() -> str:
    """Trace a child as the guest's kernel traces its processes; Yama or seccomp may forbid tracing.

    Returns:
        The system's error message; empty if tracing works.
    """
    if platform.system() != "Linux":
        return "only available on Linux"
    pid = os.fork()
    if pid == 0:
        try:
            linux.trace_me()
        except OSError as error:
            os._exit(error.errno or 1)
        os._exit(0)
    _, wait_status = os.waitpid(pid, 0)
    exit_code = os.waitstatus_to_exitcode(wait_status)
    if exit_code == 0:
        return ""
    reason = os.strerror(exit_code) if exit_code > 0 else f"signal {-exit_code}"
    return f"PTRACE_TRACEME: {reason}"


def try_namespaces() -> str:
    """Confine a program to an empty list of folders, as a guest is confined to its folders.

    Returns:
        The system's error message; empty if the program ran in other namespaces than this process.
    """
    own_namespace = ""
    if platform.system() == "Linux":
        own_namespace = str(Path("/proc/self/ns/mnt").readlink())
    test = 'test "$(readlink /proc/self/ns/mnt)" != "$0"'
    program = ["sh", "-c", test, own_namespace]
    confine = [sys.executable, "-IS", str(CONFINE), str(os.getpid()), "0"]
    return tried([*confine, "--", *program])


def try_memory(folder: Path) -> str:
    """Map a file of `folder` as executable memory, like the guest's memory.

    Returns:
        The system's error message; empty if the file could be mapped.
    """
    protection = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.truncate(mmap.PAGESIZE)
            mmap.mmap(file.fileno(), mmap.PAGESIZE, prot=protection).close()
    except PermissionError as error:
        if os.access(folder, os.W_OK):
            return f"programs cannot be mapped from {folder} (mounted noexec)"
        return f"{folder}: {error.strerror}"
    except OSError as error:
        return f"{folder}: {error.strerror}"
    return ""


def _try_to_find(find: Callable[[], Fact | None]) -> tuple[Fact | None, str]:
    """Return the result of `find` (None after an error), and the first line of the error."""
    try:
        return find(), ""
    except TestbedError as error:
        return None, str(error).splitlines()[0]
