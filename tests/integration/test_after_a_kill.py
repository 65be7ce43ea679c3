"""What the next command does about a process of the testbed that was killed."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from testbed.core.leftovers import Kind, forget, note
from testbed.execution.cleanup import reap
from testbed.runfolder.status import Status, read_status, write_status

KILLED = """
import os, signal
from pathlib import Path
from testbed.core.leftovers import Kind, note, temporary_folder
with note(Kind.RUN, Path({run!r})), temporary_folder("testbed-killed-") as folder:
    (folder / "file").write_text("large")
    print(folder, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TESTBED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path / "cache"


def leave_behind(run_folder: Path) -> Path:
    """Kill a process that is busy with a run; give the temporary folder that it leaves."""
    program = KILLED.format(run=str(run_folder))
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert result.returncode == -signal.SIGKILL
    return Path(result.stdout.strip())


def test_temporary_folder_is_removed_and_run_returned(tmp_path: Path, cache: Path) -> None:
    left = leave_behind(tmp_path / "run")
    assert (left.parent, (left / "file").exists()) == (tmp_path, True)
    assert reap() == [tmp_path / "run"]
    assert not left.exists()
    assert reap() == []
    assert list(cache.glob("notes/*")) == []


@pytest.mark.parametrize(("state", "expected"), [("running", "interrupted"), ("failed", "failed")])
def test_run_is_marked_interrupted(tmp_path: Path, state: str, expected: str) -> None:
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    write_status(run_folder / "status.json", Status.model_validate({"state": state}))
    leave_behind(run_folder)
    reap()
    status, problems = read_status(run_folder / "status.json")
    assert status is not None
    assert (status.state, problems) == (expected, [])
    assert status.faithful == (state != "running")


def test_what_a_living_process_is_busy_with_stays(tmp_path: Path) -> None:
    with note(Kind.TEMPORARY, tmp_path / "busy") as written:
        (tmp_path / "busy").mkdir()
        assert reap() == []
        assert (tmp_path / "busy").is_dir()
        forget(tmp_path / "busy")
        assert not written.folder.exists()
    assert (tmp_path / "busy").is_dir()
