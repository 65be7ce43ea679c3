"""`testbed report` of a run folder of which a file is cut to half, emptied or removed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner, Result

from testbed.analysis.summarize import collect
from testbed.cli.main import app
from testbed.core.errors import InputError
from testbed.report.page import write_page
from testbed.runfolder.files import write_json
from testbed.runfolder.folder import RunDir
from tests.support.synthetic import make_plan, two_dcs, write_flows, write_run, write_training_run

PLAN = make_plan(two_dcs())
CAPTURE = RunDir(Path()).capture("east-west", "east").as_posix()
# Every file that a run leaves, and what the page says if it is damaged: nothing where the page
# can do without it or the report regenerates it.
FILES = {
    "plan.json": "",
    "spec.yaml": "spec.yaml",
    "status.json": "status.json",
    "ops.parquet": "",
    "links.parquet": "",
    "train.parquet": "",
    "summary.json": "",
    "trace.json": "",
    "report.html": "",
    CAPTURE: CAPTURE,
    "raw/ops-0.jsonl": "raw/ops-0.jsonl",
    "raw/links.jsonl": "raw/links.jsonl",
    "raw/train-1.jsonl": "raw/train-1.jsonl",
    "raw/fidelity.json": "raw/fidelity.json",
    "raw/events.jsonl": "raw/events.jsonl",
}


def cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2 - 3])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def remove(path: Path) -> None:
    path.unlink()


def report(folder: Path) -> Result:
    return CliRunner().invoke(app, ["report", str(folder)], catch_exceptions=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run of training with captures and every file, of which the report misses nothing."""
    run = write_training_run(tmp_path_factory.mktemp("whole") / "run", PLAN)
    assert report(run.path).exit_code == 0
    assert "Missing or damaged" not in run.report.read_text()
    for name in FILES:
        assert (run.path / name).stat().st_size > 10, name
    return run


@pytest.fixture
def run(whole: RunDir, tmp_path: Path) -> RunDir:
    return RunDir(shutil.copytree(whole.path, tmp_path / "run"))


@pytest.mark.parametrize("damage", [cut, empty, remove])
@pytest.mark.parametrize("name", [name for name in FILES if name != "plan.json"])
def test_the_page_names_what_is_missing(
    run: RunDir, name: str, damage: Callable[[Path], None]
) -> None:
    damage(run.path / name)
    run.report.unlink(missing_ok=True)
    result = report(run.path)
    assert result.exit_code == 0, result.output
    html = run.report.read_text()
    notice = html.partition("Missing or damaged in this run folder")[2].partition("</ul>")[0]
    if FILES[name]:
        assert FILES[name] in notice
    else:
        assert notice == ""
    assert (name == "raw/train-1.jsonl") or "figure-loss" in html
    assert "figure-ranks" in html


@pytest.mark.parametrize("damage", [cut, empty, remove])
def test_without_a_plan_nothing_is_changed(run: RunDir, damage: Callable[[Path], None]) -> None:
    """What was made before, when there was a plan, is better than what could be made now."""
    before = run.summary.read_text(), run.report.read_text()
    damage(run.plan)
    with pytest.raises(InputError, match=r"plan\.json"):
        report(run.path)
    assert (run.summary.read_text(), run.report.read_text()) == before


@pytest.mark.parametrize(
    "change",
    [
        {"warnings": 3},
        {"stages": [{"stage": "ops", "wall_seconds": "long", "emulated_seconds": None}]},
        {"stages": {"ops": 1}},
        {"command": 7, "wall_seconds": "long"},
        {"state": None, "faithful": "perhaps"},
    ],
)
def test_a_status_of_the_wrong_kind(run: RunDir, change: dict[str, Any]) -> None:
    write_json(run.status, json.loads(run.status.read_text()) | change)
    assert report(run.path).exit_code == 0
    assert "figure-ranks" in run.report.read_text()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("raw/fidelity.json", '[{"from": "east"}, 3]'),
        ("raw/fidelity.json", "{}"),
        ("raw/events.jsonl", '{"stage": 1}\n[]\n{"state": "end"}\n'),
        ("raw/ops-0.jsonl", '{"op": 1}\n3\n'),
        ("raw/train-0.jsonl", '{"step": 0, "loss": "low"}\n'),
        ("status.json", "[]"),
        ("raw/ops-0.jsonl", "\x00" * 100),
    ],
)
def test_records_of_the_wrong_kind(run: RunDir, name: str, text: str) -> None:
    (run.path / name).write_text(text)
    assert report(run.path).exit_code == 0
    assert run.report.is_file()


