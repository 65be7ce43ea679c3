"""Projections of locations on the Earth to points of a plane.

The projection is azimuthal for a part of the Earth and cylindrical for most of the Earth. Planes
use the Earth's radius as unit, x to the right and y down. Locations are arrays of shape (n, 2) with
degrees north and degrees east.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from testbed.core.geo import Location
from testbed.report.map.geometry import Points, Vector

WIDEST_CAP = np.radians(60)  # locations farther from the centre would be too distorted
CLEAR_OF_EDGE = 25.0  # degrees between a site and the edge of a map of the world
EDGE_STEP = 5  # degrees between the meridians tried as the edge of a map of the world
CAP_STEPS = 400  # steps of the search for the smallest cap, which is accurate to 1 %


class Projection(Protocol):
    """A projection of the Earth to a plane.

    Locations are arrays of shape (n, 2), degrees north and east; points of the plane are arrays of
    shape (n, 2), x to the right and y downwards, in radii of the Earth.
    """

    @property
    def period(self) -> float | None:
        """The width of 360 degrees if the plane repeats itself, or None."""

    def project(self, degrees: Points) -> Points:
        """Return the points of the plane for locations, shape (n, 2) each."""

    def copies(self, line: Points) -> list[Points]:
        """Return a line or ring of locations on the plane, once for each copy to draw.

        Filled by the even-odd rule, the copies of a ring cover the inside of the ring.
        """


@dataclass(frozen=True)
class Azimuthal:
    """Lambert's azimuthal equal-area projection; points beyond `rim` are moved to the rim."""

    centre: Location
    rim: float = float(np.radians(150))
    period: None = None

    def project(self, degrees: Points) -> Points:
        """Return points of the plane (Snyder, "Map Projections", 1987, chapter 24)."""
        north, east = np.radians(degrees).T
        centre_north, centre_east = np.radians(self.centre)
        sin_centre = np.sin(centre_north)
        cos_centre = np.cos(centre_north)
        east = east - centre_east

        sin_north = np.sin(north)
        cos_north = np.cos(north)
        towards_centre = cos_north * np.cos(east)

        x = cos_north * np.sin(east)
        y = cos_centre * sin_north - sin_centre * towards_centre
        cosine = sin_centre * sin_north + cos_centre * towards_centre

        sine = np.hypot(x, y)
        angle = np.arctan2(sine, cosine)
        angle = np.minimum(angle, self.rim)

        bearing = np.arctan2(x, y)
        radius = 2 * np.sin(angle / 2)
        to_the_right = radius * np.sin(bearing)
        upwards = radius * np.cos(bearing)
        return np.column_stack([to_the_right, -upwards])

    def copies(self, line: Points) -> list[Points]:
        """Return the line, plus the rim if the inside of the line contains the rim.

        The rim is added if the line encloses the point opposite the centre.
        """
        projected = self.project(line)
        north, east = self.centre

        opposites = [(-north, east + turn) for turn in (-180, 180, 540)]

        if not any(encloses(line, opposite) for opposite in opposites):
            return [projected]
        return [projected, self._rim_circle()]

    def _rim_circle(self) -> Points:
        """Return the rim on the plane, shape (n, 2)."""
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
        """Return points of the plane; x is not reduced to one period.

        The polynomial is from Patterson, Savric and Jenny, "Introducing the Patterson Cylindrical
        Projection" (2014).
        """
        north, east = np.radians(degrees).T
        x = east - np.radians(self.middle)

        ninth = -0.14499 + north**2 * 0.02406
        seventh = 0.23185 + north**2 * ninth
        y = north * (1.0148 + north**4 * seventh)

        return np.column_stack([x, -y])

    def copies(self, line: Points) -> list[Points]:
        """Return the line in three periods."""
        points = self.project(line)
        shifts = (-self.period, 0, self.period)
        return [points + np.array([shift, 0]) for shift in shifts]


def encloses(ring: Points, point: Location) -> bool:
    """Return whether a closed ring winds around a point (even-odd rule).

    Args:
        ring: shape (n, 2), rows (y, x); the last row equals the first.
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
    """Return the projection for a map.

    Args:
        locations: degrees north and degrees east of at least one site.
        links: pairs of linked sites, as indices in `locations`.
    """
    centre, reach = smallest_cap(np.array(locations))

    if reach <= WIDEST_CAP:
        return Azimuthal(centre)

    longitudes = [east for _, east in locations]
    return Cylindrical(_middle_meridian(longitudes, links))


def smallest_cap(degrees: Points) -> tuple[Location, float]:
    """Return the smallest circle on the Earth around all locations, to 1 %.

    The algorithm is from Badoiu and Clarkson, "Smaller core-sets for balls" (2003): the centre
    moves towards the farthest point in shrinking steps.

    Args:
        degrees: shape (n, 2), degrees north and east.

    Returns:
        The centre (degrees north, degrees east), and the radius in radians.
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
    """Return locations (shape (n, 2)) as points on the unit sphere (shape (n, 3))."""
    north, east = np.radians(degrees).T

    x = np.cos(north) * np.cos(east)
    y = np.cos(north) * np.sin(east)
    z = np.sin(north)

    return np.column_stack([x, y, z])


def _location(point: Vector) -> Location:
    """Return a point on the unit sphere (shape (3,)) as degrees north and east."""
    x, y, z = point
    sine = np.clip(z, -1, 1)
    north = np.arcsin(sine)
    east = np.arctan2(y, x)
    return float(np.degrees(north)), float(np.degrees(east))


def _middle_meridian(longitudes: Sequence[float], links: Sequence[tuple[int, int]]) -> float:
    """Return the meridian in the middle of a map of the world, in degrees east.

    The map's edge is opposite. The edge keeps away from sites, and either crosses few links or is
    near the date line, where readers expect the edge: 30 degrees count as much as a link.
    """

    def cost(edge: int) -> float:
        offsets = [(east - edge) % 360 for east in longitudes]
        close_sites = 0
        for offset in offsets:
            distance = min(offset, 360 - offset)
            close_sites += distance < CLEAR_OF_EDGE

        crossing_links = 0
        for start, end in links:
            width = abs(offsets[start] - offsets[end])
            crossing_links += width > 180

        from_date_line = abs(edge - 180) / 30
        return 1000 * close_sites + crossing_links + from_date_line

    best_edge = min(range(0, 360, EDGE_STEP), key=cost)
    return float(best_edge - 180)
