"""What `testbed clean` lists, removes and leaves."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from testbed.cli.main import app
from testbed.core.disk_use import PathsInUse, disk_bytes
from testbed.core.leftovers import Kind, note
from testbed.core.ownership import Owner
from testbed.core.seals import seal

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
        (cache / "gpu" / "lock", 0),
        (cache / "gpu" / "libraries" / "device.so", MIB),
        (cache / "bridge" / "lock", 0),
        (cache / "bridge" / "bridge.so", MIB),
        (cache / "linux-6.12.tar.xz", MIB),
        (cache / "kernel" / "abc" / "linux", 4 * MIB),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
    yield tmp_path


def names(home: Path) -> set[str]:
    found = [*(home / "results").iterdir(), *(home / "cache" / "kernel").iterdir()]
    cache = home / "cache"
    for pattern in ("linux*", "modules/*", "gpu/*/", "bridge/*.so"):
        found += cache.glob(pattern)
    return {path.name for path in found}


def run(*words: str) -> str:
    shown = CliRunner().invoke(app, ["clean", *words], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    return shown.output


CACHES = {"bundle", "libraries", "bridge.so", "linux-6.12.tar.xz"}
EVERYTHING = {"run", "sweep", "mine", "abc", *CACHES}


def test_dry_run_removes_nothing(home: Path) -> None:
    text = run("--dry-run")
    assert names(home) == EVERYTHING
    for name in EVERYTHING - {"mine"}:
        assert name in text
    assert "mine" not in text
    assert "7 can be removed: 13 MiB" in text


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (("runs",), {"mine", "abc", *CACHES}),
        (("caches",), {"run", "sweep", "mine", "abc"}),
        (("kernels",), {"run", "sweep", "mine", *CACHES}),
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
    assert names(home) == {"run", "mine", "bundle", "libraries"}
    assert text.count("in use, stays") == 3


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


def test_seals_go_with_what_they_seal(home: Path) -> None:
    bundle = home / "cache" / "modules" / "bundle"
    seal(bundle)
    (bundle.parent / "lost.seal").write_text("{}")
    text = run("caches", "--dry-run")
    assert "bundle.seal" not in text
    assert "lost.seal" in text  # of a file that is gone
    run("caches", "--yes")
    assert list(bundle.parent.iterdir()) == []


def foreign_note(home: Path, name: str, days: float) -> Path:
    """A note of a process of another machine."""
    folder = home / "cache" / "notes" / name
    folder.mkdir(parents=True)
    owner = Owner(pid=7, boot="another", host="node-7", machine="other")
    alive = folder / "alive"
    alive.write_text(owner.model_dump_json())
    (folder / "run").symlink_to("/somewhere/else")
    written_s = time.time() - days * 24 * 3600
    os.utime(alive, (written_s, written_s))
    return folder


def test_notes_of_other_machines(home: Path) -> None:
    """They are shown, and removed on request once they are old and nobody holds their lock."""
    old = foreign_note(home, "7-old", 31)
    young = foreign_note(home, "7-young", 29)
    locked = foreign_note(home, "7-locked", 400)
    with (locked / "alive").open("rb") as lock, note(Kind.RUN, home / "results" / "run"):
        fcntl.flock(lock, fcntl.LOCK_EX)
        text = run("--yes")
        assert "of process 7 of node-7, 31 days old, --foreign removes it" in text
        assert "of process 7 of node-7, 29 days old, stays for 30 days" in text
        assert "of process 7 of node-7, 400 days old, in use, stays" in text
        assert all(folder.is_dir() for folder in (old, young, locked))
        assert "node-7" not in run("runs", "--dry-run")
        run("--foreign", "--yes")
        own = [path for path in (home / "cache" / "notes").iterdir() if path.name[:2] != "7-"]
        assert len(own) == 1
    assert not old.exists()
    assert young.is_dir()
    assert locked.is_dir()
