"""Make docs/gallery.md and its pictures: carry out some runs, and draw their figures.

usage: python scripts/gallery.py [--results FOLDER]    runs that are there already are not repeated

Each picture of the page has the commands that make it.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).parents[1]
PAGE = PROJECT / "docs" / "gallery.md"
PICTURES = PROJECT / "docs" / "gallery"
HEAD = """# Gallery

`python scripts/gallery.py` made this page: it carried out the runs, and drew each picture with the
command below the picture. The same figures are in the report page of a run and in the page of a
sweep. In Python, `run.plot("latency")`, `sweep.plot()` and `found.plot()` return them
([Python](api.md)). `.pdf` and `.png` work as well as `.svg`.
"""
COLLECTIVES = (
    "testbed run two-sites collectives --isolation process --out collectives "
    "--set workload.ops='[all_reduce, broadcast]' --set workload.iterations=3 "
    "--set workload.sizes='[4 KiB, 64 KiB, 1 MiB, 8 MiB]'"
)
TRAINING = (
    "testbed run coast-to-coast train --isolation process --out training "
    "--set workload.method=diloco --set workload.steps=21"
)
SEARCH = (
    "testbed find 'least wan.iowa-ohio.rate' two-sites --out search --isolation process "
    "--such-that 'time <= 500 ms' --between '100 Mbit/s' '10 Gbit/s' --precision '20 %' "
    "--set workload.ops='[all_reduce]' --set workload.sizes='[4 MiB]' --set workload.iterations=3"
)


@dataclass(frozen=True)
class Picture:
    """A picture of the page.

    Attributes:
        name: Name of the file.
        title: Heading.
        run: Command that makes the run, whose folder is `folder`.
        folder: Folder of the run or of the sweep.
        draw: Command that draws the picture, without the file.
    """

    name: str
    title: str
    run: str
    folder: str
    draw: str

    @property
    def file(self) -> str:
        """Name of the file."""
        return f"{self.name}.svg"


PICTURES_OF_RUNS = (
    ("latency", "Time of collectives against their size", COLLECTIVES, "collectives"),
    ("map", "The network, with the use of its links", COLLECTIVES, "collectives"),
    ("utilisation", "Use of the WAN over time", COLLECTIVES, "collectives"),
    ("ranks", "What each rank does", COLLECTIVES, "collectives"),
    ("loss", "Loss of training against time", TRAINING, "training"),
    ("steps", "Time of the steps of training", TRAINING, "training"),
)
FIND = Picture(
    name="find",
    title="The least rate that an all-reduce needs",
    run=SEARCH,
    folder="search",
    draw="testbed sweep plot search",
)


def pictures() -> list[Picture]:
    """Return all pictures in the order of the page."""
    found: list[Picture] = []
    for name, title, run, folder in PICTURES_OF_RUNS:
        draw = f"testbed report {folder} --figure {name}"
        found.append(Picture(name, title, run, folder, draw))
    return [*found, FIND]


def carry_out(command: str, folder: Path) -> None:
    """Run a command of the testbed in a folder.

    Raises:
        CalledProcessError: The command failed.
    """
    _program, *words = shlex.split(command)
    subprocess.run([sys.executable, "-m", "testbed", *words], cwd=folder, check=True)


def main() -> None:
    """Carry out the runs that are missing, draw the pictures, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--results", type=Path, default=Path("results/gallery"))
    results: Path = parser.parse_args().results
    results.mkdir(parents=True, exist_ok=True)
    PICTURES.mkdir(exist_ok=True)

    parts = [HEAD]
    for picture in pictures():
        if not (results / picture.folder).exists():
            carry_out(picture.run, results)
        carry_out(f"{picture.draw} --out {shlex.quote(str(PICTURES / picture.file))}", results)
        commands = f"{picture.run}\n{picture.draw} --out {picture.file}"
        image = f"![{picture.title}](gallery/{picture.file})"
        parts.append(f"## {picture.title}\n\n{image}\n\n```\n{commands}\n```\n")
    PAGE.write_text("\n".join(parts))


if __name__ == "__main__":
    main()
