"""A rank's container process ends as the rank did, and a host sees the run folder read-only."""

import json
import os
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from testbed.core import linux
from testbed.runfolder.folder import RunDir
from testbed.runfolder.record_file import RecordFile
from testbed.runfolder.records import RankStarted, append, read
from testbed.workers import host_entry
from testbed.workers.collector import collecting
from testbed.workers.orders import HostView
from tests.support.synthetic import make_plan, two_dcs

NOBODY = 65534


def end_of(child_ends_by: int) -> int:
    """The exit status of a process that waits for a child; negative: a signal."""
    pid = os.fork()
    if pid == 0:
        child = os.fork()
        if child == 0:
            if child_ends_by < 0:
                os.kill(os.getpid(), -child_ends_by)
                time.sleep(60)
            os._exit(child_ends_by)
        try:
            host_entry._end_as(child)
        finally:
            os._exit(99)
    _pid, wait_status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(wait_status)


@pytest.mark.parametrize("status", [0, 3, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGUSR1])
def test_ends_as_its_child(status: int) -> None:
    assert end_of(status) == status


STARTED = RankStarted(rank=0, host="east-0", interfaces=[], capabilities=0, no_new_privileges=True)


def outcome_of(action: Callable[[], object]) -> str:
    try:
        action()
    except OSError as error:
        return os.strerror(error.errno or 0)
    return "done"


def attempts(run: RunDir) -> dict[str, str]:
    """Try, as a rank of the first host does, what it may and what it may not do."""
    own = run.rank_ops(0)
    actions: dict[str, Callable[[], object]] = {
        "own work": lambda: (run.work("east-0") / "file").write_text("x"),
        "own records": lambda: append(run.rank_starts, STARTED),
        "open own records": lambda: RecordFile(run, own).close(),
        "read own records": lambda: os.open(own, os.O_RDONLY | os.O_NONBLOCK),
        "mode of own records": lambda: own.chmod(0o666),
        "remove own records": own.unlink,
        "other records": lambda: RecordFile(run, run.rank_ops(1)),
        "other work": lambda: (run.work("west-0") / "file").write_text("x"),
        "exit": lambda: (run.raw / "exit").write_text("0"),
        "plan": lambda: run.plan.write_text("{}"),
        "new file": lambda: (run.path / "file").write_text("x"),
        "new folder": (run.captures / "folder").mkdir,
        "move": lambda: run.logs.rename(run.path / "gone"),
    }
    return {name: outcome_of(action) for name, action in actions.items()}


def seen_as(view: HostView, run: RunDir) -> dict[str, str]:
    """Return the outcomes of `attempts` by the owner of the run folder, in a host's view of it."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            linux.unshare(linux.CLONE_NEWNS)
            linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
            host_entry._limit_run_folder(view)
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            os.write(write_end, json.dumps(attempts(run)).encode())
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        outcomes: dict[str, str] = json.loads(pipe.read())
    os.waitpid(pid, 0)
    return outcomes


def test_a_host_writes_to_its_part_of_the_run_folder(need: Callable[[object, str], None]) -> None:
    need(os.geteuid() == 0, "root, who may mount")
    plan = make_plan(two_dcs())
    with tempfile.TemporaryDirectory(prefix="testbed-view-") as name:
        run = RunDir.create(Path(name) / "run")
        run.plan.write_text("plan")
        for host in ("east-0", "west-0"):
            run.work(host).mkdir(parents=True)
        for path in (*run.path.rglob("*"), run.path, Path(name)):
            os.chown(path, NOBODY, NOBODY)
        with collecting(run, plan, Path(name) / "pipes") as collector:
            collector.open()
            view = HostView(
                run_folder=str(run.path),
                pipes=str(collector.folder_of("east-0")),
                records=str(run.raw),
                work=str(run.work("east-0")),
            )
            outcomes = seen_as(view, run)
        done = {attempt for attempt, outcome in outcomes.items() if outcome == "done"}
        assert done == {"own work", "own records", "open own records"}
        assert outcomes["read own records"] == "Permission denied"
        assert set(outcomes.values()) == {"done", "Permission denied", "Read-only file system"}
        assert read(run.rank_starts, RankStarted) == ([STARTED], [])
        names = sorted(path.name for path in run.raw.iterdir())
        assert names == ["ops-0.jsonl", "ops-1.jsonl", "ranks.jsonl"]
