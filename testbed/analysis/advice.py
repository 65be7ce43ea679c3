"""Propose changes of a run's settings that its main cause of time gives a reason for.

Each proposal is settings of ``testbed run --set``. Whether a change helps is for another run to
measure (``testbed run --advise``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from testbed.analysis.verdict import main_operation
from testbed.core.units import format_size, format_time
from testbed.plan.model import Bottleneck, Plan
from testbed.plan.tcp import auto_tcp_buffer
from testbed.runfolder.records import GLOO
from testbed.runfolder.summary import CollectiveRow, Summary
from testbed.spec.collective import collectives
from testbed.spec.topology import MAX_TCP_BUFFER

CONNECTIONS = 4
LONGER = 2  # factor of a buffer or a queue
NS_PER_S = 10**9
STREAMING, DILOCO = "streaming-diloco", "diloco"
EACH_STEP = ("ddp", "ddp-fp16", "hierarchical", "hsdp", "powersgd")  # exchange after every step


@dataclass(frozen=True)
class Proposal:
    """A change of a run.

    Attributes:
        settings: values by key, as after ``--set``.
        why: the reason, for people.
    """

    settings: Mapping[str, str]
    why: str

    @property
    def words(self) -> tuple[str, ...]:
        """The settings as ``KEY=VALUE``."""
        return tuple(f"{key}={value}" for key, value in self.settings.items())


@dataclass(frozen=True)
class JudgedTime:
    """The time that a run is judged by.

    Attributes:
        what: name of the figure, for people.
        ms: the time in ms.
    """

    what: str
    ms: float


Proposals = Iterator[Proposal]


def proposals(plan: Plan, summary: Summary) -> list[Proposal]:
    """Return the changes for which the main cause of a run's time is a reason.

    Args:
        plan: the run's plan.
        summary: the run's summary.
    """
    if summary.dominant is None:
        return []

    cause = summary.dominant.cause or summary.dominant.what
    found: list[Proposal] = []
    for propose in BY_CAUSE.get(cause, ()):
        found.extend(propose(plan, summary))
    return found


def figures(summary: Summary) -> dict[str, float]:
    """Return the times of a run in ms by name: of a step, or of each operation and size."""
    if summary.training is not None:
        return {"step": summary.training.mean_step_ms}
    if summary.loop is not None:
        return {"step": summary.loop.step_ms.median}

    times: dict[str, float] = {}
    for row in summary.collectives:
        times.setdefault(_name_of(row), row.time_us.median / 1000)
    return times


def main_figure(summary: Summary) -> JudgedTime | None:
    """Return the time of a step, or of the operation with the most time; None without either."""
    times = figures(summary)
    if "step" in times:
        return JudgedTime("step", times["step"])
    if not summary.collectives:
        return None

    name = _name_of(main_operation(summary.collectives))
    return JudgedTime(name, times[name])


def _name_of(row: CollectiveRow) -> str:
    """Return the name of a row, the same whatever the algorithm."""
    name = f"{row.op} of {format_size(row.bytes, 3)}" if row.bytes else row.op
    group = f" in {row.group_name}" if row.group_name else ""
    return f"{name}, {row.dtype}{group}"


def _keep_window(plan: Plan, summary: Summary) -> Proposals:
    del summary
    if plan.network.tcp.slow_start_after_idle:
        yield Proposal(
            {"topology.tcp.slow_start_after_idle": "false"},
            "TCP keeps its congestion window during pauses",
        )


def _larger_buffer(plan: Plan, summary: Summary) -> Proposals:
    del summary
    present = plan.network.tcp.buffer_bytes
    automatic = auto_tcp_buffer(plan.network)
    if present < automatic:
        yield Proposal(
            {"topology.tcp.buffer": "auto"},
            f"buffers of {format_size(automatic)} hold the bytes of a round trip, those of "
            f"{format_size(present)} do not",
        )
    elif present < MAX_TCP_BUFFER:
        larger = min(MAX_TCP_BUFFER, LONGER * present)
        yield Proposal(
            {"topology.tcp.buffer": format_size(larger)}, "more bytes can be on their way"
        )


def _bbr(plan: Plan, summary: Summary) -> Proposals:
    del summary
    if plan.network.tcp.congestion_control != "bbr":
        yield Proposal(
            {"topology.tcp.congestion_control": "bbr"},
            "BBR follows the measured rate, and does not halve its window at each loss",
        )


def _more_connections(plan: Plan, summary: Summary) -> Proposals:
    del summary
    settings = plan.workers.settings
    uses_gloo = plan.workers.workload == "collectives" and settings.get("algorithm") == GLOO
    if uses_gloo and settings.get("connections", 1) < CONNECTIONS:
        yield Proposal(
            {"workload.connections": str(CONNECTIONS)},
            "each connection has a separate window, and recovers separately from losses",
        )


def _longer_queue(plan: Plan, summary: Summary) -> Proposals:
    """Propose a longer queue for the link whose queues dropped most packets."""
    drops: Counter[str] = Counter()
    for row in summary.wan:
        drops[row.link] += row.drops or 0

    for link, dropped in drops.most_common(1):
        (planned,) = (wan for wan in plan.network.wan if wan.key == link)
        bottlenecks = [direction.bottleneck for direction in planned.directions]
        longest_ns = max(_queue_ns(bottleneck, plan.network.mtu) for bottleneck in bottlenecks)
        if dropped and longest_ns:
            yield Proposal(
                {f"topology.wan.{link}.queue": format_time(LONGER * longest_ns, 3)},
                f"the queues of {link} dropped {dropped} packets",
            )


def _queue_ns(bottleneck: Bottleneck, mtu: int) -> int:
    """Return the length of a queue as time at the bottleneck's rate in ns; 0 for a stall."""
    if not bottleneck.rate_bps:
        return 0
    return bottleneck.queue_packets * mtu * 8 * NS_PER_S // bottleneck.rate_bps


