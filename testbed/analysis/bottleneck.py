"""Find the main cause of a run's time, by the evidence in the run folder.

A diagnosis for people; each cause comes with the figures behind it. Where the ranks recorded their
use of TCP, the time of the operation with the most time is compared with the parts that the
evidence explains, and the largest part is the cause, if it is at least `LEAST` of the time:

- rate: the busiest WAN direction's share of its rate, times the time;
- idle-restart, slow-start, window: round trips that the sender waited for its congestion window,
  which had started small again after a pause, had never grown before, or was limited otherwise;
- receive-window, send-buffer: the time that the kernel counted as limited by either;
- drops, loss: segments were sent again in most iterations, because a queue dropped packets or the
  link lost them: the time that latency and rate leave;
- steps, propagation: the time of a far smaller size, or else the round trips of the algorithm's
  steps; several steps one after another, or one exchange;
- late-rank: a rank began later than the others.

The rate is the cause in any case where the busiest direction carries at least `FULL` of its rate,
or where an operation takes at most 1 / `FULL` of its lower bound and its time grows with its size.
Computation is the cause of training if it takes at least half of the time; below `MOST_COMPUTE`,
the cause of the waiting is named too. No cause is named where the figures are inconclusive.

Folders without records of TCP (format 3 of testbed 0.2 and before) are judged by the use of the
links, the growth with the size, and the windows in captures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import polars as pl

from testbed.analysis.link_samples import of_direction, sent_bytes
from testbed.analysis.network_history import History
from testbed.analysis.tcp_evidence import Held, held_back, of_group
from testbed.analysis.verdict import main_operation
from testbed.core.units import format_size, format_time
from testbed.plan.model import Network
from testbed.plan.paths import figures_to
from testbed.runfolder.records import GLOO, NCCL
from testbed.runfolder.summary import (
    Cause,
    CauseKind,
    Coarse,
    CollectiveRow,
    GpuSummary,
    TrainingSummary,
)

FULL = 0.6  # share of a rate or of the bound at which a link counts as full
IDLE = 0.3  # share of a rate below which a link counts as almost idle
MOST = 0.5
LEAST = 0.3  # share of the time that a part must explain
MOST_COMPUTE = 0.65  # share of the time from which only computation is named
ALIKE = 0.95  # ratio of two times from which they count as the same
FEW_ROUND_TRIPS = 2.5  # up to which an operation is one exchange
LEAST_SHOWN = 0.005
FAR_LARGER = 16  # least ratio of two sizes for a comparison of their times
KINDS: Mapping[CauseKind, Coarse] = {  # the coarse cause of each cause
    "rate": "bandwidth",
    "idle-restart": "window",
    "slow-start": "window",
    "window": "window",
    "receive-window": "window",
    "send-buffer": "window",
    "drops": "loss",
    "loss": "loss",
    "steps": "latency",
    "propagation": "latency",
    "late-rank": "waiting",
    "compute": "compute",
}


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


@dataclass(frozen=True)
class Part:
    """A part of the time that the evidence explains.

    Attributes:
        kind: the cause.
        us: time in us.
        text: the figures, for people.
    """

    kind: CauseKind
    us: float
    text: str


def cause_of_training(
    history: History,
    training: TrainingSummary,
    steps: pl.DataFrame,
    links: pl.DataFrame,
    flows: pl.DataFrame | None,
    ops: pl.DataFrame | None = None,
    tcp: pl.DataFrame | None = None,
) -> Cause | None:
    """Find the dominant cause of the training time.

    Args:
        history: the run's network over time.
        training: the training section of the run's summary.
        steps: columns rank, step, start_ns, end_ns (Int64, Unix ns) and compute_ns of
            train.parquet; at least one row.
        links: columns link, source, time_ns, bytes and drops of links.parquet.
        flows: columns window_limited_share (Float64) and payload_bytes (Int64) of flows.parquet;
            None without captures.
        ops: ops.parquet, or None.
        tcp: the ranks' use of TCP (`testbed.runfolder.schemas.TCP`), or None.

    Returns:
        The cause, or None if the figures are inconclusive.
    """
    computes = training.compute_utilisation
    if computes is None:
        return None

    text = f"a rank computes for {computes:.0%} of the time"
    if computes >= MOST_COMPUTE:
        return _cause("compute", text)

    begin_ns = min(steps["start_ns"])
    end_ns = max(steps["end_ns"])
    exchanging_s = (end_ns - begin_ns) / 1e9 * (1 - computes)
    use = busiest(history, links, begin_ns, end_ns, exchanging_s)
    parts = _parts_of_training(history, steps, use, exchanging_s, ops, tcp)
    for_data = f"{text} and waits for {1 - computes:.0%}"
    if parts:
        if use is not None and use.share >= FULL:
            parts = [part for part in parts if part.kind == "rate"]
        largest = max(parts, key=lambda part: part.us)
        explains = largest.us >= LEAST * 1e6 * exchanging_s
        if computes >= MOST:
            reason = f", above all because {largest.text}" if explains else ""
            return _cause("compute", f"{for_data}{reason}", share=computes)

        return _cause(largest.kind, f"{for_data}; {largest.text}") if explains else None

    if computes >= MOST:
        return _cause("compute", for_data, share=computes)

    text += f" and waits for data or other ranks in the rest{_while_exchanging(use)}"
    evidence = Evidence(use, None, _window_share(flows), text)
    return _find_cause(evidence)


def cause_of_gpus(gpu: GpuSummary) -> Cause | None:
    """Return computation as the cause of the time of steps on modelled GPUs, if it is the cause."""
    computes = gpu.share(gpu.compute_ms) + gpu.share(gpu.streams_ms)
    if computes < MOST_COMPUTE:
        return None

    return _cause("compute", f"a GPU computes for {computes:.0%} of the time")


def _parts_of_training(
    history: History,
    steps: pl.DataFrame,
    use: LinkUse | None,
    exchanging_s: float,
    ops: pl.DataFrame | None,
    tcp: pl.DataFrame | None,
) -> list[Part]:
    """Return the parts of the time in which ranks do not compute; empty without records of TCP.

    Args:
        history: the network over time.
        steps: train.parquet (`testbed.runfolder.schemas.TRAIN`).
        use: the use of the busiest WAN direction; None if unknown.
        exchanging_s: the time in which ranks do not compute, in seconds.
        ops: ops.parquet (`testbed.runfolder.schemas.OPS`).
        tcp: the columns of `testbed.runfolder.schemas.TCP`.
    """
    if ops is None or tcp is None:
        return []

    network = history.states[0]
    begin_ns, end_ns = min(steps["start_ns"]), max(steps["end_ns"])
    in_steps = pl.col("start_ns").is_between(begin_ns, end_ns)
    in_training = tcp.filter(in_steps, phase="train")
    held = held_back(in_training, restarts=network.tcp.slow_start_after_idle, total=True)
    if held is None:
        return []

    total_us = 1e6 * exchanging_s
    calls = ops.filter(in_steps, phase="train")
    latency = _part_of_round_trips(network, calls, total_us)
    late_us = _late_computation_us(steps)
    late = Part("late-rank", late_us, "ranks wait for those that compute longer")
    parts = [*_parts_of_held(held, total_us), *_parts_of_links(use, total_us), latency, late]
    if held.retransmits:
        link_us = 0.0 if use is None else use.share * total_us
        rest_us = total_us - latency.us - link_us
        parts.append(_part_of_loss(history, rest_us))

    return parts


def _part_of_round_trips(network: Network, calls: pl.DataFrame, total_us: float) -> Part:
    """Return the part of `total_us` in which operations wait for round trips.

    Args:
        network: the network at the start of the run.
        calls: rows of ops.parquet (`testbed.runfolder.schemas.OPS`), of all ranks.
        total_us: the time in which ranks do not compute.
    """
    rtt_us = _round_trip_us(network, calls)
    recording_ranks = max(1, calls["rank"].n_unique())
    steps_us = 0.0
    counts = calls.group_by("op", "group_size").agg(pl.len())
    for op, ranks, count in counts.iter_rows():
        steps = _steps(op, ranks, GLOO)
        steps_us += steps * rtt_us * count / recording_ranks

    latency_us = min(total_us, steps_us)
    per_rank = calls.height // recording_ranks
    round_trips = latency_us / rtt_us if rtt_us else 0.0
    text = (
        f"its {per_rank} operations take at least {round_trips:.0f} round trips of "
        f"{_time(rtt_us)} one after another"
    )
    return Part("steps", latency_us, text)


def _late_computation_us(steps: pl.DataFrame) -> float:
    """Return by how many us the slowest ranks compute longer than the mean, over all steps.

    `steps` is train.parquet (`testbed.runfolder.schemas.TRAIN`), perhaps of an older version.
    """
    if not {"compute_ns", "step"} <= set(steps.columns):
        return 0.0
    compute_ns = pl.col("compute_ns")
    by_step = steps.group_by("step").agg(late=compute_ns.max() - compute_ns.mean())
    return float(by_step["late"].sum()) / 1000


def cause_of_collectives(
    history: History,
    rows: Sequence[CollectiveRow],
    ops: pl.DataFrame,
    links: pl.DataFrame,
    flows: pl.DataFrame | None,
    tcp: pl.DataFrame | None = None,
) -> Cause | None:
    """Find the dominant cause of the time of the collective that took the most time.

    Args:
        history: the run's network over time.
        rows: the collectives of the summary.
        ops: columns op, bytes, group_size, dtype, phase, start_ns and end_ns of ops.parquet.
        links: as for `cause_of_training`.
        flows: as for `cause_of_training`.
        tcp: as for `cause_of_training`.

    Returns:
        The cause, or None if the figures are inconclusive.
    """
    timed = [row for row in rows if row.time_us.median > 0]
    if not timed:
        return None

    main = main_operation(timed)
    calls = _calls_of(main, ops)
    use = _use_during(history, calls, links)
    exchange = _while_exchanging(use)
    grows: bool | None = None
    text = exchange.removeprefix(", and ")
    smallest = _smallest_alike(main, timed)
    if smallest is not None:
        share = smallest.time_us.median / main.time_us.median
        grows = share < MOST
        text = f"{_compared(smallest, main, share)}{exchange}"

    is_near_bound = main.efficiency is not None and main.efficiency >= FULL
    if grows and is_near_bound:
        return _cause("rate", text)

    parts = _parts_of_collective(history, main, smallest, calls, use, tcp)
    if parts:
        if use is not None and use.share >= FULL:
            return _cause("rate", text)

        largest = max(parts, key=lambda part: part.us)
        if largest.us < LEAST * main.time_us.median:
            return None

        figures = f"; {text}" if text else ""
        return _cause(largest.kind, f"{largest.text}{figures}")

    evidence = Evidence(use, grows, _window_share(flows), text)
    return _find_cause(evidence)


def _compared(smallest: CollectiveRow, main: CollectiveRow, share: float) -> str:
    small_size = format_size(smallest.bytes, 3)
    main_size = format_size(main.bytes, 3)
    if share >= ALIKE:
        return f"{small_size} takes as long as {main_size}"
    return f"{small_size} takes {share:.0%} of the time of {main_size}"


def _parts_of_collective(
    history: History,
    main: CollectiveRow,
    smallest: CollectiveRow | None,
    calls: pl.DataFrame,
    use: LinkUse | None,
    tcp: pl.DataFrame | None,
) -> list[Part]:
    """Return the parts of an operation's time; empty without records of TCP.

    Args:
        history: the network over time.
        main: the operation.
        smallest: the same operation with the least bytes; None if there is none.
        calls: rows of ops.parquet (`testbed.runfolder.schemas.OPS`), those of the operation.
        use: the use of the busiest WAN direction meanwhile; None if unknown.
        tcp: the columns of `testbed.runfolder.schemas.TCP`.
    """
    if tcp is None or calls.is_empty():
        return []

    network = history.states[0]
    used = of_group(tcp, frozenset(main.group_ranks)).join(
        calls.select("rank", "start_ns"), on=["rank", "start_ns"], how="semi"
    )
    held = held_back(used, restarts=network.tcp.slow_start_after_idle)
    if held is None:
        return []

    time_us = main.time_us.median
    rtt_us = _round_trip_us(network, calls)
    parts = _parts_of_held(held, time_us)
    parts += _parts_of_links(use, time_us)
    late_us = _late_us(main, calls)
    at_once_us = time_us
    if late_us > LEAST * time_us:
        at_once_us -= late_us

    round_trips = _steps(main.op, main.ranks, main.algorithm)
    if main.algorithm == NCCL:
        round_trips = _ring_round_trips(main.op, main.ranks)

    latency_us = min(at_once_us, round_trips * rtt_us)
    if smallest is not None:
        latency_us = min(at_once_us, smallest.time_us.median)

    if rtt_us:
        parts.append(_part_of_latency(main, latency_us, rtt_us))

    late = f"a rank begins {_time(late_us)} after the first"
    parts.append(Part("late-rank", late_us, late))
    if held.retransmits:
        sent_us = 0.0 if use is None else use.share * time_us
        parts.append(_part_of_loss(history, at_once_us - latency_us - sent_us))

    return parts


def _part_of_latency(main: CollectiveRow, latency_us: float, rtt_us: float) -> Part:
    round_trips = latency_us / rtt_us
    times = f"{round_trips:.1f} round trips of {_time(rtt_us)}"
    if round_trips <= FEW_ROUND_TRIPS:
        return Part("propagation", latency_us, f"{times} pass")

    text = f"{times} pass one after another, in the steps of {main.algorithm}'s {main.op}"
    return Part("steps", latency_us, text)


def _parts_of_held(held: Held, total_us: float) -> list[Part]:
    """Return the parts of a time that TCP's windows explain."""
    window_us = min(held.window_us, total_us)
    waits = f"{_time(window_us)} pass"
    reasons = {
        "idle-restart": "because the congestion window started again after a pause",
        "slow-start": "while the congestion window grows for the first time",
        "window": "because the congestion window is small",
    }
    return [
        Part(held.kind, window_us, f"{waits} {reasons[held.kind]}, {held.window}"),
        Part(
            "receive-window",
            min(held.receiver_us, total_us),
            f"senders wait {_time(held.receiver_us)} for the receiver's window",
        ),
        Part(
            "send-buffer",
            min(held.buffer_us, total_us),
            f"senders wait {_time(held.buffer_us)} for room in their send buffer",
        ),
    ]


