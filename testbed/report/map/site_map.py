"""Draw a network's sites and WAN links on a map, as SVG or PNG."""

from __future__ import annotations

from importlib import resources
from math import cos, floor, log10, pi, sin
from typing import Literal
from xml.etree import ElementTree as ET

import numpy as np
import resvg_py

from testbed.core.units import format_rate
from testbed.plan.model import Direction, Network
from testbed.report.map.basemap import View
from testbed.report.map.curves import Curve
from testbed.report.map.geometry import Box, Position
from testbed.report.map.labels import LINE_HEIGHT, Label, rate_text, rtt_text
from testbed.report.map.layout import DOT, HOSTS_RADIUS, Layout, LinkUse, lay_out, use_of
from testbed.report.map.placing import EDGE, WIDTH
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
.site-map .site text{{paint-order:stroke;stroke:{paper};stroke-width:3;stroke-opacity:.75;\
stroke-linejoin:round}}
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
THINNEST = 1.3  # px, for a link; links of higher rate are thicker
THICKEST = 3.0
THIN_IF_LISTED = 0.4  # share of the thickness when there are many links
BETWEEN_DIRECTIONS = 0.8  # px
MOST_HOSTS_DRAWN = 64
HOST_SIZE = 12.0  # px
SCALE_LENGTH = 150.0  # px, greatest length of the scale bar
BASELINE = 0.31  # share of the font size, from the baseline to the lower end of a line
RAMP_WIDTH = 110.0  # px, for the legend of colours
NAMESPACE = "http://www.w3.org/2000/svg"


def site_map(network: Network, use: LinkUse | None = None, theme: Theme = "auto") -> str:
    """Return a drawing of a network as an SVG document, `placing.WIDTH` px wide.

    Args:
        network: the network.
        use: use of each direction of a link, (source, target), from 0 to 1, shown by colour.
        theme: light or dark; auto: colours follow the reader's preference; page: colours are the
            CSS variables ``--map-paper``, ``--map-ink``, ... of the page around the drawing, with
            the values of auto unless the page sets others.
    """
    layout = lay_out(network, use)
    picture = Picture(layout, use or {}, theme)
    return ET.tostring(picture.svg, encoding="unicode")


def png(svg: str, width: int) -> bytes:
    """Return an SVG document as a PNG image, set in the package's own font.

    Args:
        svg: the document.
        width: width of the image in pixels.

    Raises:
        ValueError: the text is not an SVG document.
    """
    fonts = resources.files("testbed.report").joinpath("map/data")
    with resources.as_file(fonts) as folder:
        image = resvg_py.svg_to_bytes(
            svg,
            width=width,
            font_files=[
                str(folder / "Arimo-Regular.ttf"),
                str(folder / "Arimo-Bold.ttf"),
            ],
            skip_system_fonts=True,
        )
        return bytes(image)


def style(theme: Theme) -> str:
    """Return the style sheet of a drawing."""
    light = {name: pair[0] for name, pair in COLOURS.items()}
    dark = {name: pair[1] for name, pair in COLOURS.items()}

    if theme == "light":
        return RULES.format(**light)
    if theme == "dark":
        return RULES.format(**dark)
    if theme == "auto":
        return RULES.format(**light) + _if_dark(RULES.format(**dark))

    references = {name: f"var(--map-{name})" for name in COLOURS}
    return _variables(light) + _if_dark(_variables(dark)) + RULES.format(**references)


def _if_dark(rules: str) -> str:
    return "@media (prefers-color-scheme:dark){" + rules + "}"


def _variables(colours: dict[str, str]) -> str:
    declarations = "".join(f"--map-{name}:{value};" for name, value in colours.items())
    return ":where(.site-map){" + declarations + "}"


def colour(share: float) -> str:
    """Return the colour for a direction's use, legible on light and on dark.

    Args:
        share: used share of the rate, from 0 to 1.
    """
    last = len(RAMP) - 1
    limited_share = min(max(share, 0.0), 1.0)
    position = limited_share * last
    number = min(int(position), last - 1)
    part = position - number

    channels: list[int] = []
    for low, high in zip(RAMP[number], RAMP[number + 1], strict=True):
        channels.append(round(low + (high - low) * part))

    return "#" + bytes(channels).hex()


