"""Draw a plotly figure of the pages with matplotlib, at the width of a paper's column.

A plotly figure is read as data: traces (lines, bars, heat maps), axes, marks across, and titles of
panels. Lengths on paper are in inches, lengths of text in points (1/72 inch).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import unescape
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize, to_rgb
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from testbed.report.figures.common import (
    CHANGE_COLOUR,
    HOLLOW,
    UNFAITHFUL,
    is_unfaithful_entry,
)
from testbed.report.map.labels import text_width
from testbed.report.paper.choice import PaperWidth
from testbed.report.paper.style import (
    FONT_SIZE,
    INCHES,
    LINE_STYLES,
    MARKERS,
    SMALL_FONT_SIZE,
    colour_on_paper,
)

POINTS_PER_INCH = 72
PANEL_HEIGHT: dict[PaperWidth, float] = {"single": 1.9, "double": 2.3}  # inches, of lines
NARROWEST_PANEL = 1.6  # inches, of lines
NARROWEST_HEAT_MAP = 2.8  # inches
MOST_PANELS_ACROSS = 3
ROW_HEIGHT = 0.14  # inches, of a heat map over time
CELL_HEIGHT = 0.32  # inches, of a heat map with text in its cells
BAR_HEIGHT = 0.1  # inches
TALLEST = 9.0  # inches, greatest height that fits a page
TITLE_HEIGHT = 0.15  # inches, of a panel
LEGEND_LINE = 0.16  # inches
LEGEND_HANDLE = 30.0  # pt, for the line sample and the space after the text
AXIS_ROOM = 0.5  # inches, for ticks and title of an axis
TICK_ROOM = 0.2  # inches, for ticks as short as numbers
SMALLEST_FONT_SIZE = 5.5  # pt, of the cells of a heat map with many columns
MARKS_OF_STEPS = 9  # markers along a line without markers on the page
BOUND = "bound"
BOUND_COLOUR = "#555555"
LONGEST_LABEL = 0.42  # share of the figure's width that the name of a row may take
ROW_GAP = 0.12  # share of a row
HOLLOW_MARKERS: dict[str, Any] = {
    "linestyle": "none",
    "markerfacecolor": "white",
    "markersize": 5.0,
    "zorder": 3,
}
Floats: TypeAlias = npt.NDArray[np.float64]
Trace: TypeAlias = Any  # a plotly trace; plotly has no types


@dataclass
class _Panel:
    """A pair of axes: traces, plotly's settings of the axes, and title."""

    traces: list[Trace]
    x_axis: Any
    y_axis: Any
    title: str = ""
    legend: dict[str, Any] = field(default_factory=dict)  # handles by label

    @property
    def heat(self) -> Trace | None:
        """The heat map of the panel, or None."""
        maps = [trace for trace in self.traces if trace.type == "heatmap"]
        return maps[0] if maps else None


def draw_on_paper(figure: go.Figure, width: PaperWidth) -> Figure:
    """Return a matplotlib version of a figure; call within `style.paper_style`.

    Args:
        figure: a figure of the pages.
        width: width of the paper's column.
    """
    inches = INCHES[width]
    panels = _panels(figure)
    series = _series_numbers(panels)
    are_heat_maps = panels[0].heat is not None
    narrowest = NARROWEST_HEAT_MAP if are_heat_maps else NARROWEST_PANEL

    fitting = int(inches / narrowest)
    across = max(1, min(len(panels), MOST_PANELS_ACROSS, fitting))
    down = math.ceil(len(panels) / across)
    room = inches / across - AXIS_ROOM

    paper = Figure(figsize=(inches, 1), layout="constrained")
    are_shared = any(panel.y_axis.matches for panel in panels)
    grid = paper.subplots(
        nrows=down,
        ncols=across,
        squeeze=False,
        sharey=are_shared and not are_heat_maps,
    )
    places: list[Axes] = list(grid.flat)
    for axes in places[len(panels) :]:
        axes.set_axis_off()

    for number, panel in enumerate(panels):
        axes = places[number]
        is_lowest = number + across >= len(panels)
        is_leftmost = number % across == 0

        _draw_panel(panel, axes, series, room)
        _draw_marks(figure, panel, axes)
        _title_axes(panel, axes, has_x=is_lowest, has_y=is_leftmost)

    lines_of_legend = _add_legend(paper, panels, inches)
    panel_height = max(_panel_height(panel, width) for panel in panels)
    if panels[0].title:
        panel_height += TITLE_HEIGHT
    height = down * panel_height + lines_of_legend * LEGEND_LINE
    paper.set_size_inches(inches, min(height, TALLEST))
    return paper


