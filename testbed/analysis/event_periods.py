"""How fast a run got on between the changes of its network: what an outage or a slower link
costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from testbed.plan.model import Change

AS_BUILT = "as built"


def periods(
    changes: Sequence[Change],
    happened: Sequence[dict[str, Any]],
    ops: pl.DataFrame,
    steps: pl.DataFrame | None,
) -> list[dict[str, Any]]:
    """A row for the time before the first change, and one from each change to the next; none
    without changes.

    Each has "at_s" (from rank 0's first step or operation on), "what" (clauses), "seconds" (null:
    the run was over before), "unit" (step or operation), "finished" (how many of rank 0 ended in
    this time) and "per_s". The first begins with the first step or operation, the last ends with
    the last one.

    Args:
        changes: of the plan.
        happened: the records of those that happened (`testbed.runfolder.folder.RunDir.changes`).
        ops: the columns of ops.parquet.
        steps: those of train.parquet; None if the run did not train.
    """
    if not changes:
        return []
    timed = ops if steps is None or steps.is_empty() else steps
    mine = timed.filter(pl.col("rank") == 0)
    begin, end = (
        (0, 0) if mine.is_empty() else (int(min(mine["start_ns"])), int(max(mine["end_ns"])))
    )
    if happened:
        begin = happened[0]["due_ns"] - changes[0].at_ns
    borders = [begin, *(record["time_ns"] for record in happened), end]
    rows = []
    for number, (at_ns, what) in enumerate(
        [(0, (AS_BUILT,)), *((change.at_ns, change.what) for change in changes)]
    ):
        row: dict[str, Any] = {
            "at_s": at_ns / 1e9,
            "what": list(what),
            "unit": "operation" if timed is ops else "step",
        }
        first, last = borders[number : number + 2] if number < len(borders) - 1 else (0, 0)
        if last > first:
            finished = mine.filter((pl.col("end_ns") > first) & (pl.col("end_ns") <= last)).height
            seconds = (last - first) / 1e9
            rows.append(
                {**row, "seconds": seconds, "finished": finished, "per_s": finished / seconds}
            )
        else:
            rows.append({**row, "seconds": None, "finished": None, "per_s": None})
    return rows
