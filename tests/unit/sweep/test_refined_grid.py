"""Points of an earlier grid, and the columns that figures may have."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from testbed.core.errors import InputError
from testbed.report.html import write_plotly
from testbed.spec.columns import measured_columns
from testbed.spec.experiment import Experiment
from testbed.sweep.folder import SweepDir
from testbed.sweep.index import IndexedPoint, SweepIndex
from testbed.sweep.outcome import Outcome
from testbed.sweep.page import write_page
from testbed.sweep.point_record import PointRecord
from testbed.sweep.results import gather


def point(delay: str, identity: str = "") -> IndexedPoint:
    values = {"delay": delay}
    return IndexedPoint(
        name=f"delay-{delay}", identity=identity or delay, values=values, repeat=0, seed=0
    )


@pytest.fixture
def folder(tmp_path: Path) -> SweepDir:
    """A sweep over 1 ms and 9 ms; both points are complete."""
    folder = SweepDir.create(tmp_path / "sweep")
    first = [point("1 ms"), point("9 ms")]
    folder.write_index(SweepIndex(name="mine", axes=["delay"], points=first))
    for each in first:
        record = PointRecord(identity=each.identity, name=each.name, state="completed")
        folder.settle(folder.running / each.name.replace(" ", ""), record)
    return folder


def test_points_of_the_earlier_grid_stay_and_are_marked(folder: SweepDir) -> None:
    refined = SweepIndex(name="mine", axes=["delay"], points=[point("1 ms"), point("5 ms")])
    index = folder.with_earlier_points(refined)
    folder.write_index(index)
    assert [each.name for each in index.planned] == ["delay-1 ms", "delay-5 ms"]

    tables = gather(folder)
    shown = tables.points.select("delay", "state", "in_grid").rows()
    assert shown == [
        ("1 ms", "completed", True),
        ("5 ms", "missing", True),
        ("9 ms", "completed", False),
    ]
    outcome = Outcome.of(tables.points.columns, tables.points.rows())
    assert (outcome.completed, outcome.total) == (1, 2)
    page = write_page(folder, tables.points, tables.collectives).read_text()
    assert page.count("not in the present grid") == 2  # the point's state, and the note

    back = SweepIndex(name="mine", axes=["delay"], points=[point("1 ms"), point("9 ms")])
    assert all(each.in_grid for each in folder.with_earlier_points(back).points)


def test_a_point_that_runs_again_is_not_kept(folder: SweepDir) -> None:
    newer = SweepIndex(name="mine", axes=["delay"], points=[point("1 ms", "new"), point("9 ms")])
    assert folder.with_earlier_points(newer).points == newer.points


def experiment(plot: str, head: str = "") -> str:
    return (
        f"topology: two-sites\nworkload: collectives\n{head}"
        "sweep:\n  grid:\n    topology.wan.iowa-ohio.delay: [1 ms, 5 ms]\n"
        f"plots:\n  - {plot}\n"
    )


@pytest.mark.parametrize(
    ("plot", "words"),
    [
        ("{x: dealy, y: time_us}", ["mine.yaml:7", "no column 'dealy'", "nearest: delay"]),
        ("{x: delay, y: time}", ["no column 'time'", "time_us"]),
        ("{x: delay, y: step_ms}", ["no column 'step_ms'"]),
        ("{x: delay, y: op}", ["the column 'op' holds no numbers"]),
        ("{x: delay, y: delay}", ["the column 'delay' holds no numbers"]),
        ("{x: delay, y: time_us, series: algo}", ["no column 'algo'"]),
        ("{x: delay, y: time_us, facet: rate}", ["no column 'rate'"]),
    ],
)
def test_a_wrong_column_is_refused_before_the_sweep(
    tmp_path: Path, plot: str, words: list[str]
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(experiment(plot))
    with pytest.raises(InputError) as caught:
        Experiment.load(path)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "plot",
    [
        "{x: delay, y: time_us}",
        "{x: delay_ns, y: busbw_gbytes, series: op, facet: bytes}",
        "{x: rtt_ms, y: wan_drops}",
        "{x: delay, y: delay_ns}",
    ],
)
def test_right_columns_are_accepted(tmp_path: Path, plot: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(experiment(plot))
    assert Experiment.load(path).plots


def test_the_time_to_a_loss_needs_a_target(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    text = experiment("{x: delay, y: time_to_loss_s}").replace("collectives", "train")
    path.write_text(text)
    with pytest.raises(InputError, match="no column 'time_to_loss_s'"):
        Experiment.load(path)
    path.write_text(text.replace("sweep:", "target_loss: 3.2\nsweep:", 1))
    assert Experiment.load(path).plots


def test_all_columns_of_a_table_are_known(folder: SweepDir) -> None:
    known, _numbers = measured_columns(["train"], has_target=True)
    axes = {"delay", "delay_ns"}
    for table in gather(folder):
        assert isinstance(table, pl.DataFrame)
        assert set(table.columns) <= axes | set(known)


def test_plotly_is_written_once(tmp_path: Path) -> None:
    path = tmp_path / "plotly.min.js"
    write_plotly(path)
    before = path.stat()
    assert before.st_size > 10**6
    write_plotly(path)
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert [each.name for each in tmp_path.iterdir()] == ["plotly.min.js"]
