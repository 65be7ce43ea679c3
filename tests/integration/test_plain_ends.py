"""Commands that used to end with a traceback, or with the wrong reason."""

import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from testbed.runfolder.folder import RunDir
from tests.support.synthetic import make_plan, two_dcs, write_run

TESTBED = [os.fsencode(sys.executable), b"-m", b"testbed"]
ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


def result_of(
    *words: str | bytes, cwd: Path | None = None, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*TESTBED, *map(os.fsencode, words)],
        env={**os.environ, **(variables or {})},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.parametrize(
    "words",
    [
        (b"run", b"two-sites", b"--out", b"/tmp/x\xff"),
        (b"run", b"two-sites", b"--", b"/tmp/x\xff.py"),
        (b"run", b"two-sites", b"--env", b"A=\xff", b"--dry-run"),
        (b"report", b"/tmp/x\xff"),
    ],
)
def test_words_that_are_not_utf8(words: tuple[bytes, ...]) -> None:
    done = result_of(*words)
    assert done.returncode == 2
    assert "is not UTF-8\n" in done.stderr
    assert "\\udcff" in done.stderr


def test_folder_that_is_not_utf8(tmp_path: Path) -> None:
    """An existing run below it can still be read."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/x\xff"))
    folder.mkdir()
    write_run(tmp_path / "run", make_plan(two_dcs())).path.rename(folder / "run")
    done = result_of("report", "run", cwd=folder)
    assert done.returncode == 0, done.stderr
    done = result_of("run", "two-sites", "--out", "new", cwd=folder)
    assert done.returncode == 2
    assert "cannot be printed" in done.stderr


@pytest.mark.parametrize("name", ["a\tb", "a\nb"])
def test_run_folders_that_cannot_be_printed(tmp_path: Path, name: str) -> None:
    done = result_of("run", "two-sites", "--out", str(tmp_path / name))
    assert done.returncode == 2
    assert "cannot be printed" in done.stderr


def test_files_in_a_locale_of_ascii(tmp_path: Path) -> None:
    """Files are UTF-8, whatever the locale says."""
    topology = tmp_path / "sites.yaml"
    topology.write_text(
        "description: Zürich → Genève\ndatacenters:\n  a: {hosts: 1}\n  b: {hosts: 1}\n"
        "wan:\n  - {between: [a, b], rate: 1 Gbit/s, delay: 1 ms}\n",
        encoding="utf-8",
    )
    done = result_of("topo", "validate", str(topology), variables=ASCII)
    assert done.returncode == 0, done.stderr
    run = write_run(tmp_path / "run", make_plan(two_dcs()))
    done = result_of("report", str(run.path), variables=ASCII)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("option", ["--guest-memory", "--memory"])
def test_no_memory(option: str) -> None:
    done = result_of("run", "two-sites", option, "0 MiB", "--dry-run")
    assert done.returncode == 2
    assert f"{option}: 0 B is too little memory\n  at least " in done.stderr
    done = result_of("topo", "deploy", "two-sites", "--guest-memory", "0 MiB")
    assert done.returncode == 2
    assert "too little memory" in done.stderr


def test_limit_of_open_files() -> None:
    """The kernel of a guest would end in a panic."""
    program = (
        "import resource\n"
        "from testbed.core.errors import MachineError\n"
        "from testbed.guest.boot import _allow_open_files\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 2048))\n"
        "_allow_open_files()\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE))\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
        "try:\n"
        "    _allow_open_files()\n"
        "except MachineError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[:2] == [
        "(1024, 2048)",
        "a guest needs to open up to 1024 files, and the limit of this shell is 64",
    ]


def test_default_folders_of_one_second(tmp_path: Path) -> None:
    path = tmp_path / "results/20260101-000000-two-sites-collectives"

    def create(number: int) -> Path:
        return RunDir.create_unused(path).path

    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(create, range(8)))
    names = {folder.name for folder in folders}
    assert names == {path.name, *[f"{path.name}-{number}" for number in range(2, 9)]}
    assert all((folder / "raw").is_dir() for folder in folders)


def test_reports_of_one_folder_at_the_same_time(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", make_plan(two_dcs()))
    (run.path / "trace.json.1-dead.new").write_text("of a killed report")

    def report(number: int) -> int:
        return result_of("report", str(run.path)).returncode

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(report, range(4))) == [0] * 4
    assert list(run.path.glob("*.new")) == []
    assert run.report.read_bytes().rstrip().endswith(b"</html>")
