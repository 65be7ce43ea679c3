"""Pair the sends and receives of a script, and time each message.

The n-th send of a rank to another rank belongs to the other rank's n-th receive from it, in the
same process group and with the same tag. A message takes from the start of the send to the end of
the receive, so a receiver that comes late counts. Messages to a rank that has received from anyone
in the same process group are left out, because its receives do not name the sender.
"""

from __future__ import annotations

from typing import cast

import polars as pl

from testbed.analysis.lower_bounds import Bounds, wire_scale
from testbed.analysis.operations import settled, spread
from testbed.plan.model import Plan
from testbed.runfolder.summary import MessageRow

CHANNEL = ["process_group", "sender", "receiver", "tag"]
ROW = ["source_rank", "target_rank", "bytes", "dtype", "group"]


def messages(ops: pl.DataFrame) -> pl.DataFrame:
    """Return the messages of a run.

    Args:
        ops: the columns of ops.parquet (`testbed.runfolder.schemas.OPS`).

    Returns:
        A row per message that was sent and received, in the order of the sends: the columns `ROW`
        (ranks of the run, Int32; size, Int64; type and description of the process group, String),
        start_ns (Int64, of the send) and time_us (Float64).
    """
    sends = _numbered(ops.filter(op="send"), sender="group_rank", receiver="peer")
    receives = _numbered(ops.filter(op="recv"), sender="peer", receiver="group_rank")
    from_anyone = receives.filter(pl.col("sender").is_null())
    to_clear_receivers = sends.join(from_anyone, on=["process_group", "receiver"], how="anti")
    pairs = to_clear_receivers.join(
        receives.select(*CHANNEL, "number", "rank", "end_ns"),
        on=[*CHANNEL, "number"],
        suffix="_of_receive",
    )
    time_ns = pl.col("end_ns_of_receive") - pl.col("start_ns")
    timed = pairs.select(
        pl.col("bytes", "dtype", "group", "start_ns"),
        source_rank="rank",
        target_rank="rank_of_receive",
        time_us=time_ns / 1000,
    )
    return timed.filter(pl.col("time_us") >= 0).sort("start_ns")


def _numbered(records: pl.DataFrame, *, sender: str, receiver: str) -> pl.DataFrame:
    """Return sends or receives with their ends, and their number in their channel."""
    ends = records.with_columns(sender=pl.col(sender), receiver=pl.col(receiver)).sort("start_ns")
    return ends.with_columns(number=pl.int_range(pl.len()).over(CHANNEL))


def message_rows(ops: pl.DataFrame, plan: Plan) -> list[MessageRow]:
    """Return a row for each pair of ranks, size and type of a run's messages.

    Args:
        ops: as for `messages`.
        plan: the run's plan.
    """
    bounds = _MessageBounds(plan)
    rows: list[MessageRow] = []
    for key, of_row in messages(ops).group_by(ROW, maintain_order=True):
        source, target, size, dtype, group = key
        times_us = of_row["time_us"]
        bound_us = bounds.us(cast(int, source), cast(int, target), cast(int, size))
        median = spread(times_us).median
        row = MessageRow(
            source_rank=cast(int, source),
            target_rank=cast(int, target),
            bytes=cast(int, size),
            messages=of_row.height,
            time_us=spread(times_us),
            bound_us=bound_us,
            efficiency=bound_us / median if bound_us is not None and median > 0 else None,
            dtype=str(dtype),
            group=str(group),
            settled=settled(times_us.to_list()),
        )
        rows.append(row)
    return rows


class _MessageBounds:
    """Least times of messages; hosts of the same datacenter are alike."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._scale = wire_scale(plan)
        self._by_datacenters: dict[tuple[str, str], Bounds] = {}

    def us(self, source: int, target: int, size: int) -> float | None:
        """Return the least time of a message in us: that of a broadcast between two ranks."""
        try:
            ranks = [self._plan.workers.ranks[number] for number in (source, target)]
            hosts = [self._plan.network.host(rank.host) for rank in ranks]
            if hosts[0] == hosts[1]:
                return None

            key = (hosts[0].dc, hosts[1].dc)
            if key not in self._by_datacenters:
                self._by_datacenters[key] = Bounds(self._plan.network, ranks)
            return self._by_datacenters[key].us("broadcast", size // self._scale)
        except (IndexError, KeyError, ValueError, StopIteration):
            return None
