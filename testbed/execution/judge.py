"""Whether what a run measured is what its plan says."""

from __future__ import annotations

from testbed.analysis import fidelity
from testbed.analysis.verdict import INCOMPLETE
from testbed.execution.supervise import Watch
from testbed.plan.model import Plan
from testbed.runfolder.folder import RunDir
from testbed.runfolder.problems import Problem, ProblemCode
from testbed.runfolder.status import Status
from testbed.runfolder.summary import Summary

LATE = 0.02  # part of a step by which its computation may take longer than modelled


def judge(
    plan: Plan, run: RunDir, status: Status, summary: Summary, watch: Watch | None
) -> list[Problem]:
    """Give the reasons why a run is not faithful to its plan; none if it is.

    Args:
        plan: what was to be done.
        run: the run folder.
        status: how the run ended.
        summary: what was measured.
        watch: what was watched to the run's end; None if the run did not come to an end by itself.
    """
    doubts: list[Problem] = []

    def doubt(code: ProblemCode, message: str) -> None:
        doubts.append(Problem(code=code, message=message))

    if watch is not None and status.forced_ms:
        doubt(
            ProblemCode.CLOCK_FORCED,
            f"{watch.clock.spinner} computed or looped for 10 s without waiting for anything, "
            f"and so the clock was moved by {status.forced_ms:.0f} ms",
        )
    if watch is not None and plan.clock == "real":
        for message in fidelity.doubts(run, busy=watch.load.busy, steal=watch.load.steal):
            doubt(ProblemCode.UNKNOWN, message)
    if plan.network.changes and status.state == "completed" and run.began_ns() is None:
        doubt(
            ProblemCode.EVENTS_NOT_HAPPENED,
            "the topology's events did not happen, for they count from rank 0's first operation "
            "of torch.distributed, and there was none; with --events-from start they count from "
            "its start",
        )
    for trip in summary.fidelity:
        if not trip.ok:
            doubt(
                ProblemCode.ROUND_TRIP,
                f"the RTT between {trip.source} and {trip.target} was {trip.rtt_ms_measured} ms "
                f"before the run, planned are {trip.rtt_ms_expected:.3f} ms",
            )
    drops = sum(direction.drops or 0 for direction in summary.wan)
    if drops and plan.network.tcp.packets_per_skb > 1:
        doubt(
            ProblemCode.OFFLOAD_DROPS,
            f"WAN queues overflowed ({drops} drops) while segmentation offload kept packets "
            "together; use --set topology.tcp.offload=off",
        )
    for message in fidelity.rate_doubts([row.model_dump(by_alias=True) for row in summary.rates]):
        doubt(ProblemCode.RATE, message)
    training = summary.training
    if training is not None and training.late_ms > LATE * training.compute_ms:
        doubt(
            ProblemCode.COMPUTE_LATE,
            f"computing took {training.late_ms:.1f} ms longer than the "
            f"{training.compute_ms:.1f} ms of a step that were to be modelled: this CPU cannot "
            "keep up; use --clock virtual, or a longer step_time",
        )
    if status.state != "completed":
        reason = status.reason.splitlines()[0] if status.reason else status.state
        doubt(ProblemCode.INCOMPLETE, f"{INCOMPLETE}: {reason}")
    return doubts
