"""The quiet background of a map: land, lakes, borders. `map/data/SOURCES.md` tells where the data
come from.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np

from testbed.core.geo import EARTH_RADIUS_KM, Location
from testbed.report.map.labels import Box
from testbed.report.map.projection import Points, Projection

UNIT = 0.01  # degrees, of the numbers in land.json
MARGIN = 8.0  # px around the frame within which lines are kept
SMALLEST = 1.5  # px, of what is drawn
FINEST_KM_PER_PX = 0.6  # the outline is exact to some kilometres


@dataclass(frozen=True)
class View:
    """A projection, magnified and moved into the `frame` of a drawing."""

    projection: Projection
    frame: Box
    scale: float  # px for a unit of the plane
    middle: tuple[float, float]  # the plane's point at the middle of the frame

    @property
    def period(self) -> float | None:
        """px of 360 degrees, where the map repeats itself."""
        return None if self.projection.period is None else self.projection.period * self.scale

    @property
    def km_per_px(self) -> float:
        """At the middle of the map."""
        return EARTH_RADIUS_KM / self.scale

    def at(self, places: Iterable[Location]) -> Points:
        """px of the places (degrees north, degrees east), within one period."""
        points = self._px(self.projection.project(np.array(list(places), dtype=float)))
        if self.period is not None:
            points[:, 0] = self.frame.left + (points[:, 0] - self.frame.left) % self.period
        return points

    @cache  # noqa: B019 (views are few, and compared by value)
    def layers(self) -> dict[str, str]:
        """SVG path data of each layer, rounded to 0.1 px; nothing where the outline is too
        coarse.
        """
        if self.km_per_px < FINEST_KM_PER_PX:
            return {}
        found = {}
        for name, lines in _land().items():
            draw = self._ring if name in ("land", "lakes") else self._line
            found[name] = "".join(draw(line) for line in lines)
        return {name: data for name, data in found.items() if data}

    def _ring(self, degrees: Points) -> str:
        rings = (
            clipped(self._px(ring), self.frame.grown(MARGIN))
            for ring in self.projection.copies(degrees)
        )
        return "".join(_path(ring, close=True) for ring in rings)

    def _line(self, degrees: Points) -> str:
        lines = (
            pieces(self._px(line), self.frame.grown(MARGIN))
            for line in self.projection.copies(degrees)
        )
        return "".join(_path(piece, close=False) for line in lines for piece in line)

    def _px(self, plane: Points) -> Points:
        return np.asarray((plane - self.middle) * self.scale + self.frame.middle)


@cache
def _land() -> dict[str, list[Points]]:
    """Lines of each layer of land.json in (degrees north, degrees east)."""
    data = json.loads(resources.files("testbed.report").joinpath("map/data/land.json").read_text())
    return {
        name: [
            np.cumsum(np.array(line, dtype=float).reshape(-1, 2), axis=0)[:, ::-1] * UNIT
            for line in lines
        ]
        for name, lines in data.items()
    }


def clipped(ring: Points, frame: Box) -> Points:
    """The part of a filled `ring` within `frame` (Sutherland and Hodgman's method)."""
    if not frame.overlaps(Box.around(ring)):
        return ring[:0]
    for axis, limit, sign in (
        (0, frame.left, 1),
        (0, frame.right, -1),
        (1, frame.top, 1),
        (1, frame.bottom, -1),
    ):
        depth = sign * (ring[:, axis] - limit)
        if len(ring) == 0 or (depth >= 0).all():
            continue
        following, next_depth = np.roll(ring, -1, axis=0), np.roll(depth, -1)
        crosses = (depth >= 0) != (next_depth >= 0)
        share = np.where(crosses, depth / np.where(crosses, depth - next_depth, 1), 0)[:, None]
        both = np.stack([ring, ring + share * (following - ring)], axis=1).reshape(-1, 2)
        ring = both[np.column_stack([depth >= 0, crosses]).ravel()]
    return ring


def pieces(line: Points, frame: Box) -> list[Points]:
    """The stretches of `line` that touch `frame`; a segment with an end inside is kept whole."""
    inside = frame.holds(line)
    near = inside.copy()
    near[:-1] |= inside[1:]
    near[1:] |= inside[:-1]
    cuts = np.flatnonzero(np.diff(near.astype(int))) + 1
    return [part for part in np.split(line, cuts) if len(part) > 1 and frame.holds(part).any()]


def _path(points: Points, close: bool) -> str:
    """Path data without the steps that nobody sees; nothing for a shape below `SMALLEST`."""
    if len(points) < 2 or np.ptp(points, axis=0).max() < SMALLEST:
        return ""
    kept = [points[0]]
    for point in points[1:-1]:
        if abs(point - kept[-1]).max() >= 0.7:
            kept.append(point)
    kept.append(points[-1])
    text = "L".join(f"{x:.1f} {y:.1f}" for x, y in kept)
    return f"M{text}Z" if close else f"M{text}"
