"""Run folders of other versions: format 2 (testbed 0.1.0) is read, a newer one is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from testbed.cli.main import app
from testbed.core.errors import InputError
from testbed.plan.model import FORMAT
from testbed.report.page import write_page
from testbed.runfolder.folder import RunDir
from testbed.runfolder.problems import Problem, ProblemCode
from testbed.runfolder.status import read_status
from testbed.runfolder.summary import Summary, read_summary

# A run of testbed 0.1.0: an all-reduce of 1 MiB over a link with losses; its link samples are
# thinned out, and tables and page are left out.
STORED = Path(__file__).parent / "data/format-2"


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(shutil.copytree(STORED, tmp_path / "run"))


def report(run: RunDir, *options: str) -> str:
    result = CliRunner().invoke(app, ["report", str(run.path), *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def without_empty(value: Any) -> Any:
    """Leave out null fields, which format 2 leaves out, and the number of the format."""
    if isinstance(value, list):
        return [without_empty(item) for item in value]
    if not isinstance(value, dict):
        return value
    kept: dict[str, Any] = {}
    for key, item in value.items():
        if item is not None and key != "format":
            kept[key] = without_empty(item)
    return kept


def test_the_stored_folder_has_format_2() -> None:
    assert json.loads((STORED / "plan.json").read_text())["format"] == 2
    assert "format" not in json.loads((STORED / "summary.json").read_text())


def test_its_figures_are_those_of_its_version(run: RunDir) -> None:
    before = json.loads(run.summary.read_text())
    report(run)
    after = json.loads(run.summary.read_text())
    assert after["format"] == FORMAT
    # Version 0.1.0 divided the bytes of the whole run by the capacity of the operations' time.
    for row_before, row in zip(before["wan"], after["wan"], strict=True):
        assert 0 < row.pop("mean_utilisation") < row_before.pop("mean_utilisation")

    assert after.pop("messages") == []
    assert after.pop("guests") == []
    before_collectives, collectives = before.pop("collectives"), after.pop("collectives")
    assert without_empty(after) == without_empty(before)
    for row_before, row in zip(before_collectives, collectives, strict=True):
        assert row.items() >= without_empty(row_before).items()
        assert (row["settled"], row["below_bound"], row["group_ranks"]) == ("trend", False, [])


def test_its_page_and_tables(run: RunDir) -> None:
    output = report(run)
    assert "Latency dominates: all_reduce of 1 MiB among 4 ranks takes 148.2 ms" in output
    html = run.report.read_text()
    assert "Missing or damaged" not in html
    for part in ("Latency dominates", "faithful timing", "figure-ranks", "figure-latency"):
        assert part in html
    assert "testbed run two-sites collectives" in html


def test_its_summary_and_status_without_a_report(run: RunDir) -> None:
    summary, problems = read_summary(run.summary)
    assert problems == []
    assert summary.collectives[0].slowest_us == 181105.152
    status, problems = read_status(run.status)
    assert problems == []
    assert status is not None
    assert (status.state, status.faithful, status.wall_seconds) == ("completed", True, 2.819)
    write_page(run)
    assert "148" in run.report.read_text()


def test_its_warnings_and_problems_are_texts(run: RunDir) -> None:
    late = "one timer in a hundred was 1.1 ms late or more (limit 1 ms); use --clock virtual"
    change(run.status, warnings=[late], faithful=False)
    change(run.summary, problems=["raw/ops-3.jsonl is missing"])
    status, _problems = read_status(run.status)
    summary, _problems = read_summary(run.summary)
    assert status is not None
    assert status.warnings == [Problem(code=ProblemCode.UNKNOWN, message=late)]
    missing = Problem(code=ProblemCode.UNKNOWN, message="raw/ops-3.jsonl is missing")
    assert summary.problems == [missing]
    assert f"timing unreliable: {late}" in report(run)
    assert late in run.report.read_text()


def test_what_is_written_is_read(run: RunDir) -> None:
    report(run)
    summary, problems = read_summary(run.summary)
    assert (summary.format, problems) == (FORMAT, [])
    assert summary == Summary.model_validate_json(run.summary.read_text())


def test_a_newer_format_is_refused(run: RunDir) -> None:
    change(run.plan, format=FORMAT + 1, unheard_of=1)
    before = run.summary.read_text()
    message = (
        f"has run folder format {FORMAT + 1}, but .* reads formats up to {FORMAT}\n  install the"
    )
    with pytest.raises(InputError, match=message):
        report(run)
    assert run.summary.read_text() == before


def test_a_damaged_number_is_not_refused_as_newer(run: RunDir) -> None:
    change(run.plan, format="three")
    assert RunDir.open(run.path).path == run.path
    with pytest.raises(InputError, match=r"cannot read .*plan\.json: damaged"):
        report(run)
