"""How many guests a sweep runs side by side, on which CPUs, and what it says about time."""

import os
from pathlib import Path

import pytest

from testbed.cli.sweep_display import SweepDisplay
from testbed.core.errors import InputError
from testbed.spec.experiment import Experiment
from testbed.sweep.local_executor import Capacity, capacity, side_by_side
from testbed.sweep.point_record import PointRecord
from testbed.sweep.points import PlannedPoint, plan_points
from testbed.sweep.progress import duration
from testbed.sweep.scheduler import estimated_seconds


@pytest.fixture
def points(tmp_path: Path) -> list[PlannedPoint]:
    path = tmp_path / "mine.yaml"
    path.write_text("topology: two-sites\nsweep: {grid: {workload.iterations: [1, 2, 3]}}\n")
    return plan_points(Experiment.load(path), {})


def test_guests_fit_the_memory(points: list[PlannedPoint]) -> None:
    need = points[0].memory_bytes
    assert need > points[0].plan.guest_memory_bytes
    assert side_by_side(points, Capacity(jobs=8, memory_bytes=10 * need)) == 3
    assert side_by_side(points, Capacity(jobs=2, memory_bytes=10 * need)) == 2
    assert side_by_side(points, Capacity(jobs=8, memory_bytes=2 * need + 1)) == 2
    with pytest.raises(InputError, match=r"iterations-1 needs .* of memory"):
        side_by_side(points, Capacity(jobs=8, memory_bytes=need - 1))


def test_capacity() -> None:
    assert capacity(None).jobs == len(os.sched_getaffinity(0))
    assert capacity(5).jobs == 5
    assert 0 < capacity(5).memory_bytes < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_display(points: list[PlannedPoint], capsys: pytest.CaptureFixture[str]) -> None:
    display = SweepDisplay(total=5, done=1, live=None)
    display.jobs = 2
    display.started(points[0], 1)
    display.started(points[1], 1)
    assert "1 of 5 done, 0 failed, 2 running" in display.status()
    completed = PointRecord(identity="a", name=points[0].name, state="completed", wall_seconds=100)
    display.ended(points[0], completed, False)
    failed = PointRecord(identity="b", name=points[1].name, state="failed", reason="it broke\nhere")
    display.ended(points[1], failed, True)
    status = display.status()
    assert "2 of 5 done, 0 failed, 0 running" in status
    assert "about 2:30 min left" in status  # 3 points of 100 s, two at a time
    assert "slowest: iterations-1 (1:40 min)" in status
    display.ended(points[1], failed, False)
    assert "1 failed" in display.status()
    said = capsys.readouterr().err
    assert "iterations-1: done in 1:40 min" in said
    assert "iterations-2: failed, retrying: it broke\n" in said


def test_estimates() -> None:
    assert estimated_seconds({}, 4, 2) is None
    assert estimated_seconds({"a": 10, "b": 20}, 4, 2) == 30
    assert [duration(seconds) for seconds in (4.4, 59.7, 61, 3600, 9000)] == [
        "4 s",
        "60 s",
        "1:01 min",
        "1:00 h",
        "2:30 h",
    ]
