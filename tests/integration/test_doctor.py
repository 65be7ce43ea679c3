"""testbed doctor: judgements about machines that are described, and real tries on this one."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from testbed.doctor.capabilities import CAPABILITIES, DEFAULT, capabilities, default_runs
from testbed.doctor.machine import Machine, look, try_memory, try_ptrace
from testbed.execution.requirements import PROGRAMS, try_cgroups
from testbed.guest.kernel import Kernel

PROJECT = Path(__file__).parent.parent.parent
GIB = 2**30
KERNEL = Kernel(Path("/cache/linux"), "6.12.94", virtual_time=True)
GOOD = Machine(
    architecture="x86_64",
    system="Linux",
    root=True,
    administers=True,
    programs=frozenset({*PROGRAMS, "sudo", "vagrant"}),
    python=(3, 11),
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
    vagrantfile=True,
    ray=True,
)
USER = {"root": False, "administers": False}
VIRTUAL, REAL = "guest, virtual clock", "guest, real clock"


def test_a_machine_with_everything() -> None:
    found = capabilities(GOOD)
    assert [(one.name, one.available, one.mend) for one in found] == [
        (name, True, "") for name in CAPABILITIES
    ]
    assert default_runs(found)


CASES: dict[str, tuple[dict[str, object], set[str], str, str]] = {
    # what differs from GOOD: what cannot be done, and of the first of those why and what mends it
    "arm64": (
        {"architecture": "aarch64"},
        {VIRTUAL, REAL},
        "Linux on aarch64; it needs Linux on x86-64",
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
            "namespaces_error": "not kept to its folders, for unshare: Operation not permitted",
            **USER,
        },
        {"guest kept to its run folder", "here"},
        "not kept to its folders",
        "sudo sysctl -w kernel.unprivileged",
    ),
    "small /dev/shm": (
        {"memory_free": 64 * 2**20},
        {VIRTUAL, REAL},
        "/dev/shm has 64 MiB free; a guest with containers wants 4 GiB",
        "export TMPDIR=/var/tmp",
    ),
    "noexec": (
        {"memory_error": "programs cannot be mapped from /dev/shm (mounted noexec)"},
        {VIRTUAL, REAL},
        "programs cannot be mapped from /dev/shm",
        "export TMPDIR=/var/tmp",
    ),
    "read-only home": (
        {
            "cache_error": "cannot make the cache folder /home/a/.cache/testbed: Read-only file system"
        },
        {VIRTUAL, REAL, "here"},
        "Read-only file system",
        "export TESTBED_CACHE=",
    ),
    "full disk": (
        {"cache_free": GIB // 2},
        {VIRTUAL, REAL},
        "510 MiB free, 1 GiB are needed",
        "TESTBED_CACHE",
    ),
    "full disk for a build": (
        {"cache_free": 2 * GIB, "kernel": None, "kernel_source": Path("/usr/src/linux.tar.xz")},
        {VIRTUAL, REAL},
        "2 GiB free, 4 GiB are needed",
        "TESTBED_CACHE",
    ),
    "old Python": (
        {"python": (3, 10)},
        {VIRTUAL, REAL, "here"},
        "this is Python 3.10; 3.11",
        "scripts/setup",
    ),
    "no torch": (
        {"torch_error": "ModuleNotFoundError: No module named 'torch'"},
        {VIRTUAL, REAL, "here"},
        "torch cannot be imported (ModuleNotFoundError",
        "scripts/setup",
    ),
    "no Mininet": (
        {"programs": GOOD.programs - {"mnexec"}},
        {VIRTUAL, REAL, "here"},
        "missing: mnexec",
        "apt-get install --no-install-recommends mininet",
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
        "linux-source-6.12 to build it with missing (another source of Linux 6.12",
        "apt-get install --no-install-recommends linux-source-6.12",
    ),
    "no compiler": (
        {"kernel": None, "missing_tools": ("flex",), "kernel_source": Path("/usr/src/x.tar.xz")},
        {VIRTUAL, REAL},
        "not built, and flex to build it with missing",
        "apt-get install --no-install-recommends flex",
    ),
    "a build": ({"kernel": None, "kernel_source": Path("/usr/src/x.tar.xz")}, set(), "", ""),
    "a kernel that does not run": (
        {"kernel": None, "kernel_error": "the guest kernel /x does not run: [Errno 2]"},
        {VIRTUAL, REAL},
        "/x does not run",
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
        "this kernel makes no netem queue",
        "modprobe sch_netem; if there is no such module, leave out --where here",
    ),
    "control groups version 1": (
        {"cgroups_error": "/sys/fs/cgroup is not that of control groups version 2"},
        {"here"},
        "version 2",
        "systemd.unified_cgroup_hierarchy=1",
    ),
    "no vagrant": (
        {"programs": GOOD.programs - {"vagrant"}},
        {"Vagrant"},
        "there is no vagrant",
        "install",
    ),
    "no Vagrantfile": (
        {"vagrantfile": False},
        {"Vagrant"},
        "this installation has no Vagrantfile",
        "",
    ),
    "no Ray": ({"ray": False}, {"Ray"}, "no package ray", "-m pip install ray"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_machine_that_lacks_something(case: str) -> None:
    differs, lost, why, mend = CASES[case]
    found = capabilities(replace(GOOD, **differs))  # type: ignore[arg-type]
    unavailable = [one for one in found if not one.available]
    assert {one.name for one in unavailable} == lost
    assert default_runs(found) == (not lost & set(DEFAULT))
    texts = [(one.why, one.mend) for one in unavailable] or [("", "")]
    assert any(why in text and mend in command for text, command in texts), texts


def test_every_program_of_the_packages_is_looked_for() -> None:
    """Of scripts/packages, those that a run needs; those for virtual environments bring no program
    of their own.
    """
    lines = (
        (PROJECT / "scripts/packages")
        .read_text()
        .partition("[runtime]")[2]
        .partition("[")[0]
        .splitlines()
    )
    packages = {line.split()[0].partition("|")[0] for line in lines if line.strip()}
    assert {name for name in packages if "-venv" not in name} == set(PROGRAMS.values())


def test_this_machine() -> None:
    """The tests run here, so Python and torch do, and tracing works if anything does."""
    seen = look()
    assert (seen.system, seen.torch_error, seen.python) == ("Linux", "", sys.version_info[:2])
    assert seen.memory_free > 0
    assert seen.root == (os.geteuid() == 0)
    assert json.dumps([one.record() for one in capabilities(seen)])


def in_python(text: str, before: list[str] | None = None) -> str:
    """What a Python program prints, of which `text` is an expression over
    testbed.doctor.machine.
    """
    program = f"from pathlib import Path\nfrom testbed.doctor.machine import *\nfrom testbed.execution.requirements import *\n{text}"
    done = subprocess.run(
        [*(before or []), sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


SECCOMP = """
import ctypes, struct
PTRACE, ALLOW, EPERM = 101, 0x7FFF0000, 0x00050001  # the number of the system call on x86-64; seccomp(2)
steps = [(0x20, 0, 0, 0), (0x15, 0, 1, PTRACE), (0x06, 0, 0, EPERM), (0x06, 0, 0, ALLOW)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(steps), ctypes.addressof(code)))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program, 0, 0) == 0
print(try_ptrace())
"""


def test_tracing_that_is_forbidden_is_noticed() -> None:
    assert try_ptrace() == ""
    assert in_python(SECCOMP) == "PTRACE_TRACEME: Operation not permitted"


def test_memory_that_cannot_hold_programs_is_noticed(
    need: Callable[[object, str], None], tmp_path: Path
) -> None:
    assert try_memory(tmp_path) == ""
    assert try_memory(tmp_path / "none") == f"{tmp_path}/none: No such file or directory"
    mount = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount += ['mount -t tmpfs -o noexec tmpfs "$0" && exec "$@"', str(tmp_path)]
    able = subprocess.run([*mount, "true"], capture_output=True, check=False).returncode == 0
    need(able, "user namespaces")
    told = in_python(f"print(try_memory(Path({str(tmp_path)!r})))", mount)
    assert told == f"programs cannot be mapped from {tmp_path} (mounted noexec)"


def test_control_groups(tmp_path: Path) -> None:
    assert "is not that of control groups version 2" in try_cgroups(tmp_path)
    (tmp_path / "cgroup.controllers").write_text("cpu io pids\n")
    assert try_cgroups(tmp_path) == f"{tmp_path} has no controllers memory"
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory hugetlb pids\n")
    assert try_cgroups(tmp_path) == ""


def command(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "testbed", *words],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200", **environment},
    )


def test_the_command(tmp_path: Path) -> None:
    """A kernel that is none: exit status 3, and every form of the answer says why and what to
    do.
    """
    kernel = tmp_path / "linux"
    table = command("doctor", TESTBED_KERNEL=str(kernel))
    assert table.returncode == 3, table.stderr
    assert "→ unset TESTBED_KERNEL" in table.stdout
    assert "testbed run does not work here" in table.stdout
    found = command("doctor", "-f", "json", TESTBED_KERNEL=str(kernel))
    answer = json.loads(found.stdout)
    assert (found.returncode, answer["default_runs"]) == (3, False)
    virtual = next(one for one in answer["capabilities"] if one["name"] == VIRTUAL)
    assert not virtual["available"]
    assert f"{kernel} does not run" in virtual["why"]
    assert {"architecture", "tracing", "kernel"} <= {check["name"] for check in virtual["checks"]}
    rows = command("doctor", "-f", "csv", TESTBED_KERNEL=str(kernel))
    assert rows.stdout.startswith("name,available,why,mend\n")


def test_what_is_not_available_points_to_the_doctor(tmp_path: Path) -> None:
    done = command("guest", "build", TESTBED_KERNEL=str(tmp_path / "linux"))
    assert done.returncode == 3
    assert (
        done.stderr.splitlines()[-1]
        == "  testbed doctor says what this machine can do, and what mends the rest"
    )
