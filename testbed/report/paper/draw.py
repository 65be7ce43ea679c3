"""Draw a figure of the pages with matplotlib: the same numbers, at the width of a paper's column.

A figure of plotly is read as data: its traces (lines, bars, heat maps), axes, marks across, and the
titles of its panels. Lengths on paper are in inches, those of text in points (1/72 inch).
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

from testbed.report.figures.common import CHANGE_COLOUR
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
NARROWEST_PANEL = {"lines": 1.6, "heat": 2.8}  # inches
ROW_HEIGHT = 0.14  # inches, of a heat map over time
CELL_HEIGHT = 0.32  # inches, of a heat map with text in its cells
BAR_HEIGHT = 0.1  # inches
TALLEST = 9.0  # inches, which a page holds
TITLE_HEIGHT = 0.15  # inches, of a panel
LEGEND_LINE = 0.16  # inches
LEGEND_HANDLE = 30.0  # pt, of the line before a text and the room after the text
AXIS_ROOM = 0.5  # inches, of ticks and title of an axis
MARKS_OF_STEPS = 9  # markers along a line that has none on the page
BOUND = "bound"
BOUND_COLOUR = "#555555"
LONGEST_LABEL = 0.42  # part of the figure's width that the name of a row may take
ROW_GAP = 0.12  # part of a row
Floats: TypeAlias = npt.NDArray[np.float64]
Trace: TypeAlias = Any  # one of plotly's, which has no types


@dataclass
class _Panel:
    """One pair of axes: its traces, plotly's settings of its axes, and its title."""

    traces: list[Trace]
    x_axis: Any
    y_axis: Any
    title: str = ""
    legend: dict[str, Any] = field(default_factory=dict)  # handles by label

    @property
    def heat(self) -> Trace | None:
        """The heat map of the panel."""
        maps = [trace for trace in self.traces if trace.type == "heatmap"]
        return maps[0] if maps else None


def draw_on_paper(figure: go.Figure, width: PaperWidth) -> Figure:
    """Draw a figure; call within `style.paper_style`.

    Args:
        figure: one of the pages.
        width: of the paper's column.
    """
    inches = INCHES[width]
    panels = _panels(figure)
    kind = "heat" if panels[0].heat is not None else "lines"
    across = max(1, min(len(panels), 3, int(inches / NARROWEST_PANEL[kind])))
    down = math.ceil(len(panels) / across)
    series = _series_numbers(panels)

    paper = Figure(figsize=(inches, 1), layout="constrained")
    are_shared = any(panel.y_axis.matches for panel in panels)
    grid = paper.subplots(down, across, squeeze=False, sharey=are_shared and kind == "lines")
    places = list(grid.flat)
    for axes in places[len(panels) :]:
        axes.set_axis_off()

    room = inches / across - AXIS_ROOM
    for number, (panel, axes) in enumerate(zip(panels, places, strict=False)):
        is_lowest = number + across >= len(panels)
        _draw_panel(panel, axes, series, room)
        _draw_marks(figure, panel, axes)
        _title_axes(panel, axes, has_x=is_lowest, has_y=number % across == 0)

    lines_of_legend = _add_legend(paper, panels, inches)
    panel_height = max(_panel_height(panel, width) for panel in panels)
    if panels[0].title:
        panel_height += TITLE_HEIGHT
    height = down * panel_height + lines_of_legend * LEGEND_LINE
    paper.set_size_inches(inches, min(height, TALLEST))
    return paper


def _panels(figure: go.Figure) -> list[_Panel]:
    """Collect the traces of each pair of axes, in the order in which the pairs first come."""
    traces_of: dict[tuple[str, str], list[Trace]] = {}
    for trace in figure.data:
        pair = (trace.xaxis or "x", trace.yaxis or "y")
        traces_of.setdefault(pair, []).append(trace)
    titles = [_plain(note.text) for note in figure.layout.annotations]

    panels = []
    for number, ((x, y), traces) in enumerate(traces_of.items()):
        x_axis = figure.layout["xaxis" + x[1:]]
        y_axis = figure.layout["yaxis" + y[1:]]
        title = titles[number] if number < len(titles) else ""
        panels.append(_Panel(traces, x_axis, y_axis, title))
    return panels


def _series_numbers(panels: Sequence[_Panel]) -> dict[str, int]:
    """Number the lines of all panels by name; bounds look like what they are the bound of."""
    numbers: dict[str, int] = {}
    for panel in panels:
        for trace in panel.traces:
            if trace.type == "scatter" and not _is_bound(trace):
                numbers.setdefault(trace.name or "", len(numbers))
    return numbers


