"""Find the main cause of a run's time: latency, bandwidth, TCP's window, or computation.

The rules give a first diagnosis for people; each cause comes with the figures behind the diagnosis.

- compute: at least half of the training time is modelled computation.
- bandwidth: while data are exchanged, the busiest WAN direction carries at least `FULL` of its
  rate; or an operation takes at most 1 / `FULL` of its lower bound, and its time grows with its
  size.
- window: at least half of the payload went over connections that were waiting for TCP's window most
  of the time (flows.parquet), or the time grows with the size although no link is full.
- latency: the smallest size already takes at least half as long as the main one; or the links are
  almost idle while data are exchanged.
No cause is named where the figures are inconclusive. Of several collectives, only the one with the
most time counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import polars as pl

from testbed.analysis.link_samples import of_direction, sent_bytes
from testbed.analysis.network_history import History
from testbed.analysis.verdict import main_operation
from testbed.core.units import format_size
from testbed.runfolder.summary import Cause, CollectiveRow, TrainingSummary

FULL = 0.6  # share of a rate or of the bound at which a link counts as full
IDLE = 0.3  # share of a rate below which a link counts as almost idle
MOST = 0.5
FAR_LARGER = 16  # least ratio of two sizes for a comparison of their times


@dataclass(frozen=True)
class LinkUse:
    """The share of a WAN direction's rate that was used, at most 1."""

    direction: str  # for people
    share: float


@dataclass(frozen=True)
class Evidence:
    """The figures from which a cause is found.

    Attributes:
        use: use of the busiest WAN direction while data were exchanged, or None if unknown.
        grows: whether the time grows with the size, or None if unknown.
        window_share: share of the time in which connections waited for TCP's window, or None if
            unknown.
        text: the figures, for people.
    """

    use: LinkUse | None
    grows: bool | None
    window_share: float | None
    text: str


def cause_of_training(
    history: History,
    training: TrainingSummary,
    steps: pl.DataFrame,
    links: pl.DataFrame,
    flows: pl.DataFrame | None,
) -> Cause | None:
    """Find the dominant cause of the training time.

    Args:
        history: the run's network over time.
        training: the training section of the run's summary.
        steps: columns start_ns and end_ns of train.parquet (Int64, Unix ns); at least one row.
        links: columns link, source, time_ns and bytes of links.parquet.
        flows: columns window_limited_share (Float64) and payload_bytes (Int64) of flows.parquet;
            None without captures.

    Returns:
        The cause, or None if the figures are inconclusive.
    """
    computes = training.compute_utilisation
    if computes is None:
        return None

    text = f"a rank computes for {computes:.0%} of the time"
    if computes >= MOST:
        return _cause("compute", text)

    begin_ns = min(steps["start_ns"])
    end_ns = max(steps["end_ns"])
    exchanging_s = (end_ns - begin_ns) / 1e9 * (1 - computes)
    use = busiest(history, links, begin_ns, end_ns, exchanging_s)
    text += f" and waits for data or other ranks in the rest{_while_exchanging(use)}"
    evidence = Evidence(use, None, _window_share(flows), text)

    return _find_cause(evidence)


def cause_of_collectives(
    history: History,
    rows: Sequence[CollectiveRow],
    ops: pl.DataFrame,
    links: pl.DataFrame,
    flows: pl.DataFrame | None,
) -> Cause | None:
    """Find the dominant cause of the time of the collective that took the most time.

    Args:
        history: the run's network over time.
        rows: the collectives of the summary.
        ops: columns op, bytes, group_size, dtype, phase, start_ns and end_ns of ops.parquet.
        links: as for `cause_of_training`.
        flows: as for `cause_of_training`.

    Returns:
        The cause, or None if the figures are inconclusive.
    """
    timed = [row for row in rows if row.time_us.median > 0]
    if not timed:
        return None

    main = main_operation(timed)
    use = _use_during(history, main, ops, links)
    exchange = _while_exchanging(use)
    grows: bool | None = None
    text = exchange.removeprefix(", and ")
    smallest = _smallest_alike(main, timed)
    if smallest is not None:
        share = smallest.time_us.median / main.time_us.median
        grows = share < MOST
        small_size = format_size(smallest.bytes, 3)
        main_size = format_size(main.bytes, 3)
        text = f"{small_size} takes {share:.0%} of the time of {main_size}{exchange}"

    is_near_bound = main.efficiency is not None and main.efficiency >= FULL
    if grows and is_near_bound:
        return _cause("bandwidth", text)

    evidence = Evidence(use, grows, _window_share(flows), text)
    return _find_cause(evidence)


