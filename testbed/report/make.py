"""Regenerate the tables and the page of an earlier run."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from testbed.analysis.summarize import collect
from testbed.core.errors import InputError
from testbed.report.page import write_page
from testbed.runfolder.folder import RunDir
from testbed.spec.base import explain_value


def make_again(folder: RunDir) -> None:
    """Regenerate tables, summary, timeline and page of a run from the run's records.

    Raises:
        OSError: the files cannot be written.
    """
    collect(folder)
    write_page(folder)


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