def _panel_height(panel: _Panel, width: PaperWidth) -> float:
    """Give the height of a panel with its axes, in inches."""
    heat = panel.heat
    if heat is not None:
        row_height = CELL_HEIGHT if heat.texttemplate else ROW_HEIGHT
        return max(len(heat.z), 3) * row_height + AXIS_ROOM
    bars = sum(len(trace.y) for trace in panel.traces if trace.type == "bar")
    if bars:
        return max(bars, 6) * BAR_HEIGHT + AXIS_ROOM
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
        x = _x_values(trace, categories)
        y = np.array(trace.y, dtype=float)
        if _is_bound(trace):
            _draw_bound(panel, axes, trace, x, y)
        else:
            _draw_line(panel, axes, trace, x, y, series[trace.name or ""])

    if categories:
        axes.set_xlim(-0.4, len(categories) - 0.6)
    _style_numbers_y(panel, axes)
    _style_x(panel, axes, categories, room)


def _draw_line(panel: _Panel, axes: Axes, trace: Trace, x: Floats, y: Floats, number: int) -> None:
    """Draw a line with its marker, and with bars where the trace has errors."""
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
    if trace.error_y.array is None:
        (line,) = axes.plot(x, y, **settings)
        panel.legend.setdefault(label, line)
        return
    errors = [np.array(trace.error_y.arrayminus), np.array(trace.error_y.array)]
    container: ErrorbarContainer = axes.errorbar(
        x, y, yerr=errors, elinewidth=0.7, capsize=1.5, capthick=0.7, **settings
    )
    panel.legend.setdefault(label, container.lines[0])


def _marks(length: int, number: int) -> tuple[int, int]:
    """Choose the points with markers: the first, and the distance to the next.

    Lines of other numbers have theirs elsewhere, so that no marker hides another.
    """
    distance = max(1, length // MARKS_OF_STEPS)
    return number * distance // 4 % distance, distance


def _is_bound(trace: Trace) -> bool:
    name = trace.name or ""
    return trace.line.dash == "dash" and trace.mode == "lines" and name.endswith(BOUND)


def _draw_bound(panel: _Panel, axes: Axes, trace: Trace, x: Floats, y: Floats) -> None:
    """Draw a bound in the colour of its line; one entry of the legend is for all bounds."""
    colour = colour_on_paper(trace.line.color)
    axes.plot(x, y, color=colour, linestyle=LINE_STYLES["dash"], linewidth=0.9)
    sample = Line2D([], [], color=BOUND_COLOUR, linestyle=LINE_STYLES["dash"], linewidth=0.9)
    panel.legend[BOUND] = sample


def _x_values(trace: Trace, categories: Sequence[str]) -> Floats:
    if categories:
        return np.array([categories.index(str(value)) for value in trace.x], dtype=float)
    return np.array(trace.x, dtype=float)


def _categories(panel: _Panel) -> list[str]:
    """List the texts on the horizontal axis, each once."""
    texts: dict[str, None] = {}
    for trace in panel.traces:
        for value in trace.x:
            texts[str(value)] = None
    return list(texts)


def _style_x(panel: _Panel, axes: Axes, categories: Sequence[str], room: float) -> None:
    """Scale the horizontal axis, and label as many of the page's ticks as have room."""
    settings = panel.x_axis
    if categories:
        texts = [_plain(category) for category in categories]
        _set_x_ticks(axes, list(map(float, range(len(texts)))), texts, room)
        return
    if settings.type == "log":
        axes.set_xscale("log")
    if settings.rangemode == "tozero" and axes.get_xlim()[0] > 0:
        axes.set_xlim(left=0)
    if settings.tickvals is not None:
        texts = [_plain(text) for text in settings.ticktext]
        _set_x_ticks(axes, list(map(float, settings.tickvals)), texts, room)


def _set_x_ticks(axes: Axes, places: Sequence[float], texts: Sequence[str], room: float) -> None:
    """Set ticks with texts; where texts would touch, leave out or turn texts."""
    low, high = axes.get_xlim()
    is_log = axes.get_xscale() == "log"
    shown_places = []
    shown_texts = []
    last_end = -math.inf
    for place, text in zip(places, texts, strict=True):
        part = (place - low) / (high - low)
        if is_log:
            part = math.log(place / low) / math.log(high / low)
        middle = part * room * POINTS_PER_INCH
        width = _text_points(text, SMALL_FONT_SIZE)
        if middle - width / 2 > last_end:
            shown_places.append(place)
            shown_texts.append(text)
            last_end = middle + width / 2 + SMALL_FONT_SIZE / 2

    are_names = not any(character.isdigit() for text in texts for character in text)
    if are_names and len(shown_texts) < len(texts):
        axes.set_xticks(places, texts, rotation=30, ha="right", rotation_mode="anchor")
    else:
        axes.set_xticks(shown_places, shown_texts)
    axes.xaxis.set_minor_locator(ticker.NullLocator())


def _style_numbers_y(panel: _Panel, axes: Axes) -> None:
    settings = panel.y_axis
    if settings.type != "log":
        if settings.rangemode == "tozero" and axes.get_ylim()[0] != 0:
            axes.set_ylim(bottom=0)
        return
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=_log_digits(axes.get_ylim())))
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(ticker.NullLocator())


