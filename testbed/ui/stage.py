"""The stage of a run in progress, and how many operations or steps rank 0 has completed."""

from __future__ import annotations

import os
import time
from pathlib import Path

from pydantic import BaseModel, ValidationError

from testbed.execution.progress import STAGE_TEXTS
from testbed.runfolder.files import FollowedFile
from testbed.runfolder.folder import RunDir
from testbed.runfolder.records import (
    EVENT,
    Event,
    FirstOperation,
    Follower,
    OperationsTotal,
    Record,
    RunEnded,
    StageBegan,
)
from testbed.runfolder.status import Status

REPORT_S = 60.0  # in which a run that failed writes its tables
RECENT_S = 30.0  # a run whose process is not on this machine is in progress if it wrote since
END = "report"  # the stage after the end of the ranks


class ShownStage(BaseModel):
    """A stage that has begun, and whether it is the present one."""

    text: str
    is_present: bool


class RunStage(BaseModel):
    """How far a run has come.

    Attributes:
        stages: The stages that have begun, in order.
        done: Number of completed operations or steps of rank 0.
        total: Number of all operations or steps; 0 if unknown.
        unit: What is counted: operation or step.
        began_s: Unix time in s at which the run began on this machine.
    """

    stages: list[ShownStage] = []
    done: int = 0
    total: int = 0
    unit: str = "operation"
    began_s: float = 0.0


class StageWatch:
    """Follows the events of a run, and counts the records of rank 0.

    `first_ns` is the Unix time (ns, run's clock) of the first operation or step; None before.
    """

    def __init__(self, run: RunDir) -> None:
        self._run = run
        self._events: Follower[Record] = Follower(run.events, EVENT)
        self._records = FollowedFile(run.rank_ops(0))
        self._names: list[str] = []
        self._stage = RunStage(began_s=began_s(run))
        self.first_ns: int | None = None

    def look(self) -> RunStage:
        """Return how far the run has come."""
        for event in self._events.new():
            self._note(event)
        self._stage.done += len(self._records.new_lines())
        self._stage.stages = []
        for name in self._names:
            is_present = name == self._names[-1]
            text = STAGE_TEXTS.get(name, name)
            self._stage.stages.append(ShownStage(text=text, is_present=is_present))
        return self._stage

    def _note(self, event: Event) -> None:
        if isinstance(event, StageBegan):
            self._begin(event.stage)
        elif isinstance(event, FirstOperation):
            self.first_ns = event.time_ns
        elif isinstance(event, RunEnded):
            self._begin(END)
        elif isinstance(event, OperationsTotal):
            self._stage.total = event.total
            folder = self._folder_of_rank_0()
            if event.unit == "step" and self._stage.unit != "step":
                self._stage.unit = "step"
                self._stage.done = 0
                self._records = FollowedFile(folder.rank_train(0))
            elif folder != self._run:
                self._records = FollowedFile(folder.rank_ops(0))

    def _folder_of_rank_0(self) -> RunDir:
        """Return the folder of the first of several jobs, or that of the run."""
        if not self._run.jobs.is_dir():
            return self._run
        try:
            folder, _number = self._run.of_rank(self._run.read_plan(), 0)
        except (OSError, ValidationError, UnicodeDecodeError):
            return self._run
        return folder

    def _begin(self, name: str) -> None:
        if name not in self._names:
            self._names.append(name)


def began_s(run: RunDir) -> float:
    """Return the Unix time in s at which a run began; 0 if unknown."""
    return modified_s(run.spec)


def modified_s(path: Path) -> float:
    """Return the time of a file's last change in Unix s; 0 if the file does not exist."""
    try:
        return path.lstat().st_mtime
    except OSError:
        return 0.0


def is_in_progress(run: RunDir, status: Status | None) -> bool:
    """Return whether a run goes on: its process lives, or has written just now.

    The outcome is written before the tables. A run without its summary goes on while its process
    lives; if the outcome is no success, only for a while, because its tables may have failed.

    Args:
        run: the run folder.
        status: content of status.json.
    """
    if status is None:
        return False
    if status.state != "running":
        is_recent = time.time() - modified_s(run.status) < REPORT_S
        may_report = status.state == "completed" or is_recent
        return may_report and not run.summary.exists() and status.pid > 0 and _is_alive(status.pid)
    if status.pid > 0 and _is_alive(status.pid):
        return True
    newest = max(map(modified_s, (run.events, run.link_samples, run.rank_ops(0), run.status)))
    return time.time() - newest < RECENT_S


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True