def _panels(figure: go.Figure) -> list[_Panel]:
    """Return a panel for each pair of axes, in the order of first use by the traces."""
    traces_of: dict[tuple[str, str], list[Trace]] = {}
    for trace in figure.data:
        pair = (trace.xaxis or "x", trace.yaxis or "y")
        traces_of.setdefault(pair, []).append(trace)
    titles = [_plain(note.text) for note in figure.layout.annotations]

    panels = []
    for (x, y), traces in traces_of.items():
        x_axis = figure.layout["xaxis" + x[1:]]
        y_axis = figure.layout["yaxis" + y[1:]]
        panels.append(_Panel(traces, x_axis, y_axis))

    for panel, title in zip(panels, titles, strict=False):
        panel.title = title

    return panels


def _series_numbers(panels: Sequence[_Panel]) -> dict[str, int]:
    """Return a number for each line name of all panels; a bound has the number of its line."""
    numbers: dict[str, int] = {}

    for panel in panels:
        for trace in panel.traces:
            if trace.type != "scatter" or _is_bound(trace) or is_unfaithful_entry(trace):
                continue
            name = trace.name or ""
            numbers.setdefault(name, len(numbers))

    return numbers


def _panel_height(panel: _Panel, width: PaperWidth) -> float:
    """Return the height of a panel with its axes, in inches."""
    heat = panel.heat
    if heat is not None:
        row_height = CELL_HEIGHT if heat.texttemplate else ROW_HEIGHT
        rows = max(len(heat.z), 3)
        return rows * row_height + AXIS_ROOM

    bars = 0
    for trace in panel.traces:
        if trace.type == "bar":
            bars += len(trace.y)
    if bars:
        shown_bars = max(bars, 6)
        return shown_bars * BAR_HEIGHT + AXIS_ROOM

    return PANEL_HEIGHT[width]


def _draw_panel(panel: _Panel, axes: Axes, series: Mapping[str, int], room: float) -> None:
    """Draw the traces of a panel, whose axes are `room` inches wide."""
    heat = panel.heat
    bars = [trace for trace in panel.traces if trace.type == "bar"]
    if heat is not None:
        _draw_heat_map(panel, heat, axes, room)
    elif bars:
        _draw_bars(panel, bars, axes)
    else:
        _draw_lines(panel, axes, series, room)
    if panel.title:
        axes.set_title(panel.title)


def _draw_lines(panel: _Panel, axes: Axes, series: Mapping[str, int], room: float) -> None:
    categories: list[str] = []
    if panel.x_axis.type == "category":
        categories = _categories(panel)

    for trace in panel.traces:
        if is_unfaithful_entry(trace):
            _add_unfaithful_entry(panel, trace)
            continue
        x = _x_values(trace, categories)
        y = np.array(trace.y, dtype=float)
        if _is_bound(trace):
            _draw_bound(panel, axes, trace, x, y)
            continue
        number = series[trace.name or ""]
        _draw_line(panel, axes, trace, x, y, number)

    if categories:
        axes.set_xlim(-0.4, len(categories) - 0.6)
    _style_numbers_y(panel, axes)
    _style_x(panel, axes, categories, room)


