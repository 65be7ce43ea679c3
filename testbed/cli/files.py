"""Files that commands write where the user says, and the options for figures in such files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from testbed.core.errors import InputError, Place
from testbed.report.paper.choice import PAPER_ENDINGS, PaperWidth

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
    """Check that a file's name says what is written into the file.

    Args:
        path: that the user named.
        endings: in small letters; those that are possible.
        option: with which the user named the path.

    Returns:
        The ending, in small letters.

    Raises:
        InputError: the ending is another.
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
    """Check the options for figures on paper.

    Args:
        path: the value of --out; None without.
        figure: the value of --figure; None without.

    Raises:
        InputError: the ending is not that of a figure, or a figure is chosen without a file.
    """
    if path is not None:
        check_ending(path, PAPER_ENDINGS, "--out")
    elif figure is not None:
        raise InputError("--figure chooses a figure for a file", remedy="add -o FILE")


def write_file(path: Path, content: bytes, option: str) -> None:
    """Write a file that the user named with an option.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        path.write_bytes(content)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror}", remedy=f"choose another file with {option}"
        ) from error
