"""Boxes of text on a drawing, in px, and places for them where they cover nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import NamedTuple

import numpy as np

from testbed.report.map.projection import Points

LINE_HEIGHT = 1.25  # of the font's size
CROSSED = 8.0  # cost of a point of a line under a box or near a leader
COVERED = 80.0  # cost of a label or dot under a leader


class Box(NamedTuple):
    """A rectangle; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    @classmethod
    def around(cls, points: Points) -> Box:
        """The smallest box that holds all points."""
        (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
        return cls(float(left), float(top), float(right), float(bottom))

    @classmethod
    def centred(cls, x: float, y: float, width: float, height: float) -> Box:
        """A box with its middle at (x, y)."""
        return cls(x - width / 2, y - height / 2, x + width / 2, y + height / 2)

    @property
    def middle(self) -> tuple[float, float]:
        """Its centre."""
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2

    @property
    def width(self) -> float:
        """From left to right."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """From top to bottom."""
        return self.bottom - self.top

    def grown(self, by: float) -> Box:
        """The box with `by` px added on each side."""
        return Box(self.left - by, self.top - by, self.right + by, self.bottom + by)

    def overlaps(self, other: Box) -> bool:
        """Whether the two share some area."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )

    def within(self, other: Box) -> bool:
        """Whether all of it is inside `other`."""
        return (
            self.left >= other.left
            and self.right <= other.right
            and self.top >= other.top
            and self.bottom <= other.bottom
        )

    def holds(self, points: Points) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """For each of the (n, 2) points, whether it is inside."""
        x, y = points[:, 0], points[:, 1]
        return np.asarray(
            (x >= self.left) & (x <= self.right) & (y >= self.top) & (y <= self.bottom)
        )

    def nearest(self, x: float, y: float) -> tuple[float, float]:
        """The point of the box that is nearest to (x, y)."""
        return min(max(x, self.left), self.right), min(max(y, self.top), self.bottom)


class Candidate(NamedTuple):
    """A place for a label, with a leader to `anchor`. `cost` in px: the way that one would go to
    avoid it.
    """

    box: Box
    cost: float
    anchor: tuple[float, float] | None = None


@cache
def _widths() -> dict[str, dict[str, int]]:
    text = resources.files("testbed.report").joinpath("map/data/text_widths.json").read_text()
    widths: dict[str, dict[str, int]] = json.loads(text)
    return widths


def text_width(text: str, size: float, bold: bool = False) -> float:
    """px of `text` in Arimo, whose letters are as wide as those of Arial, Helvetica and Liberation
    Sans.
    """
    widths = _widths()["bold" if bold else "regular"]
    return sum(widths.get(character, 1000) for character in text) * size / 1000


@dataclass
class Canvas:
    """What is taken: no label leaves `frame` or meets a box in `taken`; points of lines are avoided
    if possible.
    """

    frame: Box
    taken: list[Box]
    lines: Points

    def place(self, candidates: Iterable[Candidate]) -> Candidate | None:
        """Take the cheapest of `candidates`; None if none is free."""
        best, least = None, np.inf
        for candidate in sorted((c for c in candidates if self._free(c.box)), key=lambda c: c.cost):
            if candidate.cost >= least:
                break
            cost = candidate.cost + self._covered(candidate)
            if cost < least:
                best, least = candidate, cost
        if best is not None:
            self.taken.append(best.box)
        return best

    def _free(self, box: Box) -> bool:
        return box.within(self.frame) and not any(box.overlaps(other) for other in self.taken)

    def _covered(self, candidate: Candidate) -> float:
        """Cost of what a label and its leader cover."""
        cost = CROSSED * int(np.count_nonzero(candidate.box.grown(1).holds(self.lines)))
        if candidate.anchor is not None:
            leader = np.linspace(candidate.box.nearest(*candidate.anchor), candidate.anchor, 24)
            cost += COVERED * sum(bool(box.holds(leader).any()) for box in self.taken)
            near = self.lines[Box.around(leader).grown(3).holds(self.lines)]
            gaps = np.hypot(*(near[:, None] - leader).transpose(2, 0, 1))
            cost += CROSSED * int(np.count_nonzero(gaps.min(axis=1, initial=np.inf) < 3))
        return cost
