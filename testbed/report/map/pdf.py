"""Maps as PDF files: vector graphics, and searchable text in the package's own font.

Only the elements that `site_map` draws are supported: rectangles, circles, lines, quadratic curves
and text, styled by classes, in groups that may be clipped by a rectangle.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Literal, TypeAlias
from xml.etree import ElementTree as ET

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import BoxStyle, Circle, FancyBboxPatch, PathPatch, Rectangle
from matplotlib.path import Path
from matplotlib.text import Text
from matplotlib.textpath import TextPath

from testbed.report.map.site_map import NAMESPACE
from testbed.report.paper.style import INCHES, paper_style

POINTS_PER_INCH = 72
Alignment: TypeAlias = Literal["left", "center", "right"]
TAG = f"{{{NAMESPACE}}}"
RULE = re.compile(r"([^{}]+)\{([^{}]*)\}")
PATH_PART = re.compile(r"([A-Za-z])|(-?(?:\d+\.?\d*|\.\d+))")
NUMBERS_OF = {"M": 2, "L": 2, "H": 1, "V": 1, "h": 1, "v": 1, "Q": 4, "Z": 0}
ALIGNMENTS: dict[str, Alignment] = {"start": "left", "middle": "center", "end": "right"}
SHARE_TO_THE_LEFT = {"left": 0.0, "center": 0.5, "right": 1.0}  # shares of a text's width
INHERITED = ("fill", "stroke", "stroke-width", "clip-path")
DEFAULTS = {"fill": "black", "stroke": "none", "stroke-width": "1"}
Styles = Mapping[str, str]  # CSS properties by name


def map_pdf(svg: str) -> bytes:
    """Convert a map to PDF, as wide as a paper's page; equal maps give equal bytes.

    Args:
        svg: a map by `site_map` with a light or a dark theme.
    """
    root = ET.fromstring(svg)
    buffer = BytesIO()
    with paper_style():
        figure = _Painter(root).figure
        figure.savefig(buffer, format="pdf", metadata={"CreationDate": None})
    return buffer.getvalue()


@dataclass(frozen=True)
class _StyleRule:
    """Style properties of elements with a class or tag inside given others."""

    selectors: tuple[str, ...]  # from the outermost element to the innermost
    properties: Styles


class _Painter:
    """Painter of the elements of a map, from back to front."""

    def __init__(self, root: ET.Element) -> None:
        width = float(root.get("width", "0"))
        height = float(root.get("height", "0"))
        inches_wide = INCHES["double"]
        inches_high = inches_wide * height / width
        self.scale = inches_wide * POINTS_PER_INCH / width  # pt per px
        self.figure = Figure(figsize=(inches_wide, inches_high))
        self.axes: Axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_axis_off()
        self.axes.set_xlim(0, width)
        self.axes.set_ylim(height, 0)

        style = root.findtext(f"{TAG}style", "")
        self.rules = list(_rules(style))
        self.clips: dict[str | None, ET.Element] = {}
        for clip in root.iter(f"{TAG}clipPath"):
            self.clips[clip.get("id")] = clip[0]
        self.gradients: dict[str | None, ET.Element] = {}
        for gradient in root.iter(f"{TAG}linearGradient"):
            self.gradients[gradient.get("id")] = gradient

        self.layer = 0.0
        self._draw_children(root, [root], DEFAULTS)

    def _draw_children(
        self, parent: ET.Element, above: list[ET.Element], inherited: Styles
    ) -> None:
        for element in parent:
            tag = element.tag.removeprefix(TAG)
            if tag in ("defs", "style", "title"):
                continue
            chain = [*above, element]
            styles = self._styles(chain, inherited)
            if tag == "g":
                kept = {name: styles[name] for name in INHERITED if name in styles}
                self._draw_children(element, chain, kept)
            elif tag == "text":
                self._draw_text(element, styles)
            else:
                self._draw_shape(tag, element, styles)

    def _styles(self, chain: list[ET.Element], inherited: Styles) -> dict[str, str]:
        """Return the style properties of the last element of a chain from the root."""
        element = chain[-1]
        styles = dict(inherited)
        styles.update(element.attrib)
        for rule in self.rules:
            if _applies(rule, chain):
                styles.update(rule.properties)
        styles.update(_properties(element.get("style", "")))
        return styles

    def _draw_shape(self, tag: str, element: ET.Element, styles: Styles) -> None:
        fill = styles["fill"]
        if fill.startswith("url("):
            self._draw_gradient(element, fill)
            return
        settings: dict[str, Any] = {
            "facecolor": fill,
            "edgecolor": styles["stroke"],
            "linewidth": float(styles["stroke-width"]) * self.scale,
            "zorder": self._next_layer(),
        }
        if styles["stroke"] == "none":
            settings["linewidth"] = 0
        if styles.get("stroke-linecap") == "round":
            settings["capstyle"] = "round"
        shape = _shape(tag, element, settings)
        self.axes.add_patch(shape)
        clip = self.clips.get(_reference(styles.get("clip-path", "")))
        if clip is not None:
            frame = _rectangle(clip, {"transform": self.axes.transData})
            shape.set_clip_path(frame)

    def _draw_text(self, element: ET.Element, styles: Styles) -> None:
        """Draw a line of text, over its outline if present."""
        text = element.text or ""
        x = _number(element, "x")
        y = _number(element, "y")
        align = ALIGNMENTS[styles.get("text-anchor", "start")]
        size = float(styles.get("font-size", "16px").removesuffix("px"))
        weight = styles.get("font-weight", "normal")
        written = Text(
            x,
            y,
            text,
            fontsize=size * self.scale,
            color=styles["fill"],
            fontweight=weight,
            horizontalalignment=align,
            verticalalignment="baseline",
            zorder=self._next_layer(),
        )
        if styles["stroke"] != "none" and text:
            outline = TextPath((0, 0), text, size=size, prop=written.get_fontproperties())
            width = outline.get_extents().width
            left = x - SHARE_TO_THE_LEFT[align] * width
            vertices = outline.vertices * (1, -1) + (left, y)
            halo = PathPatch(
                Path(vertices, outline.codes),
                facecolor="none",
                edgecolor=styles["stroke"],
                alpha=float(styles.get("stroke-opacity", "1")),
                linewidth=float(styles["stroke-width"]) * self.scale,
                joinstyle="round",
                zorder=written.get_zorder() - 0.5,
            )
            self.axes.add_patch(halo)
        self.axes.add_artist(written)

    def _draw_gradient(self, element: ET.Element, fill: str) -> None:
        """Fill a rectangle with a gradient from left to right, in narrow pieces."""
        pieces = 64
        stops = []
        for stop in self.gradients[_reference(fill)]:
            stops.append((float(stop.get("offset", "0")), stop.get("stop-color", "black")))
        colours = LinearSegmentedColormap.from_list("map", stops)
        x = _number(element, "x")
        width = _number(element, "width") / pieces
        for piece in range(pieces):
            rectangle = Rectangle(
                (x + piece * width, _number(element, "y")),
                width * 1.05,
                _number(element, "height"),
                facecolor=colours((piece + 0.5) / pieces),
                linewidth=0,
                zorder=self._next_layer(),
            )
            self.axes.add_patch(rectangle)

    def _next_layer(self) -> float:
        self.layer += 1
        return self.layer


def _shape(tag: str, element: ET.Element, settings: Mapping[str, Any]) -> PathPatch | Any:
    if tag == "rect":
        return _rectangle(element, settings)
    if tag == "circle":
        middle = (_number(element, "cx"), _number(element, "cy"))
        return Circle(middle, _number(element, "r"), **settings)
    if tag == "path":
        return PathPatch(_path(element.get("d", "")), **settings)
    raise ValueError(f"a map has no <{tag}>")


def _rectangle(element: ET.Element, settings: Mapping[str, Any]) -> FancyBboxPatch:
    corner = (_number(element, "x"), _number(element, "y"))
    width = _number(element, "width")
    height = _number(element, "height")
    radius = _number(element, "rx")
    style = BoxStyle.Round(pad=0, rounding_size=radius) if radius else BoxStyle.Square(pad=0)
    return FancyBboxPatch(corner, width, height, boxstyle=style, mutation_aspect=1, **settings)


def _path(data: str) -> Path:
    """Return the data of an SVG path as a matplotlib path."""
    vertices: list[tuple[float, float]] = []
    codes: list[np.uint8] = []
    x = y = 0.0
    start = (x, y)
    for command, numbers in _commands(data):
        if command == "Z":
            vertices.append(start)
            codes.append(Path.CLOSEPOLY)
            x, y = start
            continue
        if command == "Q":
            vertices.append((numbers[0], numbers[1]))
            codes.append(Path.CURVE3)
        x, y = _next_point(command, numbers, x, y)
        vertices.append((x, y))
        if command == "M":
            start = (x, y)
            codes.append(Path.MOVETO)
        else:
            codes.append(Path.CURVE3 if command == "Q" else Path.LINETO)
    return Path(vertices, codes)


def _next_point(command: str, numbers: list[float], x: float, y: float) -> tuple[float, float]:
    """Return the end point of a path command that begins at (x, y)."""
    if command == "H":
        return numbers[0], y
    if command == "V":
        return x, numbers[0]
    if command == "h":
        return x + numbers[0], y
    if command == "v":
        return x, y + numbers[0]
    return numbers[-2], numbers[-1]


def _commands(data: str) -> Iterator[tuple[str, list[float]]]:
    """Yield the commands of path data with their numbers; after M, further points are lines."""
    command = ""
    numbers: list[float] = []
    for letter, number in PATH_PART.findall(data):
        if letter:
            command = letter
            if NUMBERS_OF[command] == 0:
                yield command, []
            continue
        numbers.append(float(number))
        if len(numbers) == NUMBERS_OF[command]:
            yield command, numbers
            numbers = []
            if command == "M":
                command = "L"


def _rules(sheet: str) -> Iterator[_StyleRule]:
    for selectors, properties in RULE.findall(sheet):
        for selector in selectors.split(","):
            yield _StyleRule(tuple(selector.split()), _properties(properties))


def _properties(text: str) -> dict[str, str]:
    properties = {}
    for declaration in text.split(";"):
        name, colon, value = declaration.partition(":")
        if colon:
            properties[name.strip()] = value.strip()
    return properties


def _applies(rule: _StyleRule, chain: list[ET.Element]) -> bool:
    """Return whether a rule applies to the last element of a chain from the root."""
    *outer, own = rule.selectors
    if not _matches(own, chain[-1]):
        return False
    ancestors = iter(chain[:-1])
    for selector in outer:
        matching = next((element for element in ancestors if _matches(selector, element)), None)
        if matching is None:
            return False
    return True


def _matches(selector: str, element: ET.Element) -> bool:
    if selector.startswith("."):
        return selector[1:] in element.get("class", "").split()
    return element.tag == TAG + selector


def _reference(text: str) -> str:
    """Return the identifier in ``url(#identifier)``."""
    return text.removeprefix("url(#").removesuffix(")")


def _number(element: ET.Element, attribute: str) -> float:
    return float(element.get(attribute, "0"))
