"""The index of a sweep (sweep.json): points by name, with their values, and figures to draw."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from testbed.core.errors import InputError
from testbed.runfolder.files import read_plain, write_json
from testbed.spec.experiment import Plot

FORMAT: Literal[1] = 1
FIGURES = (
    "time_us",
    "bound_us",
    "efficiency",
    "step_ms",
    "utilisation",
    "final_loss",
    "time_to_loss_s",
    "jobs_s",
    "slowdown",
    "wan_drops",
    "faithful",
)  # columns of the key figures


ID_DIGITS = 12


def folder_of(name: str, identity: str) -> str:
    """Return the name of a point's run folder: its name, then the first digits of its identity."""
    return f"{name}.{identity[:ID_DIGITS]}"


class IndexedPoint(BaseModel):
    """A point of the sweep; `values` holds the value of each axis by the axis's short name.

    `in_grid` is false for a complete point of an earlier form of the experiment.
    """

    model_config = ConfigDict(defer_build=True, frozen=True, extra="ignore")

    name: str
    identity: str
    values: dict[str, Any]
    repeat: int
    seed: int
    in_grid: bool = True

    @property
    def folder(self) -> str:
        """Name of the run folder."""
        return folder_of(self.name, self.identity)


class SweepIndex(BaseModel):
    """Contents of sweep.json.

    `axes` are the short names of the swept keys, `command` is the command line that started the
    sweep, `written` the local time of writing. `answers` are sentences that answer the question of
    `testbed find`.
    """

    model_config = ConfigDict(defer_build=True, frozen=True, extra="ignore")

    format: Literal[1] = FORMAT
    written: str = ""
    name: str
    description: str = ""
    command: list[str] = []
    axes: list[str] = []
    target_loss: float | None = None
    plots: list[Plot] = []
    answers: list[str] = []
    points: list[IndexedPoint] = []

    @property
    def planned(self) -> list[IndexedPoint]:
        """The points of the experiment in its present form."""
        return [point for point in self.points if point.in_grid]

    @property
    def repeated(self) -> bool:
        """Whether points have repeats."""
        return any(point.repeat for point in self.points)


def key_columns(known: Sequence[str], index: SweepIndex, *, has_doubts: bool = False) -> list[str]:
    """Return the columns to show first: the swept keys and the key figures.

    Args:
        known: All columns of the table.
        index: Index of the sweep.
        has_doubts: Whether a point is not faithful, so that the table says why.
    """
    names = list(index.axes)
    if index.repeated:
        names.append("repeat")
    if any(not point.in_grid for point in index.points):
        names.append("in_grid")
    names += ["state", "op", "bytes", *FIGURES]
    if has_doubts:
        names.append("doubts")
    return [name for name in dict.fromkeys(names) if name in known]


def read_index(path: Path) -> SweepIndex:
    """Read sweep.json.

    Raises:
        InputError: The file cannot be read, or is not the index of a sweep.
    """
    try:
        return SweepIndex.model_validate_json(read_plain(path))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ValidationError, UnicodeDecodeError) as error:
        remedy = "run the sweep again; complete points are kept"
        raise InputError(
            f"{path} is damaged, or written by another version of testbed", remedy=remedy
        ) from error


def write_index(path: Path, index: SweepIndex) -> None:
    """Write sweep.json durably, with the current time.

    Raises:
        OSError: The file cannot be written.
    """
    written = time.strftime("%Y-%m-%d %H:%M:%S")
    write_json(path, index.model_copy(update={"written": written}), durably=True)
