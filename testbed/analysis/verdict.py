"""Summarize the outcome of a run in one sentence."""

from __future__ import annotations

from collections.abc import Sequence

from testbed.analysis.gpu_verdict import of_gpu_steps
from testbed.core.units import format_microseconds, format_share, format_size, format_time
from testbed.runfolder.status import Status
from testbed.runfolder.summary import (
    CollectiveRow,
    JobRow,
    LoopSummary,
    Summary,
    TrainingSummary,
    WanRow,
)

TITLES = {
    "latency": "Latency dominates",
    "bandwidth": "Bandwidth dominates",
    "window": "TCP's window dominates",
    "compute": "Computation dominates",
    "loss": "Lost packets dominate",
    "waiting": "Waiting for a late rank dominates",
    "rate": "Bandwidth dominates",
    "idle-restart": "TCP's congestion window after idle dominates",
    "slow-start": "TCP's slow start dominates",
    "receive-window": "TCP's receive window dominates",
    "send-buffer": "TCP's send buffer dominates",
    "drops": "Drops of full queues dominate",
    "steps": "Latency dominates, in one step after another",
    "propagation": "Latency dominates",
    "late-rank": "Waiting for a late rank dominates",
}
SHARED_TITLE = "Computation and waiting share the time"
MEANINGS = {
    "idle-restart": "After a pause of a retransmission timeout TCP sends slowly again, so each "
    "exchange begins with round trips in which little is sent. Messages without long pauses, or "
    "topology.tcp.slow_start_after_idle: false, would help; higher rates would not.",
    "slow-start": "TCP's congestion window grows for the first time: each round trip sends twice "
    "as much as the one before. Later operations on the same connections are faster.",
    "receive-window": "Senders wait because the receiver's window is full: the receiver reads too "
    "slowly, or its buffer is smaller than rate x round trip. A larger topology.tcp.buffer would "
    "help.",
    "send-buffer": "Senders wait for room in their own buffers, which are smaller than rate x "
    "round trip. A larger topology.tcp.buffer would help.",
    "loss": "Packets were lost, and TCP waits until it detects the loss, and sends less "
    "afterwards. Fewer losses, or more connections, would help.",
    "drops": "Queues were full and dropped packets; TCP waits until it detects the loss, and "
    "sends less afterwards. A longer queue or fewer senders at the same time would help.",
    "steps": "The algorithm sends one message after another, each with the delay of the path. "
    "Algorithms that cross the WAN less often would help; higher rates would not.",
    "propagation": "Most of the time passes while one exchange is in flight. Only a shorter path "
    "would help, or other work in the meantime.",
    "waiting": "Ranks wait for one that begins later.",
    "late-rank": "Ranks wait for one that begins later: it computes longer, or was delayed before.",
    "latency": "Most of the time passes while data are in flight and all ranks wait. Links with "
    "higher rates would not help. Fewer round trips would: fewer or larger messages, or "
    "algorithms that cross the WAN less often.",
    "bandwidth": "Most of the time goes into the transmission of bytes over a link or network card "
    "that is full. Higher rates or fewer bytes would help.",
    "window": "Senders stop because TCP limits the bytes in flight: the window is still growing, "
    "was cut by losses, or is limited by buffers. The links could carry more.",
    "compute": "Most of the time goes into the modelled computation; the network costs little.",
}
PERCENT = "\N{NO-BREAK SPACE}%"


def main_operation(rows: Sequence[CollectiveRow]) -> CollectiveRow:
    """Return the operation that took the most time; a barrier only without other operations.

    Raises:
        ValueError: `rows` is empty.
    """

    def importance(row: CollectiveRow) -> tuple[bool, float, int]:
        return row.bytes > 0, row.iterations * row.time_us.median, row.bytes

    return max(rows, key=importance)


def meaning(status: Status | None, summary: Summary) -> str | None:
    """Return an explanation of a completed run's dominant cause, or None without such a cause."""
    if status is None or status.state != "completed" or summary.dominant is None:
        return None
    dominant = summary.dominant
    if dominant.cause in MEANINGS:
        return MEANINGS[dominant.cause]
    return MEANINGS[dominant.what]


