"""Judge whether a run matched its plan.

Checks of every run:

- the topology's events happened, if there are any and the run completed;
- the RTT between datacenters before the run was the planned RTT (`testbed.network.verify`);
- WAN queues did not overflow while segmentation offload kept packets together;
- computation took as long as modelled, within 2 % of a step;
- no operation took less than its lower bound (`testbed.analysis.lower_bounds`);
- the clock was not forced forward because a process was busy-waiting;
- the kernel had memory for all packets;
- no packet between guests took less time than its link;
- the records can be true (`testbed.analysis.plausibility`);
- the run completed.

Checks on the real clock, while the workload ran (docs/machines.md lists the limits too):

- CPU: busy or waited for (pressure stall information) at most 70 % of the time;
- steal time, which a virtual machine's host took for other work: at most 2 %;
- timers: 99 % of them at most 1 ms late;
- CPU limit of a host: throttled for at most 2 % of the time;
- packets dropped because the kernel's backlog was full: none;
- links without loss: no drops;
- a WAN direction whose queue never ran empty: sent at the planned rate within 5 %.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from testbed.core.units import format_rate, format_size, format_time
from testbed.plan.model import Plan
from testbed.runfolder.folder import RunDir
from testbed.runfolder.problems import Problem, ProblemCode
from testbed.runfolder.records import (
    ClockHealth,
    RoundTripRow,
    read_clock_health,
    read_memory_shortage,
)
from testbed.runfolder.status import Status
from testbed.runfolder.summary import (
    CollectiveRow,
    GuestRow,
    RateRow,
    Summary,
    TrainingSummary,
    WanRow,
)

BUSY = 0.7
STEAL = 0.02
LATE_US = 1000.0
HELD_BACK = 0.02
RATE_PART = 0.05
LATE_COMPUTE = 0.02  # share of a step by which computation may exceed the model
LONGEST_SAMPLE_S = 0.1  # in longer samples the queue may have run empty unnoticed
ADVICE = "use --clock virtual"
NO_EVENTS = (
    "the topology's events did not happen: event times count from rank 0's first "
    "torch.distributed operation, and none occurred; to count from its start, use --events-from "
    "start"
)


@dataclass(frozen=True)
class Watched:
    """Measurements of the clock and the machine while the operations of a completed run went on.

    Attributes:
        forced_ns: virtual time in ns by which the clock was forced forward.
        spinner: the busy-waiting process, described for people.
        busy: share of the time in which the CPU was used or waited for.
        steal: share of the CPU time that the machine's own host took.
    """

    forced_ns: int = 0
    spinner: str = ""
    busy: float = 0.0
    steal: float = 0.0


def judge_watched(plan: Plan, run: RunDir, watched: Watched) -> list[Problem]:
    """Return the reasons to distrust a run that can be observed only while the run goes on.

    Args:
        plan: the run's plan.
        run: the run folder.
        watched: measurements of the clock and the machine.
    """
    problems = list(_of_clock(watched))
    if plan.clock == "real":
        problems += _of_machine(watched)
        problems += _of_clock_health(read_clock_health(run.strain))
    return problems


def judge(plan: Plan, run: RunDir, summary: Summary, status: Status) -> list[Problem]:
    """Return the reasons in a run folder why a run is not faithful to its plan.

    Args:
        plan: the run's plan.
        run: the run folder.
        summary: the run's summary.
        status: the run's state and, if the run did not complete, the reason.

    Returns:
        A problem for each reason, without those of `judge_watched`.
    """
    problems: list[Problem] = []
    problems += _of_memory(run, plan)
    problems += _of_guests(summary.guests)
    if status.state == "completed" and plan.network.changes and run.began_ns() is None:
        problems.append(_problem(ProblemCode.EVENTS_NOT_HAPPENED, NO_EVENTS))

    problems += _of_round_trips(summary.fidelity)
    if plan.network.tcp.packets_per_skb > 1:
        problems += _of_offload(summary.wan)

    problems += _of_bounds(summary.collectives)
    problems += _of_rates(summary.rates)
    if summary.training is not None:
        problems += _of_computation(summary.training)
    if status.state != "completed":
        problems.append(_incomplete(status))

    return problems


def _problem(code: ProblemCode, message: str) -> Problem:
    return Problem(code=code, message=message)


def _of_guests(rows: list[GuestRow]) -> Iterator[Problem]:
    hasty = sum(row.hasty for row in rows)
    if hasty:
        message = (
            f"{hasty} packets between guests took less time than the least delay of their link; "
            "repeat the run with --guests 1"
        )
        yield _problem(ProblemCode.PACKETS_HASTY, message)


def _of_clock(watched: Watched) -> Iterator[Problem]:
    if watched.forced_ns:
        message = (
            f"{watched.spinner} busy-waited for 10 s; the virtual clock was forced forward "
            f"by {watched.forced_ns / 1e6:.0f} ms"
        )
        yield _problem(ProblemCode.CLOCK_FORCED, message)


def _of_memory(run: RunDir, plan: Plan) -> Iterator[Problem]:
    shortage = read_memory_shortage(run.memory_shortage)
    if shortage is None:
        return

    remedy = "free memory of this machine"
    if plan.where == "guest":
        remedy = (
            f"raise --guest-memory (it was {format_size(plan.guest_memory_bytes, 3)}), or use "
            "smaller queues"
        )

    hosts = ", ".join(shortage.hosts)
    times = sum(shortage.hosts.values())
    message = f"the kernel had no memory for packets of {hosts} ({times} times); {remedy}"
    yield _problem(ProblemCode.MEMORY_SHORT, message)


def _of_machine(watched: Watched) -> Iterator[Problem]:
    if watched.busy > BUSY:
        message = (
            f"the CPU was the limit: it was busy or in demand for {watched.busy:.0%} of the time "
            f"of the operations (more than {BUSY:.0%} distorts them); {ADVICE}"
        )
        yield _problem(ProblemCode.CPU_BUSY, message)

    if watched.steal > STEAL:
        message = (
            f"the host withheld the CPUs of this virtual machine for {watched.steal:.1%} of the "
            "time "
            f"(steal); {ADVICE}"
        )
        yield _problem(ProblemCode.CPU_STEAL, message)


def _of_clock_health(health: ClockHealth | None) -> Iterator[Problem]:
    if health is None:
        return

    if health.late_us.p99 > LATE_US:
        message = (
            f"one timer in a hundred was {health.late_us.p99 / 1000:.1f} ms late or more "
            f"(limit {LATE_US / 1000:.0f} ms); {ADVICE}"
        )
        yield _problem(ProblemCode.TIMERS_LATE, message)

    held_back = max(health.throttled_s.values(), default=0.0) / max(health.seconds, 1e-9)
    if held_back > HELD_BACK:
        message = (
            f"the CPU limit throttled a host for {held_back:.0%} of the time; "
            f"raise it with --cpus, or {ADVICE}"
        )
        yield _problem(ProblemCode.HOST_THROTTLED, message)

    if health.backlog_drops:
        message = (
            f"{health.backlog_drops} packets were dropped because the kernel's backlog was "
            f"full; {ADVICE}"
        )
        yield _problem(ProblemCode.BACKLOG_DROPS, message)

    for node, drops in health.fibre_drops.items():
        message = f"the fibre {node} dropped {drops} packets, but models no loss; {ADVICE}"
        yield _problem(ProblemCode.FIBRE_DROPS, message)


def _of_round_trips(rows: list[RoundTripRow]) -> Iterator[Problem]:
    for row in rows:
        if row.ok:
            continue

        expected = "unknown" if row.rtt_ms_expected is None else f"{row.rtt_ms_expected:.3f}"
        message = (
            f"the RTT between {row.source} and {row.target} was {row.rtt_ms_measured} ms "
            f"before the run, but {expected} ms in the plan"
        )
        yield _problem(ProblemCode.ROUND_TRIP, message)


def _of_offload(rows: list[WanRow]) -> Iterator[Problem]:
    drops = sum(row.drops or 0 for row in rows)
    if drops:
        message = (
            f"WAN queues overflowed ({drops} drops) while segmentation offload kept packets "
            "together; use --set topology.tcp.offload=off"
        )
        yield _problem(ProblemCode.OFFLOAD_DROPS, message)


def _of_bounds(rows: list[CollectiveRow]) -> Iterator[Problem]:
    for row in rows:
        if not row.below_bound or row.bound_us is None:
            continue

        least, bound = (format_time(round(1000 * us), 4) for us in (row.time_us.min, row.bound_us))
        message = (
            f"{row.op} of {format_size(row.bytes, 4)} among {row.ranks} ranks took {least}, less "
            f"than the {bound} that the topology allows: the emulated network was too fast; "
            "please report this"
        )
        yield _problem(ProblemCode.BELOW_BOUND, message)


def _of_rates(rows: list[RateRow]) -> Iterator[Problem]:
    for row in rows:
        if row.ok:
            continue

        rate, planned = format_rate(row.rate_bps, 3), format_rate(row.planned_bps, 3)
        message = (
            f"{row.source} sent to {row.target} at {rate} while its queue was not empty, "
            f"but the plan has {planned}; {ADVICE}"
        )
        yield _problem(ProblemCode.RATE, message)


def _of_computation(training: TrainingSummary) -> Iterator[Problem]:
    if training.late_ms > LATE_COMPUTE * training.compute_ms:
        message = (
            f"computing took {training.late_ms:.1f} ms longer than the "
            f"{training.compute_ms:.1f} ms of a step to model: this CPU cannot keep up;  "
            f"{ADVICE}, or a longer step_time"
        )
        yield _problem(ProblemCode.COMPUTE_LATE, message)


def _incomplete(status: Status) -> Problem:
    reason: str = status.state
    if status.reason:
        reason = status.reason.splitlines()[0]
    return _problem(ProblemCode.INCOMPLETE, f"the run did not complete: {reason}")
