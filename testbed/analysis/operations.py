"""Group the ranks' records into iterations of operations, and compute each iteration's time.

All ranks share one clock, so times of different ranks can be compared.

- ``time_us`` is the duration on rank 0, as printed by benchmarks of torch and gloo. Where data flow
  one way only, that duration does not reflect the network: a sender finishes once its kernel has
  taken the data, and the data for a receiver may have been sent before the receiver started. For
  these operations the time runs from the first start of a sender to the last end of a receiver:
  from rank 0's start to the last end (broadcast, scatter), from the first start to rank 0's end
  (reduce, gather), or from the first start to the last end (send_recv).
- Several groups that work at the same time count as one iteration, with the time of the slowest
  group; rank 0 stands for the first rank of each group.
- ``slowest_us`` is the longest duration on any rank.
- Ranks start within the skew of the barrier before the operation, at most a one-way delay.
"""

from __future__ import annotations

from typing import cast

import polars as pl

from testbed.runfolder.summary import Spread
from testbed.spec.collective import DataFlow, collectives

SAME_OP = ["op", "bytes", "group_size", "dtype", "algorithm"]


def bus_factor(op: str, ranks: int) -> float:
    """Return busbw / algbw of an operation (nccl-tests, doc/PERFORMANCE.md); 1 if unknown."""
    collective = collectives().get(op)
    return 1.0 if collective is None else collective.bus_factor(ranks)


def spread(values: pl.Series) -> Spread:
    """Return the spread of at least one number."""
    return Spread(
        min=_number(values.min()),
        median=_number(values.median()),
        p95=_number(values.quantile(0.95, "linear")),
        max=_number(values.max()),
    )


def _number(value: object) -> float:
    return float(cast(float, value))


def iterations(measured: pl.DataFrame) -> pl.DataFrame:
    """Group the records of all ranks into iterations of operations.

    Args:
        measured: the columns of ops.parquet (`testbed.runfolder.schemas.OPS`).

    Returns:
        A row per iteration, in the order of the first records: the columns `SAME_OP`, iteration and
        repeat (Int64; see `_with_repeats`), time_us and slowest_us (Float64), wrong (Int64,
        elements), checked (Boolean: at least one rank checked the values) and whole (Boolean: every
        rank of every group has finished the iteration).
    """
    once = [*SAME_OP, "iteration", "repeat"]
    wrong = pl.col("wrong")
    is_checked = wrong >= 0

    by_group = _with_repeats(measured).group_by([*once, "group"], maintain_order=True)
    of_groups = by_group.agg(
        time_us=_time_ns() / 1000,
        slowest_us=_slowest_ns() / 1000,
        whole=pl.len() >= pl.col("group_size").first(),
        wrong=wrong.filter(is_checked).sum(),
        checked=is_checked.any(),
    )

    groups = pl.col("group").n_unique().over(SAME_OP)
    by_iteration = of_groups.with_columns(groups=groups).group_by(once, maintain_order=True)
    has_all_groups = pl.len() == pl.col("groups").first()

    return by_iteration.agg(
        pl.col("time_us", "slowest_us").max(),
        pl.col("wrong").sum(),
        pl.col("checked").any(),
        whole=pl.col("whole").all() & has_all_groups,
    )


def _flows(flow: DataFlow) -> pl.Expr:
    """Return whether the operation's data flow in this way, for records of one operation."""
    names: list[str] = []
    for collective in collectives().values():
        if collective.flow is flow:
            names.append(collective.name)
    return pl.col("op").is_in(names).first()


def _one_way_ns(otherwise: pl.Expr) -> pl.Expr:
    """Return the time of an operation with one-way data flow, or `otherwise` for other operations.

    The expression uses start_ns, end_ns and rank of the records of one group (Int64, ns).
    """
    start, end = pl.col("start_ns"), pl.col("end_ns")
    first_rank = pl.col("rank").arg_min()
    first_start, last_end = start.min(), end.max()
    root_start, root_end = start.get(first_rank), end.get(first_rank)

    return (
        pl.when(_flows(DataFlow.FROM_ROOT))
        .then(last_end - root_start)
        .when(_flows(DataFlow.TO_ROOT))
        .then(root_end - first_start)
        .when(_flows(DataFlow.TO_NEXT))
        .then(last_end - first_start)
        .otherwise(otherwise)
    )


def _time_ns() -> pl.Expr:
    first_rank = pl.col("rank").arg_min()
    root_start = pl.col("start_ns").get(first_rank)
    root_end = pl.col("end_ns").get(first_rank)
    return _one_way_ns(root_end - root_start)


def _slowest_ns() -> pl.Expr:
    return _one_way_ns((pl.col("end_ns") - pl.col("start_ns")).max())


def _with_repeats(measured: pl.DataFrame) -> pl.DataFrame:
    """Number the records that share an iteration number.

    Consecutive process groups have iterations with the same numbers. The n-th record of a rank with
    the same operation and number belongs to the n-th record of each other rank. Where a rank has
    fewer records, because the rank crashed or was in other groups, records are matched by time.

    Args:
        measured: as for `iterations`.

    Returns:
        The same rows by start and rank, with the column repeat (Int64) and helper columns.
    """
    once = [*SAME_OP, "iteration"]
    of_rank = [*once, "rank"]
    repeat = pl.int_range(pl.len(), dtype=pl.Int64).over(of_rank)
    records_of_rank = pl.len().over(of_rank)
    numbered = measured.with_columns(repeat=repeat, records=records_of_rank)

    counts = pl.col("records").n_unique().over(once)
    counted = numbered.with_columns(alike=counts == 1)
    parts = [counted.filter("alike")]
    different = counted.filter(~pl.col("alike"))
    for _key, records in different.group_by(once, maintain_order=True):
        parts.append(_repeats_by_time(records))

    return pl.concat(parts).sort("start_ns", "rank")


def _repeats_by_time(records: pl.DataFrame) -> pl.DataFrame:
    """Number the repeats of one iteration by time.

    A repeat has at most one record per rank, and no rank begins after all others have ended. Where
    data flow one way, a rank may finish before another rank has begun.

    Args:
        records: columns op, rank, start_ns and end_ns of one operation and iteration.

    Returns:
        The rows sorted by start and rank, with the column repeat (Int64) set.
    """
    records = records.sort("start_ns", "rank")
    collective = collectives().get(records["op"][0])
    is_one_way = collective is not None and collective.flow is not DataFlow.ALL_TO_ALL

    repeats: list[int] = []
    number = -1
    last_end_ns = -1
    ranks: set[int] = set()
    spans = records.select("rank", "start_ns", "end_ns")
    for rank, start_ns, end_ns in spans.iter_rows():
        is_after_all_others = start_ns > last_end_ns and not is_one_way
        if number < 0 or rank in ranks or is_after_all_others:
            number += 1
            last_end_ns = -1
            ranks = set()

        ranks.add(rank)
        last_end_ns = max(last_end_ns, end_ns)
        repeats.append(number)

    return records.with_columns(repeat=pl.Series(repeats, dtype=pl.Int64))
