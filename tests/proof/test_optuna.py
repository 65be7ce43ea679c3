"""Searches over several keys with the real Optuna, which is installed for this test."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.shared import PROJECT, Need

pytestmark = pytest.mark.proof
RUNS = 32  # of `tests.support.optimum_search`


@pytest.fixture(scope="module")
def optuna(tmp_path_factory: pytest.TempPathFactory, need: Need) -> Path:
    """A folder with the package and those of its dependencies that are not installed."""
    folder = tmp_path_factory.mktemp("optuna")
    packages = ["optuna==5.0.0", "alembic", "colorlog", "sqlalchemy", "tqdm", "mako", "greenlet"]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    done = subprocess.run([*pip, str(folder), *packages], capture_output=True, check=False)
    need(done.returncode == 0, f"Optuna from PyPI: {done.stderr.decode()[-500:]}")
    return folder


def search(folder: Path, optuna: Path) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": f"{PROJECT}:{optuna}"}
    words = [sys.executable, "-m", "tests.support.optimum_search", str(folder)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_best_of_two_keys(tmp_path: Path, optuna: Path) -> None:
    """Within 5 % of the least of all 60 combinations, with about half of the runs."""
    first = search(tmp_path / "one", optuna)
    answer = first["answer"]
    assert answer["state"] == "found"
    assert first["least"] <= answer["value"] * 1.000001 <= 1.05 * first["least"]
    assert answer["best"]["delay"] == "5 ms"
    assert "such that time <= 60 ms among the runs is" in first["sentence"]
    assert len(first["ran"]) == answer["runs"] <= RUNS
    assert first["trials"] == RUNS
    assert first["study_best"] == pytest.approx(answer["value"])

    resumed = search(tmp_path / "one", optuna)
    assert resumed["ran"] == []
    assert resumed["answer"] == answer
    again = search(tmp_path / "two", optuna)
    assert again["ran"] == first["ran"]
    assert again["answer"] == answer
