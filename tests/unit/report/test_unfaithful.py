"""A run that is not faithful is marked wherever a person or a program reads its figures."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner, Result

import testbed
from testbed.analysis.summarize import collect
from testbed.cli.main import app
from testbed.report.compare_page import Side, compare_page, draw_comparison
from testbed.report.figures.common import HOLLOW, UNFAITHFUL
from testbed.report.load import load
from testbed.report.paper.draw import draw_on_paper
from testbed.report.paper.style import paper_style
from testbed.runfolder.folder import RunDir
from testbed.runfolder.problems import DOUBTS, Problem, ProblemCode
from testbed.runfolder.status import Status, read_status, write_status
from testbed.sweep.figures import draw
from testbed.sweep.folder import SweepDir
from testbed.sweep.outcome import Outcome
from testbed.sweep.page import write_page
from testbed.sweep.plots import SweepPlot
from testbed.sweep.point_record import PointRecord
from testbed.sweep.progress import PointProgress
from testbed.sweep.results import gather
from tests.support.synthetic import make_plan, two_dcs, write_run, write_sweep

FORCED = Problem(code=ProblemCode.CLOCK_FORCED, message="python3 busy-waited for 10 s")
DOUBT = "a process busy-waited"
HEADLINE = f"1 of 4 points is NOT FAITHFUL: {DOUBT} (1)"
COUNTS = "2 of 4 points are complete, 1 failed, 1 not run yet"


def judge(run: RunDir, *warnings: Problem) -> None:
    status, _problems = read_status(run.status)
    assert status is not None
    write_status(
        run.status, status.model_copy(update={"faithful": False, "warnings": list(warnings)})
    )


@pytest.fixture
def sweep(tmp_path: Path) -> SweepDir:
    """Two complete points, of which the second is not faithful, a failed and a missing one."""
    folder = write_sweep(tmp_path / "sweep")
    judge(RunDir(folder.points / "p1.id1"), FORCED)
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> list[RunDir]:
    """A faithful run and one that is not."""
    folders = [write_run(tmp_path / name, make_plan(two_dcs())) for name in ("good", "bad")]
    for folder in folders:
        collect(folder)
    judge(folders[1], FORCED)
    return folders


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


def last_line(text: str) -> str:
    return text.rstrip().splitlines()[-1]


def test_every_reason_has_a_phrase() -> None:
    """Each code after `incomplete` is a reason why a run is not faithful."""
    codes = list(ProblemCode)
    assert set(DOUBTS) == set(codes[codes.index(ProblemCode.INCOMPLETE) :])


def test_the_status_names_its_doubts_once() -> None:
    capture = Problem(code=ProblemCode.CAPTURE, message="truncated")
    status = Status(state="completed", faithful=False, warnings=[FORCED, FORCED, capture])
    assert status.misleads
    assert status.doubts == [DOUBT]
    assert not Status(state="failed", faithful=False).misleads
    assert Status(state="completed", warnings=[capture]).doubts == []


def test_tables_and_counts_of_a_sweep(sweep: SweepDir) -> None:
    points, collectives = gather(sweep)
    assert points["faithful"].to_list() == [True, False, True, None]
    assert points["doubts"].to_list() == [None, DOUBT, None, None]
    assert set(collectives.filter(pl.col("point") == "p1")["faithful"]) == {False}
    outcome = Outcome.of(points.columns, points.rows())
    assert (outcome.unfaithful, outcome.doubts) == (1, {DOUBT: 1})
    assert outcome.sentence() == f"{HEADLINE} ({COUNTS})"
    with pytest.raises(testbed.Unfaithful, match="NOT FAITHFUL"):
        outcome.check_faithful()
    assert testbed.Unfaithful.exit_status == 5


def test_a_faithful_sweep_says_nothing(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep")
    printed = call("sweep", "report", folder.path).stdout
    assert last_line(printed) == COUNTS
    assert "FAITHFUL" not in printed
    assert "doubts" not in printed
    assert "FAITHFUL" not in folder.page.read_text()


@pytest.mark.parametrize("words", [["table"], ["report"]])
def test_first_and_last_line_of_a_sweep(sweep: SweepDir, words: list[str]) -> None:
    printed = call("sweep", *words, sweep.path).stdout
    assert printed.splitlines()[0] == HEADLINE
    assert last_line(printed) == f"{HEADLINE} ({COUNTS})"
    lines = printed.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("20 ms"))
    assert "NO" in lines[first]
    below = " ".join(lines[first:-1])  # the column is narrow: one word a line
    assert DOUBT.split()[1] in below


def test_a_sweep_as_csv_and_json(sweep: SweepDir) -> None:
    result = call("sweep", "table", sweep.path, "-f", "csv")
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [(row["faithful"], row["doubts"]) for row in rows[:2]] == [
        ("True", ""),
        ("False", DOUBT),
    ]
    assert HEADLINE in result.stderr
    rows = json.loads(call("sweep", "table", sweep.path, "-f", "json").stdout)
    assert [row["faithful"] for row in rows] == [True, False, True, None]


def test_page_of_a_sweep(sweep: SweepDir) -> None:
    page = write_page(sweep, *gather(sweep)).read_text()
    assert HEADLINE in page
    assert "completed, not faithful" in page
    assert "Hollow: points that are not faithful." in page


def test_hollow_markers_of_a_sweep(sweep: SweepDir) -> None:
    points, collectives = gather(sweep)
    figure = draw(SweepPlot("delay", "time_us", "algorithm"), points, collectives)
    assert figure is not None
    assert list(figure.data[0].marker.symbol) == ["circle", HOLLOW]
    assert [trace.name for trace in figure.data] == ["gloo", "gloo, bound", UNFAITHFUL]
    with paper_style():
        paper = draw_on_paper(figure, "single")
    hollow = [line for line in paper.axes[0].lines if line.get_markerfacecolor() == "white"]
    assert [np.asarray(line.get_xdata()).tolist() for line in hollow] == [[20e6]]
    assert [text.get_text() for text in paper.legends[0].get_texts()] == [
        "gloo",
        UNFAITHFUL,
        "bound",
    ]


def test_texts_on_the_axis_have_no_place_for_the_legend(sweep: SweepDir) -> None:
    points, collectives = gather(sweep)
    figure = draw(SweepPlot("sizes", "time_us"), points, collectives)
    assert figure is not None
    with paper_style():
        paper = draw_on_paper(figure, "single")
    assert [text.get_text() for text in paper.axes[0].get_xticklabels()] == ["[4096]"]


def test_asterisks_of_a_heat_map(sweep: SweepDir) -> None:
    points, collectives = gather(sweep)
    figure = draw(SweepPlot("delay", "time_us", "algorithm", heat=True), points, collectives)
    assert figure is not None
    good, bad = figure.data[0].text[0]
    assert bad == good.replace("60", "60 *")
    with paper_style():
        paper = draw_on_paper(figure, "single")
    assert [text.get_text() for text in paper.legends[0].get_texts()] == [f"* {UNFAITHFUL}"]


def test_progress_of_a_point() -> None:
    record = PointRecord(
        identity="a", name="a", state="completed", faithful=False, doubts=[DOUBT], wall_seconds=3
    )
    progress = PointProgress(
        "a", "completed", done=1, failed=0, total=2, seconds=3, doubts=record.shown_doubts
    )
    assert str(progress) == f"[1/2] a: done in 3 s, NOT FAITHFUL: {DOUBT}"


def test_a_sweep_from_python(sweep: SweepDir) -> None:
    opened = testbed.open_sweep(sweep.path)
    assert opened.unfaithful == ["p1"]
    assert repr(opened) == f"Sweep({str(sweep.path)!r}, {HEADLINE})"
    assert HEADLINE in opened._repr_html_()
    with pytest.raises(testbed.Unfaithful):
        opened.check_faithful()


def test_a_run_from_python(runs: list[RunDir]) -> None:
    good, bad = (testbed.open_run(run.path) for run in runs)
    assert (good.faithful, bad.faithful) == (True, False)
    assert "FAITHFUL" not in repr(good) + good._repr_html_()
    assert repr(bad) == f"Run({str(bad.path)!r}, NOT FAITHFUL: {DOUBT})"
    assert f"NOT FAITHFUL: {DOUBT}" in bad._repr_html_()
    good.check_faithful()
    with pytest.raises(testbed.Unfaithful, match="python3 busy-waited for 10 s"):
        bad.check_faithful()


def test_first_and_last_line_of_a_run(runs: list[RunDir]) -> None:
    good, bad = runs
    assert "FAITHFUL" not in call("report", good.path).stdout
    judge(bad, FORCED)
    lines = call("report", bad.path).stdout.splitlines()
    warning = f"NOT FAITHFUL: this run did not behave as planned ({DOUBT}); do not trust its times"
    assert (lines[0], lines[-1]) == (warning, warning)
    rows = csv.DictReader(io.StringIO(call("report", bad.path, "-f", "csv").stdout))
    assert {row["faithful"] for row in rows} == {f"NO: {DOUBT}"}


def test_compared_runs(runs: list[RunDir]) -> None:
    good, bad = (run.path for run in runs)
    lines = call("compare", good, bad).stdout.splitlines()
    warning = f"NOT FAITHFUL: bad did not behave as planned ({DOUBT}); do not trust its times"
    assert (lines[0], lines[-1]) == (warning, warning)
    row = next(line for line in lines if line.startswith("faithful"))
    assert row.split()[1:3] == ["yes", "NO:"]
    result = call("compare", good, bad, "-f", "json")
    document = json.loads(result.stdout)
    assert (document["faithful"], document["doubts"]) == ([True, False], [[], [DOUBT]])
    assert warning in result.stderr
    assert f"faithful,yes,NO: {DOUBT}" in call("compare", good, bad, "-f", "csv").stdout


def test_figures_and_page_of_compared_runs(runs: list[RunDir]) -> None:
    sides = [Side(run.path.name, load(run), {}) for run in runs]
    figure = draw_comparison(sides)["latency"]
    assert figure is not None
    symbols = {trace.name: trace.marker.symbol for trace in figure.data}
    assert symbols["good: all_reduce"] == ("circle", "circle")
    assert symbols["bad (not faithful): all_reduce"] == (HOLLOW, HOLLOW)
    assert UNFAITHFUL in symbols
    page = compare_page(sides).decode()
    assert f"bad: NO: {DOUBT}" in page
