"""Exports for MLflow and W&B, made and read with the real packages, which are installed here."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from testbed.analysis.summarize import collect
from testbed.report.page import write_page
from tests.support.shared import PROJECT, Need
from tests.support.synthetic import make_plan, three_dcs, write_training_run

pytestmark = pytest.mark.proof
PACKAGES = ("wandb==0.31.0", "mlflow-skinny==3.17.2", "sqlalchemy", "alembic", "mako")


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory, need: Need) -> Path:
    """A folder with a virtual environment's packages, without those that are installed already."""
    folder = tmp_path_factory.mktemp("trackers")
    subprocess.run(
        [sys.executable, "-m", "venv", "--system-site-packages", str(folder)], check=True
    )
    (site,) = folder.glob("lib/python*/site-packages")
    others = [path for path in sys.path if path.endswith("site-packages")]
    (site / "others.pth").write_text("\n".join(others) + "\n")
    pip = [str(folder / "bin" / "pip"), "install", "--quiet", *PACKAGES]
    done = subprocess.run(pip, capture_output=True, check=False)
    need(done.returncode == 0, f"MLflow and W&B from PyPI: {done.stderr.decode()[-500:]}")
    return folder


@pytest.fixture(scope="module")
def found(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("exports")
    run = write_training_run(folder / "run", make_plan(three_dcs()))
    collect(run)
    write_page(run)
    words = [str(packages / "bin" / "python"), "-m", "tests.support.exports_read"]
    done = subprocess.run(
        [*words, str(run.path), str(folder)],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    read: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return read


def test_wandb_has_settings_scalars_curves_and_tables(found: dict[str, Any]) -> None:
    wandb = found["wandb"]
    assert wandb["settings"]["name"] == "run"
    assert wandb["settings"]["topology"] == "hand-made"
    assert wandb["settings"]["wan.east-north.rate"] == "1 Gbit/s"
    assert wandb["curves"]["steps/loss"] == [5.0, 4.5, 4.0, 3.5, 3.0, 2.5]
    assert wandb["curves"]["steps/loss/step"] == [0, 1, 2, 3, 4, 5]
    assert wandb["summary"]["training/compute_utilisation"] == pytest.approx(0.6)
    assert wandb["counts"]["artifact"] == 1


def test_mlflow_has_parameters_metrics_and_artifacts(found: dict[str, Any]) -> None:
    first, second = found["mlflow"]
    assert first["name"] == second["name"] == "run"
    assert first["state"] == "FINISHED"
    assert first["params"]["workload"] == "train"
    assert first["params"]["wan.east-north.delay"] == "10 ms"
    assert first["utilisation"] == pytest.approx(0.6)
    assert first["loss"] == [[0, 5.0], [1, 4.5], [2, 4.0], [3, 3.5], [4, 3.0], [5, 2.5]]
    assert first["artifacts"] == ["tables", "trace.json"]
    assert "tables/steps.csv" in first["tables"]
