"""Places on the Earth as points of a plane.

The projection is azimuthal for a part of the Earth and cylindrical for most of the Earth. Planes
have the Earth's radius as their unit, x to the right and y down. Places are arrays of shape (n, 2)
with degrees north and degrees east.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from testbed.core.geo import Location
from testbed.report.map.geometry import Points, Vector

WIDEST_CAP = np.radians(60)  # what lies farther from the centre would be squeezed too much
CLEAR_OF_EDGE = 25.0  # degrees between a site and the edge of a map of the world
EDGE_STEP = 5  # degrees between the meridians that are tried as the edge of a map of the world
CAP_STEPS = 400  # of the search for the smallest cap; gives its reach to 1 %


class Projection(Protocol):
    """A way to draw the Earth."""

    @property
    def period(self) -> float | None:
        """The width of 360 degrees, where the plane repeats itself; else None."""

    def project(self, degrees: Points) -> Points:
        """Give the plane's points of places."""

    def copies(self, line: Points) -> list[Points]:
        """Give a line or ring of places on the plane, once for each time it is drawn.

        Filled by the even-odd rule, the copies of a ring are what the ring encloses.
        """


@dataclass(frozen=True)
class Azimuthal:
    """Lambert's azimuthal equal-area projection; what is beyond `rim` is moved to the rim."""

    centre: Location
    rim: float = float(np.radians(150))
    period: None = None

    def project(self, degrees: Points) -> Points:
        """Give the plane's points of places (Snyder, "Map Projections", 1987, chapter 24)."""
        north, east = np.radians(degrees).T
        centre_north, centre_east = np.radians(self.centre)
        east = east - centre_east

        sin_north = np.sin(north)
        cos_north = np.cos(north)
        towards_centre = cos_north * np.cos(east)

        x = cos_north * np.sin(east)
        y = np.cos(centre_north) * sin_north - np.sin(centre_north) * towards_centre
        cosine = np.sin(centre_north) * sin_north + np.cos(centre_north) * towards_centre

        angle = np.arctan2(np.hypot(x, y), cosine)
        angle = np.minimum(angle, self.rim)

        bearing = np.arctan2(x, y)
        radius = 2 * np.sin(angle / 2)
        return np.column_stack([radius * np.sin(bearing), -radius * np.cos(bearing)])

    def copies(self, line: Points) -> list[Points]:
        """Give the line, and the rim where the inside of the line is around the rim.

        The rim is added if the line encloses the point opposite the centre.
        """
        projected = self.project(line)
        north, east = self.centre

        opposites = [(-north, east + turn) for turn in (-180, 180, 540)]

        if not any(encloses(line, opposite) for opposite in opposites):
            return [projected]
        return [projected, self._rim_circle()]

    def _rim_circle(self) -> Points:
        turn = np.linspace(0, 2 * np.pi, 181)
        circle = np.column_stack([np.cos(turn), np.sin(turn)])
        radius = 2 * np.sin(self.rim / 2)
        return np.asarray(radius * circle)


@dataclass(frozen=True)
class Cylindrical:
    """Patterson's cylindrical projection, centred on the meridian `middle` (degrees east)."""

    middle: float
    period: float = float(2 * np.pi)

    def project(self, degrees: Points) -> Points:
        """Give the plane's points of places; x is not brought into one period.

        The polynomial is that of Patterson, Savric and Jenny, "Introducing the Patterson
        Cylindrical Projection" (2014).
        """
        north, east = np.radians(degrees).T
        x = east - np.radians(self.middle)

        ninth = -0.14499 + north**2 * 0.02406
        seventh = 0.23185 + north**2 * ninth
        y = north * (1.0148 + north**4 * seventh)

        return np.column_stack([x, -y])

    def copies(self, line: Points) -> list[Points]:
        """Give the line in three periods."""
        points = self.project(line)
        shifts = (-self.period, 0, self.period)
        return [points + np.array([shift, 0]) for shift in shifts]


def encloses(ring: Points, point: Location) -> bool:
    """Tell whether a closed ring winds around a point (even-odd rule).

    Args:
        ring: shape (n, 2), rows (y, x); the last row is the first one.
        point: (y, x).
    """
    point_y, point_x = point
    begin_y, begin_x = ring[:-1].T
    end_y, end_x = ring[1:].T

    crosses = (begin_y > point_y) != (end_y > point_y)
    rise = np.where(crosses, end_y - begin_y, 1)
    run = end_x - begin_x

    crossing_x = begin_x + (point_y - begin_y) * run / rise
    to_the_right = crosses & (point_x < crossing_x)

    return bool(np.count_nonzero(to_the_right) % 2)


def fitting(locations: Sequence[Location], links: Sequence[tuple[int, int]]) -> Projection:
    """Choose the projection for a map.

    Args:
        locations: degrees north and degrees east of the sites, of which there is at least one.
        links: pairs of indices in `locations` that are linked.
    """
    centre, reach = smallest_cap(np.array(locations))

    if reach <= WIDEST_CAP:
        return Azimuthal(centre)

    longitudes = [east for _, east in locations]
    return Cylindrical(_middle_meridian(longitudes, links))


def smallest_cap(degrees: Points) -> tuple[Location, float]:
    """Find the smallest circle on the Earth around all places, to 1 %.

    The method is that of Badoiu and Clarkson, "Smaller core-sets for balls" (2003): the centre
    moves towards the farthest point, by less and less.

    Returns:
        The centre (degrees north, degrees east), and the reach in radians.
    """
    points = _on_unit_sphere(degrees)

    centre = points.mean(axis=0)
    if np.linalg.norm(centre) < 1e-6:
        centre = points[0].copy()
    centre /= np.linalg.norm(centre)

    for step in range(2, CAP_STEPS):
        farthest = points[(points @ centre).argmin()]
        centre = centre + (farthest - centre) / step
        centre /= max(float(np.linalg.norm(centre)), 1e-9)

    least_cosine = np.clip((points @ centre).min(), -1, 1)
    reach = float(np.arccos(least_cosine))
    return _location(centre), reach


def _on_unit_sphere(degrees: Points) -> Points:
    """Convert places (shape (n, 2)) to points on a sphere of radius 1 (shape (n, 3))."""
    north, east = np.radians(degrees).T

    x = np.cos(north) * np.cos(east)
    y = np.cos(north) * np.sin(east)
    z = np.sin(north)

    return np.column_stack([x, y, z])


def _location(point: Vector) -> Location:
    """Convert a point on a sphere of radius 1 (shape (3,)) to degrees north and east."""
    x, y, z = point
    north = np.degrees(np.arcsin(np.clip(z, -1, 1)))
    east = np.degrees(np.arctan2(y, x))
    return float(north), float(east)


def _middle_meridian(longitudes: Sequence[float], links: Sequence[tuple[int, int]]) -> float:
    """Choose the meridian in the middle of a map of the world.

    The map's edge is opposite. It stays away from sites, and either few links cross it, or it is
    near the date line, where people expect it: 30 degrees count as much as a link.
    """

    def cost(edge: int) -> float:
        offsets = [(east - edge) % 360 for east in longitudes]
        close_sites = sum(min(offset, 360 - offset) < CLEAR_OF_EDGE for offset in offsets)

        crossing_links = sum(abs(offsets[a] - offsets[b]) > 180 for a, b in links)
        from_date_line = abs(edge - 180) / 30

        return 1000 * close_sites + crossing_links + from_date_line

    best_edge = min(range(0, 360, EDGE_STEP), key=cost)
    return float(best_edge - 180)
