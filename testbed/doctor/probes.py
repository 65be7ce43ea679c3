"""Judgements: each probe takes what was seen of a machine and says whether one thing is as a run
needs it, and why.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

from testbed.core.units import format_size
from testbed.doctor.machine import Machine
from testbed.execution.requirements import PROGRAMS
from testbed.guest.linux_source import LINUX

GIB = 2**30
LEAST_MEMORY = 4 * GIB  # of a guest with some hosts in containers
LEAST_DISK, DISK_OF_A_BUILD = GIB, 4 * GIB
LEAST_PYTHON = (3, 11)
SETUP = "scripts/setup"
AWAY = "leave out --where here: the guest's kernel has it"


@dataclass(frozen=True)
class Finding:
    """Whether a thing is as it should be, why, and the command (or setting) that mends it if
    not.
    """

    name: str
    ok: bool
    why: str
    mend: str = ""


Probe = Callable[[Machine], Finding]


def _finding(name: str, error: str, good: str, mend: str) -> Finding:
    return Finding(name, not error, error or good, mend if error else "")


def architecture(machine: Machine) -> Finding:
    """Virtual time is written for User-Mode Linux on x86-64."""
    what = f"{machine.system} on {machine.architecture}"
    wrong = (
        ""
        if machine.system == "Linux" and machine.architecture == "x86_64"
        else f"{what}; it needs Linux on x86-64"
    )
    return _finding("architecture", wrong, what, "vagrant up")


def tracing(machine: Machine) -> Finding:
    """The guest's kernel traces its processes."""
    error = machine.ptrace_error and f"a process may not trace its child ({machine.ptrace_error})"
    mend = _as_root(machine, "sysctl -w kernel.yama.ptrace_scope=1")
    if not machine.yama_scope:
        # what else can forbid it
        mend = "docker run --cap-add SYS_PTRACE --security-opt seccomp=unconfined ..."
    return _finding("tracing", error, "a process may trace its child", mend)


def confinement(machine: Machine) -> Finding:
    """Namespaces keep a guest from the files and the network of this machine."""
    error = machine.namespaces_error
    what = "makes namespaces as root" if machine.administers else "makes user namespaces"
    mend = "sysctl -w kernel.unprivileged_userns_clone=1 kernel.apparmor_restrict_unprivileged_userns=0"
    return _finding("namespaces", error, what, _as_root(machine, mend))


def memory(machine: Machine) -> Finding:
    """A guest's memory is a file, which grows as it is used."""
    error, free = machine.memory_error, machine.memory_free
    has = f"{machine.memory_folder} has {format_size(free, 2)} free"
    if not error and free < LEAST_MEMORY:
        error = f"{has}; a guest with containers wants {format_size(LEAST_MEMORY, 2)}"
    return _finding("memory", error, has, "export TMPDIR=/var/tmp")


def cache(machine: Machine) -> Finding:
    """Kernels and the folders of running guests are kept there."""
    return _finding(
        "cache",
        machine.cache_error,
        "the cache folder can be written",
        "export TESTBED_CACHE=/var/tmp/testbed",
    )


def disk(machine: Machine) -> Finding:
    """Room for run folders, and for the build of a kernel."""
    needed = LEAST_DISK if machine.kernel else DISK_OF_A_BUILD
    has = f"the cache folder's disk has {format_size(machine.cache_free, 2)} free"
    error = "" if machine.cache_free >= needed else f"{has}, {format_size(needed, 2)} are needed"
    return _finding("disk", error, has, "export TESTBED_CACHE=/a/larger/disk")


def python(machine: Machine) -> Finding:
    """The interpreter, with torch."""
    version = ".".join(map(str, machine.python))
    error = machine.torch_error and f"torch cannot be imported ({machine.torch_error})"
    if machine.python < LEAST_PYTHON:
        error = f"this is Python {version}; 3.11 or newer is needed"
    return _finding("python", error, f"Python {version} with torch", SETUP)


