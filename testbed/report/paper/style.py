"""Widths, fonts, colours, markers and line styles of figures on paper."""

from __future__ import annotations

from importlib import resources
from typing import Any

from matplotlib import font_manager, style

from testbed.report.figures.common import COLOURS
from testbed.report.paper.choice import PaperWidth

INCHES: dict[PaperWidth, float] = {"single": 3.4, "double": 7.0}  # of a column, of a page
FONT_SIZE = 8.0  # pt
SMALL_FONT_SIZE = 7.0  # pt, of ticks and of the cells of heat maps
DOTS_PER_INCH = 300  # of PNG files
FONT_FILES = ("Arimo-Regular.ttf", "Arimo-Bold.ttf")
FONT_FAMILIES = ("Arimo", "DejaVu Sans")  # the second font has letters that the first lacks

# Okabe and Ito, "Color Universal Design" (2008), without the yellow, which is too pale on paper.
# The last two colours are additions for figures with more lines.
PAPER_COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#E69F00",
    "#000000",
    "#882255",
    "#7F7F7F",
)
COLOUR_ON_PAPER = dict(zip(COLOURS, PAPER_COLOURS, strict=True))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
LINE_STYLES: dict[str, Any] = {
    "solid": "solid",
    "dot": (0, (1, 1.2)),
    "dash": (0, (4, 1.6)),
    "longdash": (0, (8, 2)),
    "dashdot": (0, (4, 1.4, 1, 1.4)),
    "longdashdot": (0, (8, 1.6, 1, 1.6)),
}
SETTINGS: dict[str, Any] = {
    "font.family": list(FONT_FAMILIES),
    "font.size": FONT_SIZE,
    "axes.labelsize": FONT_SIZE,
    "axes.titlesize": FONT_SIZE,
    "axes.linewidth": 0.6,
    "axes.edgecolor": "#444444",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "xtick.labelsize": SMALL_FONT_SIZE,
    "ytick.labelsize": SMALL_FONT_SIZE,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "legend.fontsize": FONT_SIZE,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "text.parse_math": False,  # a name may contain dollar signs
    "figure.constrained_layout.h_pad": 0.03,
    "figure.constrained_layout.w_pad": 0.03,
    "savefig.dpi": DOTS_PER_INCH,
    "pdf.fonttype": 42,  # TrueType: whole letters that can be searched
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "testbed",  # the same identifiers each time
}


def use_package_fonts() -> None:
    """Register the package's Arimo font with matplotlib."""
    manager = font_manager.fontManager
    known_files = {entry.fname for entry in manager.ttflist}
    folder = resources.files("testbed.report").joinpath("map/data")

    for name in FONT_FILES:
        with resources.as_file(folder / name) as path:
            if str(path) not in known_files:
                manager.addfont(path)


def paper_style() -> Any:
    """Return the context for drawing and writing figures, independent of matplotlibrc."""
    use_package_fonts()
    return style.context(["default", SETTINGS])


def colour_on_paper(colour: str) -> Any:
    """Return a page colour for matplotlib, replaced by a colour-blind-safe one if known.

    Args:
        colour: ``#rrggbb``, ``#rgba`` or ``rgba(r,g,b,a)`` with r, g and b up to 255.

    Returns:
        An opaque colour, as if drawn on white.
    """
    known = COLOUR_ON_PAPER.get(colour)
    if known is not None:
        return known
    if not colour.startswith("rgba("):
        return colour

    numbers = colour.removeprefix("rgba(").removesuffix(")")
    *channels, alpha = [float(number) for number in numbers.split(",")]
    white = 1 - alpha
    return tuple(white + alpha * channel / 255 for channel in channels)
