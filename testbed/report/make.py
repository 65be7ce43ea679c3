"""Regenerate the tables and the page of an earlier run."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from testbed.analysis.conclude import conclude
from testbed.analysis.summarize import collect
from testbed.core.errors import InputError
from testbed.core.full_disk import is_disk_full, write_failure
from testbed.report.page import write_page
from testbed.runfolder.files import replacing_alone
from testbed.runfolder.folder import RunDir
from testbed.runfolder.problems import DOUBTS, ProblemCode
from testbed.runfolder.status import Status, commit_status, read_status, with_report
from testbed.spec.base import explain_value


def make_again(folder: RunDir) -> None:
    """Regenerate tables, summary, timeline and page of a run from the run's records.

    A run whose workload had ended, but that had no report, is completed.

    Raises:
        MachineError: the files cannot be written.
    """
    status, _problems = read_status(folder.status)
    try:
        with replacing_alone(folder.path):
            if status is None or not status.measured or status.state == "completed":
                collect(folder)
                write_page(folder)
                return
            concluded = with_report(status)
            concluded.faithful = None if not _was_doubted(status) else False
            conclude(folder.read_plan(), folder, concluded)
            write_page(folder, status=concluded)
            commit_status(folder.status, concluded)
    except OSError as error:
        doing = f"the report of {folder.path} could not be written"
        first = "free some space" if is_disk_full(error) else "make the folder writable"
        remedy = (
            "kept: the records of the run, and the files of the last report\n"
            f"  {first}, then make the rest with: testbed report {folder.path}"
        )
        raise write_failure(error, doing, remedy) from error


def _was_doubted(status: Status) -> bool:
    """Return whether the run itself, and not only its report, gave reason for doubt."""
    return any(
        warning.code in DOUBTS and warning.code is not ProblemCode.INCOMPLETE
        for warning in status.warnings
    )


def open_readable(path: Path) -> RunDir:
    """Open a run folder whose plan this version can read.

    Raises:
        InputError: `path` is not a run folder, or its plan cannot be read.
    """
    folder = RunDir.open(path)
    try:
        folder.read_plan()
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        reason = _reason(error)
        raise InputError(
            f"cannot read {folder.plan}: damaged, or written by another version of testbed "
            f"({reason})\n  no file was changed"
        ) from error
    return folder


def _reason(error: OSError | ValidationError | UnicodeDecodeError) -> str:
    """Return why a file cannot be read; of a model's mistakes, the first one and its place."""
    if not isinstance(error, ValidationError):
        return str(error).splitlines()[0]

    first = error.errors(include_url=False)[0]
    what, _remedy = explain_value(first)
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {what}" if place else what
