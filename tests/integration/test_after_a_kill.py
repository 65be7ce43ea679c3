"""What the next command does about a process of the testbed that was killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from testbed.core.leftovers import ALIVE, Kind, forget, note
from testbed.execution.cleanup import reap
from testbed.runfolder.status import Status, read_status, write_status
from tests.support.shared import Need

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


LONGEST_S = 30.0
LIVING = """
import time
from pathlib import Path
from testbed.core.leftovers import Kind, note
with note(Kind.TEMPORARY, Path({busy!r})):
    print("ready", flush=True)
    time.sleep(600)
"""
REAP = "from testbed.execution.cleanup import reap; print(reap())"


def test_run_of_another_pid_namespace_lives(tmp_path: Path, need: Need) -> None:
    """Two containers that share a cache: a process id of one means nothing in the other."""
    namespaces = ["unshare", "--user", "--map-current-user", "--pid", "--fork", "--kill-child"]
    can = subprocess.run([*namespaces, "true"], capture_output=True, check=False)
    need(can.returncode == 0, "PID namespaces")
    busy = tmp_path / "busy"
    busy.mkdir()
    program = LIVING.format(busy=str(busy))
    living = subprocess.Popen(
        [*namespaces, sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert living.stdout is not None
    assert living.stdout.readline() == "ready\n"
    assert reap() == []
    assert busy.is_dir()
    # The number of the note's process is small there, and hardly in use in a third namespace.
    third = subprocess.run(
        [*namespaces, sys.executable, "-c", REAP], capture_output=True, text=True, check=True
    )
    assert third.stdout == "[]\n"
    assert busy.is_dir()
    living.kill()
    living.communicate()
    until = time.monotonic() + LONGEST_S
    while busy.exists() and time.monotonic() < until:  # the namespace ends a moment later
        reap()
    assert not busy.exists()


def test_note_of_another_machine_is_left_alone(tmp_path: Path, cache: Path) -> None:
    left = leave_behind(tmp_path / "run")
    if_here = json.loads(next(cache.glob(f"notes/*/{ALIVE}")).read_text())
    text = json.dumps(if_here | {"boot": "another", "host": "another"})
    for path in cache.glob(f"notes/*/{ALIVE}"):
        path.write_text(text)
    assert reap() == []
    assert left.is_dir()
    for path in cache.glob(f"notes/*/{ALIVE}"):  # this machine, before a restart
        path.write_text(json.dumps(if_here | {"boot": "before"}))
    assert reap() == [tmp_path / "run"]
    assert not left.exists()


def test_links_of_others_are_not_followed(tmp_path: Path, cache: Path, need: Need) -> None:
    """A stranger who can write to the cache, or to a note's target, cannot have folders removed."""
    need(os.geteuid() == 0, "root, who can give files away")
    mine = tmp_path / "mine"
    mine.mkdir()
    planted = cache / "notes/4000000-abcdef"
    planted.mkdir(parents=True)
    (planted / Kind.TEMPORARY).symlink_to(mine)
    os.chown(planted, 65534, 65534)
    os.chown(planted / Kind.TEMPORARY, 65534, 65534, follow_symlinks=False)
    reap()
    assert mine.is_dir()

    note_of_mine = cache / "notes/4000001-abcdef"
    note_of_mine.mkdir()
    link = note_of_mine / Kind.TEMPORARY
    link.symlink_to(mine)
    os.chown(link, 65534, 65534, follow_symlinks=False)
    reap()
    assert mine.is_dir()
