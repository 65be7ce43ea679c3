"""The operation that a run is about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def main_operation(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of rows of summary.json `collectives`, the one that took most time; a barrier only if it is
    alone.
    """
    return max(
        rows,
        key=lambda row: (
            row["bytes"] > 0,
            row["iterations"] * row["time_us"]["median"],
            row["bytes"],
        ),
    )
