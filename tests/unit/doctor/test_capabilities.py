"""testbed doctor: judgements about machines that are described."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from testbed.doctor.capabilities import (
    CAPABILITIES,
    DEFAULT,
    capabilities,
    default_runs,
    process_runs,
)
from testbed.doctor.machine import Machine
from testbed.execution.requirements import PROGRAMS
from testbed.guest.kernel import Kernel

PROJECT = Path(__file__).parents[3]
GIB = 2**30
KERNEL = Kernel(Path("/cache/linux"), "6.12.94", virtual_time=True)
GOOD = Machine(
    architecture="x86_64",
    system="Linux",
    root=True,
    administers=True,
    programs=frozenset({*PROGRAMS, "sudo", "vagrant", "apt-get"}),
    python=(3, 11),
    missing_modules=(),
    torch_error="",
    ptrace_error="",
    yama_scope=1,
    namespaces_error="",
    memory_folder=Path("/dev/shm"),
    memory_free=8 * GIB,
    memory_error="",
    cache_error="",
    cache_free=50 * GIB,
    kernel=KERNEL,
    kernel_error="",
    kernel_source=None,
    missing_tools=(),
    netem_error="",
    cgroups_error="",
    clone=True,
    gpu_error="",
    vagrantfile=True,
    ray=True,
)
USER = {"root": False, "administers": False}
WHEEL = {"clone": False, "vagrantfile": False}
VIRTUAL, REAL = "guest, virtual clock", "guest, real clock"


def test_machine_with_everything() -> None:
    judged = capabilities(GOOD)
    assert [(one.name, one.available, one.mend) for one in judged] == [
        (name, True, "") for name in CAPABILITIES
    ]
    assert default_runs(judged)
    assert json.dumps([one.record() for one in judged])


CASES: dict[str, tuple[dict[str, Any], set[str], str, str]] = {
    # name: difference from GOOD, capabilities that are lost, why, and the command that mends one
    "arm64": (
        {"architecture": "aarch64"},
        {VIRTUAL, REAL},
        "Linux on aarch64; testbed needs Linux on x86-64",
        "vagrant up",
    ),
    "macOS": ({"system": "Darwin"}, {VIRTUAL, REAL}, "Darwin on x86_64", "vagrant up"),
    "Yama": (
        {"ptrace_error": "PTRACE_TRACEME: Operation not permitted", "yama_scope": 3},
        {VIRTUAL, REAL},
        "a process may not trace its child (PTRACE_TRACEME: Operation not permitted)",
        "sysctl -w kernel.yama.ptrace_scope=1",
    ),
    "seccomp": (
        {"ptrace_error": "PTRACE_TRACEME: Operation not permitted", "yama_scope": None},
        {VIRTUAL, REAL},
        "may not trace its child",
        "docker run --cap-add SYS_PTRACE",
    ),
    "no user namespaces": (
        {
            "namespaces_error": "sandboxing is unavailable on this system: unshare: Operation not "
            "permitted",
            **USER,
        },
        {"guest sandbox", "here"},
        "sandboxing is unavailable on this system:",
        "sudo sysctl -w kernel.unprivileged",
    ),
    "small /dev/shm": (
        {"memory_free": 64 * 2**20},
        {VIRTUAL, REAL},
        "/dev/shm has 64 MiB free; a guest with containers needs 4 GiB",
        "export TMPDIR=/var/tmp",
    ),
    "noexec": (
        {"memory_error": "programs cannot be mapped from /dev/shm (mounted noexec)"},
        {VIRTUAL, REAL},
        "programs cannot be mapped from /dev/shm",
        "export TMPDIR=/var/tmp",
    ),
    "read-only home": (
        {"cache_error": "cannot make the cache folder /home/a/.cache: Read-only file system"},
        {VIRTUAL, REAL, "here"},
        "Read-only file system",
        "export TESTBED_CACHE=",
    ),
    "full disk": (
        {"cache_free": GIB // 2},
        {VIRTUAL, REAL},
        "510 MiB free; needed: 1 GiB",
        "TESTBED_CACHE",
    ),
    "full disk for a build": (
        {"cache_free": 2 * GIB, "kernel": None, "kernel_source": Path("/usr/src/linux.tar.xz")},
        {VIRTUAL, REAL},
        "2 GiB free; needed: 4 GiB",
        "TESTBED_CACHE",
    ),
    "old Python": (
        {"python": (3, 10)},
        {VIRTUAL, REAL, "here"},
        "Python 3.10 is too old; testbed needs 3.11",
        "scripts/setup",
    ),
    "no torch": (
        {"missing_modules": ("torch", "docker")},
        {VIRTUAL, REAL, "here"},
        'packages of the extra "run" are missing: torch, docker',
        "scripts/setup",
    ),
    "no torch beside a wheel": (
        {"missing_modules": ("torch",), **WHEEL},
        {VIRTUAL, REAL, "here", "Vagrant"},
        'packages of the extra "run" are missing: torch',
        "pip install 'wan-training-testbed[run]'",
    ),
    "torch does not start": (
        {"torch_error": "ImportError: libgomp.so.1"},
        {VIRTUAL, REAL, "here"},
        "cannot import torch (ImportError",
        "scripts/setup",
    ),
    "no Mininet": (
        {"programs": GOOD.programs - {"mnexec"}},
        {"deployed networks"},
        "missing: mnexec",
        "apt-get install --no-install-recommends mininet",
    ),
    "no apt": (
        {"programs": GOOD.programs - {"tcpdump", "apt-get"}},
        {"captures"},
        "missing: tcpdump",
        "install the packages that Debian calls tcpdump",
    ),
    "no Docker": (
        {"programs": GOOD.programs - {"dockerd"}},
        {"Docker containers"},
        "missing: dockerd",
        "apt-get install --no-install-recommends docker.io",
    ),
    "no Docker, no root": (
        {"programs": GOOD.programs - {"dockerd"}, **USER},
        {"Docker containers", "here"},
        "not root",
        "sudo -E testbed run ... --where here",
    ),
    "no tcpdump, no sudo": (
        {"programs": GOOD.programs - {"tcpdump", "sudo"}, **USER, "administers": True},
        {"captures"},
        "missing: tcpdump",
        "su -c 'apt-get install --no-install-recommends tcpdump'",
    ),
    "no source": (
        {"kernel": None},
        {VIRTUAL, REAL},
        "packages needed to build it: linux-source-6.12 (or build from another Linux 6.12",
        "apt-get install --no-install-recommends linux-source-6.12",
    ),
    "no kernel beside a wheel": (
        {"kernel": None, **WHEEL},
        {VIRTUAL, REAL, "Vagrant"},
        "no guest kernel is installed",
        "pip install wan-training-testbed-kernel",
    ),
    "no compiler": (
        {"kernel": None, "missing_tools": ("flex",), "kernel_source": Path("/usr/src/x.tar.xz")},
        {VIRTUAL, REAL},
        "not built; packages needed to build it: flex",
        "apt-get install --no-install-recommends flex",
    ),
    "a build": ({"kernel": None, "kernel_source": Path("/usr/src/x.tar.xz")}, set(), "", ""),
    "a kernel that does not run": (
        {"kernel": None, "kernel_error": "cannot run the guest kernel /x: [Errno 2]"},
        {VIRTUAL, REAL},
        "cannot run the guest kernel /x",
        "unset TESTBED_KERNEL",
    ),
    "Debian's UML": (
        {"kernel": replace(KERNEL, virtual_time=False)},
        {VIRTUAL},
        "has no virtual clock",
        "unset TESTBED_KERNEL",
    ),
    "no netem": (
        {"netem_error": "Error: Specified qdisc kind is unknown."},
        {"here"},
        "this kernel cannot create a netem qdisc (",
        "modprobe sch_netem; if the module does not exist, remove --where here",
    ),
    "control groups version 1": (
        {"cgroups_error": "/sys/fs/cgroup is not a control group version 2 file system"},
        {"here"},
        "version 2",
        "systemd.unified_cgroup_hierarchy=1",
    ),
    "no vagrant": (
        {"programs": GOOD.programs - {"vagrant"}},
        {"Vagrant"},
        "vagrant is not installed",
        "install",
    ),
    "no Vagrantfile": (
        {"vagrantfile": False},
        {"Vagrant"},
        "no Vagrantfile in this installation; use a clone of the project",
        "",
    ),
    "a wheel": (
        {**WHEEL, "programs": GOOD.programs - {"vagrant"}},
        {"Vagrant"},
        "no Vagrantfile in this installation; use a clone of the project",
        "in a clone of the project: vagrant up",
    ),
    "no Ray beside a wheel": (
        {"ray": False, **WHEEL},
        {"Ray", "Vagrant"},
        "the Python package ray is not installed",
        "pip install 'wan-training-testbed[ray]'",
    ),
    "arm64 and a wheel": (
        {"architecture": "aarch64", **WHEEL},
        {VIRTUAL, REAL, "Vagrant"},
        "testbed needs Linux on x86-64",
        "in a clone of the project: vagrant up",
    ),
    "no compiler for GPUs": (
        {"gpu_error": "g++ is not installed"},
        {"modelled GPUs"},
        "g++ is not installed",
        "apt-get install --no-install-recommends g++ python3-dev",
    ),
    "no Ray": (
        {"ray": False},
        {"Ray"},
        "the Python package ray is not installed",
        "-m pip install ray",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_machine_that_lacks_something(case: str) -> None:
    differs, lost, why, mend = CASES[case]
    judged = capabilities(replace(GOOD, **differs))
    unavailable = [one for one in judged if not one.available]
    assert {one.name for one in unavailable} == lost
    assert default_runs(judged) == (not lost & set(DEFAULT))
    assert process_runs(judged) == (VIRTUAL not in lost)
    texts = [(one.why, one.mend) for one in unavailable] or [("", "")]
    assert any(why in text and mend in command for text, command in texts), texts


def test_every_runtime_package_is_looked_for() -> None:
    """In scripts/packages; the packages for virtual environments bring no program."""
    text = (PROJECT / "scripts/packages").read_text()
    _, _, from_runtime_on = text.partition("[runtime]")
    runtime, _, _ = from_runtime_on.partition("[")
    packages = set()
    for line in runtime.splitlines():
        if line.strip():
            package, _, _ = line.split()[0].partition("|")
            packages.add(package)
    assert {name for name in packages if "-venv" not in name} == set(PROGRAMS.values())