def _hierarchy(plan: Plan, summary: Summary) -> Proposals:
    """Propose stages inside and across datacenters, if a datacenter has several ranks."""
    ranks_of: Counter[str] = Counter()
    for rank in plan.workers.ranks:
        ranks_of[plan.network.host(rank.host).dc] += 1
    if len(ranks_of) < 2 or max(ranks_of.values()) < 2:
        return

    settings = plan.workers.settings
    why = "each datacenter sends over the WAN once, not each rank"
    if plan.workers.workload == "train" and settings.get("method") in ("ddp", "ddp-fp16"):
        yield Proposal({"workload.method": "hierarchical"}, why)

    is_flat = plan.workers.workload == "collectives" and settings.get("algorithm") == GLOO
    if not is_flat or settings.get("groups", "all") != "all":
        return

    known = collectives()
    possible = [op for op in settings["ops"] if known[op].hierarchical]
    if not any(row.op in possible for row in summary.collectives):
        return

    changes = {"workload.algorithm": "hierarchical"}
    if possible != list(settings["ops"]):
        changes["workload.ops"] = f"[{', '.join(possible)}]"
    yield Proposal(changes, why)


def _fewer_exchanges(plan: Plan, summary: Summary) -> Proposals:
    """Propose methods that exchange once in several steps, and stream the exchange."""
    del summary
    settings = plan.workers.settings
    if plan.workers.workload != "train":
        return

    method = settings.get("method")
    if method in EACH_STEP:
        period = _period(plan)
        yield Proposal(
            _method(DILOCO, plan, period), f"ranks exchange once in {period} steps, not in each"
        )
    if method in EACH_STEP or method in (DILOCO, "local-sgd"):
        period = max(2, _period(plan))
        yield Proposal(
            _method(STREAMING, plan, period),
            "parts of the model are exchanged in turn, while training continues",
        )


def _longer_overlap(plan: Plan, summary: Summary) -> Proposals:
    """Propose an overlap of streaming-diloco that hides a round trip, as far as periods allow."""
    from testbed.analysis.lower_bounds import longest_rtt_ns  # noqa: PLC0415 (imports numpy)

    del summary
    settings = plan.workers.settings
    if plan.workers.workload != "train" or settings.get("method") != STREAMING:
        return

    step_ns = settings["step_seconds"] * NS_PER_S
    rtt_ns = longest_rtt_ns(plan.network, plan.workers.ranks)
    longest = int(settings["sync_every"]) - 1
    overlap = min(longest, int(rtt_ns / step_ns) + 1) if step_ns else 0
    if overlap > settings["overlap"]:
        yield Proposal(
            {"workload.overlap": str(overlap)}, "exchanges have more time in the background"
        )


def _period(plan: Plan) -> int:
    """Return `sync_every`, or less if the run's steps after the warm-up hold no whole period."""
    settings = plan.workers.settings
    measured = int(settings["steps"]) - int(settings["warmup"])
    return max(1, min(int(settings["sync_every"]), measured))


def _method(method: str, plan: Plan, period: int) -> dict[str, str]:
    changes = {"workload.method": method}
    settings = plan.workers.settings
    if period != settings["sync_every"]:
        changes["workload.sync_every"] = str(period)
    if method == STREAMING and settings["fragments"] > period:
        changes["workload.fragments"] = str(period)
    if method == STREAMING and settings["overlap"] >= period:
        changes["workload.overlap"] = str(period - 1)
    return changes


Rule = Callable[[Plan, Summary], Proposals]
BY_CAUSE: Mapping[str, tuple[Rule, ...]] = {
    "idle-restart": (_keep_window, _fewer_exchanges),
    "slow-start": (_more_connections,),
    "window": (_bbr, _more_connections, _larger_buffer),
    "receive-window": (_larger_buffer,),
    "send-buffer": (_larger_buffer,),
    "loss": (_bbr, _more_connections),
    "drops": (_longer_queue, _bbr),
    "steps": (_hierarchy, _fewer_exchanges, _longer_overlap),
    "propagation": (_fewer_exchanges, _longer_overlap),
    "latency": (_hierarchy, _fewer_exchanges, _longer_overlap),
    "rate": (_hierarchy, _fewer_exchanges),
    "bandwidth": (_hierarchy, _fewer_exchanges),
}
