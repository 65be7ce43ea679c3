"""The judge of fidelity: what is within the limits is silent, what is beyond says what to do."""

import time
from pathlib import Path

import polars as pl
import pytest

from testbed.analysis.fidelity import Watched, judge, judge_watched
from testbed.analysis.link_samples import measured_rates
from testbed.analysis.network_history import History
from testbed.analysis.summarize import collect
from testbed.measure.clock_health import throttled_seconds, watching
from testbed.plan.model import Change, Plan, Tcp
from testbed.runfolder.folder import RunDir
from testbed.runfolder.problems import ProblemCode
from testbed.runfolder.records import (
    ClockHealth,
    FirstOperation,
    MemoryShortage,
    RoundTripRow,
    TimerLateness,
    append,
)
from testbed.runfolder.status import State, Status
from testbed.runfolder.summary import RateRow, Summary, WanRow
from tests.support.synthetic import make_plan, two_dcs, write_training_run

CALM = ClockHealth(
    seconds=10.0,
    late_us=TimerLateness(median=80.0, p99=900.0, max=5000.0, samples=500),
    throttled_s={"hosts/a": 0.1, "hosts/b": 0.0},
    backlog_drops=0,
    fibre_drops={},
)
QUIET = Watched(busy=0.5, steal=0.01)
Judged = list[tuple[ProblemCode, str]]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path / "run")


@pytest.fixture
def plan() -> Plan:
    return make_plan(two_dcs())


def judged(
    plan: Plan,
    run: RunDir,
    *,
    summary: Summary | None = None,
    state: State = "completed",
    reason: str = "",
    watched: Watched | None = QUIET,
) -> Judged:
    status = Status(state=state, reason=reason)
    problems = [] if watched is None else judge_watched(plan, run, watched)
    problems += judge(plan, run, summary or Summary(), status)
    return [(problem.code, problem.message) for problem in problems]


def on_the_real_clock(plan: Plan, run: RunDir, health: ClockHealth, watched: Watched) -> Judged:
    run.strain.write_text(health.to_line())
    return judged(plan.model_copy(update={"clock": "real"}), run, watched=watched)


def test_a_calm_machine(plan: Plan, run: RunDir) -> None:
    assert on_the_real_clock(plan, run, CALM, QUIET) == []


@pytest.mark.parametrize(
    ("change", "code", "text"),
    [
        (
            {"late_us": TimerLateness(median=80.0, p99=1100.0, max=5000.0)},
            ProblemCode.TIMERS_LATE,
            "one timer in a hundred was 1.1 ms late or more (limit 1 ms); use --clock virtual",
        ),
        (
            {"throttled_s": {"hosts/a": 0.1, "hosts/b": 0.5}},
            ProblemCode.HOST_THROTTLED,
            "the CPU limit throttled a host for 5% of the time; raise it with --cpus, or use",
        ),
        (
            {"backlog_drops": 3},
            ProblemCode.BACKLOG_DROPS,
            "3 packets were dropped because the kernel's backlog was full; use --clock virtual",
        ),
        (
            {"fibre_drops": {"w0b": 7}},
            ProblemCode.FIBRE_DROPS,
            "the fibre w0b dropped 7 packets, but models no loss; use --clock virtual",
        ),
    ],
)
def test_beyond_a_limit(
    plan: Plan, run: RunDir, change: dict[str, object], code: ProblemCode, text: str
) -> None:
    health = CALM.model_copy(update=change)
    ((found_code, message),) = on_the_real_clock(plan, run, health, QUIET)
    assert found_code is code
    assert text in message
    assert judged(plan, run) == []  # on the virtual clock there is no such limit


def test_cpu_and_steal(plan: Plan, run: RunDir) -> None:
    busy, steal = on_the_real_clock(plan, run, CALM, Watched(busy=0.75, steal=0.05))
    assert busy[0] is ProblemCode.CPU_BUSY
    assert "the CPU was the limit: it was busy or in demand for 75% of the time" in busy[1]
    assert steal[0] is ProblemCode.CPU_STEAL
    assert (
        "the host withheld the CPUs of this virtual machine for 5.0% of the time (steal); use "
        "--clock virtual" in steal[1]
    )


