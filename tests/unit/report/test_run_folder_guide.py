"""docs/run-folder.md: its examples run, and it lists the columns that there are."""

import re
from pathlib import Path

import polars as pl
import pytest

from testbed.analysis.summarize import collect
from testbed.runfolder import schemas
from testbed.runfolder.problems import ProblemCode
from testbed.runfolder.schemas import Schema
from tests.support.synthetic import make_plan, three_dcs, write_training_run

GUIDE = (Path(__file__).parents[3] / "docs/run-folder.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
TYPES = {
    "text": pl.String,
    "int64": pl.Int64,
    "int32": pl.Int32,
    "float64": pl.Float64,
    "list of int64": pl.List(pl.Int64),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write_training_run(tmp_path_factory.mktemp("guide") / "run", make_plan(three_dcs()))
    for rank in run.read_plan().workers.ranks:
        path = run.rank_ops(rank.rank)
        path.write_text(path.read_text().replace('"train"', '"measure"'))
    collect(run)
    return run.path


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example(example: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exec(example, {"run": str(folder)})
    printed = capsys.readouterr().out
    assert "all_reduce" in printed or "east" in printed


@pytest.mark.parametrize("text", ["50.0", "6"])
def test_the_query_of_operations_is_right(
    text: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = next(example for example in EXAMPLES if "median(end_ns" in example)
    exec(example, {"run": str(folder)})
    assert text in capsys.readouterr().out  # ms, of 6 ranks


@pytest.mark.parametrize(
    ("table", "schema"),
    [
        ("ops", schemas.OPS),
        ("links", schemas.LINKS),
        ("train", schemas.TRAIN),
        ("gpu", schemas.GPU),
    ],
)
def test_columns(table: str, schema: Schema) -> None:
    section = GUIDE.partition(f"### {table}.parquet")[2].partition("\n#")[0]
    documented = {}
    row = re.compile(r"^\| ((?:`\w+`(?:, )?)+) \| *([\w ]*?) *\|", re.MULTILINE)
    for names, kind in row.findall(section):
        for name in re.findall(r"\w+", names):
            documented[name] = TYPES.get(kind)
    assert list(documented) == list(schema)
    assert all(kind in (None, schema[name]) for name, kind in documented.items())


def test_problem_codes() -> None:
    section = GUIDE.partition("### Problems and warnings")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `([\w-]+)` \|", section, re.MULTILINE) == list(ProblemCode)
