"""A network as a picture: its sites on a map, its WAN links between them, as SVG or PNG."""

from __future__ import annotations

from importlib import resources
from math import cos, floor, log10, pi, sin
from typing import Any, Literal
from xml.etree import ElementTree as ET

import numpy as np
import resvg_py

from testbed.core.units import format_rate
from testbed.plan.model import Direction, Network
from testbed.report.map import layout as layouts
from testbed.report.map.curves import Curve
from testbed.report.map.labels import LINE_HEIGHT, Box
from testbed.report.map.layout import Label, Layout, Use, lay_out, rate_text, rtt_text
from testbed.report.map.svg import add
from testbed.report.map.table import add_table

Theme = Literal["auto", "light", "dark", "page"]
COLOURS = {  # name: light, dark
    "paper": ("#ffffff", "#14191f"),
    "land": ("#e9edf0", "#232c35"),
    "border": ("#d3dae0", "#33404c"),
    "ink": ("#1c2733", "#e4e9ee"),
    "quiet": ("#5a6875", "#9fabb7"),
    "frame": ("#d8dee4", "#36414c"),
    "link": ("#2f6fb5", "#6aa9ee"),
    "site": ("#b3411e", "#f2966f"),
}
RULES = """
.site-map{{max-width:100%;height:auto}}
.site-map text{{font-family:Arimo,Arial,"Liberation Sans",Helvetica,sans-serif;fill:{ink}}}
.site-map .paper{{fill:{paper}}}
.site-map .frame{{fill:none;stroke:{frame}}}
.site-map .land{{fill:{land}}}
.site-map .lakes{{fill:{paper}}}
.site-map .borders{{fill:none;stroke:{border};stroke-width:1}}
.site-map .states{{fill:none;stroke:{border};stroke-width:.6}}
.site-map .grid{{fill:none;stroke:{frame};stroke-width:.6}}
.site-map .link path{{fill:none;stroke:{link};stroke-linecap:round}}
.site-map .pill{{fill:{paper}}}
.site-map .site text{{paint-order:stroke;stroke:{paper};stroke-width:3;stroke-opacity:.75;stroke-linejoin:round}}
.site-map .leader{{fill:none;stroke:{quiet};stroke-width:.8}}
.site-map .dot{{fill:{site};stroke:{paper};stroke-width:1.5}}
.site-map .host{{fill:{paper};stroke:{site};stroke-width:1.5}}
.site-map .scale{{fill:none;stroke:{quiet}}}
.site-map .title{{font-size:17px;font-weight:bold}}
.site-map .name{{font-size:13px;font-weight:bold}}
.site-map .hosts,.site-map .note,.site-map .cell{{font-size:11px}}
.site-map .hosts,.site-map .note,.site-map .rate,.site-map .use{{fill:{quiet}}}
.site-map .rtt,.site-map .head{{font-size:11px;font-weight:bold}}
.site-map .rate,.site-map .use{{font-size:11px}}
"""
RAMP = ((0x9A, 0xA5, 0xB0), (0x3F, 0x8F, 0xDC), (0xF0, 0x8A, 0x00))  # idle, half used, full
THINNEST, THICKEST = 1.3, 3.0  # px; a line is thicker the higher its rate
MOST_HOSTS_DRAWN = 64


def site_map(network: Network, use: Use | None = None, theme: Theme = "auto") -> str:
    """The picture of `network` as an SVG document, `layout.WIDTH` px wide.

    `use` colours each direction of a link, (source, target), by a share from 0 to 1. With `theme`
    auto, colours follow the reader's preference for light or dark; page: they are the CSS variables
    ``--map-paper``, ``--map-ink``, ... of the page around it, which have the same values unless
    that page sets others.
    """
    return ET.tostring(_Picture(lay_out(network, use), use or {}, theme).svg, encoding="unicode")