@pytest.mark.parametrize("text", [None, "", "[]", '{"seconds": 1.0}'])
def test_without_clock_health(plan: Plan, run: RunDir, text: str | None) -> None:
    if text is not None:
        run.strain.write_text(text)
    assert judged(plan.model_copy(update={"clock": "real"}), run) == []


def test_a_forced_clock(plan: Plan, run: RunDir) -> None:
    watched = Watched(forced_ns=2_500_000_000, spinner="python (pid 7) on east-0")
    ((code, message),) = judged(plan, run, watched=watched)
    assert code is ProblemCode.CLOCK_FORCED
    assert message.startswith("python (pid 7) on east-0 busy-waited for 10 s")
    assert message.endswith("the virtual clock was forced forward by 2500 ms")


def test_memory_that_ran_short(plan: Plan, run: RunDir) -> None:
    run.memory_shortage.write_text(MemoryShortage(hosts={"a-h0": 3, "b-h1": 4}).to_line())
    ((code, message),) = judged(plan, run)
    assert code is ProblemCode.MEMORY_SHORT
    assert message.startswith("the kernel had no memory for packets of a-h0, b-h1 (7 times); raise")
    assert "--guest-memory (it was " in message
    (problem,) = judged(plan.model_copy(update={"where": "here"}), run)
    assert problem[1].endswith("; free memory of this machine")


def test_events_that_did_not_happen(plan: Plan, run: RunDir) -> None:
    change = Change(at_ns=10**9, what=("east-west: down",))
    network = plan.network.model_copy(update={"changes": (change,)})
    eventful = plan.model_copy(update={"network": network})
    ((code, message),) = judged(eventful, run)
    assert code is ProblemCode.EVENTS_NOT_HAPPENED
    assert "the topology's events did not happen" in message
    append(run.events, FirstOperation(time_ns=1))
    assert judged(eventful, run) == []


def test_round_trips(plan: Plan, run: RunDir) -> None:
    right = RoundTripRow(
        source="east", target="west", rtt_ms_expected=20.0, rtt_ms_measured=20.004, ok=True
    )
    late = right.model_copy(update={"rtt_ms_measured": 25.5, "ok": False})
    silent = right.model_copy(update={"rtt_ms_measured": None, "ok": False})
    problems = judged(plan, run, summary=Summary(fidelity=[right, late, silent]))
    assert problems == [
        (
            ProblemCode.ROUND_TRIP,
            f"the RTT between east and west was {measured} ms before the run, "
            "but 20.000 ms in the plan",
        )
        for measured in (25.5, None)
    ]


def test_drops_with_offload(plan: Plan, run: RunDir) -> None:
    rows = [
        WanRow(source="a", target="b", bytes=1, rate_bps=1, mean_utilisation=None, drops=drops)
        for drops in (None, 3, 4)
    ]
    assert judged(plan, run, summary=Summary(wan=rows)) == []
    tcp = Tcp(buffer_bytes=1 << 26, packets_per_skb=40)
    network = plan.network.model_copy(update={"tcp": tcp})
    offloading = plan.model_copy(update={"network": network})
    ((code, message),) = judged(offloading, run, summary=Summary(wan=rows))
    assert code is ProblemCode.OFFLOAD_DROPS
    assert "WAN queues overflowed (7 drops)" in message


@pytest.mark.parametrize(("late_ms", "late"), [(1.1, False), (1.3, True)])
def test_late_computation(tmp_path: Path, plan: Plan, late_ms: float, late: bool) -> None:
    """A step has 60 ms of computation."""
    run = write_training_run(tmp_path / "train", plan, late_ms=late_ms)
    problems = judged(plan, run, summary=Summary(training=collect(run).training))
    assert [code for code, _message in problems] == [ProblemCode.COMPUTE_LATE] * late
    if late:
        assert "computing took 1.3 ms longer than the 60.0 ms of a step" in problems[0][1]


