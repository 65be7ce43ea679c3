"""Curves, in px, that represent links."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from testbed.plan.model import WanLink
from testbed.report.map.geometry import Box, Points, Vector, distances

# Distances of the middle of a curve from the chord, as shares of the chord's length.
BENDS = (0.07, -0.07, 0.13, -0.13, 0.2, -0.2, 0.28, -0.28)
SLIGHT_BENDS = 4  # number of bends that are tried where there are many links
MOST_COMPARED = 100  # links; with more links, every link has the first bend
SAMPLES = 41  # points of a curve that are compared with other curves
ENDS_LEFT_OUT = 4  # samples left out at each end of a curve, because curves of one site meet there
OTHER_ENDS_LEFT_OUT = 2  # the same for the other curve
CLEAR_OF_DOTS = 22.0  # px
CLEAR_OF_CURVES = 9.0  # px
MOST_ROUNDS = 200  # of moving points apart


@dataclass
class Curve:
    """A WAN link as a quadratic Bezier curve that begins at the link's forward source.

    `points` has shape (3, 2): start, control point, end. The curve is drawn once for each of
    `turns`, each an offset in px to the right.
    """

    link: WanLink
    points: Points
    turns: tuple[float, ...] = (0.0,)

    def at(self, share: float | NDArray[np.float64]) -> Points:
        """Return the points (shape (n, 2)) of the curve for n parameters from 0 to 1."""
        shares = np.atleast_1d(np.asarray(share, dtype=float))
        t = shares[:, None]
        rest = 1 - t
        start, control, end = self.points
        from_start = rest**2 * start
        from_control = 2 * t * rest * control
        from_end = t**2 * end
        return np.asarray(from_start + from_control + from_end)

    @property
    def chord(self) -> Vector:
        """The vector from the start to the end."""
        return np.asarray(self.points[2] - self.points[0])

    @property
    def length(self) -> float:
        """The length of the chord in px."""
        return float(np.hypot(*self.chord))

    def samples(self, number: int) -> Points:
        """Return `number` points of each copy of the curve, shape (n, 2)."""
        once = self.at(np.linspace(0, 1, number))
        drawn = [once + np.array([turn, 0]) for turn in self.turns]
        return np.concatenate(drawn)


@dataclass(frozen=True)
class Sheet:
    """The surface on which curves are drawn.

    A map of the world repeats itself every `period` px. Curves bend away from `hub` (shape (2,)),
    or up without a hub.
    """

    frame: Box
    period: float | None
    hub: Vector | None

    def straight(self, link: WanLink, start: Vector, end: Vector) -> Curve:
        """Return a link as a straight line.

        The line takes the shorter way round; a line across the map's edge is drawn twice.

        Args:
            link: the link.
            start: position of the link's forward source, shape (2,), in px.
            end: position of the link's forward target, shape (2,), in px.
        """
        turns: tuple[float, ...] = (0.0,)
        if self.period is not None and abs(end[0] - start[0]) > self.period / 2:
            turn = float(np.copysign(self.period, start[0] - end[0]))
            end = end + np.array([turn, 0])
            turns = (0.0, -turn)

        middle = (start + end) / 2
        return Curve(
            link=link,
            points=np.array([start, middle, end]),
            turns=turns,
        )

    def bent(self, line: Curve, bend: float) -> Curve:
        """Return a straight line with a bend: outwards if above zero, inwards if below.

        The middle of the curve is `bend` chords away from the middle of the line.
        """
        start, middle, end = line.points
        normal = np.array([end[1] - start[1], start[0] - end[0]])

        outwards = np.array([0, -1]) if self.hub is None else middle - self.hub
        side = 1 if normal @ outwards >= 0 else -1

        control = middle + 2 * bend * side * normal
        return Curve(
            link=line.link,
            points=np.array([start, control, end]),
            turns=line.turns,
        )

    def preference(self, bend_number: int) -> float:
        """Return the cost of one of `BENDS` by its index.

        Slight bends are better. With a hub, outward bends are better than inward ones.
        """
        strength, inward = divmod(bend_number, 2)
        cost = 6.0 * strength
        if self.hub is not None:
            cost += 4.0 * inward
        return cost

    def crowding(self, curve: Curve, dots: Points, drawn: Sequence[Points]) -> float:
        """Return the cost of the position of a curve.

        Args:
            curve: the curve.
            dots: the sites that the curve does not join, shape (n, 2).
            drawn: at least `SAMPLES` points of each curve drawn so far, shape (n, 2).
        """
        samples = curve.samples(SAMPLES)
        gaps_to_dots = distances(dots, samples).min(axis=1, initial=np.inf)
        cost = 8 * _shortfall(gaps_to_dots, CLEAR_OF_DOTS)

        if len(curve.turns) == 1:
            inside = self.frame.grown(-10).holds(samples)
            cost += 5 * int(np.count_nonzero(~inside))

        weight = 0.35 * min(1, 10 / max(len(drawn), 1))
        inner = samples[ENDS_LEFT_OUT:-ENDS_LEFT_OUT]

        for other in drawn:
            inner_of_other = other[OTHER_ENDS_LEFT_OUT:-OTHER_ENDS_LEFT_OUT]
            gaps = distances(inner, inner_of_other).min(axis=1)
            cost += weight * _shortfall(gaps, CLEAR_OF_CURVES)

        return cost


def _shortfall(gaps: NDArray[np.float64], clear: float) -> float:
    """Return the sum of the amounts by which gaps (shape (n,)) are below `clear`."""
    return float(np.maximum(0, clear - gaps).sum())


def draw_links(
    links: Sequence[WanLink], points: Mapping[str, Vector], sheet: Sheet, many: bool
) -> list[Curve]:
    """Bend each link to keep clear of other sites and links; short links choose first.

    Args:
        links: the links to draw.
        points: position of each datacenter, shape (2,).
        sheet: the surface on which the links are drawn.
        many: whether to bend the links only slightly.

    Returns:
        A curve for each link, in the order of `links`.
    """
    lines = []
    for link in links:
        start = points[link.forward.source]
        end = points[link.forward.target]
        lines.append(sheet.straight(link, start, end))

    if len(links) > MOST_COMPARED:
        return [sheet.bent(line, BENDS[0]) for line in lines]

    bends = BENDS[:SLIGHT_BENDS] if many else BENDS
    curves: dict[str, Curve] = {}
    drawn: list[Points] = []

    for line in sorted(lines, key=lambda line: line.length):
        dots = _other_sites(points, line.link)
        curve = _best_bent(
            line,
            bends,
            sheet=sheet,
            dots=dots,
            drawn=drawn,
        )
        curves[line.link.key] = curve
        drawn.append(curve.samples(SAMPLES))

    return [curves[link.key] for link in links]


def _other_sites(points: Mapping[str, Vector], link: WanLink) -> Points:
    """Return the sites that a link does not join, shape (n, 2)."""
    ends = (link.forward.source, link.forward.target)
    others = [point for name, point in points.items() if name not in ends]
    return np.array(others).reshape(-1, 2)


def _best_bent(
    line: Curve, bends: Sequence[float], *, sheet: Sheet, dots: Points, drawn: Sequence[Points]
) -> Curve:
    """Return the cheapest bend of a straight line.

    Args:
        line: the straight line.
        bends: the bends to try.
        sheet: where the line is drawn.
        dots: the sites to keep away from, shape (n, 2), in px.
        drawn: the curves drawn before, each of shape (n, 2), in px.
    """
    curves = []
    costs = []
    for number, bend in enumerate(bends):
        curve = sheet.bent(line, bend)
        cost = sheet.preference(number) + sheet.crowding(curve, dots, drawn)
        curves.append(curve)
        costs.append(cost)

    return curves[int(np.argmin(costs))]


def spread(points: Points, least_distance: float) -> Points:
    """Move points apart until all distances are at least `least_distance`.

    Args:
        points: shape (n, 2).
        least_distance: least distance of two points in px.

    Returns:
        The moved points, shape (n, 2), after at most `MOST_ROUNDS` rounds.
    """
    points = points.copy()
    pairs = sorted((b, a) for a, b in combinations(range(len(points)), 2))

    for _ in range(MOST_ROUNDS):
        moved = False
        for i, j in pairs:
            moved |= _push_apart(points, i, j, least_distance)
        if not moved:
            break
    return points


def _push_apart(points: Points, i: int, j: int, least_distance: float) -> bool:
    """Move two of the points (shape (n, 2)) apart in place; return False if already far enough."""
    away = points[i] - points[j]
    distance = float(np.hypot(*away))
    if distance >= least_distance - 0.01:
        return False

    if distance > 0.01:
        direction = away / distance
    else:
        angle = 2.4 * (i + j)  # arbitrary direction for two points at the same place
        direction = np.array([np.cos(angle), np.sin(angle)])

    step = direction * (least_distance - distance) / 2
    points[i] += step
    points[j] -= step
    return True
