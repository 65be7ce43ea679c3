"""The outcome of an attempt to run a point (point.json), kept in the point's run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from testbed.runfolder.files import read_plain, write_json

FORMAT: Literal[1] = 1  # files without a number, written by testbed 0.1.0, also have this format
FILE_NAME = "point.json"


class PointRecord(BaseModel):
    """Contents of point.json.

    `identity` and `name` are the point's. `attempt` counts from 1 and increases with each retry.
    `cpu_seconds` is the CPU time of the guest and of the process that started the guest.
    `faithful` is that of the run's status, null in older files; `doubts` says why it is false.
    """

    model_config = ConfigDict(defer_build=True, frozen=True, extra="ignore")

    format: Literal[1] = FORMAT
    identity: str
    name: str
    state: Literal["completed", "failed"]
    reason: str = ""
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    attempt: int = 1
    faithful: bool | None = None
    doubts: list[str] = []

    @property
    def misleads(self) -> bool:
        """Whether the point is complete, but not faithful."""
        return self.state == "completed" and self.faithful is False

    @property
    def shown_doubts(self) -> tuple[str, ...]:
        """Why a complete point is not faithful; empty for other points."""
        return tuple(self.doubts) if self.misleads else ()


def read_point_record(run_folder: Path) -> PointRecord | None:
    """Read point.json of a run folder; None if missing, damaged or of another format."""
    try:
        return PointRecord.model_validate_json(read_plain(run_folder / FILE_NAME))
    except (OSError, ValueError):
        return None


def write_point_record(run_folder: Path, record: PointRecord) -> None:
    """Write point.json durably into a run folder.

    Raises:
        OSError: The file cannot be written.
    """
    write_json(run_folder / FILE_NAME, record, durably=True)