def _draw_line(panel: _Panel, axes: Axes, trace: Trace, x: Floats, y: Floats, number: int) -> None:
    """Draw a line with its marker, and with bars where the trace has errors.

    Args:
        panel: the panel, whose legend gets the line.
        axes: where to draw.
        trace: the trace of the page's figure.
        x: positions of the n points, shape (n,).
        y: values of the points, shape (n,).
        number: number of the line, which chooses its marker.
    """
    settings: dict[str, Any] = {
        "color": colour_on_paper(trace.line.color),
        "linestyle": LINE_STYLES[trace.line.dash or "solid"],
        "marker": MARKERS[number % len(MARKERS)],
    }
    if trace.line.shape == "hv":
        settings["drawstyle"] = "steps-post"
        settings["linewidth"] = 0.8
    if "markers" not in trace.mode:
        settings["markevery"] = _marks(len(x), number)

    label = _plain(trace.name or "")
    _draw_hollow(axes, trace, x, y, settings)
    if trace.error_y.array is None:
        (line,) = axes.plot(x, y, **settings)
        panel.legend.setdefault(label, line)
        return
    errors = [np.array(trace.error_y.arrayminus), np.array(trace.error_y.array)]
    container: ErrorbarContainer = axes.errorbar(
        x, y, yerr=errors, elinewidth=0.7, capsize=1.5, capthick=0.7, **settings
    )
    panel.legend.setdefault(label, container.lines[0])


def _draw_hollow(
    axes: Axes, trace: Trace, x: Floats, y: Floats, settings: Mapping[str, Any]
) -> None:
    """Draw hollow markers over those of the points (x, y: shape (n,)) that are not faithful."""
    symbols = trace.marker.symbol
    if symbols is None or isinstance(symbols, str):
        return
    hollow = np.array([symbol == HOLLOW for symbol in symbols])
    if not hollow.any():
        return

    axes.plot(
        x[hollow],
        y[hollow],
        color=settings["color"],
        marker=settings["marker"],
        **HOLLOW_MARKERS,
    )


def _add_unfaithful_entry(panel: _Panel, trace: Trace) -> None:
    """Add the legend entry of points that are not faithful."""
    label = _plain(trace.name)
    if panel.heat is not None:  # the name begins with the asterisk that marks cells
        panel.legend[label] = Line2D([], [], linestyle="none")
        return
    panel.legend[label] = Line2D([], [], color=BOUND_COLOUR, marker="o", **HOLLOW_MARKERS)


