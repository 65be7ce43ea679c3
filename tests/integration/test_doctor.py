"""testbed doctor on this machine: what it tries, and what the command prints."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from testbed.doctor.capabilities import capabilities
from testbed.doctor.machine import look, try_memory, try_ptrace
from testbed.execution.requirements import try_cgroups

PROJECT = Path(__file__).parent.parent.parent
VIRTUAL = "guest, virtual clock"


def test_this_machine() -> None:
    """The tests run here, so Python and torch do, and tracing works if anything does."""
    seen = look()
    assert (seen.system, seen.torch_error, seen.python) == ("Linux", "", sys.version_info[:2])
    assert seen.memory_free > 0
    assert seen.root == (os.geteuid() == 0)
    assert json.dumps([one.record() for one in capabilities(seen)])


def in_python(text: str, before: list[str] | None = None) -> str:
    """Run `text` with the names of testbed.doctor.machine; gives what the program prints."""
    program = f"""
from pathlib import Path
from testbed.doctor.machine import *
from testbed.execution.requirements import *
{text}"""
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
PTRACE, ALLOW, EPERM = 101, 0x7FFF0000, 0x00050001  # 101: ptrace on x86-64; see seccomp(2)
steps = [(0x20, 0, 0, 0), (0x15, 0, 1, PTRACE), (0x06, 0, 0, EPERM), (0x06, 0, 0, ALLOW)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(steps), ctypes.addressof(code)))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program, 0, 0) == 0
print(try_ptrace())
"""


def test_forbidden_tracing() -> None:
    assert try_ptrace() == ""
    assert in_python(SECCOMP) == "PTRACE_TRACEME: Operation not permitted"


def test_memory_mounted_noexec(need: Callable[[object, str], None], tmp_path: Path) -> None:
    assert try_memory(tmp_path) == ""
    assert try_memory(tmp_path / "none") == f"{tmp_path}/none: No such file or directory"
    mount = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount += ['mount -t tmpfs -o noexec tmpfs "$0" && exec "$@"', str(tmp_path)]
    able = subprocess.run([*mount, "true"], capture_output=True, check=False).returncode == 0
    need(able, "user namespaces")
    told = in_python(f"print(try_memory(Path({str(tmp_path)!r})))", mount)
    assert told == f"programs cannot be mapped from {tmp_path} (mounted noexec)"


def test_control_groups(tmp_path: Path) -> None:
    assert "is not a control group version 2 file system" in try_cgroups(tmp_path)
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
    """With no usable kernel: exit status 3, and every format says why and what to do."""
    kernel = tmp_path / "linux"
    table = command("doctor", TESTBED_KERNEL=str(kernel))
    assert table.returncode == 3, table.stderr
    assert "→ unset TESTBED_KERNEL" in table.stdout
    assert f"installation: a clone of the project, {PROJECT}" in table.stdout
    assert "`testbed run` does not work" in table.stdout
    found = command("doctor", "-f", "json", TESTBED_KERNEL=str(kernel))
    answer = json.loads(found.stdout)
    assert (found.returncode, answer["default_runs"]) == (3, False)
    assert answer["installation"] == "clone"
    virtual = next(one for one in answer["capabilities"] if one["name"] == VIRTUAL)
    assert not virtual["available"]
    assert f"cannot run the guest kernel {kernel}" in virtual["why"]
    assert {"architecture", "tracing", "kernel"} <= {check["name"] for check in virtual["checks"]}
    rows = command("doctor", "-f", "csv", TESTBED_KERNEL=str(kernel))
    assert rows.stdout.startswith("name,available,why,mend\n")


def test_errors_of_the_machine_name_the_doctor(tmp_path: Path) -> None:
    done = command("guest", "build", TESTBED_KERNEL=str(tmp_path / "linux"))
    assert done.returncode == 3
    assert (
        done.stderr.splitlines()[-1]
        == "  `testbed doctor` lists what works on this machine and how to fix the rest"
    )
