"""What `testbed clean` lists, removes and leaves."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from testbed.cli.main import app
from testbed.core.disk_use import PathsInUse, disk_bytes
from testbed.core.leftovers import Kind, note

MIB = 2**20


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with a run, a sweep and something else, and a cache."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("TESTBED_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)
    results = tmp_path / "results"
    for path, size in (
        (results / "run" / "plan.json", MIB),
        (results / "sweep" / "sweep.json", 2 * MIB),
        (results / "sweep" / "lock", 0),
        (results / "mine" / "notes.txt", 10),
        (cache / "modules" / "bundle", 3 * MIB),
        (cache / "linux-6.12.tar.xz", MIB),
        (cache / "kernel" / "abc" / "linux", 4 * MIB),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
    yield tmp_path


def names(home: Path) -> set[str]:
    found = [*(home / "results").iterdir(), *(home / "cache" / "kernel").iterdir()]
    found += [*(home / "cache").glob("linux*"), *(home / "cache" / "modules").iterdir()]
    return {path.name for path in found}


def run(*words: str) -> str:
    shown = CliRunner().invoke(app, ["clean", *words], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    return shown.output


EVERYTHING = {"run", "sweep", "mine", "bundle", "linux-6.12.tar.xz", "abc"}


def test_dry_run_removes_nothing(home: Path) -> None:
    text = run("--dry-run")
    assert names(home) == EVERYTHING
    for name in EVERYTHING - {"mine"}:
        assert name in text
    assert "mine" not in text
    assert "5 can be removed: 11 MiB" in text


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (("runs",), {"mine", "bundle", "linux-6.12.tar.xz", "abc"}),
        (("caches",), {"run", "sweep", "mine", "abc"}),
        (("kernels",), {"run", "sweep", "mine", "bundle", "linux-6.12.tar.xz"}),
        (("caches", "kernels"), {"run", "sweep", "mine"}),
        ((), {"mine"}),
    ],
)
def test_kinds(home: Path, words: tuple[str, ...], left: set[str]) -> None:
    run(*words, "--yes")
    assert names(home) == left


def test_a_live_run_keeps_its_folder_and_the_modules(home: Path) -> None:
    with note(Kind.RUN, home / "results" / "run"):
        text = run("--yes")
    assert names(home) == {"run", "mine", "bundle"}
    assert text.count("in use, stays") == 2


def test_a_sweep_that_is_locked_by_a_process_stays(home: Path) -> None:
    script = "import sys; file = open('results/sweep/lock'); print(1, flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        run("runs", "--yes")
        assert names(home) >= {"sweep"}
        process.communicate()
    run("runs", "--yes")
    assert "sweep" not in names(home)


def test_a_kernel_that_runs_stays(home: Path) -> None:
    kernel = home / "cache" / "kernel" / "abc" / "linux"
    kernel.write_bytes(Path("/bin/sleep").read_bytes())
    kernel.chmod(0o755)
    with subprocess.Popen([kernel, "60"]) as process:
        assert PathsInUse().holds(kernel.parent)
        run("kernels", "--yes")
        assert kernel.is_file()
        process.kill()
    run("kernels", "--yes")
    assert not kernel.exists()


def test_without_a_terminal_yes_is_required(home: Path) -> None:
    shown = CliRunner().invoke(app, ["clean"])
    assert "--yes" in str(shown.exception)
    assert names(home) == EVERYTHING


def test_links_are_not_followed(home: Path) -> None:
    outside = home / "outside"
    outside.mkdir()
    (outside / "plan.json").write_text("{}")
    (home / "results" / "link").symlink_to(outside)
    run("--yes")
    assert (outside / "plan.json").is_file()


def test_sizes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * MIB)
    (tmp_path / "b").symlink_to("/usr")
    assert MIB <= disk_bytes(tmp_path) < 1.1 * MIB
    assert disk_bytes(tmp_path / "missing") == 0
