"""Candidate places of a label: next to a point, on a curve, or farther away."""

from __future__ import annotations

from collections.abc import Iterator
from math import cos, pi, sin

import numpy as np

from testbed.report.map.curves import Curve
from testbed.report.map.geometry import Box, BoxSize, Position
from testbed.report.map.labels import Candidate

CLEAR_OF_DOT = 2.5  # px between a dot and its label
LEADER_COST = 30.0  # px; a label close to its object is better
RINGS = 8  # rings of candidates farther away
RING_DISTANCE = 14.0  # px from one ring to the next
ANGLES_IN_RING = 16
SHARES_OF_CURVE = np.linspace(0.22, 0.78, 29)  # positions of labels along a curve
OFF_MIDDLE_COST = 90.0  # px, for a label a whole curve length away from the middle
LEAST_VISIBLE = 2.2  # least ratio of a labelled curve's length to the hidden part


def around_dot(dot: Position, radius: float, size: BoxSize) -> list[Candidate]:
    """Return places around a dot: right, left, above, below, then corners.

    Args:
        dot: middle of the dot.
        radius: radius of the dot in px.
        size: size of the label.
    """
    across = size.width / 2 + radius + CLEAR_OF_DOT
    down = size.height / 2 + radius + CLEAR_OF_DOT

    places = [
        (across, 0.0, 0),
        (-across, 0.0, 1),
        (0.0, -down, 2),
        (0.0, down, 2),
    ]
    corners = [
        (across, 0.4 * size.height),
        (0.4 * size.width, down),
    ]

    for corner_x, corner_y in corners:
        for x in (corner_x, -corner_x):
            places += [(x, -corner_y, 4), (x, corner_y, 4)]

    candidates = []
    for x, y, cost in places:
        middle = Position(dot.x + x, dot.y + y)
        candidates.append(Candidate(Box.centred(middle, size), cost))

    return candidates


def along_curve(curve: Curve, size: BoxSize) -> list[Candidate]:
    """Return places on a curve, best in the middle; none if the label would hide the curve."""
    across, down = np.abs(curve.chord) / max(curve.length, 1)

    hidden_across = size.width / max(across, 1e-3)
    hidden_down = size.height / max(down, 1e-3)
    hidden = min(hidden_across, hidden_down)

    if curve.length < LEAST_VISIBLE * hidden:
        return []

    candidates = []
    for share in SHARES_OF_CURVE:
        cost = abs(share - 0.5) * OFF_MIDDLE_COST
        on_curve = Position.of(curve.at(share)[0])
        for turn in curve.turns:
            middle = Position(on_curve.x + turn, on_curve.y)
            candidates.append(Candidate(Box.centred(middle, size), cost))

    return candidates


def farther_away(anchor: Position, size: BoxSize) -> Iterator[Candidate]:
    """Yield places on rings around a point, each with a leader to the point."""
    angles = np.linspace(0, 2 * pi, ANGLES_IN_RING, endpoint=False)
    for ring in range(1, RINGS + 1):
        distance = RING_DISTANCE * ring
        cost = LEADER_COST + distance
        half_width = size.width / 2 + distance
        half_height = size.height / 2 + distance

        for angle in angles:
            x = anchor.x + half_width * cos(angle)
            y = anchor.y + half_height * sin(angle)
            box = Box.centred(Position(x, y), size)
            yield Candidate(box, cost, anchor)