def _parts_of_links(use: LinkUse | None, total_us: float) -> list[Part]:
    if use is None:
        return []
    return [Part("rate", use.share * total_us, _while_exchanging(use).removeprefix(", and "))]


def _part_of_loss(history: History, rest_us: float) -> Part:
    """Return the part of a time in which segments were sent again."""
    for state in history.states:
        for link in state.wan:
            for direction in link.directions:
                if direction.fibre.loss.mean > 0:
                    return Part("loss", rest_us, "segments that a link lost were sent again")

    return Part("drops", rest_us, "segments that a full queue dropped were sent again")


def _ring_round_trips(op: str, ranks: int) -> int:
    """Return the round trips of a ring of NCCL, whose messages need one trip each."""
    trips = ranks - 1
    if op in ("all_reduce", "barrier"):
        trips = 2 * (ranks - 1)

    return math.ceil(trips / 2)


def _steps(op: str, ranks: int, algorithm: str) -> int:
    """Return the number of messages that an operation sends one after another, at most.

    The numbers of gloo's algorithms are in docs/collectives.md. Hierarchical algorithms exchange
    once across the WAN, an all-reduce twice.
    """
    if algorithm != GLOO:
        return 2 if op == "all_reduce" else 1

    if op in ("all_reduce", "reduce_scatter"):
        return 2 * (ranks - 1)
    if op == "all_gather":
        return ranks - 1
    if op == "reduce":
        return ranks
    if op in ("broadcast", "barrier"):
        levels = math.log2(max(2, ranks))
        return math.ceil(levels)
    return 1


