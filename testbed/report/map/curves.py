"""The curves of a drawing's links, in px."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from testbed.plan.model import WanLink
from testbed.report.map.labels import Box
from testbed.report.map.projection import Points

BENDS = (
    0.07,
    -0.07,
    0.13,
    -0.13,
    0.2,
    -0.2,
    0.28,
    -0.28,
)  # height of the control point's half over the chord
SLIGHT_BENDS = 4  # so many of them are used where there are many links
MOST_COMPARED = 100  # links; if there are more, each has the first bend, whatever it meets
SAMPLES = 41  # points of a curve, to compare it with others
CLEAR_OF_DOTS, CLEAR_OF_CURVES = 22.0, 9.0  # px


@dataclass
class Curve:
    """A WAN link as a quadratic Bezier curve from its forward source."""

    link: WanLink
    points: Points  # (3, 2): start, control, end
    turns: tuple[float, ...] = (0.0,)  # px to the right by which it is drawn, once for each

    def at(self, share: float | Points) -> Points:
        """Points of the curve for shares from 0 to 1."""
        t = np.atleast_1d(np.asarray(share, dtype=float))[:, None]
        a, b, c = self.points
        return np.asarray((1 - t) ** 2 * a + 2 * t * (1 - t) * b + t**2 * c)

    @property
    def length(self) -> float:
        """px from end to end, as the crow flies."""
        return float(np.hypot(*(self.points[2] - self.points[0])))

    def samples(self, number: int) -> Points:
        """So many points of each time that it is drawn."""
        return np.concatenate(
            [self.at(np.linspace(0, 1, number)) + np.array([turn, 0]) for turn in self.turns]
        )


@dataclass(frozen=True)
class Sheet:
    """What curves are drawn on: `period` px on, a map repeats itself; curves bend away from `hub`,
    or else up.
    """

    frame: Box
    period: float | None
    hub: Points | None

    def straight(self, link: WanLink, a: Points, b: Points) -> Curve:
        """The link from a to b, the shorter way round; over the map's edge it is drawn twice."""
        turns: tuple[float, ...] = (0.0,)
        if self.period is not None and abs(b[0] - a[0]) > self.period / 2:
            turn = float(np.copysign(self.period, a[0] - b[0]))
            b, turns = b + np.array([turn, 0]), (0.0, -turn)
        return Curve(link, np.array([a, (a + b) / 2, b]), turns)

    def bent(self, line: Curve, bend: float) -> Curve:
        """The curve whose middle is `bend` chords away from the middle of `line`: out if above
        zero, else in.
        """
        start, middle, end = line.points
        normal = np.array([end[1] - start[1], start[0] - end[0]])
        out = np.array([0, -1]) if self.hub is None else middle - self.hub
        side = 1 if normal @ out >= 0 else -1
        return Curve(
            line.link, np.array([start, middle + 2 * bend * side * normal, end]), line.turns
        )

    def preference(self, i: int) -> float:
        """Cost of the i-th of `BENDS`: slight ones are better; inward is as good as outward unless
        there is a hub.
        """
        return 6.0 * (i // 2) + (4.0 * (i % 2) if self.hub is not None else 0)

    def crowding(self, curve: Curve, dots: Points, drawn: Sequence[Points]) -> float:
        """Cost of a curve: nearness to dots that are not its own, leaving the frame, running along
        other curves.
        """
        samples, cost = curve.samples(SAMPLES), 0.0
        gaps = _distances(dots, samples).min(axis=1, initial=np.inf)
        cost += 8 * float(np.maximum(0, CLEAR_OF_DOTS - gaps).sum())
        if len(curve.turns) == 1:
            cost += 5 * int(np.count_nonzero(~self.frame.grown(-10).holds(samples)))
        weight = 0.35 * min(1, 10 / max(len(drawn), 1))
        for line in drawn:
            gaps = _distances(samples[4:-4], line[2:-2]).min(axis=1)
            cost += weight * float(np.maximum(0, CLEAR_OF_CURVES - gaps).sum())
        return cost


def draw_links(
    links: Sequence[WanLink], points: Mapping[str, Points], sheet: Sheet, many: bool
) -> list[Curve]:
    """Bend each link so that it keeps clear of other sites and links; the short ones choose first.

    `points`: where each site is. `many`: bend them little.
    """
    lines = [
        sheet.straight(link, points[link.forward.source], points[link.forward.target])
        for link in links
    ]
    if len(links) > MOST_COMPARED:
        return [sheet.bent(line, BENDS[0]) for line in lines]
    curves: dict[str, Curve] = {}
    drawn: list[Points] = []
    for line in sorted(lines, key=lambda line: line.length):
        ends = (line.link.forward.source, line.link.forward.target)
        dots = np.array([point for name, point in points.items() if name not in ends]).reshape(
            -1, 2
        )
        options = [sheet.bent(line, bend) for bend in (BENDS[:SLIGHT_BENDS] if many else BENDS)]
        costs = [
            sheet.preference(i) + sheet.crowding(option, dots, drawn)
            for i, option in enumerate(options)
        ]
        best = options[int(np.argmin(costs))]
        curves[line.link.key] = best
        drawn.append(best.samples(SAMPLES))
    return [curves[link.key] for link in links]


def spread(points: Points, apart: float) -> Points:
    """`points`, moved until no two are nearer than `apart`, as far as 200 rounds allow."""
    points = points.copy()
    for _ in range(200):
        moved = False
        for i, j in product(range(len(points)), repeat=2):
            away = points[i] - points[j]
            distance = float(np.hypot(*away))
            if i <= j or distance >= apart - 0.01:
                continue
            angle = 2.4 * (i + j)  # for two at the same place
            push = away / distance if distance > 0.01 else np.array([np.cos(angle), np.sin(angle)])
            points[i] += push * (apart - distance) / 2
            points[j] -= push * (apart - distance) / 2
            moved = True
        if not moved:
            break
    return points


def _distances(some: Points, others: Points) -> Points:
    """(n, m) distances between points."""
    return np.asarray(np.hypot(*(some[:, None] - others).transpose(2, 0, 1)))