def _log_digits(limits: tuple[float, float]) -> tuple[float, ...]:
    """Choose the first digits of the ticks of a logarithmic axis, few if the axis is long."""
    decades = math.log10(limits[1] / limits[0])
    if decades > 3:
        return (1.0,)
    if decades > 0.7:
        return (1.0, 2.0, 5.0)
    return (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)


def _draw_bars(panel: _Panel, bars: Sequence[Trace], axes: Axes) -> None:
    """Draw groups of horizontal bars, the first group on top."""
    names: dict[str, None] = {}
    for trace in bars:
        names.update(dict.fromkeys(trace.y))
    positions = {name: position for position, name in enumerate(names)}
    thickness = 0.8 / len(bars)
    for number, trace in enumerate(bars):
        shift = (number - (len(bars) - 1) / 2) * thickness
        places = [positions[name] + shift for name in trace.y]
        container: BarContainer = axes.barh(
            places,
            np.array(trace.x, dtype=float),
            height=thickness,
            color=colour_on_paper(trace.marker.color),
            edgecolor="white",
            linewidth=0.4,
        )
        panel.legend.setdefault(_plain(trace.name or ""), container.patches[0])
    axes.set_yticks(range(len(names)), [_row_label(name, axes) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")


def _draw_heat_map(panel: _Panel, heat: Trace, axes: Axes, room: float) -> None:
    """Draw a heat map: cells between names, or rows over time."""
    values = np.array(heat.z, dtype=float)
    rows, columns = values.shape
    norm = Normalize(heat.zmin, heat.zmax)
    colours = _colour_map(heat.colorscale)
    is_over_time = len(heat.x) == columns + 1
    edges = np.arange(columns + 1) - 0.5
    if is_over_time:
        edges = np.array(heat.x, dtype=float)
    axes.add_collection(_cells(values, edges, colours, norm, has_gaps=not is_over_time))
    axes.set_xlim(edges[0], edges[-1])
    is_downwards = panel.y_axis.autorange == "reversed"
    axes.set_ylim(*((rows - 0.5, -0.5) if is_downwards else (-0.5, rows - 0.5)))

    axes.set_yticks(range(rows), [_row_label(name, axes) for name in heat.y])
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(is_over_time and side == "bottom")
    if not is_over_time:
        axes.tick_params(axis="x", length=0)
        names_width = max(_text_points(_plain(str(name)), SMALL_FONT_SIZE) for name in heat.y)
        room -= names_width / POINTS_PER_INCH - 0.2
        texts = [_plain(str(name)) for name in heat.x]
        _set_x_ticks(axes, list(map(float, range(columns))), texts, room)
        _write_cells(heat, axes, colours, norm, room)
    if heat.showscale is not False:
        _add_colour_bar(heat, axes, ScalarMappable(norm, colours))
    for trace in panel.traces:
        if trace.type == "scatter":  # an entry of the legend
            panel.legend[_plain(trace.name)] = Patch(color=colour_on_paper(trace.marker.color))


def _cells(
    values: Floats, edges: Floats, colours: Colormap, norm: Normalize, *, has_gaps: bool
) -> PolyCollection:
    """Make the rectangles of a heat map, one for all neighbours in a row that are equal.

    Args:
        values: shape (rows, columns), NaN where there is no cell.
        edges: of the columns, shape (columns + 1,).
        colours: by value.
        norm: of the values.
        has_gaps: whether cells stand apart, and are not joined.
    """
    corners = []
    shown = []
    for row, row_values in enumerate(values):
        low = row - 0.5 + ROW_GAP / 2
        high = row + 0.5 - ROW_GAP / 2
        for begin, end in _equal_runs(row_values, joined=not has_gaps):
            if np.isnan(row_values[begin]):
                continue
            left, right = edges[begin], edges[end]
            corners.append([(left, low), (right, low), (right, high), (left, high)])
            shown.append(colours(norm(row_values[begin])))
    if has_gaps:
        return PolyCollection(corners, facecolors=shown, edgecolors="white", linewidths=1.5)
    return PolyCollection(corners, facecolors=shown, edgecolors=shown, linewidths=0.15)


def _equal_runs(values: Floats, *, joined: bool) -> list[tuple[int, int]]:
    """List begin and end of each run of equal values (shape (n,)), or of each value alone."""
    begins = list(range(len(values)))
    if joined:
        begins = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist()]
    return list(zip(begins, [*begins[1:], len(values)], strict=True))


def _colour_map(scale: Sequence[tuple[float, str]]) -> Colormap:
    """Convert a colour scale of plotly: positions from 0 to 1 with their colours."""
    stops = [(place, to_rgb(colour_on_paper(colour))) for place, colour in scale]
    return LinearSegmentedColormap.from_list("page", stops, N=512)


def _write_cells(heat: Trace, axes: Axes, colours: Colormap, norm: Normalize, room: float) -> None:
    """Write the texts into the cells, if the widest fits into a cell."""
    if not heat.texttemplate:
        return
    texts = [[_plain(text) for text in row] for row in heat.text]
    widest = max(_text_points(text, SMALL_FONT_SIZE) for row in texts for text in row)
    cell = room * POINTS_PER_INCH / len(heat.x)
    size = min(SMALL_FONT_SIZE, SMALL_FONT_SIZE * cell / max(widest + 2, 1))
    if size < SMALL_FONT_SIZE - 1.5:
        return
    for row, row_texts in enumerate(texts):
        for column, text in enumerate(row_texts):
            value = heat.z[row][column]
            if not text or value is None:
                continue
            red, green, blue = to_rgb(colours(norm(value)))
            is_dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.45
            colour = "white" if is_dark else "black"
            axes.text(
                column,
                row,
                text,
                size=size,
                color=colour,
                horizontalalignment="center",
                verticalalignment="center",
                linespacing=1.1,
            )


def _add_colour_bar(heat: Trace, axes: Axes, colours: ScalarMappable) -> None:
    title = _plain(heat.colorbar.title.text or "")
    unit = (heat.colorbar.ticksuffix or "").strip()
    bar = axes.figure.colorbar(colours, ax=axes, fraction=0.04, pad=0.02, aspect=25)
    bar.set_label(f"{title} ({unit})" if unit else title)
    bar.outline.set_visible(False)
    bar.locator = ticker.MaxNLocator(5)
    bar.update_ticks()


def _draw_marks(figure: go.Figure, panel: _Panel, axes: Axes) -> None:
    """Draw the lines across where the network changed."""
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
    """Add the legend above the panels, unless a single line needs none.

    Returns:
        How many lines of text the legend has.
    """
    handles: dict[str, Any] = {}
    for panel in panels:
        for label, handle in panel.legend.items():
            handles.setdefault(label, handle)
    bound = handles.pop(BOUND, None)
    if bound is not None:
        handles[BOUND] = bound
    if len(handles) < 2:
        return 0

    room = inches * POINTS_PER_INCH - LEGEND_HANDLE
    labels = [_shortened(label, room) for label in handles]
    widest = max(_text_points(label, FONT_SIZE) for label in labels) + LEGEND_HANDLE
    columns = min(len(labels), max(1, int(inches * POINTS_PER_INCH / widest)))
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
    """Shorten the name of a row so that the data keep most of the width."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    room = figure.get_figwidth() * LONGEST_LABEL * POINTS_PER_INCH
    return _shortened(_plain(str(name)), room, SMALL_FONT_SIZE)


def _shortened(text: str, room: float, font_size: float = FONT_SIZE) -> str:
    """Cut a text to a width in pt; a label that begins with "_" would be left out by matplotlib."""
    shown = f" {text}" if text.startswith("_") else text
    while len(shown) > 1 and _text_points(shown, font_size) > room:
        shown = shown.removesuffix("…")[:-1] + "…"
    return shown


def _text_points(text: str, font_size: float) -> float:
    """Compute the width of the widest line of a text in pt."""
    return max(text_width(line, font_size) for line in text.split("\n"))


def _plain(html: str) -> str:
    """Give the text of a label of the pages, which is HTML."""
    return unescape(html.replace("<br>", "\n"))
