"""Bytes and rates of WAN link directions, from the samples of their counters (links.parquet)."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from testbed.analysis.fidelity import LONGEST_SAMPLE_S, RATE_PART
from testbed.analysis.network_history import History
from testbed.plan.model import Direction
from testbed.runfolder.summary import RateRow

LEAST_FULL_S = 0.1  # least time of samples with a full queue, for a statement about a rate
LEAST_BACKLOG = 0.1  # share of the queue above which the queue counts as never empty


def of_direction(links: pl.DataFrame, link: str, source: str) -> pl.DataFrame:
    """Select the samples of one direction of a WAN link, sorted by time.

    Args:
        links: the columns link and source (String), time_ns (Int64, Unix ns) and any other columns.
        link: key of the WAN link.
        source: datacenter from which the direction leaves.

    Returns:
        The rows of the direction, with the columns of `links`.
    """
    return links.filter(link=link, source=source).sort("time_ns")


def _duration_ns(begin_ns: int, end_ns: int) -> float:
    return end_ns - begin_ns


def sent_bytes(
    samples: pl.DataFrame,
    begin_ns: int,
    end_ns: int,
    capacity: Callable[[int, int], float] = _duration_ns,
) -> float:
    """Return the bytes that a direction sent between two times, interpolated between samples.

    Args:
        samples: the direction's samples: time_ns (Int64, Unix ns, ascending) and bytes (Int64,
            cumulative); at least one.
        begin_ns: start of the span, Unix ns.
        end_ns: end of the span, Unix ns.
        capacity: how much the direction could have sent from one time to another, in any unit.
            Bytes between two samples are spread accordingly, so that no time gets more than its
            rate allowed. The default is that of a constant rate.
    """
    times_ns = samples["time_ns"]
    counted = samples["bytes"]

    def at(time_ns: int) -> float:
        position = times_ns.search_sorted(time_ns, side="right")
        if position == 0:
            return float(counted[0])
        if position == len(times_ns):
            return float(counted[-1])

        before_ns, after_ns = int(times_ns[position - 1]), int(times_ns[position])
        whole = capacity(before_ns, after_ns)
        part = capacity(before_ns, time_ns) / whole if whole else 0.0
        before = int(counted[position - 1])
        return before + part * (int(counted[position]) - before)

    return at(end_ns) - at(begin_ns)


def measured_rates(history: History, links: pl.DataFrame) -> list[RateRow]:
    """Measure each WAN direction's rate while the queue was not empty, next to the planned rate.

    After a change of the network, packets already in the queue still leave at the earlier rate; the
    time until these packets have left is not counted.

    Args:
        history: the run's network over time.
        links: the columns of links.parquet.

    Returns:
        A row per direction and state of the direction in which the queue was not empty long enough.
    """
    network = history.states[0]
    rows: list[RateRow] = []
    for link in network.wan:
        for direction in link.directions:
            samples = of_direction(links, link.key, direction.source)
            rows += _rates_of_direction(history, link.key, direction, samples, network.mtu)
    return rows


def _rates_of_direction(
    history: History, link: str, direction: Direction, samples: pl.DataFrame, mtu: int
) -> list[RateRow]:
    """Return the measured rates of a WAN direction while its queue was never empty.

    Args:
        history: the network over time.
        link: key of the link.
        direction: the direction.
        samples: rows of links.parquet (`testbed.runfolder.schemas.LINKS`), those of the direction.
        mtu: in bytes.
    """
    rows: list[RateRow] = []
    settled_ns = 0
    for piece in history.pieces(link, direction.source):
        bottleneck = piece.direction.bottleneck
        planned_bps = bottleneck.rate_bps
        begin_ns = piece.begin_ns + settled_ns
        is_within = pl.col("time_ns").is_between(begin_ns, piece.end_ns, closed="left")
        within = samples.filter(is_within)
        seconds, sent = _while_full(within, bottleneck.queue_packets, mtu)

        queue_bits = bottleneck.queue_packets * mtu * 8
        settled_ns = queue_bits * 10**9 // planned_bps if planned_bps else 0
        is_stalled = planned_bps == 0
        if is_stalled or seconds < LEAST_FULL_S:
            continue

        rate_bps = sent * 8 / seconds
        deviation = abs(rate_bps / planned_bps - 1)
        row = RateRow(
            source=direction.source,
            target=direction.target,
            seconds=round(seconds, 3),
            rate_bps=round(rate_bps),
            planned_bps=planned_bps,
            ok=deviation <= RATE_PART,
        )
        rows.append(row)

    return rows


def _while_full(samples: pl.DataFrame, queue_packets: int, mtu: int) -> tuple[float, int]:
    """Return the total time between neighbouring samples that both have a backlog.

    Args:
        samples: columns time_ns, bytes and backlog_bytes (Int64), in order of time.
        queue_packets: capacity of the queue in packets.
        mtu: bytes of a packet of full size.

    Returns:
        Seconds, and the bytes sent in these seconds.
    """
    part_of_queue_bytes = int(LEAST_BACKLOG * queue_packets * mtu)
    least_bytes = max(2 * mtu, part_of_queue_bytes)
    has_backlog = pl.col("backlog_bytes") >= least_bytes
    steps = samples.select(
        seconds=pl.col("time_ns").diff() / 1e9,
        bytes=pl.col("bytes").diff(),
        full=has_backlog & has_backlog.shift(1),
    )

    is_short = pl.col("seconds") <= LONGEST_SAMPLE_S
    full = steps.filter("full", is_short)
    return float(full["seconds"].sum()), int(full["bytes"].sum())
