"""Repeats published measurements with one setting for each study (`experiments/published`).

docs/accuracy.md names the errors and what is known of their causes. The published values are means
of ten measurements on machines that share their hosts: values of one study that should be equal
differ by 3 % (all-reduces of 128 and 256 MiB, per byte, among eight machines).
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from testbed.spec.experiment import Experiment
from testbed.spec.presets import PUBLISHED

Command = Callable[..., Any]
Errors = dict[str, list[float]]  # by table

LONGEST_S = 3600  # of wall time for a table; they take 1 to 10 minutes on two cores
WORST_TOLERANCE = 0.06
MEAN_TOLERANCE = 0.02  # of all tables that count

pytestmark = pytest.mark.proof


def counted_tables() -> list[str]:
    """The names of the tables that count."""
    names: list[str] = []
    for preset in PUBLISHED.presets():
        published = Experiment.load(preset.path).published
        assert published is not None
        if published.not_counted is None:
            names.append(preset.name)
    return names


@pytest.fixture(scope="module")
def errors() -> Errors:
    """The errors of the tables that have been repeated."""
    return {}


@pytest.mark.parametrize("name", counted_tables())
def test_table(name: str, command: Command, errors: Errors, tmp_path: Path) -> None:
    """Every value within 6 %."""
    words = ("reproduce", name, "--out", tmp_path, "--format", "json")
    rows = json.loads(command(*words, timeout_s=LONGEST_S).stdout)
    errors[name] = [row["error"] for row in rows]
    print(f"\n{name}: {errors[name]}")
    assert errors[name]
    assert max(map(abs, errors[name])) < WORST_TOLERANCE


def test_mean(errors: Errors) -> None:
    """The mean of the absolute errors over all tables."""
    everything: list[float] = []
    for of_table in errors.values():
        everything += map(abs, of_table)
    assert everything, "no table has been repeated"
    assert sum(everything) / len(everything) < MEAN_TOLERANCE