def _marks(length: int, number: int) -> tuple[int, int]:
    """Return the index of the first point with a marker, and the distance to the next marker.

    The first index depends on the line's number, so that no marker hides another.
    """
    distance = max(1, length // MARKS_OF_STEPS)
    shift = number * distance // 4
    return shift % distance, distance


def _is_bound(trace: Trace) -> bool:
    name = trace.name or ""
    return trace.line.dash == "dash" and trace.mode == "lines" and name.endswith(BOUND)


def _draw_bound(panel: _Panel, axes: Axes, trace: Trace, x: Floats, y: Floats) -> None:
    """Draw a bound in the colour of its line; one legend entry stands for all bounds.

    `x` and `y` are the points of the bound, shape (n,) each.
    """
    look = {"linestyle": LINE_STYLES["dash"], "linewidth": 0.9}
    colour = colour_on_paper(trace.line.color)
    axes.plot(x, y, color=colour, **look)

    sample = Line2D([], [], color=BOUND_COLOUR, **look)
    panel.legend[BOUND] = sample


def _x_values(trace: Trace, categories: Sequence[str]) -> Floats:
    """Return the positions of the points, shape (n,); texts have their number in `categories`."""
    if categories:
        places = [categories.index(str(value)) for value in trace.x]
        return np.array(places, dtype=float)
    return np.array(trace.x, dtype=float)


def _categories(panel: _Panel) -> list[str]:
    """Return the distinct texts on the horizontal axis."""
    texts: dict[str, None] = {}
    for trace in panel.traces:
        if is_unfaithful_entry(trace):
            continue
        for value in trace.x:
            texts[str(value)] = None
    return list(texts)


def _style_x(panel: _Panel, axes: Axes, categories: Sequence[str], room: float) -> None:
    """Scale the horizontal axis, and label as many of the page's ticks as fit."""
    settings = panel.x_axis
    if categories:
        texts = [_plain(category) for category in categories]
        _set_x_ticks(axes, range(len(texts)), texts, room)
        return

    if settings.type == "log":
        axes.set_xscale("log")
    if settings.rangemode == "tozero" and axes.get_xlim()[0] > 0:
        axes.set_xlim(left=0)
    if settings.tickvals is not None:
        texts = [_plain(text) for text in settings.ticktext]
        _set_x_ticks(axes, settings.tickvals, texts, room)


def _set_x_ticks(axes: Axes, places: Sequence[float], texts: Sequence[str], room: float) -> None:
    """Set ticks with texts; texts that would touch are left out or turned."""
    shown_places = []
    shown_texts = []
    last_end = -math.inf

    for place, text in zip(places, texts, strict=True):
        middle = _part_of_width(axes, place) * room * POINTS_PER_INCH
        half = _text_points(text, SMALL_FONT_SIZE) / 2
        if middle - half <= last_end:
            continue
        shown_places.append(place)
        shown_texts.append(text)
        last_end = middle + half + SMALL_FONT_SIZE / 2

    are_quantities = any(character.isdigit() for character in "".join(texts))
    if are_quantities or len(shown_texts) == len(texts):
        axes.set_xticks(shown_places, shown_texts)
    else:
        axes.set_xticks(
            places,
            texts,
            rotation=30,
            rotation_mode="anchor",
            horizontalalignment="right",
        )
    axes.xaxis.set_minor_locator(ticker.NullLocator())


def _part_of_width(axes: Axes, place: float) -> float:
    """Return the position of a value along the horizontal axis, from 0 to 1."""
    low, high = axes.get_xlim()
    if axes.get_xscale() == "log":
        return math.log(place / low) / math.log(high / low)
    return (place - low) / (high - low)


def _style_numbers_y(panel: _Panel, axes: Axes) -> None:
    settings = panel.y_axis
    if settings.type != "log":
        if settings.rangemode == "tozero":
            axes.set_ylim(bottom=0)
        return

    axes.set_yscale("log")
    digits = _log_digits(axes.get_ylim())
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=digits))
    axes.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_locator(ticker.NullLocator())


def _log_digits(limits: tuple[float, float]) -> tuple[float, ...]:
    """Return the first digits of the ticks of a logarithmic axis; few if the axis is long."""
    decades = math.log10(limits[1] / limits[0])
    if decades > 3:
        return (1.0,)
    if decades > 0.7:
        return (1.0, 2.0, 5.0)
    return (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)


def _draw_bars(panel: _Panel, bars: Sequence[Trace], axes: Axes) -> None:
    """Draw groups of horizontal bars, the first group on top."""
    names: list[str] = []
    for trace in bars:
        names += [name for name in trace.y if name not in names]

    thickness = 0.8 / len(bars)
    first_shift = (thickness - 0.8) / 2

    for number, trace in enumerate(bars):
        shift = first_shift + number * thickness
        places = [names.index(name) + shift for name in trace.y]
        container: BarContainer = axes.barh(
            places,
            np.array(trace.x, dtype=float),
            height=thickness,
            color=colour_on_paper(trace.marker.color),
            edgecolor="white",
            linewidth=0.4,
        )
        label = _plain(trace.name or "")
        panel.legend.setdefault(label, container.patches[0])

    labels = [_row_label(name, axes) for name in names]
    axes.set_yticks(range(len(names)), labels)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")


def _draw_heat_map(panel: _Panel, heat: Trace, axes: Axes, room: float) -> None:
    """Draw a heat map, with either cells between names or rows over time."""
    values = np.array(heat.z, dtype=float)
    rows, columns = values.shape
    colours = ScalarMappable(Normalize(heat.zmin, heat.zmax), _colour_map(heat.colorscale))

    is_over_time = len(heat.x) == columns + 1
    edges = np.arange(columns + 1) - 0.5
    if is_over_time:
        edges = np.array(heat.x, dtype=float)

    cells = _cells(values, edges, colours, has_gaps=not is_over_time)
    axes.add_collection(cells)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(-0.5, rows - 0.5)
    if panel.y_axis.autorange == "reversed":
        axes.invert_yaxis()

    labels = [_row_label(name, axes) for name in heat.y]
    axes.set_yticks(range(rows), labels)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)
    if not is_over_time:
        widest = max(_text_points(label, SMALL_FONT_SIZE) for label in labels)
        room -= widest / POINTS_PER_INCH - TICK_ROOM
        _style_columns(heat, axes, room)
        _write_cells(heat, axes, colours, room)

    if heat.showscale is not False:
        _add_colour_bar(heat, axes, colours)
    _add_entries(panel)


