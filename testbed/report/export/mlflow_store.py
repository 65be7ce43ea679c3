"""A run in a tracking store of MLflow (SQLite); the only module that imports mlflow.

Metrics carry the time on the run's clock. The tables are artifacts, as files of comma-separated
values, and so is the timeline.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from tempfile import TemporaryDirectory

from testbed.core.errors import MachineError
from testbed.report.export.csv_files import write_csv
from testbed.report.export.series import Sample, run_samples
from testbed.report.export.settings import flat_settings
from testbed.runfolder.folder import RunDir
from testbed.runfolder.status import read_status

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # an export reaches no network
try:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param
except ImportError as error:
    raise MachineError(
        "MLflow is not installed\n"
        "  run `pip install --editable '.[mlflow]'` in the folder of the project"
    ) from error

EXPERIMENT = "testbed"
STORE = "mlflow.db"
AT_ONCE = 500  # metrics in one call; MLflow takes up to 1000
LONGEST_VALUE = 500  # characters of a parameter
STATES = {"completed": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}


def write_mlflow(folder: RunDir, target: Path) -> list[Path]:
    """Write a run into the store of a folder, together with earlier runs.

    Args:
        folder: The run folder.
        target: Existing folder for the store and the artifacts.

    Returns:
        Path of the store, and of the run's artifacts.

    Raises:
        OSError: A table cannot be read.
    """
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    store = target / STORE
    client = MlflowClient(tracking_uri=f"sqlite:///{store}")
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        artifacts = (target / "artifacts").as_uri()
        identifier = client.create_experiment(EXPERIMENT, artifact_location=artifacts)
    else:
        identifier = experiment.experiment_id

    status, _problems = read_status(folder.status)
    began_ms = (folder.began_ns() or 0) // 10**6
    run = client.create_run(identifier, start_time=began_ms, run_name=folder.path.name)
    run_id = run.info.run_id
    settings = flat_settings(folder.read_plan())
    parameters = [Param(name, value[:LONGEST_VALUE]) for name, value in settings.items()]
    client.log_batch(run_id, params=parameters)

    last_ms = began_ms
    metrics: list[Metric] = []
    for sample in run_samples(folder):
        metrics.append(_metric(sample))
        last_ms = max(last_ms, round(1000 * sample.time_s))
        if len(metrics) == AT_ONCE:
            client.log_batch(run_id, metrics=metrics)
            metrics = []
    client.log_batch(run_id, metrics=metrics)

    with TemporaryDirectory() as tables:
        for path in write_csv(folder, Path(tables)):
            client.log_artifact(run_id, str(path), "tables")
    if folder.trace.is_file():
        client.log_artifact(run_id, str(folder.trace))
    state = "FINISHED" if status is None else STATES.get(status.state, "RUNNING")
    client.set_terminated(run_id, state, last_ms)
    return [store, target / "artifacts" / run_id]


def _metric(sample: Sample) -> Metric:
    return Metric(sample.tag, sample.value, round(1000 * sample.time_s), sample.step)
