"""What hosts leave in a run folder is harmless afterwards, or the folder is refused."""

import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from testbed.core.errors import InputError
from testbed.runfolder.folder import RunDir
from testbed.runfolder.harmless import harmful_entries, settle
from tests.support.synthetic import make_plan, two_dcs, write_run

ROOT = os.geteuid() == 0
OTHER = 65534  # nobody
needs_root = pytest.mark.skipif(not ROOT, reason="only root can make files of other users")


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    made = write_run(tmp_path / "run", make_plan(two_dcs()))
    made.work("east-0").mkdir(parents=True)
    return made


def program_of_owner(path: Path) -> None:
    path.write_text("#!/bin/sh\nid\n")
    path.chmod(0o6755)


def test_a_program_below_a_folder_that_nobody_can_read(run: RunDir) -> None:
    """The walk looks into folders of mode 000 and 311, and below them."""
    for mode in (0o000, 0o311):
        outer = run.work("east-0") / f"{mode:o}"
        inner = outer / "inner"
        inner.mkdir(parents=True)
        program_of_owner(inner / "program")
        (outer / "link").symlink_to("/etc")
        os.mkfifo(inner / "fifo")
        inner.chmod(0o000)
        outer.chmod(mode)
    removed = run.settle()
    assert sorted(removed) == [
        "work/east-0/0/inner/fifo was a FIFO, and was removed",
        "work/east-0/311/inner/fifo was a FIFO, and was removed",
    ]
    for name in ("0", "311"):
        outer = run.work("east-0") / name
        assert mode_of(outer / "inner/program") == 0o755
        assert mode_of(outer) & 0o700 == 0o700
        assert (outer / "link").is_symlink()  # allowed in work
    assert list(harmful_entries(run.path, [run.work(None)])) == []


def test_links_below_folders_without_read_permission(run: RunDir) -> None:
    hidden = run.logs / "hidden"
    hidden.mkdir()
    (hidden / "link").symlink_to("/etc/passwd")
    hidden.chmod(0o000)
    assert run.settle() == ["logs/hidden/link was a symbolic link, and was removed"]


def test_work_itself_is_no_link(run: RunDir, tmp_path: Path) -> None:
    run.work("east-0").rmdir()
    run.work(None).rmdir()
    run.work(None).symlink_to(tmp_path)
    similar = run.path / "work-elsewhere"
    similar.mkdir()
    (similar / "link").symlink_to("/")
    assert sorted(run.settle()) == [
        "work was a symbolic link, and was removed",
        "work-elsewhere/link was a symbolic link, and was removed",
    ]


def test_sockets_are_removed(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.path)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as left:
        left.bind("socket")
    assert run.settle() == ["socket was a socket, and was removed"]


def test_the_owner_can_read_and_remove_everything(run: RunDir) -> None:
    file = run.work("east-0") / "secret"
    file.write_text("text")
    file.chmod(0)
    run.path.chmod(0o500)
    run.settle()
    assert mode_of(file) == 0o400
    assert mode_of(run.path) == 0o700


@needs_root
def test_files_of_other_users(run: RunDir) -> None:
    """They get the owner of the run folder, links too; what a link names stays as it is."""
    outside = run.path.parent / "outside"
    outside.write_text("")
    work = run.work("east-0")
    (work / "link").symlink_to(outside)
    program_of_owner(work / "program")
    os.chown(run.path, OTHER, OTHER)
    run.settle()
    assert outside.stat().st_uid == 0
    for path in (work / "link", work / "program", work, run.plan):
        assert path.lstat().st_uid == OTHER
    assert mode_of(work / "program") == 0o755


@needs_root
def test_capabilities_of_files(run: RunDir, need: Callable[[object, str], None]) -> None:
    program = run.work("east-0") / "program"
    program.write_text("")
    value = bytes.fromhex("0100000200200000000000000000000000000000")  # cap_net_raw=ep
    try:
        os.setxattr(program, "security.capability", value)
    except OSError:
        need(False, "a file system with capabilities of files")
    run.settle()
    assert os.listxattr(program) == []


REFUSED = """
import os, sys
from pathlib import Path
from testbed.core.errors import InputError
from testbed.runfolder.folder import RunDir
os.setgroups([]), os.setgid({other}), os.setuid({other})
run = RunDir(Path(sys.argv[1]))
try:
    run.settle()
except PermissionError as error:
    print("settle:", error.filename)
try:
    RunDir.open(run.path)
except InputError as error:
    print("open:", error)
"""


@needs_root
def test_what_cannot_be_examined_is_refused() -> None:
    """As a user who may not look into one of the folders; everything else is harmless."""
    with tempfile.TemporaryDirectory(prefix="testbed-harmless-") as name:
        parent = Path(name)
        run = write_run(parent / "run", make_plan(two_dcs()))
        run.work("east-0").mkdir(parents=True)
        for path in (*run.path.rglob("*"), run.path, parent):
            os.chown(path, OTHER, OTHER)
        closed = run.work("east-0") / "closed"
        closed.mkdir(mode=0o700)  # root's
        os.mkfifo(run.work(None) / "z-fifo")
        done = subprocess.run(
            [sys.executable, "-c", REFUSED.format(other=OTHER), str(run.path)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.splitlines()[0] == f"settle: {closed}", done.stderr
        assert f"open: cannot examine {closed}: Permission denied" in done.stdout
        assert not (run.work(None) / "z-fifo").exists()


def test_a_program_with_rights_of_its_owner_is_refused(run: RunDir) -> None:
    program_of_owner(run.work("east-0") / "program")
    with pytest.raises(InputError, match="is a program with the rights of its owner"):
        RunDir.open(run.path)
    run.settle()
    assert RunDir.open(run.path).path == run.path


def test_settling_twice_changes_nothing(run: RunDir) -> None:
    run.settle()
    before = [(path, path.lstat().st_mode) for path in sorted(run.path.rglob("*"))]
    assert settle(run.path, [run.work(None)]) == []
    assert [(path, path.lstat().st_mode) for path in sorted(run.path.rglob("*"))] == before
