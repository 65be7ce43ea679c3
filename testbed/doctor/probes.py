"""Check the requirements of runs, one by one, against the facts about a machine."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from testbed.core.units import format_size
from testbed.doctor.machine import Machine
from testbed.execution.requirements import PROGRAMS
from testbed.guest.linux_source import LINUX

GIB = 2**30
LEAST_MEMORY = 4 * GIB  # for a guest with some hosts in containers
LEAST_DISK = GIB
DISK_OF_A_BUILD = 4 * GIB
LEAST_PYTHON = (3, 11)
SETUP = "scripts/setup"
# Installation commands for an installation from a wheel, which lacks scripts/setup.
RUN_PACKAGES = "pip install 'wan-training-testbed[run]'"
RAY_PACKAGES = "pip install 'wan-training-testbed[ray]'"
KERNEL_PACKAGE = "pip install wan-training-testbed-kernel"
IN_A_CLONE = "in a clone of the project: vagrant up"
WITHOUT_HERE = "remove --where here (the guest kernel has it)"
NO_SUCH_MODULE = ("unknown", "not found")  # substrings of tc's and modprobe's errors


@dataclass(frozen=True)
class Finding:
    """Result of checking one requirement of runs.

    Attributes:
        name: The requirement.
        ok: Whether the requirement is met.
        why: The reason, on one line.
        mend: The command or setting that fixes the problem; empty where there is no problem.
    """

    name: str
    ok: bool
    why: str
    mend: str = ""


Probe = Callable[[Machine], Finding]


def _finding(name: str, error: str, *, good: str, mend: str) -> Finding:
    """Return the finding for a requirement, which is met if `error` is empty.

    Args:
        name: The requirement.
        error: The problem; empty if there is none.
        good: The reason if there is no problem.
        mend: The command or setting that fixes the problem.
    """
    if error:
        return Finding(name, False, error, mend)
    return Finding(name, True, good)


def architecture(machine: Machine) -> Finding:
    """Check the processor and the system: the guest kernel is User-Mode Linux on x86-64."""
    seen = f"{machine.system} on {machine.architecture}"
    error = ""
    if (machine.system, machine.architecture) != ("Linux", "x86_64"):
        error = f"{seen}; testbed needs Linux on x86-64"
    mend = "vagrant up" if machine.clone else IN_A_CLONE
    return _finding("architecture", error, good=seen, mend=mend)


def tracing(machine: Machine) -> Finding:
    """Check whether the guest's kernel can trace its processes."""
    error = ""
    if machine.ptrace_error:
        error = f"a process may not trace its child ({machine.ptrace_error})"
    if machine.yama_scope:
        mend = _as_root(machine, "sysctl -w kernel.yama.ptrace_scope=1")
    else:  # the other possible cause is seccomp
        mend = "docker run --cap-add SYS_PTRACE --security-opt seccomp=unconfined ..."
    return _finding("tracing", error, good="a process may trace its child", mend=mend)


def confinement(machine: Machine) -> Finding:
    """Check whether namespaces can confine a guest to its folders, without a network."""
    good = "can create namespaces as root" if machine.administers else "can create user namespaces"
    settings = "kernel.unprivileged_userns_clone=1 kernel.apparmor_restrict_unprivileged_userns=0"
    mend = _as_root(machine, f"sysctl -w {settings}")
    return _finding("namespaces", machine.namespaces_error, good=good, mend=mend)


def memory(machine: Machine) -> Finding:
    """Check the free space for a guest's memory, which is a sparse file."""
    free_size = format_size(machine.memory_free, 2)
    free = f"{machine.memory_folder} has {free_size} free"
    error = machine.memory_error
    if not error and machine.memory_free < LEAST_MEMORY:
        wanted = format_size(LEAST_MEMORY, 2)
        error = f"{free}; a guest with containers needs {wanted}"
    return _finding("memory", error, good=free, mend="export TMPDIR=/var/tmp")


def cache(machine: Machine) -> Finding:
    """Check the cache folder, which holds kernels and the folders of running guests."""
    good = "the cache folder is writable"
    mend = "export TESTBED_CACHE=/var/tmp/testbed"
    return _finding("cache", machine.cache_error, good=good, mend=mend)


def disk(machine: Machine) -> Finding:
    """Check the free disk space for run folders, and for a kernel build if necessary."""
    needed = LEAST_DISK if machine.kernel else DISK_OF_A_BUILD
    free_size = format_size(machine.cache_free, 2)
    needed_size = format_size(needed, 2)
    free = f"the cache folder's disk has {free_size} free"
    error = ""
    if machine.cache_free < needed:
        error = f"{free}; needed: {needed_size}"
    return _finding("disk", error, good=free, mend="export TESTBED_CACHE=/a/larger/disk")


def python(machine: Machine) -> Finding:
    """Check the Python version and the packages of the extra "run"."""
    major, minor = machine.python
    version = f"{major}.{minor}"
    error = ""
    if machine.python < LEAST_PYTHON:
        error = f"Python {version} is too old; testbed needs 3.11 or newer"
    elif machine.missing_modules:
        error = f'packages of the extra "run" are missing: {", ".join(machine.missing_modules)}'
    elif machine.torch_error:
        error = f"cannot import torch ({machine.torch_error})"
    mend = SETUP if machine.clone else RUN_PACKAGES
    return _finding("python", error, good=f"Python {version} with torch", mend=mend)


