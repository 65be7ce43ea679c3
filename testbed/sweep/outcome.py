"""Count the points of a sweep by outcome: complete, failed, damaged, not run yet, not faithful."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from testbed.core.errors import TestbedError, Unfaithful

SEPARATOR = "; "  # between the doubts of one point, in the column `doubts`


@dataclass(frozen=True)
class Outcome:
    """Number of points by outcome.

    Attributes:
        total: Number of points.
        completed: Number of complete points, faithful or not.
        failed: Number of points that failed.
        damaged: Number of complete points whose files cannot be read.
        missing: Number of points that have not been run.
        unfaithful: Number of complete points that are not faithful.
        doubts: Number of those points by reason, most frequent first.
    """

    total: int
    completed: int
    failed: int
    damaged: int
    missing: int
    unfaithful: int
    doubts: Mapping[str, int]

    @classmethod
    def of(cls, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Outcome:
        """Count the points of the present grid in the table (see `testbed.sweep.results`)."""
        states: Counter[str] = Counter()
        doubts: Counter[str] = Counter()
        unfaithful = 0
        for row in rows:
            point = dict(zip(columns, row, strict=True))
            if not point.get("in_grid", True):
                continue
            states[point["state"]] += 1
            if is_unfaithful(point):
                unfaithful += 1
                doubts.update((point.get("doubts") or "").split(SEPARATOR))
        return cls(
            total=states.total(),
            completed=states["completed"],
            failed=states["failed"],
            damaged=states["damaged"],
            missing=states["missing"],
            unfaithful=unfaithful,
            doubts=dict(doubts.most_common()),
        )

    def sentence(self) -> str:
        """Return the counts for people; unfaithful points come first."""
        parts = [f"{self.completed} of {self.total} points are complete"]
        if self.failed:
            parts.append(f"{self.failed} failed")
        if self.damaged:
            parts.append(f"{self.damaged} damaged")
        if self.missing:
            parts.append(f"{self.missing} not run yet")
        counts = ", ".join(parts)
        if not self.unfaithful:
            return counts
        return f"{self.warning()} ({counts})"

    def warning(self) -> str:
        """Return how many points are not faithful, and why; empty if all are faithful."""
        if not self.unfaithful:
            return ""
        verb = "is" if self.unfaithful == 1 else "are"
        text = f"{self.unfaithful} of {self.total} points {verb} NOT FAITHFUL"
        reasons = [f"{doubt} ({count})" for doubt, count in self.doubts.items() if doubt]
        if not reasons:
            return text
        return f"{text}: {', '.join(reasons)}"

    def check_damaged(self) -> None:
        """Check that the files of all complete points can be read.

        Raises:
            TestbedError: A point is damaged.
        """
        if self.damaged:
            verb = "is" if self.damaged == 1 else "are"
            raise TestbedError(
                f"{self.damaged} of {self.total} points {verb} damaged; the table says why\n"
                "  run them again with: testbed sweep ... --retry-damaged"
            )

    def check_faithful(self) -> None:
        """Check that no complete point is unfaithful.

        Raises:
            Unfaithful: A point is not faithful.
        """
        if self.unfaithful:
            raise Unfaithful(self.warning())


def is_unfaithful(point: Mapping[str, Any]) -> bool:
    """Return whether a row of the table of points is complete, but not faithful."""
    return point["state"] == "completed" and point.get("faithful") is False
