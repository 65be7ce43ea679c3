"""What each rank was doing when: tables with the columns rank, start_ns and end_ns."""

from __future__ import annotations

import polars as pl

SPAN = ("rank", "start_ns", "end_ns")
INSTANCE = ["op", "bytes", "group_size", "phase", "iteration"]


def compute_spans(steps: pl.DataFrame) -> pl.DataFrame:
    """The modelled computation of each step; where only its length was recorded, from the step's
    start on.
    """
    return _pairs(steps, _edges(steps))


def step_waits(steps: pl.DataFrame) -> pl.DataFrame:
    """The rest of each step: waiting for data on their way, or for slower ranks."""
    return _pairs(steps, pl.concat_list("start_ns", _edges(steps), "end_ns"))


def _edges(steps: pl.DataFrame) -> pl.Expr:
    """Beginnings and ends of computation in turn, within each step."""
    length = pl.concat_list("start_ns", pl.col("start_ns") + pl.col("compute_ns"))
    return pl.coalesce("computed_ns", length) if "computed_ns" in steps.columns else length


def _pairs(steps: pl.DataFrame, edges: pl.Expr) -> pl.DataFrame:
    """Each two of `edges`, kept within the step, without those of no length."""
    spans = (
        steps.select(
            "rank",
            low="start_ns",
            high="end_ns",
            start_ns=edges.list.gather_every(2),
            end_ns=edges.list.gather_every(2, 1),
        )
        .explode("start_ns", "end_ns")
        .drop_nulls()
    )
    inside = [
        pl.max_horizontal(pl.min_horizontal(name, "high"), "low").alias(name) for name in SPAN[1:]
    ]
    return spans.select("rank", *inside).filter(pl.col("start_ns") < pl.col("end_ns"))


def start_waits(ops: pl.DataFrame, ranks: int) -> pl.DataFrame:
    """Of each operation the time until the last of its ranks began it too.

    Only of operations whose ranks are known: among all `ranks`, or in named groups that work at the
    same time.
    """
    named = [
        *INSTANCE,
        *(column for column in ("dtype", "algorithm", "group") if column in ops.columns),
    ]
    known = (pl.col("group_size") == ranks) | (
        pl.col("group") != "" if "group" in ops.columns else False
    )
    together = ops.filter(known, ~pl.col("op").is_in(["send", "recv"])).with_columns(
        repeat=pl.int_range(pl.len()).over([*named, "rank"])
    )
    last = pl.col("start_ns").max().over([*named, "repeat"])
    waits = together.select("rank", "start_ns", end_ns=pl.min_horizontal(last, "end_ns"))
    return waits.filter(pl.col("start_ns") < pl.col("end_ns"))


def lanes(ops: pl.DataFrame) -> list[int]:
    """For each row of `ops`, sorted by rank and start: the first lane of its rank that is free when
    it starts.

    Operations that overlap are in different lanes.
    """
    found: list[int] = []
    rank, free = None, list[int]()
    for owner, start, end in ops.select(SPAN).iter_rows():
        if owner != rank:
            rank, free = owner, []
        lane = next((i for i, until in enumerate(free) if until <= start), len(free))
        free[lane : lane + 1] = [end]
        found.append(lane)
    return found
