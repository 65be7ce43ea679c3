"""status.json: the state of a run, written when it starts and when it ends.

Format 3 differs from format 2 (testbed 0.1.0) as in `testbed.runfolder.summary`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from testbed.plan.model import FORMAT
from testbed.runfolder.files import write_json
from testbed.runfolder.problems import Problem, ProblemCode, doubts
from testbed.runfolder.summary import StageRow, read_object

State = Literal["running", "completed", "failed", "interrupted"]


class Status(BaseModel):
    """The whole of status.json.

    Attributes:
        format: Number of the format of run folders.
        state: How the run ended; running until then.
        exit_status: Exit status of the testbed; null: the run has not ended.
        reason: Why the run did not complete.
        faithful: Whether the figures are those of the plan; null: the file does not say.
        warnings: Why the run is not faithful, and what else to check before the figures are
            trusted.
        command: The command line that started the run.
        pid: Process id of the testbed.
        wall_seconds: Seconds of the machine from start to end.
        emulated_seconds: Seconds of the virtual clock from the guest's boot to the run's end.
        forced_ms: Virtual time by which the clock was forced forward during the operations because
            a process was busy-waiting.
        stages: Where the time went.
    """

    model_config = ConfigDict(extra="ignore")

    format: int = FORMAT
    state: State = "running"
    exit_status: int | None = None
    reason: str = ""
    faithful: bool | None = True
    warnings: list[Problem] = []
    command: list[str] = []
    pid: int = 0
    wall_seconds: float = 0.0
    emulated_seconds: float = 0.0
    forced_ms: float = 0.0
    stages: list[StageRow] = []

    def doubt(self, code: ProblemCode, message: str) -> None:
        """Mark the run as not faithful, and say why."""
        self.faithful = False
        self.warnings.append(Problem(code=code, message=message))

    @property
    def misleads(self) -> bool:
        """Whether the run completed, but its figures are not those of the plan."""
        return self.state == "completed" and self.faithful is False

    @property
    def doubts(self) -> list[str]:
        """A short phrase for each reason why the run is not faithful."""
        if self.faithful is not False:
            return []
        return doubts(self.warnings)


def write_status(path: Path, status: Status) -> None:
    """Write status.json so that a reader sees the old file or the whole new one.

    Raises:
        OSError: the file cannot be written.
    """
    write_json(path, status)


def read_status(path: Path) -> tuple[Status | None, list[Problem]]:
    """Read status.json, which may be damaged.

    Returns:
        The status (None if nothing of the file could be read), and a problem for each part that
        could not be read; such a part has its default.
    """
    document, problems = read_object(path)
    if not document:
        return None, problems
    sound: dict[str, Any] = {}
    for name in Status.model_fields:
        if name not in document:
            continue
        try:
            sound[name] = getattr(Status.model_validate({name: document[name]}), name)
        except ValidationError:
            message = f"{path.name}: {name!r} is damaged and was skipped"
            problems.append(Problem(code=ProblemCode.FILE_DAMAGED, message=message))
    if "state" not in sound:
        return None, problems
    sound.setdefault("faithful", None)
    return Status(**sound), problems
