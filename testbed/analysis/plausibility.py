"""Check that the records of a run can be true, before its results count.

- Every rank has records, all of them whole. Ranks of scripts may do nothing, and ranks that the
  plan kills may leave out records.
- Nothing ends before it begins, nor outside of the time in which the ranks ran, and the times of a
  rank's steps and of a link's samples never decrease.
- No host wrote lines that are not records of its ranks.

Together with the lower bounds (`testbed.analysis.fidelity`), they notice records that a program
made up, and faults of the testbed.
"""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from testbed.analysis.loaded_run import LoadedRun
from testbed.runfolder.problems import Problem, ProblemCode
from testbed.runfolder.records import RecordsRefused, StageBegan, StageEnded

# A process can be ahead of virtual time by a few microseconds (docs/virtual-time.md).
AHEAD_NS = 1_000_000
FIRST_STAGE = "import"  # in which the ranks start
LAST_STAGE = "ops"
COUNTERS = ("time_ns", "bytes", "packets", "drops")


def implausible(run: LoadedRun) -> list[Problem]:
    """Return what cannot be true about the records of a run."""
    problems = list(_incomplete(run))
    problems += _refused(run)
    problems += _disordered(run)
    return problems


def _incomplete(run: LoadedRun) -> Iterator[Problem]:
    if run.plan.workers.workload == "script":
        return
    if any(change.killed for change in run.plan.network.changes):
        return
    if run.steps is None and run.ops.is_empty():
        message = "no rank has recorded an operation"
        yield Problem(code=ProblemCode.RECORDS_INCOMPLETE, message=message)
        return
    if not run.incomplete_ranks:
        return

    names = ", ".join(str(rank) for rank in run.incomplete_ranks)
    message = f"records are missing or damaged: of rank {names}"
    yield Problem(code=ProblemCode.RECORDS_INCOMPLETE, message=message)


def _refused(run: LoadedRun) -> Iterator[Problem]:
    for event in run.events:
        if isinstance(event, RecordsRefused):
            message = (
                f"{event.host} wrote {event.lines} lines into the records of the run that are not "
                "records of its ranks; its own records may be made up as well"
            )
            yield Problem(code=ProblemCode.RECORDS_REFUSED, message=message)


def _disordered(run: LoadedRun) -> Iterator[Problem]:
    first_ns, last_ns = _window(run)
    for what, table in (("operations", run.ops), ("steps", run.steps)):
        if table is None or table.is_empty():
            continue
        start, end = pl.col("start_ns"), pl.col("end_ns")
        is_wrong = end < start
        if first_ns is not None:
            is_wrong |= start < first_ns - AHEAD_NS
        if last_ns is not None:
            is_wrong |= end > last_ns + AHEAD_NS
        if what == "steps":
            is_wrong |= (start.diff() < 0).over("rank").fill_null(value=False)
        wrong = table.filter(is_wrong)
        if not wrong.is_empty():
            ranks = ", ".join(str(rank) for rank in wrong["rank"].unique().sort())
            message = (
                f"{wrong.height} {what} of rank {ranks} have times that cannot be: an end before "
                "the beginning, or outside of the run"
            )
            yield Problem(code=ProblemCode.CLOCK_DISORDERED, message=message)

    decreases = pl.any_horizontal(pl.col(*COUNTERS).diff() < 0)
    of_direction = ("source", "target", "link")
    samples = run.links.with_columns(wrong=decreases.over(of_direction))
    wrong_samples = int(samples["wrong"].sum() or 0)
    if wrong_samples:
        message = f"{wrong_samples} samples of links go back in time, or count backwards"
        yield Problem(code=ProblemCode.CLOCK_DISORDERED, message=message)


def _window(run: LoadedRun) -> tuple[int | None, int | None]:
    """Return the time (Unix ns) in which ranks ran; None where it is unknown."""
    first_ns: int | None = None
    last_ns: int | None = None
    for event in run.events:
        if isinstance(event, StageBegan) and event.stage == FIRST_STAGE:
            first_ns = event.time_ns
        elif isinstance(event, StageEnded) and event.stage == LAST_STAGE:
            last_ns = event.time_ns
    return first_ns, last_ns
