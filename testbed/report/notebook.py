"""Show runs, sweeps and networks in a notebook, as HTML without scripts and with escaped text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from testbed.analysis.verdict import verdict
from testbed.plan.model import Network
from testbed.plan.resolve import resolve_network
from testbed.report.gpu_tables import gpu_grid, waits_grid
from testbed.report.grid import Grid, GridColumn
from testbed.report.tables import collectives_grid, training_grid
from testbed.runfolder.folder import RunDir
from testbed.runfolder.status import read_status
from testbed.runfolder.summary import read_summary
from testbed.spec.topology import Topology

MOST_ROWS = 20  # rows of a table
WARNING_STYLE = "color: #c62828; font-weight: bold"
MAP_STYLE = "max-width: 60em"


def run_html(folder: RunDir) -> str:
    """Return a run as HTML: verdict, table of collectives or of training, and report path."""
    status, _status_problems = read_status(folder.status)
    summary, _summary_problems = read_summary(folder.summary)
    doubts = ""
    if status is not None and status.misleads:
        doubts = f"NOT FAITHFUL: {', '.join(status.doubts)}; do not trust the times of this run"
    parts = [warning(doubts), paragraph(verdict(status, summary))]
    if summary.collectives:
        parts.append(table(collectives_grid(summary)))
    if summary.training is not None:
        parts.append(table(training_grid(summary)))
    if summary.gpu is not None:
        parts += [table(gpu_grid(summary)), table(waits_grid(summary))]
    parts.append(files({"report": folder.report}))
    return box(parts)


def topology_html(topology: Topology) -> str:
    """Return a topology as HTML: its name and the map of its sites."""
    network = resolve_network(topology)
    heading = topology.name
    if topology.description:
        heading = f"{topology.name}: {topology.description}"
    return box([paragraph(heading), network_map(network)])


def network_map(network: Network) -> str:
    """Return the map of a network as an SVG element."""
    from testbed.report.map.site_map import site_map  # noqa: PLC0415 (0.2 s, for maps only)

    return f'<div style="{MAP_STYLE}">{site_map(network)}</div>'


def rows_html(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return an HTML table of arbitrary values; numbers are right-aligned, None is left empty.

    Args:
        columns: the headers.
        rows: a value for each column.
    """
    cells: list[list[str]] = []
    for row in rows:
        cells.append(["" if value is None else _text(value) for value in row])

    grid_columns: list[GridColumn] = []
    for position, name in enumerate(columns):
        values = [row[position] for row in rows]
        is_number = all(isinstance(value, int | float | None) for value in values)
        grid_columns.append(GridColumn(name, is_number))
    return table(Grid("", grid_columns, cells))


def table(grid: Grid) -> str:
    """Return an HTML table of at most `MOST_ROWS` rows, with the number of rows left out."""
    headers: list[str] = []
    for column in grid.columns:
        headers.append(f"<th>{escape(column.header)}</th>")
    lines = [f"<tr>{''.join(headers)}</tr>"]

    for row in grid.rows[:MOST_ROWS]:
        cells: list[str] = []
        for column, text in zip(grid.columns, row, strict=True):
            alignment = "right" if column.number else "left"
            cells.append(f'<td style="text-align: {alignment}">{escape(text)}</td>')
        lines.append(f"<tr>{''.join(cells)}</tr>")

    html = f"<table>{''.join(lines)}</table>"
    left_out = len(grid.rows) - MOST_ROWS
    if left_out > 0:
        html += paragraph(f"and {left_out} more rows")
    return html


def paragraph(text: str) -> str:
    """Return a paragraph of plain text."""
    return f"<p>{escape(text)}</p>"


def warning(text: str) -> str:
    """Return a paragraph of plain text that stands out; empty without a text."""
    if not text:
        return ""
    return f'<p style="{WARNING_STYLE}">{escape(text)}</p>'


def files(paths: Mapping[str, Path]) -> str:
    """Return a paragraph of labelled paths."""
    lines: list[str] = []
    for label, path in paths.items():
        lines.append(f"{escape(label)}: <code>{escape(str(path))}</code>")
    return f"<p>{'<br>'.join(lines)}</p>"


def box(parts: Sequence[str]) -> str:
    """Return one element that holds all parts."""
    return f'<div class="testbed">{"".join(parts)}</div>'


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)
