"""The single figures of a run, by name."""

from __future__ import annotations

from testbed.runfolder.records import GLOO
from testbed.runfolder.status import Status
from testbed.runfolder.summary import CollectiveRow, Summary


def run_scalars(status: Status | None, summary: Summary) -> dict[str, float]:
    """Return the figures of a run by name, such as ``training/compute_utilisation``.

    Names end in the unit, as in summary.json; shares are from 0 to 1.

    Args:
        status: Outcome of the run; None if unknown.
        summary: Measurements of the run.
    """
    scalars: dict[str, float] = {}
    if status is not None:
        scalars["run/wall_seconds"] = status.wall_seconds
        scalars["run/emulated_seconds"] = status.emulated_seconds
        if status.faithful is not None:
            scalars["run/faithful"] = float(status.faithful)

    for row in summary.collectives:
        _add_collective(scalars, row)
    if summary.training is not None:
        for name, value in summary.training.model_dump().items():
            if isinstance(value, int | float):
                scalars[f"training/{name}"] = float(value)
    for direction in summary.wan:
        name = f"wan/{direction.source}-{direction.target}"
        for key in ("bytes", "packets", "drops", "mean_utilisation"):
            value = getattr(direction, key)
            if value is not None:
                scalars[f"{name}/{key}"] = float(value)
    return scalars


def name_of_collective(row: CollectiveRow) -> str:
    """Return the name of an operation: what its rows in a table differ by."""
    parts = [row.op, f"{row.bytes} B"]
    if row.algorithm != GLOO:
        parts.append(row.algorithm)
    if row.group_name:
        parts.append(row.group_name)
    if row.root is not None:
        parts.append(f"root {row.root}")
    return " ".join(parts)


def _add_collective(scalars: dict[str, float], row: CollectiveRow) -> None:
    name = f"collectives/{name_of_collective(row)}"
    scalars[f"{name}/time_us"] = row.time_us.median
    scalars[f"{name}/max_us"] = row.time_us.max
    scalars[f"{name}/algbw_gbytes"] = row.algbw_gbytes
    scalars[f"{name}/busbw_gbytes"] = row.busbw_gbytes
    if row.bound_us is not None:
        scalars[f"{name}/bound_us"] = row.bound_us
    if row.wrong is not None:
        scalars[f"{name}/wrong"] = float(row.wrong)
