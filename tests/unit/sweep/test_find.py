"""Searches whose runs are arithmetic: time = size / rate + delay, written as a run would."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import testbed
from testbed.core.errors import InputError, TestbedError
from testbed.core.units import parse_rate
from testbed.runfolder.folder import RunDir
from testbed.runfolder.status import Status, write_status
from testbed.runfolder.summary import CollectiveRow, Spread, Summary, write_summary
from testbed.spec.experiment import Experiment
from testbed.sweep.answers import Answer, FindResult, read_answers, write_answers
from testbed.sweep.find_run import FindRun, check_answers, new_finder
from testbed.sweep.folder import SweepDir
from testbed.sweep.index import SweepIndex
from testbed.sweep.outputs import write_outputs
from testbed.sweep.point_record import PointRecord
from testbed.sweep.points import PlannedPoint, PointPlanner
from testbed.sweep.progress import shown_by
from testbed.sweep.scheduler import Attempt, Finished
from testbed.sweep.sweep_run import SweepOptions

BITS = 8 * 2**20
DELAY_S = 0.01
RATE = "topology.wan.iowa-ohio.rate"
TimeOf = Callable[[float], float | None]


def time_s(rate_bps: float) -> float:
    return BITS / rate_bps + DELAY_S


def rises_twice(rate_bps: float) -> float:
    """Short between 200 and 500 Mbit/s, and above 5 Gbit/s."""
    return 0.01 if 2e8 < rate_bps < 5e8 or rate_bps > 5e9 else 0.05


class ArithmeticExecutor:
    """Ends each attempt at once with a run folder that holds a computed time."""

    def __init__(
        self, folder: SweepDir, time_of: TimeOf, factors: Sequence[float] = (1.0,)
    ) -> None:
        self.folder = folder
        self.time_of = time_of
        self.factors = factors  # on the time of each repeat
        self.ran: list[str] = []
        self.most_at_once = 0
        self._in_flight: list[Attempt] = []

    def start(self, points: Sequence[PlannedPoint]) -> int:
        return 4

    def has_room(self, point: PlannedPoint) -> bool:
        return len(self._in_flight) < 4

    def submit(self, attempt: Attempt) -> None:
        self._in_flight.append(attempt)
        self.most_at_once = max(self.most_at_once, len(self._in_flight))

    def wait(self, timeout_s: float) -> list[Finished]:
        attempt = self._in_flight.pop(0)
        point = attempt.point
        self.ran.append(point.name)
        run = RunDir(self.folder.running / point.folder)
        run.path.mkdir()
        seconds = self.time_of(parse_rate(point.point.values[RATE]))
        state = "failed" if seconds is None else "completed"
        write_status(run.status, Status(state="completed"))
        factor = self.factors[point.point.repeat]
        write_summary(run.summary, Summary(collectives=[row(factor * (seconds or 0.0))]))
        record = PointRecord(
            identity=point.identity,
            name=point.name,
            state="failed" if state == "failed" else "completed",
            reason="it broke" if seconds is None else "",
            faithful=True,
        )
        return [Finished(attempt, record, run.path)]

    def release_idle(self) -> None:
        raise AssertionError("a guest may be needed for the next point")

    def cancel(self) -> None:
        self._in_flight.clear()

    def close(self) -> None:
        pass


def row(seconds: float) -> CollectiveRow:
    us = 1e6 * seconds
    spread = Spread(min=us, median=us, p95=us, max=us)
    return CollectiveRow(
        op="all_reduce",
        bytes=2**20,
        ranks=2,
        iterations=1,
        time_us=spread,
        slowest_us=us,
        algbw_gbytes=1.0,
        busbw_gbytes=1.0,
    )


def experiment(**find: Any) -> Experiment:
    defaults = {"least": RATE, "such_that": "time <= 20 ms"}
    ends = {"between": ["100 Mbit/s", "10 Gbit/s"]}
    block = defaults | ends | find
    if "largest" in find:
        del block["least"]
    return Experiment.from_mapping({"topology": "two-sites", "find": block})


def carry_out(
    folder: SweepDir,
    asked: Experiment,
    monkeypatch: pytest.MonkeyPatch,
    time_of: TimeOf = time_s,
    factors: Sequence[float] = (1.0,),
) -> tuple[list[Answer], ArithmeticExecutor]:
    executor = ArithmeticExecutor(folder, time_of, factors)
    monkeypatch.setattr(FindRun, "new_executor", lambda self: executor)
    monkeypatch.setattr("testbed.sweep.sweep_run.write_outputs_in_fork", write_outputs)
    finder = new_finder(asked, PointPlanner(asked, {"testbed": "1"}, [], None))
    search = FindRun(asked, finder.begin(), folder, SweepOptions(), ["testbed"], finder)
    search.carry_out(shown_by(None), lambda rows: None)
    return search.answers, executor


@pytest.fixture
def folder(tmp_path: Path) -> SweepDir:
    return SweepDir.create(tmp_path / "search")


def test_the_least_rate(folder: SweepDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """8 Mibit in 20 ms, 10 of them delay: 839 Mbit/s, and the answer is at most 5 % above."""
    (answer,), executor = carry_out(folder, experiment(), monkeypatch)
    needed = BITS / 0.01
    assert (answer.state, answer.monotone, answer.notes) == ("found", True, [])
    assert needed <= parse_rate(answer.value) < 1.055 * needed
    assert parse_rate(answer.beyond) < needed
    assert answer.figures["time"] == pytest.approx(1e6 * time_s(parse_rate(answer.value)))
    assert answer.runs == len(executor.ran) <= 10  # 95 steps: both ends, seven halvings, a probe
    assert executor.most_at_once == 2
    sentence = answer.sentence()
    assert sentence.startswith(f"The least rate such that time <= 20 ms is {answer.value}: time ")
    assert f" at {answer.beyond} ({answer.runs} runs)." in sentence


def test_the_largest_rate(folder: SweepDir, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = experiment(largest=RATE, such_that="time >= 20 ms")
    (answer,), _executor = carry_out(folder, asked, monkeypatch)
    assert parse_rate(answer.value) <= BITS / 0.01 < parse_rate(answer.beyond)


def test_a_search_resumes_without_a_run(folder: SweepDir, monkeypatch: pytest.MonkeyPatch) -> None:
    before, executor = carry_out(folder, experiment(), monkeypatch)
    assert executor.ran
    after, executor = carry_out(folder, experiment(), monkeypatch)
    assert executor.ran == []
    assert after == before
    assert read_answers(folder.answers).answers == after


def test_half_a_search_resumes(folder: SweepDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger's end after three runs: the other runs follow, and no run is repeated."""
    count = 0

    def interrupted(rate_bps: float) -> float:
        nonlocal count
        count += 1
        if count > 3:
            raise KeyboardInterrupt
        return time_s(rate_bps)

    with pytest.raises(KeyboardInterrupt):
        carry_out(folder, experiment(), monkeypatch, interrupted)
    assert len(folder.done()) == 3
    (answer,), executor = carry_out(folder, experiment(), monkeypatch)
    assert answer.state == "found"
    assert len(executor.ran) == answer.runs - 3