def _style_columns(heat: Trace, axes: Axes, room: float) -> None:
    """Name the columns of a heat map that is not over time."""
    texts = [_plain(str(name)) for name in heat.x]
    _set_x_ticks(axes, range(len(texts)), texts, room)
    axes.tick_params(axis="x", length=0)
    axes.spines["bottom"].set_visible(False)


def _add_entries(panel: _Panel) -> None:
    """Add the legend entries of the page, which are traces without points."""
    for trace in panel.traces:
        if trace.type != "scatter":
            continue
        if is_unfaithful_entry(trace):
            _add_unfaithful_entry(panel, trace)
            continue
        colour = colour_on_paper(trace.marker.color)
        label = _plain(trace.name)
        panel.legend[label] = Patch(color=colour)


def _cells(
    values: Floats, edges: Floats, colours: ScalarMappable, *, has_gaps: bool
) -> PolyCollection:
    """Return the rectangles of a heat map, one for each run of equal neighbours in a row.

    Args:
        values: shape (rows, columns), NaN for missing cells.
        edges: edges of the columns, shape (columns + 1,).
        colours: map from values to colours.
        has_gaps: whether cells are drawn apart instead of joined.
    """
    corners = []
    shown = []

    for row, row_values in enumerate(values):
        low = row - 0.5 + ROW_GAP / 2
        high = row + 0.5 - ROW_GAP / 2

        for begin, end in _equal_runs(row_values, joined=not has_gaps):
            value = row_values[begin]
            if np.isnan(value):
                continue
            left = edges[begin]
            right = edges[end]
            corners.append([(left, low), (right, low), (right, high), (left, high)])
            shown.append(colours.to_rgba(value))

    if has_gaps:
        return PolyCollection(corners, facecolors=shown, edgecolors="white", linewidths=1.5)
    return PolyCollection(corners, facecolors=shown, edgecolors=shown, linewidths=0.15)


def _equal_runs(values: Floats, *, joined: bool) -> list[tuple[int, int]]:
    """Return start and end of each run of equal values (shape (n,)), or of each single value."""
    begins = list(range(len(values)))
    if joined:
        changes = np.flatnonzero(np.diff(values)) + 1
        begins = [0, *changes.tolist()]
    ends = [*begins[1:], len(values)]
    return list(zip(begins, ends, strict=True))


def _colour_map(scale: Sequence[tuple[float, str]]) -> Colormap:
    """Return a plotly colour scale, positions from 0 to 1 with colours, as a matplotlib map."""
    stops = []
    for position, colour in scale:
        stop = (position, to_rgb(colour_on_paper(colour)))
        stops.append(stop)
    return LinearSegmentedColormap.from_list("page", stops, N=512)


def _write_cells(heat: Trace, axes: Axes, colours: ScalarMappable, room: float) -> None:
    """Write the texts into the cells, if the widest text fits into a cell."""
    if not heat.texttemplate:
        return

    texts: dict[tuple[int, int], str] = {}
    for row, row_texts in enumerate(heat.text):
        for column, text in enumerate(row_texts):
            texts[row, column] = _plain(text)

    widest = max(_text_points(text, SMALL_FONT_SIZE) for text in texts.values())
    cell_width = room * POINTS_PER_INCH / len(heat.x)
    size = SMALL_FONT_SIZE * min(1.0, cell_width / (widest + 2))
    if size < SMALLEST_FONT_SIZE:
        return

    for (row, column), text in texts.items():
        if not text:
            continue
        background = colours.to_rgba(heat.z[row][column])
        axes.text(
            column,
            row,
            text,
            size=size,
            color=_legible_on(background),
            horizontalalignment="center",
            verticalalignment="center",
            linespacing=1.1,
        )