class Picture:
    """Writer of a layout as an SVG document, from back to front."""

    def __init__(self, layout: Layout, use: LinkUse, theme: Theme) -> None:
        self.layout = layout
        self.use = use
        self.network = layout.network
        self.svg = ET.Element("svg", {"xmlns": NAMESPACE, "class": "site-map", "role": "img"})

        add(self.svg, "title", f"{self.network.name}: {counts(self.network)}")
        add(self.svg, "style", style(theme))
        paper = add(self.svg, "rect", class_="paper")
        self._draw_map()
        self._draw_links()
        self._draw_sites()
        for key, label in layout.link_labels.items():
            group = self._draw_label(self.svg, label, has_pill=True)
            group.set("id", f"label-{key}")
        add(self.svg, "text", self.network.name, class_="title", x=EDGE, y=26)
        add(self.svg, "text", counts(self.network), class_="note", x=EDGE, y=45)
        bottom = self._draw_foot()
        self._set_size(paper, bottom)

    def _set_size(self, paper: ET.Element, bottom: float) -> None:
        width = f"{WIDTH:.0f}"
        height = f"{bottom:.0f}"
        for element in (self.svg, paper):
            element.set("width", width)
            element.set("height", height)

        self.svg.set("viewBox", f"0 0 {width} {height}")

    def _draw_map(self) -> None:
        definitions = add(self.svg, "defs")
        clip = add(definitions, "clipPath", id="site-map-frame")
        self._draw_frame(clip)

        background = add(self.svg, "g", clip_path="url(#site-map-frame)")
        view = self.layout.view
        if view is not None:
            self._draw_background(background, view)
        self._draw_frame(self.svg, class_="frame")

    def _draw_frame(self, parent: ET.Element, **attributes: str) -> None:
        frame = self.layout.frame
        add(
            parent,
            "rect",
            **attributes,
            x=frame.left,
            y=frame.top,
            width=frame.width,
            height=frame.height,
            rx=6,
        )

    def _draw_background(self, background: ET.Element, view: View) -> None:
        """Draw land, lakes and borders, the strip for sites without a location, and the scale."""
        layers = view.layers()
        for name in ("land", "states", "borders", "lakes"):
            if name in layers:
                add(background, "path", class_=name, d=layers[name], fill_rule="evenodd")

        if view.frame.bottom < self.layout.frame.bottom:
            self._draw_strip(background, view.frame.bottom)

        if view.period is None:
            scale_km = _round_below(SCALE_LENGTH * view.km_per_px)
            length = scale_km / view.km_per_px
            if not layers:
                _draw_grid(background, view.frame, length)
            _draw_scale(background, view.frame, scale_km, length)

    def _draw_strip(self, background: ET.Element, top: float) -> None:
        frame = self.layout.frame
        add(
            background,
            "rect",
            class_="paper",
            x=frame.left,
            y=top,
            width=frame.width,
            height=frame.height,
        )

        line = f"M{frame.left} {top:.1f}H{frame.right}"
        add(background, "path", class_="frame", d=line)
        add(
            background,
            "text",
            "without a location",
            class_="note",
            x=frame.left + 10,
            y=frame.bottom - 10,
        )

    def _draw_links(self) -> None:
        parent = add(self.svg, "g", clip_path="url(#site-map-frame)")
        rates = []
        for link in self.network.wan:
            rates += [direction.bottleneck.rate_bps for direction in link.directions]
        fastest_bps = max(rates, default=0)

        for curve in self.layout.curves:
            self._draw_link(parent, curve, fastest_bps)

    def _draw_link(self, parent: ET.Element, curve: Curve, fastest_bps: int) -> None:
        """Draw each direction of a link; two equal directions without use share one line."""
        link = curve.link
        group = add(parent, "g", class_="link", id=f"link-{link.key}")
        descriptions = []
        for direction in link.directions:
            share = use_of(direction, self.use)
            descriptions.append(_described(direction, share))

        title = f"{link.key}: RTT {rtt_text(link)}; " + "; ".join(descriptions)
        add(group, "title", title)

        self._draw_direction(group, curve, link.forward, fastest_bps, side=-1)
        directions_differ = link.forward.bottleneck != link.backward.bottleneck
        if directions_differ or use_of(link.backward, self.use) is not None:
            self._draw_direction(group, curve, link.backward, fastest_bps, side=1)

    def _draw_direction(
        self, group: ET.Element, curve: Curve, direction: Direction, fastest_bps: int, side: int
    ) -> None:
        """Draw a direction on its side of the curve, coloured by use if known."""
        speed = (direction.bottleneck.rate_bps / fastest_bps) ** 0.5
        width = THINNEST + (THICKEST - THINNEST) * speed

        shown_width = width
        if self.layout.listed:
            shown_width *= THIN_IF_LISTED

        attributes = {}
        shift = 0.0
        share = use_of(direction, self.use)
        if share is not None:
            attributes["style"] = f"stroke:{colour(share)}"
            shift = side * (width + BETWEEN_DIRECTIONS) / 2

        for turn in curve.turns:
            add(
                group,
                "path",
                d=_bezier(curve, turn, shift),
                stroke_width=shown_width,
                **attributes,
            )

    def _draw_sites(self) -> None:
        for site in self.layout.sites:
            group = add(self.svg, "g", class_="site", id=f"site-{site.dc.name}")
            if self.layout.alone:
                self._draw_hosts(group, site.point)
            add(group, "circle", class_="dot", cx=site.point.x, cy=site.point.y, r=DOT)

            if site.label is not None:
                self._draw_label(group, site.label, has_pill=False)

    def _draw_hosts(self, group: ET.Element, switch: Position) -> None:
        """Draw the hosts of the only site around its switch."""
        number = min(len(self.network.hosts), MOST_HOSTS_DRAWN)
        for i in range(number):
            angle = 2 * pi * (i + 0.5) / number - pi / 2
            x = switch.x + HOSTS_RADIUS * cos(angle)
            y = switch.y + HOSTS_RADIUS * sin(angle)

            line = f"M{switch.x:.1f} {switch.y:.1f}L{x:.1f} {y:.1f}"
            link = add(group, "g", class_="link")
            add(link, "path", d=line, stroke_width=THINNEST)
            add(
                group,
                "rect",
                class_="host",
                x=x - HOST_SIZE / 2,
                y=y - HOST_SIZE / 2,
                width=f"{HOST_SIZE:.0f}",
                height=f"{HOST_SIZE:.0f}",
                rx=2,
            )

    def _draw_label(self, parent: ET.Element, label: Label, has_pill: bool) -> ET.Element:
        """Draw a label, and return its group; a pill hides the line under the label."""
        group = add(parent, "g", class_="label")
        box = label.box
        if label.leader is not None:
            end = box.nearest(label.leader)
            leader = f"M{label.leader.x:.1f} {label.leader.y:.1f}L{end.x:.1f} {end.y:.1f}"
            add(group, "path", class_="leader", d=leader)
        if has_pill:
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

        bottom = box.top + 1.5
        for line in label.lines:
            bottom += line.font_size * LINE_HEIGHT
            add(
                group,
                "text",
                line.text,
                class_=line.kind,
                text_anchor="middle",
                x=box.middle.x,
                y=bottom - line.font_size * BASELINE,
            )
        return group

    def _draw_foot(self) -> float:
        """Draw the notes and tables below the frame, and return the lower end in px."""
        frame = self.layout.frame
        bottom = frame.bottom
        if self.layout.listed:
            bottom = add_table(self.svg, self.network, frame, bottom + 14)

        for note in notes(self.layout, self.use):
            bottom += 18
            add(self.svg, "text", note, class_="note", x=EDGE, y=bottom)

        if self.use:
            self._draw_legend(frame.right, frame.bottom + 10)
            bottom = max(bottom, frame.bottom + 20)
        return bottom + 12

    def _draw_legend(self, right: float, top: float) -> None:
        """Draw the colour legend of use."""
        definitions = add(self.svg, "defs")
        gradient = add(definitions, "linearGradient", id="site-map-use")
        for share in (0, 0.5, 1):
            add(gradient, "stop", offset=str(share), stop_color=colour(share))

        left = right - 40 - RAMP_WIDTH
        add(
            self.svg,
            "rect",
            x=left,
            y=top,
            width=f"{RAMP_WIDTH:.0f}",
            height=8,
            fill="url(#site-map-use)",
        )

        for text, x in (("used 0 %", left - 6), ("100 %", right)):
            add(
                self.svg,
                "text",
                text,
                class_="note",
                x=x,
                y=top + 8,
                text_anchor="end",
            )


