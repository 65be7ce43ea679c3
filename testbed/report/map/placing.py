"""Place the sites of a network on a drawing: on a map, or on a circle."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np

from testbed.core.geo import Location
from testbed.plan.model import Network
from testbed.report.map.basemap import View
from testbed.report.map.geometry import Box, Points, Position
from testbed.report.map.projection import Azimuthal, Projection, fitting

WIDTH = 960.0  # px of the whole drawing
HEADER = 58.0  # px above the frame
EDGE = 12.0  # px between the frame and the sides of the drawing
INNER_WIDTH = WIDTH - 2 * EDGE
TALLEST = 600.0  # px of the frame
FLATTEST = 380.0
STRIP = 84.0  # px below the map, for sites without a location

# Map of a region: px between the outermost sites and the frame.
BESIDE = 100.0
ABOVE = 85.0
LEAST_REACH = 1e-4  # radii of the Earth: 600 m
REACH_OF_ONE_SITE = 0.6  # 3800 km
# Map of the world: radii of the Earth between the outermost sites and the frame.
NORTH_AND_SOUTH = 0.32

# Circle.
CIRCLE_HEIGHT = 460.0
FEW_SITES = 2  # number of sites at which the frame has its least height
MANY_SITES = 13  # number of sites at which the frame has its greatest height
CIRCLE_BESIDE = 190.0  # px between the circle and the sides of the frame
CIRCLE_ABOVE = 66.0


@dataclass(frozen=True)
class Placing:
    """The frame of a drawing, the map in the frame if any, and each site's point by name."""

    frame: Box
    view: View | None
    points: Mapping[str, Position]


def place_sites(network: Network) -> Placing:
    """Place sites on a map if more than half of them have a location, else on a circle."""
    located = {dc.name: dc.location for dc in network.datacenters if dc.location is not None}
    if 2 * len(located) > len(network.datacenters):
        return _place_on_map(network, located)
    return _place_on_circle(network)


def _place_on_map(network: Network, located: Mapping[str, Location]) -> Placing:
    """Place sites on a map; sites without a location are placed in a strip below the map."""
    view = _view(network, located)

    points = {}
    for name, point in zip(located, view.at(located.values()), strict=True):
        points[name] = Position.of(point)

    frame = view.frame
    unlocated = [dc.name for dc in network.datacenters if dc.name not in located]
    for number, name in enumerate(unlocated):
        x = frame.left + frame.width * (number + 0.5) / len(unlocated)
        points[name] = Position(x, frame.bottom + STRIP / 2 - 10)

    if unlocated:
        frame = frame._replace(bottom=frame.bottom + STRIP)
    return Placing(frame, view, points)


def _view(network: Network, located: Mapping[str, Location]) -> View:
    """Return the projection and scale at which all sites and their labels fill the frame."""
    numbers = {name: number for number, name in enumerate(located)}

    links = []
    for link in network.wan:
        source = link.forward.source
        target = link.forward.target
        if source in located and target in located:
            links.append((numbers[source], numbers[target]))

    locations = list(located.values())
    projection = fitting(locations, links)
    plane_points = projection.project(np.array(locations))
    if isinstance(projection, Azimuthal):
        return _view_of_region(projection, plane_points)
    return _view_of_world(projection, plane_points)


def _view_of_region(projection: Projection, plane_points: Points) -> View:
    """Fit the sites (shape (n, 2), points of the plane) into the frame, with room for labels."""
    extent = Box.around(plane_points)
    least = REACH_OF_ONE_SITE if len(plane_points) == 1 else LEAST_REACH

    reach = max(extent.width, extent.height, least)
    scale = min(
        (INNER_WIDTH - 2 * BESIDE) / max(extent.width, 0.4 * reach),
        (TALLEST - 2 * ABOVE) / max(extent.height, 0.2 * reach),
    )

    height = extent.height * scale + 2 * ABOVE
    height = min(max(height, FLATTEST), TALLEST)

    return View(
        projection=projection,
        frame=_frame(height),
        scale=scale,
        middle=extent.middle,
    )


def _view_of_world(projection: Projection, plane_points: Points) -> View:
    """Fit all meridians into the frame, and the sites (shape (n, 2), points of the plane)."""
    extent = Box.around(plane_points)
    extent = Box(
        left=-pi,
        top=extent.top - NORTH_AND_SOUTH,
        right=pi,
        bottom=extent.bottom + NORTH_AND_SOUTH,
    )

    scale = INNER_WIDTH / extent.width
    height = min(extent.height * scale, TALLEST)

    return View(
        projection=projection,
        frame=_frame(height),
        scale=scale,
        middle=extent.middle,
    )


def _frame(height: float) -> Box:
    return Box(
        left=EDGE,
        top=HEADER,
        right=WIDTH - EDGE,
        bottom=HEADER + height,
    )


def _place_on_circle(network: Network) -> Placing:
    """Place sites on a circle in order, with the hub of a star in the middle."""
    names = [dc.name for dc in network.datacenters]
    hub = _hub(network)
    around = [name for name in names if name != hub]
    frame = _frame(_circle_height(len(names)))
    middle = frame.middle

    points = {}
    if hub is not None:
        points[hub] = middle

    radius_x = frame.width / 2 - CIRCLE_BESIDE
    radius_y = frame.height / 2 - CIRCLE_ABOVE
    if len(names) == 1:
        radius_x = radius_y = 0.0

    # An even number of sites leaves the top free, with two sites next to each other there.
    start = -pi / 2
    if len(around) % 2 == 0:
        start -= pi / len(around)

    for number, name in enumerate(around):
        angle = start + 2 * pi * number / len(around)
        points[name] = Position(
            middle.x + radius_x * cos(angle),
            middle.y + radius_y * sin(angle),
        )

    return Placing(frame, None, points)


def _hub(network: Network) -> str | None:
    """Return the site of a star to which all others link, or None if the network is not a star."""
    sites = len(network.datacenters)
    is_tree = len(network.wan) == sites - 1
    if sites <= 3 or not is_tree:
        return None

    neighbours: dict[str, set[str]] = defaultdict(set)
    for link in network.wan:
        for direction in link.directions:
            neighbours[direction.source].add(direction.target)

    for name, linked in neighbours.items():
        if len(linked) == sites - 1:
            return name
    return None


def _circle_height(sites: int) -> float:
    if sites <= FEW_SITES:
        return FLATTEST
    if sites >= MANY_SITES:
        return TALLEST
    return CIRCLE_HEIGHT