def _legible_on(background: Any) -> str:
    """Return black or white for text on a colour, by the colour's luma (ITU-R BT.601)."""
    red, green, blue = to_rgb(background)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    return "white" if luma < 0.45 else "black"


def _add_colour_bar(heat: Trace, axes: Axes, colours: ScalarMappable) -> None:
    bar = axes.figure.colorbar(colours, ax=axes, fraction=0.04, pad=0.02, aspect=25)
    bar.outline.set_visible(False)
    bar.locator = ticker.MaxNLocator(5)
    bar.update_ticks()

    title = _plain(heat.colorbar.title.text or "")
    if heat.colorbar.ticksuffix:
        title += f" ({heat.colorbar.ticksuffix.strip()})"
    bar.set_label(title)


def _draw_marks(figure: go.Figure, panel: _Panel, axes: Axes) -> None:
    """Draw the lines that mark changes of the network."""
    for shape in figure.layout.shapes:
        colour = colour_on_paper(CHANGE_COLOUR)
        line = axes.axvline(shape.x0, color=colour, linewidth=0.8, linestyle=LINE_STYLES["dot"])
        panel.legend.setdefault("the network changes", line)


def _title_axes(panel: _Panel, axes: Axes, *, has_x: bool, has_y: bool) -> None:
    x_title = _plain(panel.x_axis.title.text or "")
    y_title = _plain(panel.y_axis.title.text or "")
    if has_x:
        axes.set_xlabel(x_title)
    if has_y:
        axes.set_ylabel(y_title)


def _add_legend(paper: Figure, panels: Sequence[_Panel], inches: float) -> int:
    """Add the legend above the panels, unless a single line makes a legend unnecessary.

    Returns:
        Number of text lines in the legend.
    """
    handles: dict[str, Any] = {}
    for panel in panels:
        for label, handle in panel.legend.items():
            handles.setdefault(label, handle)
    if BOUND in handles:
        handles[BOUND] = handles.pop(BOUND)  # last
    has_marks = any(label.endswith(UNFAITHFUL) for label in handles)
    if len(handles) < 2 and not has_marks:
        return 0

    room = inches * POINTS_PER_INCH
    labels = [_shortened(label, room - LEGEND_HANDLE) for label in handles]
    widest = max(_text_points(label, FONT_SIZE) for label in labels)
    fitting = int(room / (widest + LEGEND_HANDLE))
    columns = min(len(labels), max(1, fitting))

    paper.legend(
        list(handles.values()),
        labels,
        loc="outside upper left",
        ncols=columns,
        handlelength=1.9,
        handletextpad=0.4,
        columnspacing=0.9,
        borderaxespad=0.1,
        borderpad=0.1,
        labelspacing=0.25,
    )
    return math.ceil(len(labels) / columns)


def _row_label(name: object, axes: Axes) -> str:
    """Return the name of a row, shortened so that the data keep most of the width."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    room = figure.get_figwidth() * LONGEST_LABEL * POINTS_PER_INCH
    return _shortened(_plain(str(name)), room, SMALL_FONT_SIZE)


def _shortened(text: str, room: float, font_size: float = FONT_SIZE) -> str:
    """Return a text cut to a width in pt; matplotlib leaves out labels that begin with "_"."""
    shown = text
    if text.startswith("_"):
        shown = f" {text}"
    while len(shown) > 1 and _text_points(shown, font_size) > room:
        shown = shown.removesuffix("…")[:-1] + "…"
    return shown


def _text_points(text: str, font_size: float) -> float:
    """Return the width of the widest line of a text in pt."""
    return max(text_width(line, font_size) for line in text.split("\n"))


def _plain(html: str) -> str:
    """Return the plain text of an HTML label of the pages."""
    return unescape(html.replace("<br>", "\n"))
