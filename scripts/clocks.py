"""Compare the real clock with the virtual one as an experiment's load grows, and draw the errors.

usage: scripts/clocks.py [--out docs/clocks.svg] [--results clocks.json] [--draw-only]

The experiment is an all-reduce of 16 MiB among 2 to 16 ranks in two datacenters, 10 ms apart, over
1 to 10 Gbit/s, in a guest, with ranks as processes. Run the script on an otherwise idle machine; it
takes about ten minutes on two cores. Results are first written as JSON; --draw-only draws the
figure again from that file.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

from pydantic import BaseModel, TypeAdapter

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))
from testbed.report.map.svg import add  # noqa: E402
from testbed.runfolder.folder import RunDir  # noqa: E402
from testbed.runfolder.problems import Problem  # noqa: E402
from testbed.runfolder.status import read_status  # noqa: E402
from testbed.runfolder.summary import read_summary  # noqa: E402

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
WIDTH = 640
HEIGHT = 360
LEFT = 64
RIGHT = WIDTH - 120
TOP = 24
BOTTOM = HEIGHT - 48
MOST_TICKS = 8  # above zero
TICK_STEPS = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
COLOURS = {  # of rates; distinguishable without red-green vision
    1: "#0072b2",
    3: "#009e73",
    10: "#d55e00",
}


class Measurement(BaseModel):
    """Results of a run: median time of the all-reduce, and whether the timing is faithful."""

    ms: float
    faithful: bool
    warnings: list[Problem]


class ClockRow(BaseModel):
    """The same experiment on both clocks; `error` is the relative extra time on the real clock.

    `faithful` and `warnings` belong to the run on the real clock.
    """

    ranks: int
    gbit: int
    virtual_ms: float
    real_ms: float
    error: float
    faithful: bool
    warnings: list[Problem]


ROWS = TypeAdapter(list[ClockRow])


def measure(ranks: int, rate: int, clock: str) -> Measurement:
    """Carry out one run, and return its measurement.

    Args:
        ranks: Number of ranks in both datacenters together.
        rate: Rate of the link in Gbit/s.
        clock: Clock of the guest, virtual or real.
    """
    with tempfile.TemporaryDirectory(prefix="testbed-clocks-") as name:
        folder = Path(name)
        topology = folder / "clocks.yaml"
        topology.write_text(TOPOLOGY.format(hosts=ranks // 2, rate=rate))
        command = [sys.executable, "-m", "testbed", "run", str(topology), "collectives"]
        command += ["--set", "workload.ops=[all_reduce]"]
        command += ["--set", f"workload.sizes=[{SIZE}]"]
        command += ["--set", "workload.iterations=5"]
        command += ["--set", "workload.warmup=2"]
        command += ["--clock", clock]
        command += ["--isolation", "process"]
        command += ["--out", str(folder / "run")]

        done = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            sys.exit(done.stderr)
        return read_measurement(RunDir(folder / "run"))


def read_measurement(run: RunDir) -> Measurement:
    """Read the first collective of a run, and its status."""
    status, _problems = read_status(run.status)
    if status is None:
        sys.exit(f"{run.status} cannot be read")
    summary, _problems = read_summary(run.summary)
    return Measurement(
        ms=summary.collectives[0].time_us.median / 1000,
        faithful=bool(status.faithful),
        warnings=status.warnings,
    )


def compare_clocks(ranks: int, rate: int) -> ClockRow:
    """Carry out the experiment on both clocks, print the result, and return the row."""
    virtual = measure(ranks, rate, "virtual")
    real = measure(ranks, rate, "real")
    row = ClockRow(
        ranks=ranks,
        gbit=rate,
        virtual_ms=virtual.ms,
        real_ms=real.ms,
        error=real.ms / virtual.ms - 1,
        faithful=real.faithful,
        warnings=real.warnings,
    )

    line = f"{ranks:3} ranks {rate:3} Gbit/s: "
    line += f"virtual {row.virtual_ms:8.1f} ms, real {row.real_ms:8.1f} ms, {row.error:+7.1%}"
    if not row.faithful:
        line += "  marked as not faithful"
    print(line, flush=True)
    return row


def measure_all() -> list[ClockRow]:
    """Return a row for each rate and number of ranks."""
    rows = []
    for rate in RATES:
        for ranks in RANKS:
            rows.append(compare_clocks(ranks, rate))
    return rows


class ErrorFigure:
    """Draws errors over ranks as SVG, one line per rate."""

    def __init__(self, rows: Sequence[ClockRow]) -> None:
        errors = [row.error for row in rows]
        self.rows = rows
        self.highest = 1.1 * max(0.1, *errors)
        self.lowest = min(0.0, *errors)
        self.svg = ET.Element(
            "svg",
            {
                "xmlns": "http://www.w3.org/2000/svg",
                "viewBox": f"0 0 {WIDTH} {HEIGHT}",
                "role": "img",
                "aria-label": "By how much an all-reduce takes longer on the real clock than on "
                "the virtual one",
                "font-family": "sans-serif",
                "font-size": "12",
            },
        )

        add(self.svg, "rect", width=WIDTH, height=HEIGHT, fill="#fff")
        self._draw_axes()
        for rate in RATES:
            self._draw_line(rate)

    def x(self, ranks: int) -> float:
        """Return the horizontal position of a number of ranks."""
        share = RANKS.index(ranks) / (len(RANKS) - 1)
        return LEFT + share * (RIGHT - LEFT)

    def y(self, error: float) -> float:
        """Return the vertical position of an error."""
        share = (self.highest - error) / (self.highest - self.lowest)
        return TOP + share * (BOTTOM - TOP)

    def _draw_text(
        self, x: float, y: float, text: str, anchor: str = "middle", fill: str = "#333"
    ) -> None:
        add(
            self.svg,
            "text",
            text,
            x=x,
            y=y,
            text_anchor=anchor,
            fill=fill,
        )

    def _draw_axes(self) -> None:
        step = next(step for step in TICK_STEPS if self.highest / step <= MOST_TICKS)
        first = int(self.lowest / step)
        last = int(self.highest / step)
        for number in range(first, last + 1):
            error = number * step
            y = self.y(error)
            add(self.svg, "path", d=f"M{LEFT} {y:.1f}H{RIGHT}", stroke="#ddd")
            label = f"{error:+.0%}" if number else "0"
            self._draw_text(LEFT - 8, y + 4, label, "end")

        for ranks in RANKS:
            self._draw_text(self.x(ranks), BOTTOM + 20, str(ranks))
        subject = f"ranks; all-reduce of {SIZE}, two sites 10 ms apart"
        self._draw_text((LEFT + RIGHT) / 2, HEIGHT - 8, subject)
        title = "how much longer it takes on the real clock; hollow: the run is not faithful"
        self._draw_text(LEFT, TOP - 10, title, "start")

    def _draw_line(self, rate: int) -> None:
        colour = COLOURS[rate]
        rows = [row for row in self.rows if row.gbit == rate]
        points = [f"{self.x(row.ranks):.1f},{self.y(row.error):.1f}" for row in rows]
        add(
            self.svg,
            "polyline",
            points=" ".join(points),
            fill="none",
            stroke=colour,
            stroke_width=2,
        )

        for row in rows:
            add(
                self.svg,
                "circle",
                cx=self.x(row.ranks),
                cy=self.y(row.error),
                r=4.5,
                fill=colour if row.faithful else "#fff",
                stroke=colour,
                stroke_width=2,
            )
        end = rows[-1]
        x = self.x(end.ranks) + 10
        y = self.y(end.error) + 4
        self._draw_text(x, y, f"{rate} Gbit/s", "start", colour)


def main() -> None:
    """Measure, unless --draw-only is given, and draw the figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=PROJECT / "docs/clocks.svg")
    parser.add_argument("--results", type=Path, default=Path("clocks.json"))
    parser.add_argument("--draw-only", action="store_true")
    options = parser.parse_args()

    if not options.draw_only:
        options.results.write_bytes(ROWS.dump_json(measure_all(), indent=1) + b"\n")
    rows = ROWS.validate_json(options.results.read_bytes())
    figure = ErrorFigure(rows)
    options.out.write_text(ET.tostring(figure.svg, encoding="unicode") + "\n")

    faithful_errors = [row.error for row in rows if row.faithful]
    if faithful_errors:
        median = statistics.median(faithful_errors)
        largest = max(faithful_errors)
        print(f"of those that are faithful: median {median:+.1%}, largest {largest:+.1%}")


if __name__ == "__main__":
    main()