def _draw_grid(background: ET.Element, frame: Box, spacing: float) -> None:
    """Draw a mesh where no land is visible."""
    lines = ""
    first_x = frame.middle.x % spacing
    for x in np.arange(first_x, frame.right, spacing):
        lines += f"M{x:.1f} {frame.top:.1f}V{frame.bottom:.1f}"

    first_y = frame.middle.y % spacing
    for y in np.arange(first_y, frame.bottom, spacing):
        lines += f"M{frame.left:.1f} {y:.1f}H{frame.right:.1f}"

    add(background, "path", class_="grid", d=lines)


def _draw_scale(background: ET.Element, frame: Box, scale_km: float, length: float) -> None:
    """Draw a scale bar of `length` px for `scale_km` km."""
    x = frame.left + 14
    y = frame.bottom - 12

    bar = f"M{x} {y - 4:.1f}v4h{length:.1f}v-4"
    add(background, "path", class_="scale", d=bar)
    add(background, "text", f"{scale_km:g} km", class_="note", x=x, y=y - 8)


def counts(network: Network) -> str:
    """Return the numbers of datacenters, hosts and links in words."""
    numbers = {
        "datacenter": len(network.datacenters),
        "host": len(network.hosts),
        "WAN link": len(network.wan),
    }
    parts = []
    for noun, number in numbers.items():
        plural = noun if number == 1 else f"{noun}s"
        parts.append(f"{number or 'no'} {plural}")

    return ", ".join(parts)