def png(svg: str, width: int) -> bytes:
    """`svg` as a PNG image, `width` px wide, set in the package's own font.

    Raises:
        ValueError: it is no SVG.
    """
    fonts = resources.files("testbed.report").joinpath("map/data")
    names = ("Arimo-Regular.ttf", "Arimo-Bold.ttf")
    with resources.as_file(fonts) as folder:
        files = [str(folder / name) for name in names]
        return bytes(
            resvg_py.svg_to_bytes(svg, width=width, font_files=files, skip_system_fonts=True)
        )


def style(theme: Theme) -> str:
    """The style sheet of a picture."""
    light, dark = ({name: pair[i] for name, pair in COLOURS.items()} for i in (0, 1))
    if theme == "light":
        return RULES.format(**light)
    if theme == "dark":
        return RULES.format(**dark)
    night = "@media (prefers-color-scheme:dark){{{}}}"
    if theme == "auto":
        return RULES.format(**light) + night.format(RULES.format(**dark))
    variables = [
        ":where(.site-map){"
        + "".join(f"--map-{name}:{value};" for name, value in colours.items())
        + "}"
        for colours in (light, dark)
    ]
    return (
        variables[0]
        + night.format(variables[1])
        + RULES.format(**{name: f"var(--map-{name})" for name in COLOURS})
    )


def colour(share: float) -> str:
    """The colour of a direction that is used to `share` of its rate; legible on light and on
    dark.
    """
    share = min(max(share, 0.0), 1.0) * 2
    low, high = RAMP[min(int(share), 1)], RAMP[min(int(share), 1) + 1]
    part = share - min(int(share), 1)
    return "#" + "".join(f"{round(a + (b - a) * part):02x}" for a, b in zip(low, high, strict=True))


