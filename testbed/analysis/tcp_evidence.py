"""How long TCP held an operation back, from what the ranks recorded of their connections.

A sender may have as many bytes on the way as the smaller one of two windows: the receiver's, of
which the kernel counts the time, and the congestion window. A congestion window of w segments sends
s segments in s / w round trips, or in log2(1 + s / w) while it doubles in each (slow start). All
but the first of these round trips are waiting for the window.

For each retransmission timeout of a pause the congestion window is halved, down to
`RESTART_WINDOW` (`slow_start_after_idle`; tcp_cwnd_restart of net/ipv4/tcp_output.c). It is then
smaller than the threshold at which slow start ended before, although nothing was lost.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import polars as pl

RESTART_WINDOW = 10  # segments (TCP_INIT_CWND, net/tcp.h)
GROWS = 1.2  # least ratio of windows after and before that is growth
RETRANSMITTING = 0.5  # share of the iterations with retransmissions from which they count

WindowKind: TypeAlias = Literal["idle-restart", "slow-start", "window"]


@dataclass(frozen=True)
class Held:
    """Time in us by which TCP held back an operation, on the rank that was held back most.

    Attributes:
        window_us: waiting for the congestion window.
        kind: why that window was small.
        window: windows in segments, for people.
        receiver_us: waiting for the receiver's window.
        buffer_us: waiting for room in the send buffer.
        retransmits: whether segments were sent again in most iterations.
    """

    window_us: float
    kind: WindowKind
    window: str
    receiver_us: float
    buffer_us: float
    retransmits: bool


@dataclass(frozen=True)
class _Wait:
    us: float
    kind: WindowKind
    window: str


def held_back(tcp: pl.DataFrame, *, restarts: bool, total: bool = False) -> Held | None:
    """Return how long TCP held back the operations of a table.

    Args:
        tcp: the columns of `testbed.runfolder.schemas.TCP`.
        restarts: whether a congestion window restarts after a pause.
        total: whether times are sums over the operations instead of medians.

    Returns:
        The times, or None without records.
    """
    if tcp.is_empty():
        return None

    waits = [_window_wait(row, restarts) for row in tcp.iter_rows(named=True)]
    wait_us = pl.Series([wait.us for wait in waits])
    number = pl.int_range(pl.len())
    numbered = tcp.with_columns(wait_us=wait_us, number=number)

    times = pl.col("wait_us", "receiver_us", "buffer_us")
    whole_times = times.sum() if total else times.median()
    by_rank = numbered.group_by("rank").agg(whole_times)
    worst_first = by_rank.sort("wait_us", descending=True)
    of_worst = numbered.filter(rank=worst_first["rank"][0]).sort("wait_us")
    middle = of_worst.height // 2
    typical = waits[of_worst["number"][middle]]

    return Held(
        window_us=_largest(by_rank["wait_us"]),
        kind=typical.kind,
        window=typical.window,
        receiver_us=_largest(by_rank["receiver_us"]),
        buffer_us=_largest(by_rank["buffer_us"]),
        retransmits=_retransmitting_share(tcp) >= RETRANSMITTING,
    )


def _retransmitting_share(tcp: pl.DataFrame) -> float:
    """Return the share of the iterations in which a rank sent something again.

    `tcp` has the columns of `testbed.runfolder.schemas.TCP`.
    """
    has_sent_again = pl.col("retransmissions").sum() > 0
    by_iteration = tcp.group_by("op", "process_group", "iteration").agg(again=has_sent_again)
    return float(by_iteration["again"].mean() or 0.0)  # type: ignore[arg-type]


def _largest(series: pl.Series) -> float:
    return float(series.max() or 0.0)  # type: ignore[arg-type]


def _window_wait(use: Mapping[str, Any], restarts: bool) -> _Wait:
    """Return how long one operation waited for the congestion window of its main connection."""
    before, after, threshold = use["window_before"], use["window_after"], use["threshold"]
    is_undisturbed = not use["ever_retransmitted"]
    window = before
    kind: WindowKind = "window"
    left = before
    if restarts and use["timeout_us"]:
        left = _window_after_pause(before, use["idle_us"] / use["timeout_us"])

    if left < before:
        window, kind = left, "idle-restart"
    elif restarts and is_undisturbed and after < before:
        window, kind = min(before, RESTART_WINDOW), "idle-restart"  # a pause in the operation
    elif restarts and is_undisturbed and threshold is not None and before < threshold:
        kind = "idle-restart"
    elif is_undisturbed and threshold is None:
        kind = "slow-start"

    segments = use["bytes"] / max(1, use["segment_bytes"])
    windows = segments / max(1, window)
    if after > GROWS * window:
        round_trips = math.log2(1 + windows)
        text = f"from {window} to {after} segments"
    else:
        round_trips = windows
        text = f"{window} segments"

    waits = max(0.0, round_trips - 1)
    return _Wait(waits * use["rtt_us"], kind, text)


def _window_after_pause(window: int, timeouts: float) -> int:
    """Return the congestion window that is left after a pause of several timeouts."""
    halvings = max(0, math.ceil(timeouts) - 1)
    return max(window >> min(halvings, 32), min(window, RESTART_WINDOW))


def of_group(table: pl.DataFrame, ranks: frozenset[int]) -> pl.DataFrame:
    """Return the rows of the process groups that consist of these ranks.

    Args:
        table: columns process_group (String) and rank (Int32) of operations.
        ranks: the ranks of the group; empty: any.
    """
    if not ranks or "process_group" not in table.columns:
        return table

    names = list(_groups_of(table, ranks))
    return table.filter(pl.col("process_group").is_in(names))


def _groups_of(table: pl.DataFrame, ranks: frozenset[int]) -> Iterator[str]:
    """Yield the process groups whose ranks are all among `ranks`.

    `table` has the columns process_group (String) and rank (Int64).
    """
    members = table.group_by("process_group").agg(pl.col("rank").unique())
    for name, of_group_ranks in members.iter_rows():
        if set(of_group_ranks) <= ranks:
            yield name
