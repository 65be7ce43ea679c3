"""Regenerate the tables and the page of an earlier run."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from testbed.analysis.summarize import collect
from testbed.core.errors import InputError
from testbed.report.page import write_page
from testbed.runfolder.folder import RunDir


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
        reason = str(error).splitlines()[0]
        raise InputError(
            f"cannot read {folder.plan}: damaged, or written by another version of testbed "
            f"({reason})\n  no file was changed"
        ) from error
    return folder