class _Picture:
    """The SVG document of a layout, from back to front."""

    def __init__(self, layout: Layout, use: Use, theme: Theme) -> None:
        self.layout, self.use, self.network = layout, use, layout.network
        self.svg = ET.Element(
            "svg", {"xmlns": "http://www.w3.org/2000/svg", "class": "site-map", "role": "img"}
        )
        add(self.svg, "title", f"{self.network.name}: {counts(self.network)}")
        add(self.svg, "style", style(theme))
        paper = add(self.svg, "rect", class_="paper")
        self._map()
        for curve in layout.curves:
            self._link(curve)
        self._sites()
        for label in layout.link_labels.values():
            self._label(label, pill=True)
        add(self.svg, "text", self.network.name, class_="title", x=layouts.EDGE, y=26)
        add(self.svg, "text", counts(self.network), class_="note", x=layouts.EDGE, y=45)
        bottom = self._foot()
        size = {"width": f"{layouts.WIDTH:.0f}", "height": f"{bottom:.0f}"}
        for element in (self.svg, paper):
            element.attrib.update(size)
        self.svg.set("viewBox", f"0 0 {size['width']} {size['height']}")

    def _map(self) -> None:
        frame, view = self.layout.frame, self.layout.view
        box: dict[str, Any] = {
            "x": frame.left,
            "y": frame.top,
            "width": frame.width,
            "height": frame.height,
            "rx": 6,
        }
        add(add(add(self.svg, "defs"), "clipPath", id="site-map-frame"), "rect", **box)
        self.back = add(self.svg, "g", clip_path="url(#site-map-frame)")
        if view is not None:
            layers = view.layers()
            for name in ("land", "states", "borders", "lakes"):
                if name in layers:
                    add(self.back, "path", class_=name, d=layers[name], fill_rule="evenodd")
            if view.frame.bottom < frame.bottom:
                self._strip(view.frame)
            if view.period is None:
                self._scale(view.km_per_px, view.frame, grid=not layers)
        add(self.svg, "rect", class_="frame", **box)
        self.links = add(self.svg, "g", clip_path="url(#site-map-frame)")

    def _strip(self, above: Box) -> None:
        frame = self.layout.frame
        add(
            self.back,
            "rect",
            class_="paper",
            x=frame.left,
            y=above.bottom,
            width=frame.width,
            height=frame.height,
        )
        add(self.back, "path", class_="frame", d=f"M{frame.left} {above.bottom:.1f}H{frame.right}")
        add(
            self.back,
            "text",
            "without a location",
            class_="note",
            x=frame.left + 10,
            y=frame.bottom - 10,
        )

    def _scale(self, km_per_px: float, frame: Box, grid: bool) -> None:
        """A bar of 1, 2 or 5 times a power of ten of km; the mesh of a grid where there is no land
        to be seen.
        """
        km = _round(150 * km_per_px)
        length, x, y = km / km_per_px, frame.left + 14, frame.bottom - 12
        if grid:
            xs = np.arange(frame.middle[0] % length, frame.right, length)
            ys = np.arange(frame.middle[1] % length, frame.bottom, length)
            data = "".join(f"M{v:.1f} {frame.top}V{frame.bottom}" for v in xs)
            add(
                self.back,
                "path",
                class_="grid",
                d=data + "".join(f"M{frame.left} {v:.1f}H{frame.right}" for v in ys),
            )
        add(self.back, "path", class_="scale", d=f"M{x} {y - 4:.1f}v4h{length:.1f}v-4")
        add(self.back, "text", f"{km:g} km", class_="note", x=x, y=y - 8)

    def _link(self, curve: Curve) -> None:
        fastest = max(
            way.bottleneck.rate_bps for link in self.network.wan for way in link.directions
        )
        group = add(self.links, "g", class_="link", id=f"link-{curve.link.key}")
        rtt = rtt_text(curve.link)
        shares = [(way, self.use.get((way.source, way.target))) for way in curve.link.directions]
        add(
            group,
            "title",
            f"{curve.link.key}: RTT {rtt}; " + "; ".join(_described(*item) for item in shares),
        )
        thin = 0.4 if self.layout.listed else 1.0
        for i, (way, share) in enumerate(shares):
            width = THINNEST + (THICKEST - THINNEST) * (way.bottleneck.rate_bps / fastest) ** 0.5
            options: dict[str, Any] = {} if share is None else {"style": f"stroke:{colour(share)}"}
            shift = 0.0 if share is None else (width + 0.8) / 2 * (-1 if i == 0 else 1)
            if share is None and i == 1 and curve.link.directions[0].bottleneck == way.bottleneck:
                continue  # one line is enough for two equal directions
            for turn in curve.turns:
                add(
                    group,
                    "path",
                    d=_bezier(curve, turn, shift),
                    stroke_width=width * thin,
                    **options,
                )

    def _sites(self) -> None:
        for site in self.layout.sites:
            group = add(self.svg, "g", class_="site", id=f"site-{site.dc.name}")
            x, y = site.point
            if self.layout.alone:
                self._hosts(group, x, y)
            add(group, "circle", class_="dot", cx=x, cy=y, r=layouts.DOT)
            if site.label is not None:
                self._label(site.label, pill=False, parent=group)

    def _hosts(self, group: ET.Element, x: float, y: float) -> None:
        """The hosts of the only site, around its switch."""
        network = self.network
        number = min(len(network.hosts), MOST_HOSTS_DRAWN)
        for i in range(number):
            angle = 2 * pi * (i + 0.5) / number - pi / 2
            end = x + layouts.HOSTS_RADIUS * cos(angle), y + layouts.HOSTS_RADIUS * sin(angle)
            line = add(group, "g", class_="link")
            add(
                line, "path", d=f"M{x:.1f} {y:.1f}L{end[0]:.1f} {end[1]:.1f}", stroke_width=THINNEST
            )
            add(group, "rect", class_="host", x=end[0] - 6, y=end[1] - 6, width=12, height=12, rx=2)

    def _label(self, label: Label, pill: bool, parent: ET.Element | None = None) -> None:
        group = add(self.svg if parent is None else parent, "g", class_="label")
        box = label.box
        if label.leader is not None:
            x, y = box.nearest(*label.leader)
            add(
                group,
                "path",
                class_="leader",
                d=f"M{label.leader[0]:.1f} {label.leader[1]:.1f}L{x:.1f} {y:.1f}",
            )
        if pill:
            add(
                group,
                "rect",
                class_="pill",
                x=box.left,
                y=box.top,
                width=box.width,
                height=box.height,
                rx=5,
            )
        y = box.top + 1.5
        for line in label.lines:
            y += line.size * LINE_HEIGHT
            at = {"x": box.middle[0], "y": y - line.size * 0.31}
            add(group, "text", line.text, class_=line.kind, text_anchor="middle", **at)

    def _foot(self) -> float:
        """What stands below the frame; its lower end in px."""
        y = self.layout.frame.bottom
        if self.layout.listed:
            y = add_table(self.svg, self.network, self.layout.frame, y + 14)
        for note in notes(self.layout, self.use):
            y += 18
            add(self.svg, "text", note, class_="note", x=layouts.EDGE, y=y)
        if self.use:
            self._ramp(self.layout.frame.bottom + 10)
            y = max(y, self.layout.frame.bottom + 20)
        return y + 12

    def _ramp(self, y: float) -> None:
        """The legend of the colours of use."""
        right = self.layout.frame.right
        gradient = add(add(self.svg, "defs"), "linearGradient", id="site-map-use")
        for share in (0, 0.5, 1):
            add(gradient, "stop", offset=str(share), stop_color=colour(share))
        add(self.svg, "rect", x=right - 150, y=y, width=110, height=8, fill="url(#site-map-use)")
        add(self.svg, "text", "used 0 %", class_="note", x=right - 156, y=y + 8, text_anchor="end")
        add(self.svg, "text", "100 %", class_="note", x=right, y=y + 8, text_anchor="end")


