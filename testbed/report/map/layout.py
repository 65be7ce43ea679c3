"""Where everything of a drawing of sites and links goes, in px."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import cos, pi, sin

import numpy as np

from testbed.core.geo import Location
from testbed.core.units import format_rate, format_time
from testbed.plan.model import Datacenter, Direction, Network, WanLink
from testbed.report.map.basemap import View
from testbed.report.map.curves import Curve, Sheet, draw_links, spread
from testbed.report.map.labels import LINE_HEIGHT, Box, Candidate, Canvas, text_width
from testbed.report.map.projection import Cylindrical, Points, fitting

WIDTH = 960.0
HEADER = 58.0
EDGE = 12.0
TALLEST, FLATTEST = 600.0, 380.0
BESIDE, ABOVE = 100.0, 85.0  # between the outermost sites of a map and its frame
NORTH_AND_SOUTH = 0.32  # the same on a map of the world, in radii of the Earth
STRIP = 84.0  # below the map, for sites without a location
DOT = 5.5  # radius of a site
HOSTS_RADIUS = 130.0  # of the hosts around the only site
APART, APART_IF_LISTED = 52.0, 24.0  # least distance of two dots
MOST_LABELLED_LINKS = 15  # a full mesh of six; more links are listed below the drawing
NAME_SIZE, SMALL_SIZE, LABEL_SIZE = 13.0, 11.0, 11.0
LEADER_COST = 30.0  # px; a label close to what it labels is better
SPACING = 5.0  # px between the points of curves that labels avoid
Use = Mapping[tuple[str, str], float]


@dataclass(frozen=True)
class Text:
    """One line of a label; `kind` is its class in the style sheet."""

    text: str
    kind: str

    @property
    def size(self) -> float:
        """px of the font."""
        return {"name": NAME_SIZE, "hosts": SMALL_SIZE}.get(self.kind, LABEL_SIZE)

    @property
    def width(self) -> float:
        """px."""
        return text_width(self.text, self.size, bold=self.kind in ("name", "rtt"))


@dataclass
class Label:
    """Lines of text in a box; `leader` is where a thin line to what it labels ends."""

    lines: list[Text]
    box: Box
    leader: tuple[float, float] | None = None


@dataclass
class Site:
    """A datacenter at `point`."""

    dc: Datacenter
    point: tuple[float, float]
    label: Label | None = None


@dataclass
class Layout:
    """A drawing: sites, curves and their labels within `frame`; `view` is the map behind them, if
    there is one.
    """

    network: Network
    frame: Box
    view: View | None
    sites: list[Site]
    curves: list[Curve] = field(default_factory=list)
    link_labels: dict[str, Label] = field(default_factory=dict)  # by the link's key
    moved: list[str] = field(default_factory=list)  # names of sites that were drawn apart

    @property
    def labels(self) -> list[Label]:
        """All labels, in the order drawn."""
        return [
            *(site.label for site in self.sites if site.label is not None),
            *self.link_labels.values(),
        ]

    @property
    def alone(self) -> bool:
        """Whether one site without a location is all there is; then its hosts are drawn around
        it.
        """
        return len(self.sites) == 1 and self.view is None

    @property
    def listed(self) -> bool:
        """Whether the links are in a table instead of being labelled."""
        return len(self.network.wan) > MOST_LABELLED_LINKS


def lay_out(network: Network, use: Use | None = None) -> Layout:
    """Place the sites of `network` on a map, or on a circle if not even half of them have a
    location.
    """
    located = [dc for dc in network.datacenters if dc.location is not None]
    on_map = 2 * len(located) > len(network.datacenters)
    layout = _map(network, located) if on_map else _circle(network)
    _draw_links(layout)
    _label(layout, use or {})
    return layout


def _map(network: Network, located: list[Datacenter]) -> Layout:
    """The sites on a map; those without a location in a strip below it."""
    view = _view(network, {dc.name: dc.location for dc in located if dc.location is not None})
    places = view.at(dc.location for dc in located if dc.location is not None)
    points = dict(zip((dc.name for dc in located), places, strict=True))
    others = [dc.name for dc in network.datacenters if dc.location is None]
    frame = view.frame
    for i, name in enumerate(others):
        points[name] = np.array(
            [frame.left + frame.width * (i + 0.5) / len(others), frame.bottom + STRIP / 2 - 10]
        )
    frame = Box(*frame[:3], frame.bottom + (STRIP if others else 0))
    return Layout(
        network, frame, view, [Site(dc, _pair(points[dc.name])) for dc in network.datacenters]
    )


def _view(network: Network, places: Mapping[str, Location]) -> View:
    """The projection and the scale at which all `places`, with their labels, fill the frame."""
    names = list(places)
    ends = [(link.forward.source, link.forward.target) for link in network.wan]
    projection = fitting(
        list(places.values()),
        [(names.index(a), names.index(b)) for a, b in ends if a in places and b in places],
    )
    box = Box.around(projection.project(np.array(list(places.values()))))
    inner = WIDTH - 2 * EDGE
    if isinstance(projection, Cylindrical):
        box = Box(-pi, box.top - NORTH_AND_SOUTH, pi, box.bottom + NORTH_AND_SOUTH)
        scale = inner / box.width
        height = min(box.height * scale, TALLEST)
    else:
        least = 0.6 if len(places) == 1 else 1e-4  # 3800 km; 600 m
        reach = max(box.width, box.height, least)
        scale = min(
            (inner - 2 * BESIDE) / max(box.width, 0.4 * reach),
            (TALLEST - 2 * ABOVE) / max(box.height, 0.2 * reach),
        )
        height = min(max(box.height * scale + 2 * ABOVE, FLATTEST), TALLEST)
    return View(projection, Box(EDGE, HEADER, WIDTH - EDGE, HEADER + height), scale, box.middle)


def _circle(network: Network) -> Layout:
    """The sites on a circle, in their order from the top; one that all others hang on, in its
    middle.
    """
    import networkx as nx  # noqa: PLC0415 (0.15 s; maps do without)

    names = [dc.name for dc in network.datacenters]
    graph = nx.Graph((link.forward.source, link.forward.target) for link in network.wan)
    hubs = [
        name
        for name in names
        if len(names) > 3 and len(network.wan) == len(names) - 1 == graph.degree[name]
    ]
    around = [name for name in names if name not in hubs]
    height = FLATTEST if len(names) < 3 else TALLEST if len(names) > 12 else 460.0
    frame = Box(EDGE, HEADER, WIDTH - EDGE, HEADER + height)
    x, y = frame.middle
    radius = (
        np.array([frame.width / 2 - 190, frame.height / 2 - 66]) if len(names) > 1 else np.zeros(2)
    )
    start = -pi / 2 - (0 if len(around) % 2 else pi / len(around))
    points = dict.fromkeys(hubs, np.array([x, y]))
    for i, name in enumerate(around):
        angle = start + 2 * pi * i / len(around)
        points[name] = np.array([x, y]) + radius * [cos(angle), sin(angle)]
    return Layout(
        network, frame, None, [Site(dc, _pair(points[dc.name])) for dc in network.datacenters]
    )


def _draw_links(layout: Layout) -> None:
    """Move dots apart until there is room for the links between them, then draw the links."""
    before = np.array([site.point for site in layout.sites])
    points = spread(before, APART_IF_LISTED if layout.listed else APART)
    for site, point, old in zip(layout.sites, points, before, strict=True):
        site.point = _pair(point)
        if layout.view is not None and np.hypot(*(point - old)) > 4:
            layout.moved.append(site.dc.name)
    period = None if layout.view is None else layout.view.period
    sheet = Sheet(
        layout.frame, period, hub=np.array(layout.frame.middle) if layout.view is None else None
    )
    places = {site.dc.name: np.array(site.point) for site in layout.sites}
    layout.curves = draw_links(layout.network.wan, places, sheet, many=layout.listed)


def _label(layout: Layout, use: Use) -> None:
    """Label the sites, then the links, the short ones first."""
    dots = [Box.centred(*site.point, 2 * DOT + 4, 2 * DOT + 4) for site in layout.sites]
    lines = {
        curve.link.key: curve.samples(2 + int(curve.length / SPACING)) for curve in layout.curves
    }
    canvas = Canvas(layout.frame.grown(-6), dots, _joined(lines.values()))
    for site in layout.sites:
        hosts = len(site.dc.hosts)
        text = [
            Text(site.dc.name, "name"),
            Text(f"{hosts} host{'s' if hosts > 1 else ''}", "hosts"),
        ]
        size = _size(text)
        if layout.alone:
            site.label = Label(
                text, Box.centred(site.point[0], site.point[1] - HOSTS_RADIUS - 34, *size)
            )
        else:
            site.label = _placed(canvas, text, site.point, _around(site.point, *size))
    for curve in [] if layout.listed else sorted(layout.curves, key=lambda curve: curve.length):
        text = link_text(curve.link, curve.points[2] - curve.points[0], use)
        canvas.lines = _joined(line for key, line in lines.items() if key != curve.link.key)
        layout.link_labels[curve.link.key] = _placed(
            canvas, text, _pair(curve.at(0.5)[0]), _along(curve, *_size(text))
        )


def _joined(lines: Iterable[Points]) -> Points:
    return np.concatenate([np.empty((0, 2)), *lines])


def _pair(point: Points) -> tuple[float, float]:
    return float(point[0]), float(point[1])


def _along(curve: Curve, width: float, height: float) -> list[Candidate]:
    """Places for a label on the curve, best in the middle; none if it would hide the curve."""
    across, down = np.abs(curve.points[2] - curve.points[0]) / max(curve.length, 1)
    hidden = min(width / max(across, 1e-3), height / max(down, 1e-3))
    if curve.length < 2.2 * hidden:
        return []
    return [
        Candidate(Box.centred(*_pair(point), width, height), abs(share - 0.5) * 90)
        for share in np.linspace(0.22, 0.78, 29)
        for point in curve.at(share) + np.array([[turn, 0] for turn in curve.turns])
    ]


def _placed(
    canvas: Canvas, text: list[Text], point: tuple[float, float], beside: list[Candidate]
) -> Label:
    """A label at one of the candidates `beside` what it labels, or farther away with a leader to
    `point`.
    """
    width, height = _size(text)
    best = canvas.place([*beside, *_farther(point, width, height)])
    if best is None:
        return Label(text, Box.centred(*point, width, height))
    return Label(text, best.box, best.anchor)


def _size(text: list[Text]) -> tuple[float, float]:
    """px of a label with some air around it."""
    return max(line.width for line in text) + 8, sum(line.size for line in text) * LINE_HEIGHT + 3


def _around(point: tuple[float, float], width: float, height: float) -> list[Candidate]:
    x, y = point
    across, down = width / 2 + DOT + 2.5, height / 2 + DOT + 2.5
    sides = [(across, 0, 0), (-across, 0, 1), (0, -down, 2), (0, down, 2)]
    corners = [
        (i * dx, j * dy, 4)
        for dx, dy in ((across, 0.4 * height), (0.4 * width, down))
        for i in (1, -1)
        for j in (-1, 1)
    ]
    places = [*sides, *corners]
    return [Candidate(Box.centred(x + dx, y + dy, width, height), cost) for dx, dy, cost in places]


def _farther(point: tuple[float, float], width: float, height: float) -> Iterator[Candidate]:
    x, y = point
    for ring in range(1, 9):
        for angle in np.linspace(0, 2 * pi, 16, endpoint=False):
            dx, dy = (width / 2 + 14 * ring) * cos(angle), (height / 2 + 14 * ring) * sin(angle)
            yield Candidate(
                Box.centred(x + dx, y + dy, width, height), LEADER_COST + 14.0 * ring, point
            )


def link_text(link: WanLink, step: Points, use: Use) -> list[Text]:
    """The lines of a link's label: RTT, rates, use. Arrows point as the curve does on the drawing,
    by `step`.
    """
    there, back = ("→", "←") if abs(step[0]) >= abs(step[1]) else ("↓", "↑")
    if (step[0] if there == "→" else step[1]) < 0:
        there, back = back, there
    lines = [Text(rtt_text(link), "rtt")]
    rates = [rate_text(way) for way in link.directions]
    if rates[0] == rates[1]:
        lines.append(Text(rates[0], "rate"))
    else:
        lines += [
            Text(f"{arrow} {rate}", "rate") for arrow, rate in ((there, rates[0]), (back, rates[1]))
        ]
    shares = [use.get((way.source, way.target)) for way in link.directions]
    known = [
        f"{arrow} {100 * share:.0f} %"
        for arrow, share in zip((there, back), shares, strict=True)
        if share is not None
    ]
    return lines + ([Text("  ".join(known), "use")] if known else [])


def rtt_text(link: WanLink) -> str:
    """RTT of the link's fibres, to three digits."""
    return format_time(sum(way.fibre.delay_ns for way in link.directions), digits=3).replace(
        "us", "µs"
    )


def rate_text(way: Direction) -> str:
    """Rate of a direction, to three digits."""
    return format_rate(way.bottleneck.rate_bps, digits=3)
