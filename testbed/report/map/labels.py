"""Labels of a drawing: their text, its size, and a canvas that finds free places for them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal, NamedTuple

import numpy as np

from testbed.core.units import format_rate, format_time
from testbed.plan.model import Datacenter, Direction, WanLink
from testbed.report.map.geometry import Box, BoxSize, Points, Position, Vector, distances

LINE_HEIGHT = 1.25  # of the font's size
NAME_SIZE = 13.0  # px of the font
SMALL_SIZE = 11.0
UNKNOWN_WIDTH = 1000  # of a character that the font lacks, in thousandths of its size

CROSSED = 8.0  # cost of a point of a line under a box or near a leader
COVERED = 80.0  # cost of a label or dot under a leader
LEADER_SAMPLES = 24  # points of a leader at which it is compared with boxes and lines
CLEAR_OF_LEADER = 3.0  # px


@dataclass(frozen=True)
class LabelLine:
    """One line of a label; `kind` is its class in the style sheet."""

    text: str
    kind: Literal["name", "hosts", "rtt", "rate", "use"]

    @property
    def font_size(self) -> float:
        """The size of the font in px."""
        if self.kind == "name":
            return NAME_SIZE
        return SMALL_SIZE

    @property
    def width(self) -> float:
        """The width of the text in px."""
        is_bold = self.kind in ("name", "rtt")
        return text_width(self.text, self.font_size, bold=is_bold)


@dataclass
class Label:
    """Lines of text in a box; `leader` is where a thin line ends, on what the label names."""

    lines: list[LabelLine]
    box: Box
    leader: Position | None = None


class Candidate(NamedTuple):
    """A place for a label; with an `anchor`, a leader joins the two.

    `cost` is in px: how much farther away a place may be that is as good.
    """

    box: Box
    cost: float
    anchor: Position | None = None


@dataclass
class Canvas:
    """The room that is left for labels.

    No label leaves `frame` or overlaps a box in `taken`; each avoids the points of `lines` (shape
    (n, 2)) if it can.
    """

    frame: Box
    taken: list[Box]
    lines: Points

    def place(self, candidates: Iterable[Candidate]) -> Candidate | None:
        """Choose the cheapest candidate and take its box; None if no candidate is free."""
        free = [candidate for candidate in candidates if self._is_free(candidate.box)]
        free.sort(key=lambda candidate: candidate.cost)

        best: Candidate | None = None
        least_cost = np.inf
        for candidate in free:
            if candidate.cost >= least_cost:
                break
            cost = candidate.cost + self._cost_of_covering(candidate)
            if cost < least_cost:
                best = candidate
                least_cost = cost

        if best is not None:
            self.taken.append(best.box)
        return best

    def _is_free(self, box: Box) -> bool:
        if not box.within(self.frame):
            return False
        return not any(box.overlaps(other) for other in self.taken)

    def _cost_of_covering(self, candidate: Candidate) -> float:
        """Add up the cost of what a label and its leader cover."""
        under_label = candidate.box.grown(1).holds(self.lines)
        cost = CROSSED * int(np.count_nonzero(under_label))
        if candidate.anchor is None:
            return cost

        begin = candidate.box.nearest(candidate.anchor)
        leader = np.linspace(begin, candidate.anchor, LEADER_SAMPLES)
        for box in self.taken:
            if box.holds(leader).any():
                cost += COVERED

        return cost + CROSSED * self._points_near(leader)

    def _points_near(self, leader: Points) -> int:
        """Count the points of lines that are near a leader (shape (n, 2))."""
        region = Box.around(leader).grown(CLEAR_OF_LEADER)
        close_points = self.lines[region.holds(self.lines)]
        gaps = distances(close_points, leader).min(axis=1, initial=np.inf)
        return int(np.count_nonzero(gaps < CLEAR_OF_LEADER))


@cache
def _character_widths() -> dict[str, dict[str, int]]:
    """Read the widths of characters, in thousandths of the font's size, by weight."""
    text = resources.files("testbed.report").joinpath("map/data/text_widths.json").read_text()
    widths: dict[str, dict[str, int]] = json.loads(text)
    return widths


def text_width(text: str, font_size: float, bold: bool = False) -> float:
    """Compute the width of a line of text in px.

    The font is Arimo, whose letters are as wide as those of Arial, Helvetica and Liberation Sans.

    Args:
        text: one line.
        font_size: px.
        bold: whether the font is bold.
    """
    weight = "bold" if bold else "regular"
    widths = _character_widths()[weight]
    total = sum(widths.get(character, UNKNOWN_WIDTH) for character in text)
    return total * font_size / 1000


def label_size(lines: Sequence[LabelLine]) -> BoxSize:
    """Compute the size of a label with a margin around its text."""
    widest = max(line.width for line in lines)
    heights = sum(line.font_size for line in lines)
    return BoxSize(widest + 8, heights * LINE_HEIGHT + 3)


def site_lines(dc: Datacenter) -> list[LabelLine]:
    """Write the lines of a site's label: its name and the number of its hosts."""
    hosts = len(dc.hosts)
    noun = "hosts" if hosts > 1 else "host"
    return [
        LabelLine(dc.name, "name"),
        LabelLine(f"{hosts} {noun}", "hosts"),
    ]


def link_lines(
    link: WanLink, chord: Vector, shares: tuple[float | None, float | None]
) -> list[LabelLine]:
    """Write the lines of a link's label: RTT, rates, and the use of each direction.

    Args:
        link: the link.
        chord: from one end to the other as drawn (shape (2,)), which gives arrows their direction.
        shares: of the rate in use, of each direction; None: not known.
    """
    forward_arrow, backward_arrow = _arrows(chord)
    lines = [LabelLine(rtt_text(link), "rtt")]

    forward_rate = rate_text(link.forward)
    backward_rate = rate_text(link.backward)
    if forward_rate == backward_rate:
        lines.append(LabelLine(forward_rate, "rate"))
    else:
        lines.append(LabelLine(f"{forward_arrow} {forward_rate}", "rate"))
        lines.append(LabelLine(f"{backward_arrow} {backward_rate}", "rate"))

    uses = []
    for arrow, share in zip((forward_arrow, backward_arrow), shares, strict=True):
        if share is not None:
            uses.append(f"{arrow} {100 * share:.0f} %")
    if uses:
        lines.append(LabelLine("  ".join(uses), "use"))
    return lines


def _arrows(chord: Vector) -> tuple[str, str]:
    """Choose the arrows of the forward and of the backward direction."""
    across, down = chord
    if abs(across) >= abs(down):
        if across < 0:
            return ("←", "→")
        return ("→", "←")

    if down < 0:
        return ("↑", "↓")
    return ("↓", "↑")


def rtt_text(link: WanLink) -> str:
    """Write the RTT of a link's fibres, to three digits."""
    rtt_ns = link.forward.fibre.delay_ns + link.backward.fibre.delay_ns
    return format_time(rtt_ns, digits=3).replace("us", "µs")


def rate_text(direction: Direction) -> str:
    """Write the rate of a direction, to three digits."""
    return format_rate(direction.bottleneck.rate_bps, digits=3)