def counts(network: Network) -> str:
    """How much there is of everything."""
    parts = (
        ("datacenter", network.datacenters),
        ("host", network.hosts),
        ("WAN link", network.wan),
    )
    return ", ".join(
        f"{len(items) or 'no'} {noun}{'' if len(items) == 1 else 's'}" for noun, items in parts
    )


def notes(layout: Layout, use: Use) -> list[str]:
    """Lines of explanation below the drawing."""
    if not layout.curves:
        rates = sorted({host.nic_up.rate_bps for host in layout.network.hosts})
        return [
            "NIC of each host: "
            + " to ".join(format_rate(rate, 3) for rate in {rates[0]: 0, rates[-1]: 0})
        ]
    what = "The table has" if layout.listed else "At each link:"
    lines = [
        f"{what} round-trip time and rate. Lines show which sites are linked, not where fibre runs."
    ]
    if use:
        lines[0] += " Each direction keeps to the right."
    if layout.moved:
        lines.append(f"Drawn farther apart than they are: {', '.join(layout.moved)}.")
    return lines


def _described(way: Direction, share: float | None) -> str:
    used = "" if share is None else f", {100 * share:.0f} % used"
    return f"{way.source} to {way.target} {rate_text(way)}{used}"


def _bezier(curve: Curve, turn: float, shift: float) -> str:
    """Path data of the curve, `turn` px to the right, `shift` px to its own left."""
    points = curve.points + np.array([turn, 0])
    chord = points[2] - points[0]
    points = points + np.array([chord[1], -chord[0]]) / max(float(np.hypot(*chord)), 1e-9) * shift
    (ax, ay), (bx, by), (cx, cy) = points
    return f"M{ax:.1f} {ay:.1f}Q{bx:.1f} {by:.1f} {cx:.1f} {cy:.1f}"


def _round(value: float) -> float:
    """The largest of 1, 2 and 5 times a power of ten that is at most `value`."""
    power = 10.0 ** floor(log10(value))
    return max(factor * power for factor in (1, 2, 5) if factor * power <= value)
