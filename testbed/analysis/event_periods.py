"""Throughput of a run between changes of the network, which shows the cost of an outage."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import polars as pl

from testbed.plan.model import Change
from testbed.runfolder.records import NetworkChange
from testbed.runfolder.summary import PeriodRow

AS_BUILT = "as built"


def periods(
    changes: Sequence[Change],
    happened: Sequence[NetworkChange],
    ops: pl.DataFrame,
    steps: pl.DataFrame | None,
) -> list[PeriodRow]:
    """Return a row for the time before the first change, and one from each change to the next.

    The first row begins with rank 0's first step or operation, the last row ends with the last one.
    `finished` counts the steps or operations of rank 0 that ended in the time of the row.

    Args:
        changes: the changes of the plan.
        happened: records of the changes that happened, in the order of `changes`.
        ops: the columns rank, start_ns and end_ns of ops.parquet (Int32, Int64, Int64; Unix ns).
        steps: the same columns of train.parquet, or None if the run did not train.

    Returns:
        The rows; empty without changes.
    """
    if not changes:
        return []

    unit: Literal["operation", "step"] = "operation"
    timed = ops
    if steps is not None and not steps.is_empty():
        unit = "step"
        timed = steps

    of_rank_0 = timed.filter(rank=0)
    borders = _borders(changes, happened, of_rank_0)
    spans = list(pairwise(borders))

    rows = [_without_progress(0, (AS_BUILT,), unit)]
    for change in changes:
        rows.append(_without_progress(change.at_ns, change.what, unit))

    for number, (begin_ns, end_ns) in enumerate(spans):
        rows[number] = _with_progress(rows[number], of_rank_0, begin_ns, end_ns)

    return rows


def _without_progress(
    at_ns: int, clauses: Sequence[str], unit: Literal["operation", "step"]
) -> PeriodRow:
    return PeriodRow(
        at_s=at_ns / 1e9,
        what=list(clauses),
        unit=unit,
        seconds=None,
        per_s=None,
    )


def _borders(
    changes: Sequence[Change], happened: Sequence[NetworkChange], of_rank_0: pl.DataFrame
) -> list[int]:
    """Return the start of the run, the times of the changes, and the end, in Unix ns.

    `of_rank_0` has the columns start_ns and end_ns (Int64) of the rank's operations or steps.
    """
    begin_ns, end_ns = 0, 0
    if not of_rank_0.is_empty():
        begin_ns = int(min(of_rank_0["start_ns"]))
        end_ns = int(max(of_rank_0["end_ns"]))

    if happened:
        begin_ns = happened[0].due_ns - changes[0].at_ns

    times_ns = [change.time_ns for change in happened]
    return [begin_ns, *times_ns, end_ns]


def _with_progress(
    row: PeriodRow, of_rank_0: pl.DataFrame, begin_ns: int, end_ns: int
) -> PeriodRow:
    """Add the work finished from `begin_ns` to `end_ns`, if the run was not over by then."""
    if end_ns <= begin_ns:
        return row

    ended_after = pl.col("end_ns") > begin_ns
    ended_before = pl.col("end_ns") <= end_ns
    finished = of_rank_0.filter(ended_after, ended_before).height
    seconds = (end_ns - begin_ns) / 1e9
    progress = {
        "seconds": seconds,
        "finished": finished,
        "per_s": finished / seconds,
    }

    return row.model_copy(update=progress)
