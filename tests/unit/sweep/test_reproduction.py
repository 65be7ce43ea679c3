"""Published tables: their form, and measured values beside them."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from testbed.cli.main import app
from testbed.core.errors import InputError
from testbed.spec.experiment import Experiment
from testbed.spec.presets import PUBLISHED
from testbed.spec.published import Published
from testbed.sweep.folder import SweepDir
from testbed.sweep.points import plan_points
from testbed.sweep.reproduction import Score, reproduction, scored_errors
from tests.support.synthetic import write_sweep

TEXTS = {"title": "A table", "source": "a page", "setting": "machines", "protocol": "once"}


def published(**values: Any) -> Published:
    return Published.model_validate({**TEXTS, "op": "all_reduce", **values})


@pytest.fixture
def sweep(tmp_path: Path) -> SweepDir:
    """Two complete points whose all-reduces of 4 KiB and 1 MiB take 60 ms, and two others."""
    return write_sweep(tmp_path / "sweep")


def test_times_and_errors(sweep: SweepDir) -> None:
    table = published(times=[["50 ms", None], [None, "75 ms"], ["1 s", None], ["1 s", None]])
    found = reproduction("mine", table, sweep)
    assert [cell.measured for cell in found.cells] == [60e6, 60e6, None, None]
    assert found.errors == pytest.approx([0.2, -0.2])
    score = Score.of(found.errors)
    assert score is not None
    assert score.values == 2
    assert [score.mean, score.worst] == pytest.approx([0.2, 0.2])
    assert score.row() == ["2", "20.0 %", "+20.0 %"]
    assert found.rows()[0] == [
        "delay 1 ms, algorithm gloo, loss 0.1 %, sizes 4096",
        "4 KiB",
        "50 ms",
        "60 ms",
        "+20.0 %",
    ]
    assert found.rows()[2][-2:] == ["-", "-"]


def test_rates(sweep: SweepDir) -> None:
    """4096 bytes in 60 ms are 546.1 kbit/s."""
    table = published(
        rates=[["546133 bit/s", None], [None, None], ["1 Mbit/s", None], [None, None]]
    )
    found = reproduction("mine", table, sweep)
    assert len(found.cells) == 2
    assert found.errors == pytest.approx([0], abs=1e-5)


def test_tables_that_do_not_count(sweep: SweepDir) -> None:
    times = [["50 ms", None], [None, None], ["1 s", None], ["1 s", None]]
    counted = reproduction("mine", published(times=times), sweep)
    other = reproduction("other", published(times=times, not_counted="a guess"), sweep)
    assert scored_errors([counted, other]) == counted.errors == pytest.approx([0.2])
    assert Score.of([]) is None


@pytest.mark.parametrize(
    ("times", "what"),
    [
        ([["50 ms"]], "1 rows for 4 points"),
        ([["50 ms"]] * 4, "1 values for the 2 sizes of p0"),
    ],
)
def test_a_table_that_does_not_fit(sweep: SweepDir, times: list[list[str]], what: str) -> None:
    with pytest.raises(InputError, match=what):
        reproduction("mine", published(times=times), sweep)


def test_times_or_rates() -> None:
    with pytest.raises(ValueError, match="either times or rates"):
        published()


def test_presets_have_a_row_for_each_point() -> None:
    presets = PUBLISHED.presets()
    for preset in presets:
        experiment = Experiment.load(preset.path)
        assert experiment.name == preset.name
        assert experiment.published is not None
        assert len(experiment.published.values) == len(plan_points(experiment, {}))
    assert len(presets) == 6


def test_list_and_unknown_name() -> None:
    listed = CliRunner().invoke(app, ["reproduce"], catch_exceptions=False)
    assert "aws-messages" in listed.stdout
    with pytest.raises(InputError, match="no published table 'aws-mesages'"):
        CliRunner().invoke(app, ["reproduce", "aws-mesages"], catch_exceptions=False)