def _round_trip_us(network: Network, calls: pl.DataFrame) -> float:
    """Return the longest round trip in us between datacenters of the ranks of operations.

    Args:
        network: the network at the start of the run.
        calls: the operations, with the column dc (String) of their ranks; 0 us without it.
    """
    if "dc" not in calls.columns:
        return 0.0

    datacenters = calls["dc"].unique().to_list()
    delays_ns: dict[tuple[str, str], int] = {}
    for target in datacenters:
        for source, figures in figures_to(network, target).items():
            delays_ns[source, target] = figures.delay_ns

    longest_ns = 0
    for source in datacenters:
        for target in datacenters:
            there_ns = delays_ns.get((source, target), 0)
            back_ns = delays_ns.get((target, source), 0)
            longest_ns = max(longest_ns, there_ns + back_ns)

    return longest_ns / 1000


def _late_us(main: CollectiveRow, calls: pl.DataFrame) -> float:
    """Return by how many us the last rank begins after the one that the time counts from.

    The result is the median over the iterations in `calls`, rows of ops.parquet.
    """
    by_call = calls.group_by("process_group", "iteration", "case", "group").agg(
        last=pl.col("start_ns").max(),
        first=pl.col("start_ns").min(),
        of_first_rank=pl.col("start_ns").get(pl.col("rank").arg_min()),
    )
    since = "of_first_rank" if main.timed == "first rank" else "first"
    late_ns = (by_call["last"] - by_call[since]).clip(0)
    return float(late_ns.median() or 0.0) / 1000  # type: ignore[arg-type]