def kernel(machine: Machine) -> Finding:
    """Check whether there is a guest kernel, or everything needed to build one."""
    if machine.kernel is not None:
        return Finding("kernel", True, f"Linux {machine.kernel.version} at {machine.kernel.path}")
    if machine.kernel_error:
        mend = "unset TESTBED_KERNEL, or set it to the path of a guest kernel"
        return Finding("kernel", False, machine.kernel_error, mend)

    if not machine.clone and (machine.kernel_source is None or machine.missing_tools):
        return Finding("kernel", False, "no guest kernel is installed", KERNEL_PACKAGE)

    missing_packages = list(machine.missing_tools)
    if machine.kernel_source is None:
        missing_packages.append(f"linux-source-{LINUX[0]}")
    if not missing_packages:
        source = machine.kernel_source
        why = f"not built yet; the first run builds the kernel from {source} (takes minutes)"
        return Finding("kernel", True, why)

    why = f"not built; packages needed to build it: {', '.join(missing_packages)}"
    if not machine.missing_tools:
        versions = " or ".join(LINUX)
        why += f" (or build from another Linux {versions} source: testbed guest build --source)"
    return Finding("kernel", False, why, _install(machine, missing_packages))


def virtual_time(machine: Machine) -> Finding:
    """Check whether the guest kernel has a virtual clock, as kernels built by the testbed do."""
    error = ""
    if machine.kernel is not None and not machine.kernel.virtual_time:
        error = f"{machine.kernel.path} has no virtual clock"
    good = "the kernel has a virtual clock"
    return _finding("virtual time", error, good=good, mend="unset TESTBED_KERNEL")


def programs(machine: Machine) -> Finding:
    """Check whether the programs are installed that deployments and their users call."""
    return _installed("programs", machine, ("mnexec", "ip", "ping", "ps", "nsenter"))


def docker(machine: Machine) -> Finding:
    """Check whether Docker's daemon is installed, from which a run starts a private daemon."""
    return _installed("docker", machine, ("dockerd",))


def tcpdump(machine: Machine) -> Finding:
    """Check whether tcpdump is installed, which captures packets."""
    return _installed("tcpdump", machine, ("tcpdump",))


def rights(machine: Machine) -> Finding:
    """Check whether this process may create links and mounts in this machine's kernel."""
    error = ""
    if not machine.administers:
        error = "not root (CAP_NET_ADMIN and CAP_SYS_ADMIN are needed)"
    mend = "sudo -E testbed run ... --where here"
    return _finding("rights", error, good="root", mend=mend)


def netem(machine: Machine) -> Finding:
    """Check whether this machine's kernel can emulate links."""
    error = ""
    if machine.netem_error:
        error = f"this kernel cannot create a netem qdisc ({machine.netem_error})"

    mend = "modprobe sch_netem" if machine.administers else "sudo modprobe sch_netem"
    if any(text in machine.netem_error for text in NO_SUCH_MODULE):
        mend += f"; if the module does not exist, {WITHOUT_HERE}"
    return _finding("netem", error, good="this kernel has netem", mend=mend)


def cgroups(machine: Machine) -> Finding:
    """Check whether control groups can limit hosts in this machine's kernel."""
    mend = f"boot with systemd.unified_cgroup_hierarchy=1, or {WITHOUT_HERE}"
    good = "control groups version 2"
    return _finding("control groups", machine.cgroups_error, good=good, mend=mend)


def vagrant(machine: Machine) -> Finding:
    """Check whether Vagrant can create a virtual machine with the testbed."""
    if not machine.vagrantfile:
        why = "no Vagrantfile in this installation; use a clone of the project"
        return Finding("vagrant", False, why, "" if machine.clone else IN_A_CLONE)
    error = "" if "vagrant" in machine.programs else "vagrant is not installed"
    good = "vagrant is installed and the Vagrantfile exists"
    return _finding("vagrant", error, good=good, mend=_install(machine, ["vagrant"]))


def ray(machine: Machine) -> Finding:
    """Check whether the Python package ray is installed, for sweeps on several machines."""
    error = "" if machine.ray else "the Python package ray is not installed"
    mend = f"{sys.executable} -m pip install ray" if machine.clone else RAY_PACKAGES
    return _finding("ray", error, good="the Python package ray is installed", mend=mend)


def modelled_gpus(machine: Machine) -> Finding:
    """Check whether the modelled GPUs can be compiled."""
    good = "a C++ compiler and Python's headers are installed"
    mend = _install(machine, ["g++", "python3-dev"])
    return _finding("modelled GPUs", machine.gpu_error, good=good, mend=mend)


def _installed(name: str, machine: Machine, needed: Sequence[str]) -> Finding:
    """Check whether the programs `needed` are installed."""
    missing = [program for program in needed if program not in machine.programs]
    if not missing:
        return Finding(name, True, ", ".join(needed))

    packages = [PROGRAMS[program] for program in missing]
    why = f"missing: {', '.join(missing)}"
    return Finding(name, False, why, _install(machine, packages))


def _install(machine: Machine, packages: Sequence[str]) -> str:
    """Return the command that installs Debian packages; without apt-get, the package names."""
    if "apt-get" not in machine.programs:
        return f"install the packages that Debian calls {' '.join(packages)}"
    return _as_root(machine, f"apt-get install --no-install-recommends {' '.join(packages)}")


def _as_root(machine: Machine, command: str) -> str:
    """Return `command` as the user must run it, with sudo if root is needed."""
    if machine.root:
        return command
    if "sudo" in machine.programs:
        return f"sudo {command}"
    return f"su -c '{command}'"
