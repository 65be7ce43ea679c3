"""docs/captures.md: its examples run, and its tables list every column."""

import re
from pathlib import Path

import duckdb
import polars as pl
import pytest

from testbed.analysis.summarize import collect
from testbed.runfolder import schemas
from tests.support.synthetic import make_plan, two_dcs, write_run
from tests.unit.analysis.test_capture_tables import write_captures

TEXT = (Path(__file__).parents[3] / "docs/captures.md").read_text(encoding="utf-8")


def fence(language: str) -> str:
    match = re.search(rf"^```{language}\n(.*?)^```$", TEXT, flags=re.MULTILINE | re.DOTALL)
    assert match is not None
    return match[1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    plan = make_plan(two_dcs())
    run = write_run(tmp_path / "run", plan)
    write_captures(run, plan)
    collect(run)
    return run.path


def test_polars(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pl.Config(tbl_cols=-1, tbl_width_chars=300):
        exec(fence("python"), {"run": folder})
    printed = capsys.readouterr().out
    assert "shape: (2, 9)" in printed
    assert "east-west" in printed


def test_duckdb(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    rows = duckdb.sql(fence("sql")).fetchall()
    assert rows == [("east-west", "east", "west", "all_reduce", 4096, 4000)]


@pytest.mark.parametrize(
    ("title", "schema"),
    [
        ("flows.parquet", schemas.FLOWS),
        ("throughput.parquet", schemas.THROUGHPUT),
        ("flow_ops.parquet", schemas.FLOW_OPS),
    ],
)
def test_every_column_is_explained(title: str, schema: dict[str, object]) -> None:
    section = TEXT.split(f"## {title}\n")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    names: list[str] = []
    for row in rows:
        names += re.findall(r"`(\w+)`", row)
    assert names == list(schema)