def verdict(status: Status | None, summary: Summary) -> str:
    """Return one sentence about how a run ended and the main figures of a completed run.

    Args:
        status: the run's status, or None if missing.
        summary: the run's summary.
    """
    if status is None:
        return "The run left no status: the run ended before testbed could record the outcome."
    if status.state == "running":
        return "The run is still in progress, or was killed; these are its results so far."
    if status.state == "completed":
        return _of_completed(summary)

    reason = (status.reason or "no reason was recorded").rstrip(".")
    verb = "was interrupted" if status.state == "interrupted" else status.state
    return f"The run {verb}: {reason}."


def loop_text(loop: LoopSummary) -> str:
    """Return one sentence about the steps of a script's loop."""
    operations = "1 operation" if loop.operations == 1 else f"{loop.operations} operations"
    step = format_microseconds(1000 * loop.step_ms.median)
    text = f"A step of {operations} takes {step} (median of {loop.steps} steps of rank {loop.rank})"
    if loop.communication is not None:
        text += f", of which {format_share(loop.communication)} is communication"

    return f"{text}."


def _of_completed(summary: Summary) -> str:
    wrong = sum(row.wrong or 0 for row in summary.collectives)
    if wrong:
        return (
            f"The run completed with {wrong} wrong values in the results of its collectives: "
            "do not use its figures."
        )

    if summary.jobs:
        return _of_jobs(summary.jobs)

    if summary.gpu is not None and summary.gpu.steps:
        return of_gpu_steps(summary.gpu)

    cause = summary.dominant
    if summary.training is not None:
        figures = _of_training(summary.training, with_share=cause is None)
    elif summary.collectives:
        figures = _of_collective(main_operation(summary.collectives))
    else:
        return "The run completed; it holds no measured collective."

    if cause is not None:
        title = SHARED_TITLE if cause.share is not None else TITLES[cause.cause or cause.what]
        return f"{title}: {figures}; {cause.why}."
    if summary.training is not None:
        figures = figures[0].upper() + figures[1:]

    return f"{figures}{_of_busiest(summary.wan)}."


def _of_jobs(rows: Sequence[JobRow]) -> str:
    number = "1 job ran" if len(rows) == 1 else f"{len(rows)} jobs ran at the same time"
    clauses: list[str] = []
    for row in rows:
        clause = f"{row.job} holds no measured operation"
        if row.seconds is not None:
            clause = f"{row.job} takes {format_time(round(1e9 * row.seconds), 4)}"
        if row.slowdown is not None:
            clause += f", {row.slowdown:.2f} times as long as alone"
        clauses.append(clause)
    return f"{number}: {'; '.join(clauses)}."


def _of_collective(row: CollectiveRow) -> str:
    time_us = row.time_us.median
    size = format_size(row.bytes, 3)
    text = f"{row.op} of {size} among {row.ranks} ranks takes {format_microseconds(time_us)}"
    if row.bound_us:
        times = f"{time_us / row.bound_us:.1f} times"
        text += (
            f", {times} the least that the topology allows ({format_microseconds(row.bound_us)})"
        )
    return text


def _of_training(training: TrainingSummary, *, with_share: bool) -> str:
    step = format_microseconds(1000 * training.mean_step_ms)
    text = f"a step of {training.method} takes {step} among {training.ranks} ranks"
    if training.period > 1 and training.periods:
        text += f", over whole periods of {training.period} steps"
    if with_share and training.compute_utilisation is not None:
        share = 100 * training.compute_utilisation
        text += f", of which {share:.0f}{PERCENT} is computation"

    if training.final_loss is not None:
        total_ns = round(1e9 * training.seconds)
        seconds = format_time(total_ns, 3)
        text += f"; the loss is {training.final_loss:.3f} after {seconds}"

    return text


def _of_busiest(rows: Sequence[WanRow]) -> str:
    busiest: WanRow | None = None
    most = -1.0
    for row in rows:
        utilisation = row.mean_utilisation
        if utilisation is not None and utilisation > most:
            busiest = row
            most = utilisation

    if busiest is None:
        return ""

    share = f"{100 * most:.0f}{PERCENT}"
    direction = f"{busiest.source} to {busiest.target}"
    return f"; the busiest WAN direction, {direction}, is {share} used on average over the run"
