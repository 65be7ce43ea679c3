"""The wheel without its extra "run" plans, looks and reports; with a kernel's wheel it runs."""

import os
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from testbed.execution.requirements import RUN_MODULES
from testbed.guest.kernel import Kernel
from testbed.runfolder.status import read_status
from tests.support.shared import Command, Need
from tests.support.users import opened
from tests.support.wheels import add_dependencies, build_wheel, make_environment

# Packages that only runs, their workloads and sweeps on Ray need, or tests.
LEFT_OUT = (*RUN_MODULES, "ray", "torchft", "accelerate", "testbed", "wan_training", "__editable__")
HINT = """error: this needs the packages of the extra "run": pip install 'wan-training-testbed[run]'
  missing: torch, docker, mininet, pyroute2
"""
SMALL = ["--isolation", "process", "--set", "workload.sizes=[4 KiB]"]
EXPERIMENT = """
topology: two-sites
workload: collectives
settings: {run.isolation: process, workload.ops: [all_reduce], workload.sizes: [4 KiB]}
sweep:
  grid:
    topology.wan.iowa-ohio.delay: [1 ms, 2 ms]
"""
NOBODY = 65534
# As a system without Debian's packages: in a mount namespace, their programs cannot be executed.
WITHOUT_PROGRAMS = """
for program in dockerd crun mnexec tcpdump ip tc ping ps gcc make chromium; do
    file=$(PATH=$PATH:/usr/sbin:/sbin command -v $program) || continue
    mount --bind /dev/null "$(readlink -f "$file")"
done
exec "$@"
"""


@dataclass(frozen=True)
class Laptop:
    """An environment that has the wheel and its dependencies, without those of the extra "run"."""

    program: Path
    packages: Path
    environment: dict[str, str]

    def run(self, folder: Path, *words: object, status: int = 0) -> str:
        """Run a command in a folder; gives what it prints, errors last."""
        done = subprocess.run(
            [str(self.program), *map(str, words)],
            cwd=folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == status, f"{words}:\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def laptop(
    wheel: Path, tmp_path_factory: pytest.TempPathFactory, command_environment: dict[str, str]
) -> Laptop:
    program, packages = make_environment(tmp_path_factory.mktemp("laptop") / "environment", wheel)
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith(LEFT_OUT) and not (packages / entry.name).exists():
            (packages / entry.name).symlink_to(entry)
    environment = {**command_environment}
    del environment["PYTHONPATH"]
    return Laptop(program, packages, environment)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, command: Command) -> Iterator[Path]:
    """A folder with two runs and a sweep, made by an environment that can."""
    folder = tmp_path_factory.mktemp("results")
    command("run", "two-sites", "collectives", *SMALL, "--out", folder / "first")
    shutil.copytree(folder / "first", folder / "second")
    (folder / "experiment.yaml").write_text(EXPERIMENT)
    command("sweep", folder / "experiment.yaml", "--out", folder / "sweep")
    yield folder


def test_packages_of_the_extra_are_not_there(laptop: Laptop) -> None:
    for module in RUN_MODULES:
        command = [str(laptop.program.with_name("python")), "-c", f"import {module}"]
        done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
        assert "ModuleNotFoundError" in done.stderr


def test_topologies(laptop: Laptop, tmp_path: Path) -> None:
    assert "two-sites" in laptop.run(tmp_path, "topo", "list")
    assert "8.2 ms" in laptop.run(tmp_path, "topo", "show", "two-sites")
    assert "ok, 4 hosts" in laptop.run(tmp_path, "topo", "validate", "two-sites")
    laptop.run(tmp_path, "topo", "graph", "two-sites", "-o", "map.svg")
    assert "<svg" in (tmp_path / "map.svg").read_text()


def test_plans(laptop: Laptop, tmp_path: Path) -> None:
    words = ["run", "two-sites", "collectives", *SMALL, "--dry-run"]
    assert '"guest_memory_bytes"' in laptop.run(tmp_path, *words)
    (tmp_path / "experiment.yaml").write_text(EXPERIMENT)
    assert "delay-2ms" in laptop.run(tmp_path, "sweep", "experiment.yaml", "--dry-run")


def test_reports(laptop: Laptop, results: Path, tmp_path: Path) -> None:
    first, second = results / "first", results / "second"
    (first / "report.html").unlink()
    laptop.run(tmp_path, "report", first)
    assert (first / "report.html").stat().st_size > 100_000
    assert "all_reduce" in laptop.run(tmp_path, "compare", first, second)
    (results / "sweep/sweep.html").unlink()
    laptop.run(tmp_path, "sweep", "report", results / "sweep")
    assert (results / "sweep/sweep.html").is_file()


@pytest.mark.parametrize(
    "words",
    [
        ["run", "two-sites", "collectives", *SMALL],
        ["sweep", "experiment.yaml"],
        ["topo", "deploy", "two-sites"],
    ],
    ids=lambda words: words[0],
)
def test_what_runs_names_the_extra(laptop: Laptop, tmp_path: Path, words: list[str]) -> None:
    """Before anything starts: no folder is made."""
    (tmp_path / "experiment.yaml").write_text(EXPERIMENT)
    printed = laptop.run(tmp_path, *words, status=3)
    assert HINT in printed
    assert [path.name for path in tmp_path.iterdir()] == ["experiment.yaml"]


def test_doctor_of_a_wheel(laptop: Laptop, tmp_path: Path) -> None:
    printed = laptop.run(tmp_path, "doctor", status=3)
    assert 'packages of the extra "run" are missing: torch, docker, mininet, pyroute2' in printed
    assert "→ pip install 'wan-training-testbed[run]'" in printed
    assert "installation: a wheel in " in printed
    assert "install vagrant" not in printed


@pytest.fixture
def stranger() -> Iterator[Path]:
    """A folder of a user without privileges; pytest's own are closed to other users."""
    with tempfile.TemporaryDirectory(prefix="testbed-user-") as name:
        Path(name).chmod(0o755)
        home = Path(name, "home")
        home.mkdir()
        os.chown(home, NOBODY, NOBODY)
        yield home


def test_two_wheels_and_python_alone(
    need: Need, wheel: Path, kernel: Kernel, stranger: Path, command_environment: dict[str, str]
) -> None:
    """No root, no program of a Debian package, the guest kernel from its wheel."""
    need(os.geteuid() == 0, "root's rights, to give them away")
    program, packages = make_environment(stranger.parent / "environment", wheel)
    add_dependencies(packages)
    (packages / "testbed_kernel").mkdir()
    (packages / "testbed_kernel/__init__.py").touch()
    shutil.copy(kernel.path, packages / "testbed_kernel/linux")
    environment = {**command_environment, "HOME": str(stranger)}
    environment["TESTBED_CACHE"] = str(stranger / "cache")
    for name in ("PYTHONPATH", "TESTBED_KERNEL"):
        environment.pop(name, None)
    namespace = ["unshare", "--mount", "sh", "-c", WITHOUT_PROGRAMS, "sh"]
    as_nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    words = [program, "run", "two-sites", "collectives", *SMALL, "--out", "run"]
    done = subprocess.run(
        [*namespace, *opened(), *as_nobody, *map(str, words)],
        cwd=stranger,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "all_reduce" in done.stdout
    status = read_status(stranger / "run/status.json")
    assert status[0] is not None
    assert status[0].state == "completed"