def test_searches_share_points_and_run_in_parallel(
    folder: SweepDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = ["time <= 20 ms", "time <= 30 ms"]
    asked = experiment(**{"for": {"such_that": limits, "workload.iterations": [3, 4]}})
    answers, executor = carry_out(folder, asked, monkeypatch)
    assert [answer.such_that for answer in answers] == [[limit] for limit in [*limits, *limits]]
    assert [answer.values for answer in answers] == [{"iterations": n} for n in (3, 3, 4, 4)]
    assert parse_rate(answers[1].value) == pytest.approx(BITS / 0.02, rel=0.06)
    assert len(executor.ran) == len(set(executor.ran)) < sum(answer.runs for answer in answers)
    assert executor.most_at_once == 4
    index = folder.read_index()
    assert index.axes == ["iterations", "rate"]
    assert index.answers == [answer.sentence() for answer in answers]
    assert index.answers[0].startswith("With iterations 3, the least rate such that time <= 20 ms")
    page = folder.page.read_text()
    assert "With iterations 3, the least rate" in page
    assert 'id="1-time-against-rate"' in page


def test_points_of_a_sweep_are_not_repeated(
    folder: SweepDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second question uses the runs of the first one, whose points stay in the table."""
    first, _executor = carry_out(folder, experiment(), monkeypatch)
    again = experiment(such_that="time <= 25 ms")
    (answer,), executor = carry_out(folder, again, monkeypatch)
    assert len(executor.ran) < answer.runs
    names = {point.name for point in folder.read_index().points}
    assert len(names) == first[0].runs + len(executor.ran)


def test_no_value_and_every_value(folder: SweepDir, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = ["time < 5 ms", "time < 5 s"]
    asked = experiment(**{"for": {"such_that": limits}})
    (never, always), _executor = carry_out(folder, asked, monkeypatch)
    assert (never.state, never.value) == ("nowhere", None)
    assert "does not exist: time 10.84 ms at 10 Gbit/s, the end of" in never.sentence()
    assert (always.state, always.value, always.beyond) == ("everywhere", "100 Mbit/s", None)
    assert "is at most 100 Mbit/s, the end of the values to try" in always.sentence()


def test_a_condition_that_turns_twice_is_noticed(
    folder: SweepDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first middle, 1 Gbit/s, leads to 5 Gbit/s; the probe at 316 Mbit/s finds the rest."""
    (answer,), _executor = carry_out(folder, experiment(), monkeypatch, rises_twice)
    assert not answer.monotone
    assert 2e8 < parse_rate(answer.value) < 2.2e8
    assert "NOT MONOTONE: the condition holds at " in answer.sentence()


def test_a_figure_that_turns_is_noticed(folder: SweepDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """The condition turns once, but the time grows again from 3 Gbit/s on, below the limit."""

    def grows_again(rate_bps: float) -> float:
        return time_s(rate_bps) + (0.012 if rate_bps > 3e9 else 0.0)

    asked = experiment(such_that="time <= 40 ms")
    (answer,), _executor = carry_out(folder, asked, monkeypatch, grows_again)
    assert answer.monotone
    assert any(note.startswith("time is not monotone: ") for note in answer.notes)


def test_a_failed_run_ends_its_search_alone(
    folder: SweepDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(rate_bps: float) -> float | None:
        return None if 8e8 < rate_bps < 9e8 else time_s(rate_bps)

    asked = experiment(**{"for": {"such_that": ["time <= 20 ms", "time <= 60 ms"]}})
    (failed, found), _executor = carry_out(folder, asked, monkeypatch, breaks)
    assert (failed.state, found.state) == ("failed", "found")
    assert "gives no answer: it failed: it broke" in failed.notes[0]
    with pytest.raises(TestbedError, match="1 of 2 searches failed; the first: the run at 8"):
        check_answers([failed, found])


def test_a_missing_figure_is_said(folder: SweepDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of collectives has no utilisation: no false condition, but no answer."""
    asked = experiment(such_that="compute_utilisation >= 90 %")
    (answer,), executor = carry_out(folder, asked, monkeypatch)
    assert answer.state == "failed"
    assert "gives no answer: it has no compute_utilisation" in answer.notes[0]
    assert len(executor.ran) == 2


def test_from_python(folder: SweepDir, monkeypatch: pytest.MonkeyPatch) -> None:
    answers, _executor = carry_out(folder, experiment(), monkeypatch)
    found = testbed.open_find(folder.path)
    assert found.answers == answers
    assert str(found) == answers[0].sentence()
    assert found.table.row(0, named=True)["value"] == answers[0].value
    assert found.sweep.points.height == answers[0].runs
    assert "The least rate such that" in found._repr_html_()


def test_answers_of_a_strange_file(folder: SweepDir) -> None:
    """Unknown figures and markup are shown as they are written; damage is an error."""
    answer = Answer(
        goal="least",
        key=RATE,
        name="rate",
        such_that=["<b>speed</b> > 1"],
        state="found",
        value="1 Gbit/s",
        beyond="0.9 Gbit/s",
        figures={"<b>speed</b>": 2.0},
        figures_beyond={"<b>speed</b>": None},
    )
    write_answers(folder.answers, FindResult(name="mine", answers=[answer]))
    folder.write_index(SweepIndex(name="mine", answers=[answer.sentence()]))
    found = testbed.open_find(folder.path)
    assert "<b>speed</b> 2 there, <b>speed</b> - at 0.9 Gbit/s" in str(found)
    assert "<b>speed" not in found._repr_html_()
    write_outputs(folder)
    assert "<b>speed" not in folder.page.read_text()

    folder.answers.write_text("[]")
    with pytest.raises(InputError, match="is damaged, or written by another version"):
        str(testbed.open_find(folder.path))


def test_medians_of_repeats_decide(folder: SweepDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five runs of each value; two of them take 3 and 9 times as long. The median is that of a
    single run, so the answer is the same, in five times as many runs.
    """
    single, _executor = carry_out(folder, experiment(), monkeypatch)
    other = SweepDir.create(folder.path.parent / "repeated")
    asked = experiment(repeats=5, runs=100)
    factors = (9.0, 1.0, 1.001, 0.999, 3.0)
    (answer,), executor = carry_out(other, asked, monkeypatch, factors=factors)
    assert answer.value == single[0].value
    assert answer.beyond == single[0].beyond
    assert (answer.repeats, answer.runs) == (5, 5 * single[0].runs)
    assert len(executor.ran) == len(set(executor.ran)) == answer.runs
    figure, expected = answer.figures["time"], 1.001 * 1e6 * time_s(parse_rate(answer.value))
    assert figure == pytest.approx(expected)
    least, largest = answer.spread["time"]
    assert (least, largest) == pytest.approx((expected / 1.001 * 0.999, expected / 1.001 * 9))
    assert "ms to" in answer.sentence()


def test_a_bracket_within_the_noise(folder: SweepDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times differ by 10 %, and neighbouring rates are 5 % apart: runs at both ends disagree."""
    asked = experiment(repeats=3, runs=90)
    (answer,), _executor = carry_out(folder, asked, monkeypatch, factors=(0.9, 1.0, 1.1))
    assert answer.state == "found"
    (note,) = answer.notes
    assert note == (
        f"WITHIN THE NOISE: the condition holds in 2 of 3 runs at {answer.value} and in 1 of 3 "
        f"runs at {answer.beyond}"
    )


def test_a_bracket_outside_the_noise(folder: SweepDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the rates of the bracket, times differ by 5 % of a half, and repeats by a thousandth."""
    asked = experiment(repeats=3, runs=90)
    (answer,), _executor = carry_out(folder, asked, monkeypatch, factors=(0.999, 1.0, 1.001))
    assert answer.notes == []


def test_a_limit_of_runs_counts_repeats(folder: SweepDir, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = experiment(repeats=3, runs=14)
    (answer,), executor = carry_out(folder, asked, monkeypatch, factors=(1.0, 1.0, 1.0))
    assert (answer.state, answer.runs, len(executor.ran)) == ("open", 12, 12)


def test_repeats_resume(folder: SweepDir, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = experiment(repeats=2, runs=60)
    first, _executor = carry_out(folder, asked, monkeypatch, factors=(1.0, 1.2))
    again, executor = carry_out(folder, asked, monkeypatch, factors=(1.0, 1.2))
    assert executor.ran == []
    assert again == first


def test_too_few_runs_for_repeats() -> None:
    with pytest.raises(InputError, match="runs: 7 is less than 8, which 4 repeats need"):
        experiment(repeats=4, runs=7)
