"""Places on the Earth as points of a plane: azimuthal for a part of the Earth, cylindrical for most
of it.

Planes have the Earth's radius as their unit, x to the right and y down.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from testbed.core.geo import Location

Points = NDArray[np.float64]  # (n, 2)
WIDEST_CAP = np.radians(60)  # what lies farther from the centre is squeezed too much
CLEAR_OF_EDGE = 25.0  # degrees
_PATTERSON = (1.0148, 0.23185, -0.14499, 0.02406)


class Projection(Protocol):
    """A way to draw the Earth."""

    @property
    def period(self) -> float | None:
        """The width of 360 degrees, where the plane repeats itself; else None."""

    def project(self, degrees: Points) -> Points:
        """The plane's points of (degrees north, degrees east)."""

    def copies(self, line: Points) -> list[Points]:
        """A line or ring (degrees) on the plane. Filled by the even-odd rule, a ring is what it
        encloses.
        """


@dataclass(frozen=True)
class Azimuthal:
    """Lambert's azimuthal equal-area projection around `centre`. What is beyond `rim` is moved to
    the rim.
    """

    centre: Location
    rim: float = float(np.radians(150))
    period: None = None

    def project(self, degrees: Points) -> Points:
        """The plane's points of (degrees north, degrees east)."""
        north, east = np.radians(degrees).T
        north_0, east_0 = np.radians(self.centre)
        east = east - east_0
        x = np.cos(north) * np.sin(east)
        y = np.cos(north_0) * np.sin(north) - np.sin(north_0) * np.cos(north) * np.cos(east)
        cosine = np.sin(north_0) * np.sin(north) + np.cos(north_0) * np.cos(north) * np.cos(east)
        angle = np.minimum(np.arctan2(np.hypot(x, y), cosine), self.rim)
        bearing = np.arctan2(x, y)
        radius = 2 * np.sin(angle / 2)
        return np.column_stack([radius * np.sin(bearing), -radius * np.cos(bearing)])

    def copies(self, line: Points) -> list[Points]:
        """The line; and the rim if it encloses the point opposite the centre, for then its inside
        is around it.
        """
        north, east = self.centre
        if not any(encloses(line, (-north, east + turn)) for turn in (-180, 180, 540)):
            return [self.project(line)]
        turn = np.linspace(0, 2 * np.pi, 181)
        return [
            self.project(line),
            2 * np.sin(self.rim / 2) * np.column_stack([np.cos(turn), np.sin(turn)]),
        ]


@dataclass(frozen=True)
class Cylindrical:
    """Patterson's cylindrical projection (2014); the meridian `middle` runs through the middle of
    the map.
    """

    middle: float
    period: float = float(2 * np.pi)

    def project(self, degrees: Points) -> Points:
        """The plane's points of (degrees north, degrees east); x is not brought into one period."""
        north, east = np.radians(degrees).T
        a, b, c, d = _PATTERSON
        y = north * (a + north**4 * (b + north**2 * (c + north**2 * d)))
        return np.column_stack([east - np.radians(self.middle), -y])

    def copies(self, line: Points) -> list[Points]:
        """The line in three periods."""
        points = self.project(line)
        return [points + np.array([turn, 0]) for turn in (-self.period, 0, self.period)]


def encloses(ring: Points, point: Location) -> bool:
    """Whether the closed `ring` winds around `point`, both in a plane."""
    (y, x), py, px = ring.T, *point
    crosses = (y[:-1] > py) != (y[1:] > py)
    rise = np.where(crosses, y[1:] - y[:-1], 1)
    return bool(
        np.count_nonzero(crosses & (px < x[:-1] + (py - y[:-1]) * (x[1:] - x[:-1]) / rise)) % 2
    )


def fitting(locations: Sequence[Location], links: Sequence[tuple[int, int]]) -> Projection:
    """The projection for a map of `locations` (at least one), of which `links` join pairs."""
    centre, reach = smallest_cap(np.array(locations))
    if reach <= WIDEST_CAP:
        return Azimuthal(centre)
    return Cylindrical(_middle([east for _, east in locations], links))


def smallest_cap(degrees: Points) -> tuple[Location, float]:
    """Centre, and reach in radians, of the smallest circle on the Earth around all points, to 1 %.

    Badoiu and Clarkson's method: the centre moves towards the farthest point, by less and less.
    """
    north, east = np.radians(degrees).T
    points = np.column_stack(
        [np.cos(north) * np.cos(east), np.cos(north) * np.sin(east), np.sin(north)]
    )
    centre = points.mean(axis=0)
    if np.linalg.norm(centre) < 1e-6:
        centre = points[0].copy()
    centre /= np.linalg.norm(centre)
    for step in range(2, 400):
        farthest = points[(points @ centre).argmin()]
        centre = centre + (farthest - centre) / step
        centre /= max(float(np.linalg.norm(centre)), 1e-9)
    reach = float(np.arccos(np.clip((points @ centre).min(), -1, 1)))
    x, y, z = centre
    return (
        float(np.degrees(np.arcsin(np.clip(z, -1, 1)))),
        float(np.degrees(np.arctan2(y, x))),
    ), reach


def _middle(east: Sequence[float], links: Sequence[tuple[int, int]]) -> float:
    """The meridian for the middle. The map's edge, opposite, keeps away from the sites; it is
    crossed by few links, or is near the date line, where people expect it: 30 degrees count as much
    as a link."""

    def cost(edge: int) -> float:
        x = [(value - edge) % 360 for value in east]
        near = sum(min(value, 360 - value) < CLEAR_OF_EDGE for value in x)
        return 1000 * near + sum(abs(x[a] - x[b]) > 180 for a, b in links) + abs(edge - 180) / 30

    return float(min(range(0, 360, 5), key=cost) - 180)
