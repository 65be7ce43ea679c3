"""The same experiment on both clocks as its load grows: how far the real clock is from the virtual
one.

usage: scripts/clocks.py [--out docs/clocks.svg] [--results clocks.json] [--draw-only]

An all-reduce of 16 MiB among 2 to 16 ranks in two datacenters, 10 ms apart, over 1 to 10 Gbit/s, in
a guest, ranks as processes. Run it on a machine that does nothing else; it takes about ten minutes
on two cores. Results go to JSON first, from which --draw-only draws the figure again.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))
from testbed.report.map.svg import add  # noqa: E402

RANKS = (2, 4, 8, 16)
RATES = (1, 3, 10)  # Gbit/s
SIZE = "16 MiB"
TOPOLOGY = """
name: clocks
datacenters:
  west: {{hosts: {hosts}, nic: {{rate: 25 Gbit/s, delay: 5 us}}}}
  east: {{hosts: {hosts}, nic: {{rate: 25 Gbit/s, delay: 5 us}}}}
wan:
  - {{between: [west, east], rate: {rate} Gbit/s, delay: 10 ms}}
"""
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 360, 64, 120, 24, 48
COLOURS = {
    1: "#0072b2",
    3: "#009e73",
    10: "#d55e00",
}  # told apart by people who see no red or green


def measure(ranks: int, rate: int, clock: str) -> dict[str, Any]:
    """One run: its median in ms, and whether it says that it is faithful."""
    with tempfile.TemporaryDirectory(prefix="testbed-clocks-") as name:
        folder = Path(name)
        (folder / "clocks.yaml").write_text(TOPOLOGY.format(hosts=ranks // 2, rate=rate))
        job = {"ops": "[all_reduce]", "sizes": f"[{SIZE}]", "iterations": 5, "warmup": 2}
        sets = [word for key, value in job.items() for word in ("--set", f"workload.{key}={value}")]
        words = [
            "run",
            folder / "clocks.yaml",
            "collectives",
            *sets,
            "--clock",
            clock,
            "--isolation",
            "process",
        ]
        done = subprocess.run(
            [sys.executable, "-m", "testbed", *map(str, words), "--out", str(folder / "run")],
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            sys.exit(done.stderr)
        summary = json.loads((folder / "run/summary.json").read_text())
        status = json.loads((folder / "run/status.json").read_text())
        times = summary["collectives"][0]["time_us"]
        return {
            "ms": times["median"] / 1000,
            "faithful": status["faithful"],
            "warnings": status["warnings"],
        }


def measure_all() -> list[dict[str, Any]]:
    """A row for each number of ranks and rate."""
    rows = []
    for rate in RATES:
        for ranks in RANKS:
            virtual, real = (measure(ranks, rate, clock) for clock in ("virtual", "real"))
            row = {"ranks": ranks, "gbit": rate, "virtual_ms": virtual["ms"], "real_ms": real["ms"]}
            row |= {"error": real["ms"] / virtual["ms"] - 1}
            row |= {"faithful": real["faithful"], "warnings": real["warnings"]}
            times = f"virtual {row['virtual_ms']:8.1f} ms, real {row['real_ms']:8.1f} ms"
            times += f", {row['error']:+7.1%}"
            mark = "" if row["faithful"] else "  marked as not faithful"
            print(f"{ranks:3} ranks {rate:3} Gbit/s: {times}{mark}", flush=True)
            rows.append(row)
    return rows


class Figure:
    """Errors against ranks, a line for each rate."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        errors: list[float] = [row["error"] for row in rows]
        self.rows = rows
        self.highest = 1.1 * max(0.1, *errors)
        self.lowest = min(0.0, *errors)
        words = "By how much an all-reduce takes longer on the real clock than on the virtual one"
        name = "http://www.w3.org/2000/svg"
        view = {
            "xmlns": name,
            "viewBox": f"0 0 {WIDTH} {HEIGHT}",
            "role": "img",
            "aria-label": words,
        }
        self.svg = ET.Element("svg", {**view, "font-family": "sans-serif", "font-size": "12"})
        add(self.svg, "rect", width=WIDTH, height=HEIGHT, fill="#fff")
        self._axes()
        for rate in RATES:
            self._line(rate)

    def x(self, ranks: int) -> float:
        """Where so many ranks are."""
        return LEFT + RANKS.index(ranks) / (len(RANKS) - 1) * (WIDTH - LEFT - RIGHT)

    def y(self, error: float) -> float:
        """Where an error is."""
        return TOP + (self.highest - error) / (self.highest - self.lowest) * (HEIGHT - TOP - BOTTOM)

    def _text(
        self, x: float, y: float, words: str, anchor: str = "middle", fill: str = "#333"
    ) -> None:
        add(self.svg, "text", words, x=x, y=y, text_anchor=anchor, fill=fill)

    def _axes(self) -> None:
        step = next(
            size for size in (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10) if self.highest / size <= 8
        )
        for tick in range(int(self.lowest / step), int(self.highest / step) + 1):
            y = self.y(tick * step)
            add(self.svg, "path", d=f"M{LEFT} {y:.1f}H{WIDTH - RIGHT}", stroke="#ddd")
            self._text(LEFT - 8, y + 4, f"{tick * step:+.0%}" if tick else "0", "end")
        for ranks in RANKS:
            self._text(self.x(ranks), HEIGHT - BOTTOM + 20, str(ranks))
        self._text(
            (LEFT + WIDTH - RIGHT) / 2,
            HEIGHT - 8,
            f"ranks; all-reduce of {SIZE}, two sites 10 ms apart",
        )
        title = "how much longer it takes on the real clock; hollow: the run is not faithful"
        self._text(LEFT, TOP - 10, title, "start")

    def _line(self, rate: int) -> None:
        colour, mine = COLOURS[rate], [row for row in self.rows if row["gbit"] == rate]
        places = [(self.x(row["ranks"]), self.y(row["error"])) for row in mine]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        add(self.svg, "polyline", points=points, fill="none", stroke=colour, stroke_width=2)
        for (x, y), row in zip(places, mine, strict=True):
            fill = colour if row["faithful"] else "#fff"
            add(self.svg, "circle", cx=x, cy=y, r=4.5, fill=fill, stroke=colour, stroke_width=2)
        self._text(places[-1][0] + 10, places[-1][1] + 4, f"{rate} Gbit/s", "start", colour)


def main() -> None:
    """Measure, unless only the figure is wanted, and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=PROJECT / "docs/clocks.svg")
    parser.add_argument("--results", type=Path, default=Path("clocks.json"))
    parser.add_argument("--draw-only", action="store_true")
    options = parser.parse_args()
    if not options.draw_only:
        options.results.write_text(json.dumps(measure_all(), indent=1) + "\n")
    rows = json.loads(options.results.read_text())
    options.out.write_text(ET.tostring(Figure(rows).svg, encoding="unicode") + "\n")
    marked = [row["error"] for row in rows if row["faithful"]]
    if marked:
        median, largest = statistics.median(marked), max(marked)
        print(f"of those that are faithful: median {median:+.1%}, largest {largest:+.1%}")


if __name__ == "__main__":
    main()