def test_an_incomplete_run(plan: Plan, run: RunDir) -> None:
    """It may have ended before anything was seen of its operations."""
    problems = judged(plan, run, state="failed", reason="rank 3 died\nof this", watched=None)
    assert problems == [(ProblemCode.INCOMPLETE, "the run did not complete: rank 3 died")]
    problems = judged(plan, run, state="interrupted", watched=None)
    assert problems == [(ProblemCode.INCOMPLETE, "the run did not complete: interrupted")]


def samples(
    part_of_rate: float, backlog: int, count: int = 20, step_s: float = 0.02
) -> pl.DataFrame:
    """Make samples of the one link of two datacenters, 1 Gbit/s each way."""
    rows: list[dict[str, object]] = []
    for number in range(count):
        elapsed_ns = number * step_s * 1e9
        for source, target in (("east", "west"), ("west", "east")):
            row = {
                "time_ns": int(elapsed_ns),
                "source": source,
                "target": target,
                "link": "east-west",
                "bytes": int(elapsed_ns / 8 * part_of_rate),
                "packets": 0,
                "drops": 0,
                "backlog_bytes": backlog,
            }
            rows.append(row)
    return pl.DataFrame(rows)


@pytest.mark.parametrize(("part", "ok"), [(1.0, True), (0.97, True), (0.93, False), (1.2, False)])
def test_a_full_link_has_its_rate(plan: Plan, run: RunDir, part: float, ok: bool) -> None:
    link = plan.network.wan[0]
    full = link.forward.bottleneck.queue_packets * plan.network.mtu
    scale = link.forward.bottleneck.rate_bps / 1e9
    rows = measured_rates(History((plan.network,)), samples(part * scale, full))
    assert [row.ok for row in rows] == [ok, ok]
    assert rows[0].rate_bps == pytest.approx(part * rows[0].planned_bps, rel=1e-3)
    assert rows[0].seconds == pytest.approx(19 * 0.02)
    problems = judged(plan, run, summary=Summary(rates=rows))
    assert [code for code, _message in problems] == [ProblemCode.RATE] * (0 if ok else 2)
    assert all("but the plan has" in message for _code, message in problems)


def test_an_empty_queue_says_nothing_about_the_rate(plan: Plan) -> None:
    history = History((plan.network,))

    def rates(*, backlog: int, count: int = 20, step_s: float = 0.02) -> list[RateRow]:
        return measured_rates(history, samples(0.5, backlog, count, step_s))

    full = plan.network.wan[0].forward.bottleneck.queue_packets * plan.network.mtu
    assert len(rates(backlog=full)) == 2
    assert rates(backlog=0) == []
    assert rates(backlog=full, count=3) == []  # too short
    assert rates(backlog=full, step_s=1.0) == []  # may have run empty between samples


def test_timers_are_timed(tmp_path: Path) -> None:
    with watching(tmp_path) as observations:
        time.sleep(0.5)
    record = observations.record({})
    late = record.late_us
    assert 10 <= late.samples <= 26
    assert 0 <= late.median <= late.p99 <= late.max
    assert record.seconds == pytest.approx(0.5, abs=0.2)


def test_hosts_that_were_held_back(tmp_path: Path) -> None:
    for name, limit, held in (("limited", "100000 100000", 250_000), ("free", "max 100000", 0)):
        (tmp_path / "hosts" / name).mkdir(parents=True)
        (tmp_path / "hosts" / name / "cpu.max").write_text(limit + "\n")
        (tmp_path / "hosts" / name / "cpu.stat").write_text(
            f"usage_usec 9\nnr_throttled 5\nthrottled_usec {held}\n"
        )
    assert throttled_seconds(tmp_path) == {"hosts/limited": 0.25}