def _time(us: float) -> str:
    return format_time(round(1000 * us), 3)


def _find_cause(evidence: Evidence) -> Cause | None:
    """Return the cause by the rules that training and collectives share; the first match wins."""
    share = None if evidence.use is None else evidence.use.share
    text = _spaced(evidence.text)
    window_share = evidence.window_share

    if share is not None and share >= FULL:
        return Cause(what="bandwidth", why=text)
    if evidence.grows is False:
        return Cause(what="latency", why=text)

    if window_share is not None and window_share >= MOST:
        waits = _spaced(f"connections wait for TCP's window for {window_share:.0%} of the bytes")
        return Cause(what="window", why=f"{text}; {waits}")

    if evidence.grows and share is not None:
        return Cause(what="window", why=text)

    if evidence.grows is None and share is not None and share < IDLE:
        return Cause(what="latency", why=text)

    return None


def _cause(kind: CauseKind, why: str, *, share: float | None = None) -> Cause:
    return Cause(what=KINDS[kind], cause=kind, why=_spaced(why), share=share)


def _spaced(text: str) -> str:
    return text.replace("%", "\N{NO-BREAK SPACE}%")


def _while_exchanging(use: LinkUse | None) -> str:
    if use is None:
        return ""
    share = f"{use.share:.0%} of its rate"
    if use.share < LEAST_SHOWN:
        share = "less than 1% of its rate"
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


