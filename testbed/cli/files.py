"""Files that commands write to a path of the user, and options for figures in such files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from testbed.core.errors import InputError, Place
from testbed.core.full_disk import is_disk_full, write_failure
from testbed.report.paper.choice import PAPER_ENDINGS, PaperWidth
from testbed.runfolder.files import replace_bytes

PAGE_ENDINGS = (".html", ".htm")

FigureOption = Annotated[
    str | None,
    typer.Option(
        "--figure", metavar="NAME", help="draw only the figure NAME; a wrong name lists all"
    ),
]
PaperWidthOption = Annotated[
    PaperWidth,
    typer.Option("--width", help="width of figures for a paper: one column (3.4 in) or two (7 in)"),
]


def check_ending(path: Path, endings: Sequence[str], option: str) -> str:
    """Check the ending of an output file, and return the ending in lower case.

    Args:
        path: Path from the user.
        endings: Allowed endings in lower case.
        option: Option that the path was given with.

    Returns:
        The ending in lower case.

    Raises:
        InputError: The ending is not allowed.
    """
    ending = path.suffix.lower()
    if ending in endings:
        return ending
    *others, last = endings
    listed = f"{', '.join(others)} or {last}" if others else last
    raise InputError(
        f"{path} does not end in {listed}",
        place=Place(key=option),
        remedy="the file extension selects the format",
    )


def check_figure_file(path: Path | None, figure: str | None) -> None:
    """Check the options for figures in a file.

    Args:
        path: Value of --out; None if not given.
        figure: Value of --figure; None if not given.

    Raises:
        InputError: The ending is not a figure format, or --figure is given without --out.
    """
    if path is not None:
        check_ending(path, PAPER_ENDINGS, "--out")
    elif figure is not None:
        raise InputError("--figure chooses a figure for a file", remedy="add -o FILE")


def write_file(path: Path, content: bytes, option: str) -> None:
    """Write a file whose path the user gave with an option.

    Raises:
        InputError: The file cannot be written.

    Args:
        path: Path of the file.
        content: Contents of the file.
        option: Option that the path was given with.
    """
    what = f"cannot write {path}"
    remedy = f"choose another file with {option}"
    try:
        if path.is_file() or not path.exists():
            replace_bytes(path.resolve(), content)
        else:
            path.write_bytes(content)  # such as /dev/stdout
    except OSError as error:
        if is_disk_full(error):
            raise write_failure(error, what, remedy) from error
        raise InputError(f"{what}: {error.strerror}", remedy=remedy) from error
