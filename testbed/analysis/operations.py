"""Which records of the ranks belong to one iteration of an operation, and how long it took.

Time of an operation. All ranks share one clock, so times of different ranks can be compared.

- ``time_us`` is the duration that rank 0 sees, which is what benchmarks of torch and gloo print.
  Where data go one way only, that says nothing about the network: a sender is done once its kernel
  has taken the data, and what a receiver waits for may have been sent before it started. There the
  time is from the first start of a sender to the last end of a receiver: from rank 0's start to the
  last end (broadcast, scatter), from the first start to rank 0's end (reduce, gather), or from the
  first start to the last end (send_recv).
- Several groups that work at the same time count as one iteration, with the time of the slowest
  group; rank 0 is the first of its group there.
- ``slowest_us`` is the longest duration that any rank sees.
- Ranks start within the skew of the barrier before the operation, at most a one-way delay.
"""

from __future__ import annotations

import polars as pl

from testbed.analysis.lower_bounds import FROM_ROOT, TO_ROOT

SAME_OP = ["op", "bytes", "group_size", "dtype", "algorithm"]
ONE_WAY = (*FROM_ROOT, *TO_ROOT, "send_recv")  # a rank may be done before another has begun


def iterations(measured: pl.DataFrame) -> pl.DataFrame:
    """A row per iteration with time_us, slowest_us, wrong, and whether every rank of every group
    has finished it.
    """
    once = [*SAME_OP, "iteration", "repeat"]
    start, end, first_rank = pl.col("start_ns"), pl.col("end_ns"), pl.col("rank").arg_min()
    root_start, root_end = start.get(first_rank), end.get(first_rank)
    one_way = (
        pl.when(pl.col("op").is_in(list(FROM_ROOT)).first())
        .then(end.max() - root_start)
        .when(pl.col("op").is_in(list(TO_ROOT)).first())
        .then(root_end - start.min())
        .when((pl.col("op") == "send_recv").first())
        .then(end.max() - start.min())
    )
    return (
        _with_repeats(measured)
        .group_by([*once, "group"], maintain_order=True)
        .agg(
            time_us=one_way.otherwise(root_end - root_start) / 1000,
            slowest_us=one_way.otherwise((end - start).max()) / 1000,
            whole=pl.len() >= pl.col("group_size").first(),
            wrong=pl.col("wrong").filter(pl.col("wrong") >= 0).sum(),
            checked=(pl.col("wrong") >= 0).any(),
        )
        .with_columns(groups=pl.col("group").n_unique().over(SAME_OP))
        .group_by(once, maintain_order=True)
        .agg(
            pl.col("time_us", "slowest_us").max(),
            pl.col("wrong").sum(),
            pl.col("checked").any(),
            whole=pl.col("whole").all() & (pl.len() == pl.col("groups").first()),
        )
    )


def _with_repeats(measured: pl.DataFrame) -> pl.DataFrame:
    """With a column `repeat`: process groups that follow each other have iterations of the same
    number.

    The n-th record of a rank with the same operation and number belongs to the n-th of the other
    ranks. Where a rank has fewer of them, because it had crashed or was in other groups, time tells
    what belongs together.
    """
    once = [*SAME_OP, "iteration"]
    counted = measured.with_columns(
        repeat=pl.int_range(pl.len(), dtype=pl.Int64).over([*once, "rank"]),
        records=pl.len().over([*once, "rank"]),
    ).with_columns(alike=(pl.col("records").n_unique() == 1).over(once))
    alike = counted.filter("alike")
    parts = [
        _by_time(table)
        for _, table in counted.filter(~pl.col("alike")).group_by(once, maintain_order=True)
    ]
    return pl.concat([alike, *parts]).sort("start_ns", "rank")


def _by_time(records: pl.DataFrame) -> pl.DataFrame:
    """Number what belongs together: a rank has one record of it, and nobody begins after all others
    have ended.
    """
    records = records.sort("start_ns", "rank")
    one_way = records["op"][0] in ONE_WAY
    numbers: list[int] = []
    number, ranks, end_ns = -1, set[int](), -1
    for rank, start, end in records.select("rank", "start_ns", "end_ns").iter_rows():
        if number < 0 or rank in ranks or (start > end_ns and not one_way):
            number, ranks, end_ns = number + 1, set(), -1
        ranks.add(rank)
        end_ns = max(end_ns, end)
        numbers.append(number)
    return records.with_columns(repeat=pl.Series(numbers, dtype=pl.Int64))