def _find_cause(evidence: Evidence) -> Cause | None:
    """Return the cause by the rules that training and collectives share; the first match wins."""
    share = None if evidence.use is None else evidence.use.share
    text = evidence.text
    window_share = evidence.window_share

    if share is not None and share >= FULL:
        return _cause("bandwidth", text)
    if evidence.grows is False:
        return _cause("latency", text)

    if window_share is not None and window_share >= MOST:
        waits = f"connections wait for TCP's window for {window_share:.0%} of the bytes"
        return _cause("window", f"{text}; {waits}")

    if evidence.grows and share is not None:
        return _cause("window", text)

    if evidence.grows is None and share is not None and share < IDLE:
        return _cause("latency", text)

    return None


def _cause(what: Literal["latency", "bandwidth", "window", "compute"], why: str) -> Cause:
    return Cause(what=what, why=why.replace("%", "\N{NO-BREAK SPACE}%"))


def _while_exchanging(use: LinkUse | None) -> str:
    if use is None:
        return ""
    share = f"{use.share:.0%} of its rate"
    return f", and the busiest WAN direction, {use.direction}, carries {share} then"


def _smallest_alike(main: CollectiveRow, rows: list[CollectiveRow]) -> CollectiveRow | None:
    """Return the row of the same operation with the smallest size, or None if none is far smaller.

    "Far smaller" means by a factor of at least `FAR_LARGER`.
    """
    alike = [row for row in rows if row.bytes > 0 and _same_but_size(row, main)]
    smallest = min(alike, key=lambda row: row.bytes, default=None)
    if smallest is None or smallest.bytes * FAR_LARGER > main.bytes:
        return None
    return smallest


def _same_but_size(one: CollectiveRow, other: CollectiveRow) -> bool:
    return (one.op, one.ranks, one.dtype, one.algorithm, one.groups) == (
        other.op,
        other.ranks,
        other.dtype,
        other.algorithm,
        other.groups,
    )


def _use_during(
    history: History, row: CollectiveRow, ops: pl.DataFrame, links: pl.DataFrame
) -> LinkUse | None:
    """Return the use of the busiest WAN direction during the measured iterations of a row."""
    not_warmup = pl.col("phase") != "warmup"
    iterations = ops.filter(
        not_warmup,
        op=row.op,
        bytes=row.bytes,
        group_size=row.ranks,
        dtype=row.dtype,
    )
    if iterations.is_empty():
        return None

    begin_ns = min(iterations["start_ns"])
    end_ns = max(iterations["end_ns"])
    seconds = _union_ns(iterations) / 1e9

    return busiest(history, links, begin_ns, end_ns, seconds)


def _union_ns(spans: pl.DataFrame) -> int:
    """Return the total time in ns that at least one span covers.

    Args:
        spans: columns start_ns and end_ns (Int64).
    """
    spans = spans.sort("start_ns")
    starts, ends = spans["start_ns"], spans["end_ns"]
    covered_until = ends.cum_max().shift(1, fill_value=starts[0])
    new_from = pl.select(pl.max_horizontal(starts, covered_until)).to_series()
    new_ns = (ends - new_from).clip(0)
    return int(new_ns.sum())


def busiest(
    history: History, links: pl.DataFrame, begin_ns: int, end_ns: int, seconds: float
) -> LinkUse | None:
    """Return the WAN direction with the largest share of the direction's rate in use.

    Args:
        history: the run's network over time.
        links: columns link, source, time_ns and bytes of links.parquet.
        begin_ns: start of the time span, Unix ns.
        end_ns: end of the time span, Unix ns.
        seconds: length of the time in the span during which data were sent.

    Returns:
        The direction and the share, or None without samples.
    """
    if seconds <= 0:
        return None

    uses: list[LinkUse] = []
    for link in history.states[0].wan:
        for direction in link.directions:
            source = direction.source
            samples = of_direction(links, link.key, source)
            if samples.is_empty():
                continue

            sent_bits = 8 * sent_bytes(samples, begin_ns, end_ns)
            rate_bps = history.mean_rate_bps(link.key, source, begin_ns, end_ns)
            capacity_bits = rate_bps * seconds
            share = min(1.0, sent_bits / capacity_bits) if capacity_bits else 0.0
            use = LinkUse(f"{source} to {direction.target}", share)
            uses.append(use)

    return max(uses, key=lambda use: use.share, default=None)


def _window_share(flows: pl.DataFrame | None) -> float | None:
    """Return the mean window_limited_share weighted by payload_bytes, or None if unknown."""
    if flows is None:
        return None

    columns = ["window_limited_share", "payload_bytes"]
    if not set(columns) <= set(flows.columns):
        return None

    known = flows.drop_nulls(columns)
    total_bytes = float(known["payload_bytes"].sum())
    if not total_bytes:
        return None

    waiting_bytes = known["window_limited_share"] * known["payload_bytes"]
    return float(waiting_bytes.sum()) / total_bytes
