"""Exports for MLflow and W&B, made and read with the real packages in PYTHONPATH.

usage: python -m tests.support.exports_read RUN FOLDER    prints what the files hold, as JSON
"""

import json
import logging
import struct
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from wandb.proto import wandb_internal_pb2 as wandb_records

from testbed.report.export.choice import export_run
from testbed.runfolder.folder import RunDir

BLOCK = 32768  # of W&B's files, which have LevelDB's log format after 7 bytes
HEADER = struct.Struct("<IHB")  # checksum, length, kind: whole, first, middle, last
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def records(path: Path) -> Iterator[Any]:
    """Yield the records of a file of W&B."""
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    position, content = 7, b""
    while position + HEADER.size <= len(data):
        left = BLOCK - position % BLOCK
        if left < HEADER.size:
            position += left
            continue
        _checksum, length, kind = HEADER.unpack_from(data, position)
        position += HEADER.size
        content += data[position : position + length]
        position += length
        if kind in (WHOLE, LAST):
            record = wandb_records.Record()
            record.ParseFromString(content)
            yield record
            content = b""


def read_wandb(folder: Path) -> dict[str, Any]:
    """Return the number of records by kind, the settings, and the values of each curve."""
    counts: Counter[str] = Counter()
    settings: dict[str, Any] = {}
    curves: dict[str, list[Any]] = {}
    summary: dict[str, Any] = {}
    (path,) = folder.glob("*.wandb")
    for record in records(path):
        kind = record.WhichOneof("record_type")
        counts[kind] += 1
        if kind == "run":
            settings["name"] = record.run.display_name
            for item in record.run.config.update:
                settings[item.key] = json.loads(item.value_json)
        elif kind == "history":
            for item in record.history.item:
                name = item.key or "/".join(item.nested_key)
                curves.setdefault(name, []).append(json.loads(item.value_json))
        elif kind == "summary":
            for item in record.summary.update:
                summary[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
    return {"counts": counts, "settings": settings, "curves": curves, "summary": summary}


def read_mlflow(store: Path) -> list[dict[str, Any]]:
    """Return the state, parameters, a curve and the artifacts of each run of a store."""
    client = MlflowClient(tracking_uri=f"sqlite:///{store}")
    experiment = client.get_experiment_by_name("testbed")
    found: list[dict[str, Any]] = []
    for run in client.search_runs([experiment.experiment_id]):
        identifier = run.info.run_id
        losses = client.get_metric_history(identifier, "steps/loss")
        artifacts = [item.path for item in client.list_artifacts(identifier)]
        tables = [item.path for item in client.list_artifacts(identifier, "tables")]
        found.append(
            {
                "name": run.info.run_name,
                "state": run.info.status,
                "params": run.data.params,
                "utilisation": run.data.metrics["training/compute_utilisation"],
                "loss": [[metric.step, metric.value] for metric in losses],
                "artifacts": artifacts,
                "tables": tables,
            }
        )
    return found


def main(run: Path, target: Path) -> None:
    """Export a run in both formats, twice to MLflow's store, and print what the files hold."""
    logging.disable(logging.CRITICAL)
    folder = RunDir.open(run)
    (files,) = export_run(folder, "wandb", target / "wandb")
    store, _artifacts = export_run(folder, "mlflow", target / "mlflow")
    export_run(folder, "mlflow", target / "mlflow")
    print(json.dumps({"wandb": read_wandb(files), "mlflow": read_mlflow(store)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
