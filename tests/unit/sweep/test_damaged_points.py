"""A complete point whose files are damaged: shown with the reason, and run again when asked for."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from testbed.cli.main import app
from testbed.core.errors import TestbedError
from testbed.sweep.folder import SweepDir
from testbed.sweep.outcome import Outcome
from testbed.sweep.outputs import write_outputs
from testbed.sweep.results import gather
from testbed.sweep.sweep_run import not_done
from tests.support.synthetic import write_sweep


def write(name: str, text: str) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        (run / name).write_text(text)

    return damage


def remove(name: str) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        (run / name).unlink()

    return damage


def enlarge(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    summary["wan"][0]["bytes"] = 10**30
    (run / "summary.json").write_text(json.dumps(summary))


DAMAGES = {
    "only a state": (write("point.json", '{"state": "completed"}'), "point.json is missing or dam"),
    "half a record": (
        write("point.json", '{"identity": "id1", "sta'),
        "point.json is missing or d",
    ),
    "no record": (remove("point.json"), "point.json is missing or damaged"),
    "another point's": (
        write("point.json", '{"identity": "id9", "name": "p9", "state": "completed"}'),
        "point.json is not that of this complete point",
    ),
    "half a summary": (
        write("summary.json", '{"collectives": [{"op": '),
        "cannot read summary.json",
    ),
    "no summary": (remove("summary.json"), "cannot read summary.json (FileNotFoundError)"),
    "a list": (write("summary.json", "[]"), "summary.json is not a JSON object"),
    "large number": (enlarge, "is out of range"),
    "no status": (remove("status.json"), "cannot read status.json"),
}


@dataclass
class Point:
    identity: str
    folder: str


@pytest.fixture
def sweep(tmp_path: Path) -> SweepDir:
    return write_sweep(tmp_path / "sweep")


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_point_is_shown_and_the_rest_works(sweep: SweepDir, name: str) -> None:
    damage, reason = DAMAGES[name]
    damage(sweep.points / "p1.id1")
    points, collectives = gather(sweep)
    assert points["state"].to_list() == ["completed", "damaged", "failed", "missing"]
    assert points["time_us"][0] is not None
    assert points["time_us"][1] is None
    assert reason in points["reason"][1]
    assert set(collectives["point"]) == {"p0", "p2"}
    outcome = Outcome.of(points.columns, points.rows())
    assert (outcome.completed, outcome.damaged) == (1, 1)
    assert "1 damaged" in outcome.sentence()
    with pytest.raises(TestbedError, match="--retry-damaged"):
        outcome.check_damaged()

    shown = CliRunner().invoke(app, ["sweep", "table", str(sweep.path)], catch_exceptions=False)
    assert shown.exit_code == 0
    assert "damaged" in shown.output
    write_outputs(sweep)
    assert reason.split(" (")[0] in sweep.page.read_text()


@pytest.mark.parametrize("name", [name for name in DAMAGES if name != "large number"])
def test_damaged_points_run_again_when_asked_for(sweep: SweepDir, name: str) -> None:
    points = [Point("id0", "p0.id0"), Point("id1", "p1.id1"), Point("id3", "p3.id3")]
    damage, _reason = DAMAGES[name]
    damage(sweep.points / "p1.id1")
    waiting = [point.identity for point in not_done(points, sweep, retry_damaged=False)]
    assert waiting == ["id3"]
    waiting = [point.identity for point in not_done(points, sweep, retry_damaged=True)]
    assert waiting == ["id1", "id3"]


def test_missing_folder_is_not_run_yet(sweep: SweepDir) -> None:
    shutil.rmtree(sweep.points / "p1.id1")
    points, _collectives = gather(sweep)
    assert points["state"].to_list() == ["completed", "missing", "failed", "missing"]
    shutil.rmtree(sweep.points)
    shutil.rmtree(sweep.failed)
    points, _collectives = gather(sweep)
    assert points["state"].to_list() == ["missing"] * 4
