"""The table of a script's messages between ranks: sends with their receives."""

from __future__ import annotations

from testbed.core.units import format_microseconds
from testbed.report.grid import NONE, Grid, GridColumn
from testbed.runfolder.summary import MessageRow, Summary

MOST_ROWS = 40
COLUMNS = (
    GridColumn("size\n(B)"),
    GridColumn("from\nrank"),
    GridColumn("to\nrank"),
    GridColumn("group", number=False),
    GridColumn("messages"),
    GridColumn("time"),
    GridColumn("max"),
    GridColumn("bound"),
    GridColumn("of-bound\n(%)"),
)
NOTE = (
    "A row for each pair of ranks and size. time: median, from the start of the send to the end of "
    "the receive, so a receiver that comes late counts. bound: the least time that the topology "
    "allows."
)


def messages_grid(summary: Summary) -> Grid:
    """Return the table of messages, with the rows that took most time in all.

    Args:
        summary: the summary of a run.
    """
    rows = summary.messages
    note = NOTE
    if len(rows) > MOST_ROWS:
        by_time = sorted(rows, key=_total_us, reverse=True)
        least_us = _total_us(by_time[MOST_ROWS - 1])
        rows = [row for row in rows if _total_us(row) >= least_us][:MOST_ROWS]
        note += f" {len(summary.messages) - len(rows)} rows with less time in all are left out."

    cells: list[list[str]] = []
    for row in rows:
        share = NONE if row.efficiency is None else f"{100 * row.efficiency:.1f}"
        cells.append(
            [
                str(row.bytes),
                str(row.source_rank),
                str(row.target_rank),
                row.group or NONE,
                str(row.messages),
                format_microseconds(row.time_us.median),
                format_microseconds(row.time_us.max),
                format_microseconds(row.bound_us),
                share,
            ]
        )
    return Grid("Messages", COLUMNS, cells, note)


def _total_us(row: MessageRow) -> float:
    return row.messages * row.time_us.median
