"""The built wheel in a fresh environment works from any folder, whatever else is called like it.

The environment has the wheel of this checkout; what the wheel depends on comes from the environment
of the tests, by a path file, so that nothing is downloaded.
"""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from testbed.guest.kernel import Kernel
from tests.support.shared import PROJECT
from tests.support.wheels import add_dependencies, build_wheel, make_environment

Testbed = Callable[..., str]  # the fixture `testbed_of_wheel`
SMALL = ["--isolation", "process", "--set", "workload.sizes=[4 KiB]"]
EXPERIMENT = """
topology: two-sites
workload: collectives
settings: {run.isolation: process, workload.ops: [all_reduce], workload.sizes: [4 KiB]}
sweep:
  grid:
    topology.wan.iowa-ohio.delay: [1 ms, 2 ms]
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program `testbed` of an environment that has the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    program, packages = make_environment(folder / "environment", build_wheel(folder))
    add_dependencies(packages)
    return program


@pytest.fixture(scope="module")
def testbed_of_wheel(program: Path, kernel: Kernel, command_environment: dict[str, str]) -> Testbed:
    """``testbed_of_wheel(folder, word, ...)``: what a command prints that is run in a folder."""
    environment = {**command_environment, "TESTBED_KERNEL": str(kernel.path)}
    del environment["PYTHONPATH"]

    def run(folder: Path, *words: object) -> str:
        done = subprocess.run(
            [str(program), *map(str, words)],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, f"{words}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return run


def test_it_is_the_wheel_that_runs(program: Path) -> None:
    python = program.with_name("python")
    words = [str(python), "-c", "import testbed; print(testbed.__file__)"]
    done = subprocess.run(words, cwd="/", capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).is_relative_to(program.parents[1])


def test_it_has_all_files(program: Path) -> None:
    """Files that are not Python are easily left out, such as sources that are compiled later."""
    (packages,) = program.parents[1].glob("lib/python3*/site-packages")
    listed = subprocess.run(
        ["git", "ls-files", "testbed"], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    files = listed.stdout.split()
    assert len(files) > 400
    assert [file for file in files if not (packages / file).is_file()] == []


def test_presets(testbed_of_wheel: Testbed, tmp_path: Path) -> None:
    names = [path.stem for path in (PROJECT / "topologies").glob("*.yaml")]
    listed = testbed_of_wheel(tmp_path, "topo", "list")
    assert [name for name in names if name not in listed] == []


def test_doctor(testbed_of_wheel: Testbed, tmp_path: Path) -> None:
    assert "testbed run" in testbed_of_wheel(tmp_path, "doctor")


def test_run(testbed_of_wheel: Testbed, tmp_path: Path) -> None:
    table = testbed_of_wheel(tmp_path, "run", "two-sites", "collectives", *SMALL, "--out", "run")
    assert "all_reduce" in table
    assert (tmp_path / "run/report.html").stat().st_size > 100_000


def test_train(testbed_of_wheel: Testbed, tmp_path: Path) -> None:
    words = ["run", "coast-to-coast", "train", "--isolation", "process", "--out", "run"]
    testbed_of_wheel(tmp_path, *words, "--set", "workload.steps=3")
    assert (tmp_path / "run/train.parquet").is_file()


def test_sweep(testbed_of_wheel: Testbed, tmp_path: Path) -> None:
    (tmp_path / "experiment.yaml").write_text(EXPERIMENT)
    testbed_of_wheel(tmp_path, "sweep", "experiment.yaml", "--out", "sweep")
    assert (tmp_path / "sweep/sweep.html").is_file()


def test_files_of_the_user_that_are_called_like_modules(
    testbed_of_wheel: Testbed, tmp_path: Path
) -> None:
    for name in ("testbed.py", "types.py", "random.py"):
        (tmp_path / name).write_text("raise SystemExit('the wrong module was imported')\n")
    (tmp_path / "workloads").mkdir()
    (tmp_path / "workloads/__init__.py").write_text("raise SystemExit('the wrong package')\n")
    (tmp_path / "script").mkdir()
    (tmp_path / "script/workloads.py").write_text("HERE = 'the right workloads'\n")
    (tmp_path / "script/train.py").write_text("import workloads\nprint(workloads.HERE)\n")
    testbed_of_wheel(tmp_path, "run", "two-sites", "collectives", *SMALL, "--out", "run")
    words = ["run", "two-sites", "--isolation", "process", "--out", "own"]
    testbed_of_wheel(tmp_path, *words, "--", "script/train.py")
    assert (tmp_path / "own/logs/rank-0.log").read_text().count("the right workloads") == 1
