"""Group the ranks' records into iterations of operations, and compute each iteration's time.

All ranks share one clock, so times of different ranks can be compared.

- ``time_us`` is the duration on the first rank, as printed by benchmarks of torch and gloo. Where
  data flow one way only, that duration does not reflect the network: a sender finishes once its
  kernel has taken the data, and the data for a receiver may have been sent before the receiver
  started. For these operations the time runs from the first start of a sender to the last end of a
  receiver: from the root's start to the last end (broadcast, scatter), from the first start to the
  root's end (reduce, gather), or from the first start to the last end (send_recv).
- ``span_us`` runs from the first start to the last end: no lower bound can be longer.
- Several groups that a workload lets work at the same time count as one iteration, with the time of
  the slowest group. The process groups of a script count separately.
- ``slowest_us`` is the longest duration on any rank.
- Ranks start within the skew of the barrier before the operation, at most a one-way delay.

The records of one iteration have the same operation, number and process group. Their sizes may
differ: the iteration's size is the largest. Records without a process group belong together if
their sizes are equal too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import polars as pl

from testbed.runfolder.summary import Spread
from testbed.spec.collective import DataFlow, collectives

SAME_OP = ["op", "bytes", "group_size", "dtype", "algorithm", "case"]
SAME_GROUP = ["members", "description", "root", "unequal"]
ROW = [*SAME_OP, *SAME_GROUP]
CALL = ["op", "group_size", "algorithm", "case", "process_group", "call_bytes", "call_dtype"]

TREND = 0.1  # shares of the median
SWING = 0.25
FEWEST_FOR_THIRDS = 6


def bus_factor(op: str, ranks: int) -> float:
    """Return busbw / algbw of an operation (nccl-tests, doc/PERFORMANCE.md); 1 if unknown."""
    collective = collectives().get(op)
    return 1.0 if collective is None else collective.bus_factor(ranks)


def spread(values: pl.Series) -> Spread:
    """Return the spread of a column of numbers, which has at least one row."""
    return Spread(
        min=_number(values.min()),
        median=_number(values.median()),
        p95=_number(values.quantile(0.95, "linear")),
        max=_number(values.max()),
    )


def settled(times: Sequence[float]) -> Literal["yes", "trend", "swing"] | None:
    """Return whether the times of an operation's iterations have settled.

    They trend if each is longer than the one before, or each shorter; of six iterations or more, if
    three quarters of the last third are longer, or shorter, than three quarters of the first third.
    The difference must be more than `TREND` of the median. They swing if the middle nine tenths
    spread over more than `SWING` of the median.

    Args:
        times: time of each iteration, in their order.

    Returns:
        The answer, or None for a single iteration or times of 0.
    """
    series = pl.Series(times, dtype=pl.Float64)
    median = _number(series.median()) if len(series) else 0.0
    if len(series) < 2 or median <= 0:
        return None

    third = max(1, len(series) // 3)
    first, last = series.head(third), series.tail(third)
    if len(series) >= FEWEST_FOR_THIRDS:
        is_one_way = _is_above(last, first) or _is_above(first, last)
    else:
        steps = series.diff().drop_nulls()
        is_one_way = len(steps) > 1 and bool((steps > 0).all() or (steps < 0).all())

    drift = _number(last.median()) - _number(first.median())
    if is_one_way and abs(drift) > TREND * median:
        return "trend"

    low, high = series.quantile(0.05, "linear"), series.quantile(0.95, "linear")
    if _number(high) - _number(low) > SWING * median:
        return "swing"

    return "yes"


def _is_above(upper: pl.Series, lower: pl.Series) -> bool:
    """Return whether three quarters of `upper` are above three quarters of `lower`."""
    return _number(upper.quantile(0.25, "linear")) > _number(lower.quantile(0.75, "linear"))


def _number(value: object) -> float:
    return float(cast(float, value))


def iterations(measured: pl.DataFrame) -> pl.DataFrame:
    """Group the records of all ranks into iterations of operations.

    Args:
        measured: the columns of ops.parquet (`testbed.runfolder.schemas.OPS`).

    Returns:
        A row per iteration, in the order of the first records: the columns `SAME_OP`; members (the
        group's ranks in its order, with commas between; empty where several groups or unknown ones
        count together), description (of the script's process group), root (rank, null: the first
        rank) and unequal (the parts' bytes, a row of numbers for each rank; empty: equal parts);
        iteration and repeat (Int64; see `_with_repeats`), start_ns (Int64: of the first rank to
        start), time_us, slowest_us and span_us (Float64), wrong (Int64, elements), checked
        (Boolean: at least one rank checked the values) and whole (Boolean: every rank of every
        group has finished the iteration).
    """
    once = [*CALL, "iteration", "repeat"]
    of_groups = _iterations_of_groups(_with_repeats(measured), once)
    groups = pl.col("group").n_unique().over(CALL)
    by_iteration = of_groups.with_columns(groups=groups).group_by(once, maintain_order=True)
    has_all_groups = pl.len() == pl.col("groups").first()
    first_start_ns = pl.col("start_ns").min()
    span_ns = pl.col("stop_ns").max() - first_start_ns

    return by_iteration.agg(
        pl.col("bytes", "dtype", *SAME_GROUP).first(),
        pl.col("time_us", "slowest_us").max(),
        pl.col("wrong").sum(),
        pl.col("checked").any(),
        start_ns=first_start_ns,
        span_us=span_ns / 1000,
        whole=pl.col("whole").all() & has_all_groups,
    )


def _iterations_of_groups(records: pl.DataFrame, once: Sequence[str]) -> pl.DataFrame:
    """Group the records of the ranks of each group into iterations.

    Args:
        records: as `_with_repeats` returns them.
        once: the columns in which the records of one iteration are equal.

    Returns:
        The columns `once` and group, and those of `iterations`, with these differences: whole says
        so of the group alone, and stop_ns (Int64: of the last rank to end) replaces span_us.
    """
    is_grouped = pl.col("process_group").first() != ""
    has_root = is_grouped & pl.col("root").first().is_not_null()
    in_order = pl.col("rank").sort_by("group_rank", "rank")
    members = in_order.cast(pl.String).str.join(",")
    description = pl.col("group").first()
    root = pl.col("rank").get(_root_row())
    parts_of_rank = pl.col("parts").cast(pl.List(pl.String)).list.join(" ")
    parts = parts_of_rank.sort_by("group_rank").str.join(",")
    wrong = pl.col("wrong")
    is_checked = wrong >= 0
    nothing = pl.lit("")

    by_group = records.group_by([*once, "group"], maintain_order=True)
    return by_group.agg(
        bytes=pl.col("bytes").max(),
        dtype=pl.col("dtype").max(),
        members=pl.when(is_grouped).then(members).otherwise(nothing),
        description=pl.when(is_grouped).then(description).otherwise(nothing),
        root=pl.when(has_root).then(root),
        unequal=parts,
        start_ns=pl.col("start_ns").min(),
        stop_ns=pl.col("end_ns").max(),
        time_us=_time_ns() / 1000,
        slowest_us=_slowest_ns() / 1000,
        whole=pl.len() >= pl.col("group_size").first(),
        wrong=wrong.filter(is_checked).sum(),
        checked=is_checked.any(),
    )


def _flows(flow: DataFlow) -> pl.Expr:
    """Return whether the operation's data flow in this way, for records of one operation."""
    names: list[str] = []
    for collective in collectives().values():
        if collective.flow is flow:
            names.append(collective.name)
    return pl.col("op").is_in(names).first()


def _root_row() -> pl.Expr:
    """Return the row of the root's record, or of the first rank's, among the records of a group."""
    is_root = (pl.col("group_rank") == pl.col("root")).fill_null(value=False)
    first_rank = pl.col("rank").arg_min()
    return pl.when(is_root.any()).then(is_root.arg_max()).otherwise(first_rank)


def _one_way_ns(otherwise: pl.Expr) -> pl.Expr:
    """Return the time of an operation with one-way data flow, or `otherwise` for other operations.

    The expression uses start_ns, end_ns, rank, group_rank and root of the records of one group
    (Int64, ns).
    """
    start, end = pl.col("start_ns"), pl.col("end_ns")
    root_row = _root_row()
    first_start, last_end = start.min(), end.max()
    root_start, root_end = start.get(root_row), end.get(root_row)

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
    start = pl.col("start_ns").get(first_rank)
    end = pl.col("end_ns").get(first_rank)
    return _one_way_ns(end - start)


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
        The same rows by start and rank, with the columns repeat (Int64), call_bytes (Int64), and
        call_dtype (String), and helper columns.
    """
    once = [*CALL, "iteration"]
    of_rank = [*once, "rank"]
    is_grouped = pl.col("process_group") != ""
    by_call = measured.with_columns(
        call_bytes=pl.when(is_grouped).then(-1).otherwise("bytes"),
        call_dtype=pl.when(is_grouped).then(pl.lit("")).otherwise("dtype"),
    )
    repeat = pl.int_range(pl.len(), dtype=pl.Int64).over(of_rank)
    records_of_rank = pl.len().over(of_rank)
    numbered = by_call.with_columns(repeat=repeat, records=records_of_rank)

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
