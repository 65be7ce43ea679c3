"""Measure the proposed changes of a run's settings, each by another run."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from testbed.analysis.advice import JudgedTime, Proposal, figures, main_figure, proposals
from testbed.plan.model import Plan
from testbed.runfolder.folder import RunDir
from testbed.runfolder.status import read_status
from testbed.runfolder.summary import Summary, read_summary


class ChangedRun(NamedTuple):
    """What came of the run of a change.

    Attributes:
        folder: the run folder; None if the change was refused before the run.
        error: why the change was refused, or why the run failed; empty: the run is complete.
    """

    folder: RunDir | None
    error: str = ""


CarryOut = Callable[[Proposal, Path], ChangedRun]  # carry out a change in a new run folder


@dataclass(frozen=True)
class MeasuredChange:
    """A change of a run, and the time that the run takes with the change.

    Attributes:
        settings: the changed values by key, as after ``--set``.
        why: why the change may help.
        time_of: name of the time: a step, or an operation and its size.
        base_ms: the time without the change in ms.
        changed_ms: the time with the change in ms; None if the run failed, or has no such time.
        change_percent: difference of the two times in percent; negative: the change helps.
        faithful: whether the figures of the changed run are those of its plan; None: not judged.
        doubts: codes of the reasons why they are not, comma-separated.
        folder: the changed run's folder; None if the change was refused.
        error: why the change was refused or its run failed; empty: the run is complete.
    """

    settings: Mapping[str, str]
    why: str
    time_of: str
    base_ms: float
    changed_ms: float | None
    change_percent: float | None
    faithful: bool | None
    doubts: str
    folder: Path | None
    error: str = ""

    @property
    def words(self) -> tuple[str, ...]:
        """The settings as ``KEY=VALUE``."""
        return tuple(f"{key}={value}" for key, value in self.settings.items())

    def row(self) -> dict[str, Any]:
        """Return the attributes by name, as numbers and texts; settings are words of a shell."""
        folder = None if self.folder is None else str(self.folder)
        return {**vars(self), "settings": shlex.join(self.words), "folder": folder}


def advice_folder(base: Path, number: int) -> Path:
    """Return the folder of the run of a change, next to the folder of the run without it.

    Args:
        base: the folder of the run without the change.
        number: number of the change, from 1.
    """
    return base.with_name(f"{base.name}-advice-{number}")


def measure_changes(
    base: Path, plan: Plan, summary: Summary, carry_out: CarryOut
) -> Iterator[MeasuredChange]:
    """Carry out the run of each proposed change, and yield its measurement.

    Args:
        base: the folder of the completed run without a change.
        plan: that run's plan.
        summary: that run's summary.
        carry_out: function that carries out the run of a change in a new folder.
    """
    figure = main_figure(summary)
    if figure is None:
        return
    for number, proposal in enumerate(proposals(plan, summary), start=1):
        changed = carry_out(proposal, advice_folder(base, number))
        yield measured(figure, proposal, changed)


def measured(figure: JudgedTime, proposal: Proposal, changed: ChangedRun) -> MeasuredChange:
    """Return the measurement of a change from its run folder.

    Args:
        figure: the time by which the run without the change is judged.
        proposal: the change.
        changed: what came of the change's run.
    """
    changed_ms: float | None = None
    percent: float | None = None
    faithful: bool | None = None
    doubts = ""
    folder = changed.folder
    if folder is not None and not changed.error:
        summary, _problems = read_summary(folder.summary)
        changed_ms = figures(summary).get(figure.what)
        status, _problems = read_status(folder.status)
        if status is not None:
            faithful = status.faithful
            doubts = ", ".join(status.doubts)
        if changed_ms is not None and figure.ms:
            percent = 100 * (changed_ms / figure.ms - 1)

    return MeasuredChange(
        settings=dict(proposal.settings),
        why=proposal.why,
        time_of=figure.what,
        base_ms=figure.ms,
        changed_ms=changed_ms,
        change_percent=percent,
        faithful=faithful,
        doubts=doubts,
        folder=None if folder is None else folder.path,
        error=changed.error,
    )