def _calls_of(row: CollectiveRow, ops: pl.DataFrame) -> pl.DataFrame:
    """Return the records of the measured iterations of a row."""
    not_warmup = pl.col("phase") != "warmup"
    calls = ops.filter(not_warmup, op=row.op, group_size=row.ranks)
    if not row.unequal:
        calls = calls.filter(bytes=row.bytes, dtype=row.dtype)
    if row.group_ranks:
        calls = of_group(calls, frozenset(row.group_ranks))
    if row.root is not None:
        calls = calls.filter(root=row.group_ranks.index(row.root))

    return calls


def _use_during(history: History, calls: pl.DataFrame, links: pl.DataFrame) -> LinkUse | None:
    """Return the use of the busiest WAN direction during operations.

    Args:
        history: the network over time.
        calls: rows of ops.parquet (`testbed.runfolder.schemas.OPS`).
        links: links.parquet (`testbed.runfolder.schemas.LINKS`).
    """
    if calls.is_empty():
        return None

    begin_ns = min(calls["start_ns"])
    end_ns = max(calls["end_ns"])
    seconds = _union_ns(calls) / 1e9

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

            capacity = partial(history.capacity_bits, link.key, source)
            sent_bits = 8 * sent_bytes(samples, begin_ns, end_ns, capacity)
            rate_bps = history.mean_rate_bps(link.key, source, begin_ns, end_ns)
            capacity_bits = rate_bps * seconds
            share = min(1.0, sent_bits / capacity_bits) if capacity_bits else 0.0
            use = LinkUse(f"{source} to {direction.target}", share)
            uses.append(use)

    return max(uses, key=lambda use: use.share, default=None)


def _window_share(flows: pl.DataFrame | None) -> float | None:
    """Return the mean window_limited_share weighted by payload_bytes, or None if unknown.

    `flows` has rows of flows.parquet (`testbed.runfolder.schemas.FLOWS`).
    """
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