def notes(layout: Layout, use: LinkUse) -> list[str]:
    """Return the lines of explanation below a drawing."""
    if not layout.curves:
        return [_nic_note(layout.network)]

    subject = "The table has" if layout.listed else "At each link:"
    note = f"{subject} round-trip time and rate. "
    note += "Lines show which sites are linked, not where fibre runs."
    if use:
        note += " Each direction keeps to the right."

    lines = [note]
    if layout.moved:
        names = ", ".join(layout.moved)
        lines.append(f"Drawn farther apart than in reality: {names}.")

    return lines


def _nic_note(network: Network) -> str:
    rates = [host.nic_up.rate_bps for host in network.hosts]
    slowest = format_rate(min(rates), 3)
    fastest = format_rate(max(rates), 3)

    text = f"NIC of each host: {slowest}"

    if min(rates) != max(rates):
        text += f" to {fastest}"
    return text


def _described(direction: Direction, share: float | None) -> str:
    text = f"{direction.source} to {direction.target} {rate_text(direction)}"
    if share is not None:
        text += f", {100 * share:.0f} % used"
    return text


def _bezier(curve: Curve, turn: float, shift: float) -> str:
    """Return a curve's path data, shifted `turn` px right and `shift` px to the curve's left."""
    points = curve.points + np.array([turn, 0])
    across, down = points[2] - points[0]
    length = max(float(np.hypot(across, down)), 1e-9)
    to_the_left = np.array([down, -across]) / length
    shifted = points + to_the_left * shift

    start, control, end = (f"{x:.1f} {y:.1f}" for x, y in shifted)
    return f"M{start}Q{control} {end}"


def _round_below(value: float) -> float:
    """Return the largest of 1, 2 and 5 times a power of ten that is at most `value`."""
    power = 10.0 ** floor(log10(value))

    for factor in (5, 2):
        if factor * power <= value:
            return factor * power
    return power
