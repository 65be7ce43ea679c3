"""status.json: the state of a run, written when it starts and when it ends.

Format 3 differs from format 2 (testbed 0.1.0) as in `testbed.runfolder.summary`.
"""

from __future__ import annotations

import errno
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from testbed.plan.model import FORMAT
from testbed.runfolder.files import write_json
from testbed.runfolder.problems import Problem, ProblemCode, doubts
from testbed.runfolder.summary import StageRow, read_object

State = Literal["running", "completed", "failed", "interrupted"]

WITHOUT_REPORT = "the run ended well, but has no report"
ROOM = ".status.room"  # file beside status.json
ROOM_BYTES = 64 * 1024
LEAST_ROOM_BYTES = 4096  # a file system stores files in blocks of at least this size
CUT_LENGTHS = (8000, 2000, 500, 100, 0)  # characters of a text, if the room is short


class Status(BaseModel):
    """The whole of status.json.

    Attributes:
        format: Number of the format of run folders.
        state: How the run ended; running until then.
        exit_status: Exit status of the testbed; null: the run has not ended.
        reason: Why the run did not complete.
        measured: Whether the workload reached its end. If the run is not completed nevertheless,
            only its report is missing, which `testbed report` makes.
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
    measured: bool = False
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


def with_report(status: Status) -> Status:
    """Return the status that a run has once its report is made.

    A run that is measured is completed by its report; another run keeps its state and its reason.
    """
    concluded = status.model_copy(deep=True)
    if status.measured:
        concluded.state = "completed"
        concluded.exit_status = 0
        concluded.reason = ""
    kept: list[Problem] = []
    for warning in concluded.warnings:
        if warning.code is not ProblemCode.INCOMPLETE:
            kept.append(warning)
    concluded.warnings = kept
    return concluded


def write_status(path: Path, status: Status) -> None:
    """Write status.json so that a reader sees the old file or the whole new one.

    Raises:
        OSError: the file cannot be written.
    """
    write_json(path, status)


def reserve_room(path: Path) -> None:
    """Reserve room on the disk, so that `commit_status` succeeds even if the disk is full.

    Args:
        path: Path of status.json.

    Raises:
        OSError: There is no room.
    """
    with path.with_name(ROOM).open("xb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, ROOM_BYTES)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
            file.write(bytes(ROOM_BYTES))


def release_room(path: Path) -> None:
    """Give back the room that `reserve_room` has reserved, if any is left."""
    with suppress(OSError):
        path.with_name(ROOM).unlink(missing_ok=True)


def commit_status(path: Path, status: Status) -> None:
    """Write status.json durably; if there is no space, into the reserved room or in place.

    Texts are cut if the room is short.

    Raises:
        OSError: The file cannot be written in any way.
    """
    try:
        write_json(path, status, durably=True)
    except OSError as error:
        room = path.with_name(ROOM)
        if _overwrite(room, status):
            room.replace(path)
        elif not _overwrite(path, status):
            raise error from None


def _overwrite(path: Path, status: Status) -> bool:
    """Write a status over the content of a file without taking more space; return success."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        size = max(os.fstat(descriptor).st_size, LEAST_ROOM_BYTES)
        content = _cut_to(status, size).ljust(size, b"\n")
        written = os.pwrite(descriptor, content, 0)
        os.fsync(descriptor)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return written == size


def _cut_to(status: Status, size: int) -> bytes:
    """Return the text of a status with at most `size` bytes; long texts are cut."""
    text = _content(status)
    for length in CUT_LENGTHS:
        if len(text) <= size:
            break
        short = status.model_copy()
        short.reason = status.reason[:length]
        short.warnings = []
        for warning in status.warnings[: length // 100]:
            cut = warning.model_copy(update={"message": warning.message[:length]})
            short.warnings.append(cut)
        if sum(map(len, status.command)) > length:
            short.command = []
        if not length:
            short.stages = []
        text = _content(short)
    return text[:size]


def _content(status: Status) -> bytes:
    return (json.dumps(status.model_dump(mode="json", by_alias=True), indent=2) + "\n").encode()


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
