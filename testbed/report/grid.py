"""A table as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

NONE = "-"  # not measured


@dataclass(frozen=True)
class GridColumn:
    """A column: header (with a line break before the unit) and whether cells are numbers."""

    header: str
    number: bool = True


@dataclass(frozen=True)
class Grid:
    """A table as text; `note` explains the table's terms in a sentence or two."""

    title: str
    columns: Sequence[GridColumn]
    rows: Sequence[Sequence[str]]
    note: str = ""
