"""Spans of time in which each rank computed, communicated or waited.

A table of spans has the columns rank (Int32), start_ns and end_ns (Int64, Unix ns on the run's
clock).
"""

from __future__ import annotations

import polars as pl

SPAN = ("rank", "start_ns", "end_ns")
IS_NOT_EMPTY = pl.col("start_ns") < pl.col("end_ns")
INSTANCE = ["op", "bytes", "group_size", "phase", "iteration"]
IS_GROUPED = pl.col("process_group") != ""


def compute_spans(steps: pl.DataFrame) -> pl.DataFrame:
    """Return the spans of modelled computation.

    Args:
        steps: columns rank, start_ns, end_ns and compute_ns of train.parquet, and computed_ns if
            present. Without computed_ns, the computation is taken to start with the step.

    Returns:
        A table of spans.
    """
    return _spans_between(steps, _computation_edges(steps))


def step_waits(steps: pl.DataFrame) -> pl.DataFrame:
    """Return the rest of each step: waiting for data in transit or for slower ranks.

    Args:
        steps: as for `compute_spans`.

    Returns:
        A table of spans.
    """
    edges = pl.concat_list("start_ns", _computation_edges(steps), "end_ns")
    return _spans_between(steps, edges)


def _computation_edges(steps: pl.DataFrame) -> pl.Expr:
    """Return the alternating start and end times of the stretches of computation in each step.

    Args:
        steps: train.parquet (`testbed.runfolder.schemas.TRAIN`).

    Returns:
        List(Int64), Unix ns.
    """
    from_start = pl.concat_list("start_ns", pl.col("start_ns") + pl.col("compute_ns"))
    if "computed_ns" not in steps.columns:
        return from_start
    return pl.coalesce("computed_ns", from_start)


def _spans_between(steps: pl.DataFrame, edges: pl.Expr) -> pl.DataFrame:
    """Return the spans between consecutive pairs of `edges` (List(Int64)), clipped to the step."""
    by_step = steps.select(
        "rank",
        first="start_ns",
        last="end_ns",
        start_ns=edges.list.gather_every(2),
        end_ns=edges.list.gather_every(2, 1),
    )
    spans = by_step.explode("start_ns", "end_ns").drop_nulls()
    inside = spans.select("rank", _within_step("start_ns"), _within_step("end_ns"))

    return inside.filter(IS_NOT_EMPTY)


def _within_step(edge: str) -> pl.Expr:
    not_after = pl.min_horizontal(edge, "last")
    return pl.max_horizontal(not_after, "first").alias(edge)


def start_waits(ops: pl.DataFrame, ranks: int) -> pl.DataFrame:
    """Return, for each operation, the time until the last participating rank began the operation.

    Only operations whose ranks are known count: operations among all ranks, in process groups, or
    in named groups that work at the same time.

    Args:
        ops: the columns `INSTANCE`, rank, start_ns and end_ns of ops.parquet, and dtype, algorithm,
            group, process_group and case if present.
        ranks: number of ranks.

    Returns:
        A table of spans.
    """
    instance = [*INSTANCE]
    for column in ("dtype", "algorithm", "group", "process_group", "case"):
        if column in ops.columns:
            instance.append(column)

    has_known_ranks = pl.col("group_size") == ranks
    if "group" in instance:
        has_known_ranks |= pl.col("group") != ""
    if "process_group" in instance:
        has_known_ranks |= IS_GROUPED
        size = pl.when(IS_GROUPED).then(-1).otherwise("bytes")  # sizes of the ranks may differ
        ops = ops.with_columns(bytes=size)

    is_message = pl.col("op").is_in(["send", "recv"])
    repeat = pl.int_range(pl.len()).over([*instance, "rank"])
    together = ops.filter(has_known_ranks, ~is_message).with_columns(repeat=repeat)

    last_start = pl.col("start_ns").max().over([*instance, "repeat"])
    until = pl.min_horizontal(last_start, "end_ns")
    waits = together.select("rank", "start_ns", end_ns=until)

    return waits.filter(IS_NOT_EMPTY)


def lanes(ops: pl.DataFrame) -> list[int]:
    """Assign overlapping operations of a rank to different lanes.

    Args:
        ops: a table of spans, sorted by rank and start.

    Returns:
        For each row, the first lane of the row's rank that is free when the row starts.
    """
    lane_of_row: list[int] = []
    present_rank: int | None = None
    free_from_ns: list[int] = []  # by lane
    for rank, start_ns, end_ns in ops.select(SPAN).iter_rows():
        if rank != present_rank:
            present_rank = rank
            free_from_ns = []

        lane = _first_free(free_from_ns, start_ns)
        free_from_ns[lane : lane + 1] = [end_ns]
        lane_of_row.append(lane)

    return lane_of_row


def _first_free(free_from_ns: list[int], start_ns: int) -> int:
    """Return the first lane that is free at a time, or a new one."""
    for lane, free_ns in enumerate(free_from_ns):
        if free_ns <= start_ns:
            return lane
    return len(free_from_ns)