def test_a_loss_that_is_no_number(run: RunDir) -> None:
    path = run.rank_train(0)
    path.write_text(path.read_text().replace('"loss": 5.0', '"loss": "low"'))
    assert report(run.path).exit_code == 0
    assert "raw/train-0.jsonl: 1 records" in run.report.read_text()


@pytest.mark.parametrize("damage", [cut, empty])
def test_damaged_flows(run: RunDir, damage: Callable[[Path], None]) -> None:
    """The page alone; `testbed report` regenerates the table."""
    write_flows(run)
    damage(run.flows)
    html = write_page(run).read_text()
    assert "cannot read flows.parquet" in html
    assert (
        "This run folder has no valid flows.parquet; run `testbed report` to regenerate it from "
        "the captures." in html
    )


def test_tables_of_another_version(run: RunDir) -> None:
    """The page of a folder whose tables lack a column."""
    pl.read_parquet(run.ops).drop("end_ns").write_parquet(run.ops)
    pl.read_parquet(run.links).drop("drops").write_parquet(run.links)
    html = write_page(run).read_text()
    for name in ("ops.parquet", "links.parquet"):
        assert f"cannot read {name} (ColumnNotFoundError)" in html


def test_a_plan_without_a_path(tmp_path: Path) -> None:
    """Links that its routes do not know."""
    run = write_run(tmp_path / "run", PLAN)
    run.plan.write_text(run.plan.read_text().replace('"key":"east-west"', '"key":"west-east"'))
    assert report(run.path).exit_code == 0
    assert "plan.json has no path between two ranks" in run.report.read_text()


def test_a_run_that_was_killed(tmp_path: Path) -> None:
    """In its operations: no outcome, half a line, a capture without an end, no tables."""
    run = write_run(tmp_path / "run", PLAN)
    write_json(
        run.status, {"state": "running", "exit_status": None, "faithful": True, "warnings": []}
    )
    for path in (run.rank_ops(1), run.link_samples, run.path / CAPTURE):
        cut(path)
    run.events.write_text("".join(run.events.read_text().splitlines(keepends=True)[:5]))
    result = report(run.path)
    assert result.exit_code == 0
    html = run.report.read_text()
    for part in (
        "The run is still in progress, or was killed",
        "raw/ops-1.jsonl is damaged",
        "raw/links.jsonl is damaged",
        f"{CAPTURE} is truncated",
        "iterations lack the record of a rank",
        "figure-latency",
        "figure-ranks",
    ):
        assert part in html.replace("&#39;", "'"), part
    assert run.trace.is_file()


def test_an_empty_folder_with_a_plan(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run")
    run.plan.write_text(make_plan(two_dcs()).model_dump_json())
    assert report(run.path).exit_code == 0
    collect(run)
    assert "site-map" in run.report.read_text()


def test_texts_with_brackets_are_printed_as_they_are(run: RunDir) -> None:
    """gloo's errors name their file in brackets, which rich would take for markup."""
    status = json.loads(run.status.read_text())
    status |= {
        "state": "failed",
        "reason": "[/gloo/pair.cc:553] closed [bold]",
        "warnings": ["[/] [red]late"],
    }
    run.status.write_text(json.dumps(status))
    said = " ".join(report(run.path).output.split())
    assert "The run failed: [/gloo/pair.cc:553] closed [bold]." in said
    assert "timing unreliable: [/] [red]late" in said


def test_an_integer_beyond_64_bits(run: RunDir) -> None:
    """No table can hold it: the record is left out, and the page says so."""
    path = run.rank_ops(0)
    path.write_text(path.read_text().replace('"iteration": 0', f'"iteration": {10**40}', 1))
    assert report(run.path).exit_code == 0
    assert "raw/ops-0.jsonl: 1 records" in run.report.read_text()
