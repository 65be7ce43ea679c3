"""Positions in px of everything in a drawing of sites and links."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from testbed.plan.model import Datacenter, Direction, Network
from testbed.report.map.basemap import View
from testbed.report.map.candidates import along_curve, around_dot, farther_away
from testbed.report.map.curves import Curve, Sheet, draw_links, spread
from testbed.report.map.geometry import Box, BoxSize, Points, Position
from testbed.report.map.labels import (
    Candidate,
    Canvas,
    Label,
    LabelLine,
    label_size,
    link_lines,
    site_lines,
)
from testbed.report.map.placing import place_sites

DOT = 5.5  # px, radius of a site
HOSTS_RADIUS = 130.0  # px, of the circle of hosts around a single site
APART = 52.0  # px, least distance of two dots
APART_IF_LISTED = 24.0
MOVED = 4.0  # px; a site moved by at least this distance is named as moved
MOST_LABELLED_LINKS = 15  # a full mesh of six sites; more links are listed below the drawing
SPACING = 5.0  # px between the points of curves that labels avoid

LinkUse = Mapping[tuple[str, str], float]  # used share of the rate, by source and target


@dataclass
class Site:
    """A datacenter at `point`."""

    dc: Datacenter
    point: Position
    label: Label | None = None


@dataclass
class Layout:
    """A drawing: sites, curves and labels within `frame`, over the map `view` if any.

    `link_labels` has the labels by link key, and `moved` the names of sites that were moved apart.
    """

    network: Network
    frame: Box
    view: View | None
    sites: list[Site]
    curves: list[Curve] = field(default_factory=list)
    link_labels: dict[str, Label] = field(default_factory=dict)
    moved: list[str] = field(default_factory=list)

    @property
    def labels(self) -> list[Label]:
        """All labels, in drawing order."""
        site_labels = [site.label for site in self.sites if site.label is not None]
        return [*site_labels, *self.link_labels.values()]

    @property
    def alone(self) -> bool:
        """Whether there is a single site without a location, surrounded by its hosts."""
        return len(self.sites) == 1 and self.view is None

    @property
    def listed(self) -> bool:
        """Whether the links are listed in a table instead of labelled."""
        return len(self.network.wan) > MOST_LABELLED_LINKS


def lay_out(network: Network, use: LinkUse | None = None) -> Layout:
    """Return the layout of a drawing of a network.

    Args:
        network: the network; sites are on a map, or on a circle if too few have a location.
        use: use of the links, shown in the labels.
    """
    placing = place_sites(network)
    layout = Layout(
        network=network,
        frame=placing.frame,
        view=placing.view,
        sites=[Site(dc, placing.points[dc.name]) for dc in network.datacenters],
    )
    _move_apart(layout)
    _draw_links(layout)
    _add_labels(layout, use or {})
    return layout


def _move_apart(layout: Layout) -> None:
    """Move dots apart to make room for the links between them."""
    before = np.array([site.point for site in layout.sites])
    least_distance = APART_IF_LISTED if layout.listed else APART

    after = spread(before, least_distance)
    distances_moved = np.hypot(*(after - before).T)

    for site, point, moved in zip(layout.sites, after, distances_moved, strict=True):
        site.point = Position.of(point)
        if layout.view is not None and moved > MOVED:
            layout.moved.append(site.dc.name)


def _draw_links(layout: Layout) -> None:
    if layout.view is None:
        middle = np.array(layout.frame.middle)
        sheet = Sheet(layout.frame, period=None, hub=middle)
    else:
        sheet = Sheet(layout.frame, period=layout.view.period, hub=None)

    layout.curves = draw_links(
        layout.network.wan,
        points={site.dc.name: np.array(site.point) for site in layout.sites},
        sheet=sheet,
        many=layout.listed,
    )


def _add_labels(layout: Layout, use: LinkUse) -> None:
    """Label the sites, then the links."""
    lines = {}
    for curve in layout.curves:
        number = 2 + int(curve.length / SPACING)
        lines[curve.link.key] = curve.samples(number)

    dot_size = BoxSize(2 * DOT + 4, 2 * DOT + 4)
    canvas = Canvas(
        frame=layout.frame.grown(-6),
        taken=[Box.centred(site.point, dot_size) for site in layout.sites],
        lines=_joined(lines.values()),
    )
    _label_sites(layout, canvas)
    if not layout.listed:
        _label_links(layout, canvas, lines, use)


def _label_sites(layout: Layout, canvas: Canvas) -> None:
    for site in layout.sites:
        text = site_lines(site.dc)
        size = label_size(text)
        if layout.alone:
            above_hosts = Position(site.point.x, site.point.y - HOSTS_RADIUS - 34)
            site.label = Label(text, Box.centred(above_hosts, size))
            continue

        site.label = _placed(
            canvas,
            text,
            anchor=site.point,
            near=around_dot(site.point, DOT, size),
        )


def _label_links(layout: Layout, canvas: Canvas, lines: Mapping[str, Points], use: LinkUse) -> None:
    """Label the links, short links first; a label may cover the line of the same link.

    `lines` holds the line of each link by its key, shape (n, 2), in px.
    """
    for curve in sorted(layout.curves, key=lambda curve: curve.length):
        link = curve.link
        shares = (use_of(link.forward, use), use_of(link.backward, use))
        text = link_lines(link, curve.chord, shares)

        canvas.lines = _joined(line for key, line in lines.items() if key != link.key)
        layout.link_labels[link.key] = _placed(
            canvas,
            text,
            anchor=Position.of(curve.at(0.5)[0]),
            near=along_curve(curve, label_size(text)),
        )


def use_of(direction: Direction, use: LinkUse) -> float | None:
    """Return the used share of a direction's rate, or None if unknown."""
    return use.get((direction.source, direction.target))


def _placed(
    canvas: Canvas, text: list[LabelLine], anchor: Position, near: Sequence[Candidate]
) -> Label:
    """Return a label near its object, or farther away with a leader.

    Args:
        canvas: the free space.
        text: lines of the label.
        anchor: end of the leader.
        near: candidate places that need no leader.
    """
    size = label_size(text)
    best = canvas.place([*near, *farther_away(anchor, size)])
    if best is None:
        return Label(text, Box.centred(anchor, size))
    return Label(text, best.box, best.anchor)


def _joined(lines: Iterable[Points]) -> Points:
    """Return lines (shape (n, 2)) joined into one array; there may be no lines."""
    no_points = np.empty((0, 2))
    return np.concatenate([no_points, *lines])
