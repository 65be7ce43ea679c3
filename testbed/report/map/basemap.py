"""Land, lakes and borders behind a map; `map/data/SOURCES.md` names the sources."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from testbed.core.geo import EARTH_RADIUS_KM, Location
from testbed.report.map.geometry import Box, Points, Position
from testbed.report.map.projection import Projection

UNIT = 0.01  # degrees per unit of the numbers in land.json
MARGIN = 8.0  # px around the frame in which lines are kept
SMALLEST = 1.5  # px; smaller shapes are not drawn
LEAST_STEP = 0.7  # px between two points of an outline
FINEST_KM_PER_PX = 0.6  # the outline is accurate to a few kilometres
FILLED_LAYERS = ("land", "lakes")


@dataclass(frozen=True)
class View:
    """A projection, scaled and shifted into the `frame` of a drawing."""

    projection: Projection
    frame: Box
    scale: float  # px per unit of the plane
    middle: Position  # point of the plane at the middle of the frame

    @property
    def period(self) -> float | None:
        """The width of 360 degrees in px if the map repeats itself, or None."""
        plane_period = self.projection.period
        if plane_period is None:
            return None
        return plane_period * self.scale

    @property
    def km_per_px(self) -> float:
        """The scale in km per px at the middle of the map."""
        return EARTH_RADIUS_KM / self.scale

    def at(self, locations: Iterable[Location]) -> Points:
        """Return the points (shape (n, 2), in px) of locations, within one period."""
        degrees = np.array(list(locations), dtype=float)
        points = self._to_px(self.projection.project(degrees))

        if self.period is not None:
            offsets = points[:, 0] - self.frame.left
            points[:, 0] = self.frame.left + offsets % self.period
        return points

    @cache  # noqa: B019 (views are few, and compared by value)
    def layers(self) -> dict[str, str]:
        """Return SVG path data of each layer, to 0.1 px; empty where the outline is too coarse."""
        if self.km_per_px < FINEST_KM_PER_PX:
            return {}

        paths = {}

        for name, lines in _land().items():
            draw = self._ring_path if name in FILLED_LAYERS else self._line_path
            data = "".join(draw(line) for line in lines)
            if data:
                paths[name] = data
        return paths

    def _ring_path(self, degrees: Points) -> str:
        """Return the path data of a ring: shape (n, 2), degrees north and east."""
        region = self.frame.grown(MARGIN)
        paths = []

        for plane_ring in self.projection.copies(degrees):
            ring = clipped(self._to_px(plane_ring), region)
            paths.append(_path(ring, close=True))

        return "".join(paths)

    def _line_path(self, degrees: Points) -> str:
        """Return the path data of a line: shape (n, 2), degrees north and east."""
        region = self.frame.grown(MARGIN)
        paths = []

        for plane_line in self.projection.copies(degrees):
            for piece in pieces(self._to_px(plane_line), region):
                paths.append(_path(piece, close=False))

        return "".join(paths)

    def _to_px(self, plane: Points) -> Points:
        """Return points of the plane as px of the drawing; both of shape (n, 2), columns x, y."""
        from_middle = (plane - self.middle) * self.scale
        return np.asarray(from_middle + self.frame.middle)


@cache
def _land() -> dict[str, list[Points]]:
    """Read the lines of each layer of land.json, each of shape (n, 2): degrees north, east."""
    text = resources.files("testbed.report").joinpath("map/data/land.json").read_text()

    layers = {}
    for name, lines in json.loads(text).items():
        layers[name] = [_decoded(line) for line in lines]
    return layers


def _decoded(numbers: list[int]) -> Points:
    """Decode a line of land.json: x and y of the first point, then the steps between points.

    Returns:
        Shape (n, 2): degrees north, east.
    """
    steps = np.array(numbers, dtype=float).reshape(-1, 2)
    east_and_north = np.cumsum(steps, axis=0)
    north_and_east = east_and_north[:, ::-1]
    return np.asarray(north_and_east * UNIT)


def clipped(ring: Points, frame: Box) -> Points:
    """Clip a filled ring (shape (n, 2)) to `frame`.

    The algorithm is from Sutherland and Hodgman, "Reentrant polygon clipping" (1974).
    """
    if not frame.overlaps(Box.around(ring)):
        return ring[:0]

    inside_left = ring[:, 0] - frame.left
    ring = _cut_at_side(ring, inside_left)

    inside_right = -(ring[:, 0] - frame.right)
    ring = _cut_at_side(ring, inside_right)

    inside_top = ring[:, 1] - frame.top
    ring = _cut_at_side(ring, inside_top)

    inside_bottom = -(ring[:, 1] - frame.bottom)
    return _cut_at_side(ring, inside_bottom)


def _cut_at_side(ring: Points, depth: NDArray[np.float64]) -> Points:
    """Cut a ring at one side of a frame.

    Args:
        ring: shape (n, 2).
        depth: depth of each point inside that side, shape (n,); negative outside.
    """
    inside = depth >= 0
    if len(ring) == 0 or inside.all():
        return ring

    next_points = np.roll(ring, -1, axis=0)
    next_depth = np.roll(depth, -1)

    crosses = inside != (next_depth >= 0)
    slope = np.where(crosses, depth - next_depth, 1)
    share = np.where(crosses, depth / slope, 0)
    crossings = ring + share[:, None] * (next_points - ring)

    both = np.stack([ring, crossings], axis=1).reshape(-1, 2)
    kept = np.column_stack([inside, crosses]).ravel()
    return np.asarray(both[kept])


def pieces(line: Points, frame: Box) -> list[Points]:
    """Return the stretches of a line (shape (n, 2)) that touch `frame`.

    A segment with one end inside the frame is kept whole.
    """
    inside = frame.holds(line)

    near = inside.copy()
    near[:-1] |= inside[1:]
    near[1:] |= inside[:-1]

    cuts = np.flatnonzero(np.diff(near.astype(int))) + 1
    stretches = np.split(line, cuts)

    return [part for part in stretches if len(part) > 1 and frame.holds(part).any()]


def _path(points: Points, close: bool) -> str:
    """Return path data of points (shape (n, 2)); empty for a shape smaller than `SMALLEST`."""
    if len(points) < 2:
        return ""

    extent = np.ptp(points, axis=0).max()
    if extent < SMALLEST:
        return ""

    kept = [points[0]]
    for point in points[1:-1]:
        step = abs(point - kept[-1]).max()
        if step >= LEAST_STEP:
            kept.append(point)
    kept.append(points[-1])

    text = "L".join(f"{x:.1f} {y:.1f}" for x, y in kept)
    if close:
        return f"M{text}Z"
    return f"M{text}"