def kernel(machine: Machine) -> Finding:
    """A guest kernel, or what builds one."""
    found, source = machine.kernel, machine.kernel_source
    if found is not None:
        return Finding("kernel", True, f"Linux {found.version} at {found.path}")
    if machine.kernel_error:
        return Finding(
            "kernel",
            False,
            machine.kernel_error,
            "unset TESTBED_KERNEL, or let it name a guest kernel",
        )
    lacking = [*machine.missing_tools, *([] if source else [f"linux-source-{LINUX[0]}"])]
    if not lacking:
        return Finding(
            "kernel", True, f"not built yet; the first run builds it from {source} in some minutes"
        )
    why = f"not built, and {', '.join(lacking)} to build it with missing"
    if not machine.missing_tools:
        why += (
            f" (another source of Linux {' or '.join(LINUX)} will do: testbed guest build --source)"
        )
    return Finding("kernel", False, why, _install(machine, lacking))


def virtual_time(machine: Machine) -> Finding:
    """Whether the kernel has a virtual clock: those that are built here do."""
    found = machine.kernel
    error = (
        f"{found.path} has no virtual clock" if found is not None and not found.virtual_time else ""
    )
    return _finding("virtual time", error, "the kernel has a virtual clock", "unset TESTBED_KERNEL")


def programs(machine: Machine) -> Finding:
    """What every run calls."""
    return _programs(machine, "programs", ("mnexec", "ip", "ping", "ps", "nsenter"))


def docker(machine: Machine) -> Finding:
    """Docker's daemon; a run starts one of its own."""
    return _programs(machine, "docker", ("dockerd",))


def tcpdump(machine: Machine) -> Finding:
    """What captures packets."""
    return _programs(machine, "tcpdump", ("tcpdump",))


def rights(machine: Machine) -> Finding:
    """Links and mounts in this kernel are for root."""
    error = "" if machine.administers else "not root (CAP_NET_ADMIN and CAP_SYS_ADMIN are needed)"
    return _finding("rights", error, "root", "sudo -E testbed run ... --where here")


def netem(machine: Machine) -> Finding:
    """Whether this kernel can emulate links."""
    error = machine.netem_error
    mend = "modprobe sch_netem" if machine.administers else "sudo modprobe sch_netem"
    if "unknown" in error or "not found" in error:
        mend += f"; if there is no such module, {AWAY}"
    return _finding(
        "netem",
        error and f"this kernel makes no netem queue ({error})",
        "this kernel has netem",
        mend,
    )


def cgroups(machine: Machine) -> Finding:
    """Hosts in this kernel are limited by control groups."""
    mend = f"boot with systemd.unified_cgroup_hierarchy=1, or {AWAY}"
    return _finding("control groups", machine.cgroups_error, "control groups version 2", mend)


def vagrant(machine: Machine) -> Finding:
    """A virtual machine with all of it inside."""
    error = "" if "vagrant" in machine.programs else "there is no vagrant"
    if not error and not machine.vagrantfile:
        error = "this installation has no Vagrantfile; a clone has one"
    return _finding(
        "vagrant", error, "vagrant and the Vagrantfile are there", _install(machine, ["vagrant"])
    )


def ray(machine: Machine) -> Finding:
    """Sweeps on several machines."""
    error = "" if machine.ray else "this Python has no package ray"
    return _finding(
        "ray", error, "the package ray is installed", f"{sys.executable} -m pip install ray"
    )


def _programs(machine: Machine, name: str, wanted: tuple[str, ...]) -> Finding:
    lacking = [program for program in wanted if program not in machine.programs]
    error = f"missing: {', '.join(lacking)}" if lacking else ""
    return _finding(
        name,
        error,
        ", ".join(wanted),
        _install(machine, [PROGRAMS[program] for program in lacking]),
    )


def _install(machine: Machine, packages: list[str]) -> str:
    return _as_root(machine, f"apt-get install --no-install-recommends {' '.join(packages)}")


def _as_root(machine: Machine, command: str) -> str:
    if machine.root:
        return command
    return f"sudo {command}" if "sudo" in machine.programs else f"su -c '{command}'"
