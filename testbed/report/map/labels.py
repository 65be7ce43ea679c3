"""Labels of a drawing: text, text size, and a canvas that finds free places."""

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

LINE_HEIGHT = 1.25  # in font sizes
NAME_SIZE = 13.0  # px, font size
SMALL_SIZE = 11.0
UNKNOWN_WIDTH = 1000  # width of a character missing from the font, in thousandths of the font size

CROSSED = 8.0  # cost of each point of a line under a box or near a leader
COVERED = 80.0  # cost of each label or dot under a leader
LEADER_SAMPLES = 24  # points of a leader that are compared with boxes and lines
CLEAR_OF_LEADER = 3.0  # px


@dataclass(frozen=True)
class LabelLine:
    """One line of a label; `kind` is the line's class in the style sheet."""

    text: str
    kind: Literal["name", "hosts", "rtt", "rate", "use"]

    @property
    def font_size(self) -> float:
        """The font size in px."""
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
    """Lines of text in a box; `leader` is the end of a thin line to the labelled object."""

    lines: list[LabelLine]
    box: Box
    leader: Position | None = None


class Candidate(NamedTuple):
    """A place for a label; with an `anchor`, a leader joins label and anchor.

    `cost` is in px: the extra distance at which an unobstructed place would be equally good.
    """

    box: Box
    cost: float
    anchor: Position | None = None


@dataclass
class Canvas:
    """The space left for labels.

    Labels stay inside `frame` and do not overlap the boxes in `taken`; labels avoid the points of
    `lines` (shape (n, 2)) if possible.
    """

    frame: Box
    taken: list[Box]
    lines: Points

    def place(self, candidates: Iterable[Candidate]) -> Candidate | None:
        """Return the cheapest free candidate and take its box, or return None if none is free."""
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
        """Return the cost of everything that a label and its leader cover."""
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
        """Return the number of points of lines near a leader (shape (n, 2))."""
        region = Box.around(leader).grown(CLEAR_OF_LEADER)
        close_points = self.lines[region.holds(self.lines)]
        gaps = distances(close_points, leader).min(axis=1, initial=np.inf)
        return int(np.count_nonzero(gaps < CLEAR_OF_LEADER))


@cache
def _character_widths() -> dict[str, dict[str, int]]:
    """Read the widths of characters, in thousandths of the font size, by weight."""
    text = resources.files("testbed.report").joinpath("map/data/text_widths.json").read_text()
    widths: dict[str, dict[str, int]] = json.loads(text)
    return widths


def text_width(text: str, font_size: float, bold: bool = False) -> float:
    """Return the width of a line of text in px.

    The font is Arimo, which has the letter widths of Arial, Helvetica and Liberation Sans.

    Args:
        text: one line of text.
        font_size: font size in px.
        bold: whether the font is bold.
    """
    weight = "bold" if bold else "regular"
    widths = _character_widths()[weight]
    total = sum(widths.get(character, UNKNOWN_WIDTH) for character in text)
    return total * font_size / 1000


def label_size(lines: Sequence[LabelLine]) -> BoxSize:
    """Return the size of a label, including a margin around the text."""
    widest = max(line.width for line in lines)
    heights = sum(line.font_size for line in lines)
    return BoxSize(widest + 8, heights * LINE_HEIGHT + 3)


def site_lines(dc: Datacenter) -> list[LabelLine]:
    """Return the lines of a site's label: name and number of hosts."""
    hosts = len(dc.hosts)
    noun = "hosts" if hosts > 1 else "host"
    return [
        LabelLine(dc.name, "name"),
        LabelLine(f"{hosts} {noun}", "hosts"),
    ]


def link_lines(
    link: WanLink, chord: Vector, shares: tuple[float | None, float | None]
) -> list[LabelLine]:
    """Return the lines of a link's label: RTT, rates, and use of each direction.

    Args:
        link: the link.
        chord: vector from one end to the other as drawn (shape (2,)), for the direction of arrows.
        shares: used share of each direction's rate, or None if unknown.
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
    """Return the arrows of the forward and the backward direction."""
    across, down = chord
    if abs(across) >= abs(down):
        if across < 0:
            return ("←", "→")
        return ("→", "←")

    if down < 0:
        return ("↑", "↓")
    return ("↓", "↑")


def rtt_text(link: WanLink) -> str:
    """Return the RTT of a link's fibres, to three digits."""
    rtt_ns = link.forward.fibre.delay_ns + link.backward.fibre.delay_ns
    return format_time(rtt_ns, digits=3).replace("us", "µs")


def rate_text(direction: Direction) -> str:
    """Return the rate of a direction, to three digits."""
    return format_rate(direction.bottleneck.rate_bps, digits=3)
