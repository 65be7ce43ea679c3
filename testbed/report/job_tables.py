"""Tables of a run with several jobs: the jobs, and what they cost each other."""

from __future__ import annotations

from testbed.core.units import format_microseconds
from testbed.report.grid import NONE, Grid, GridColumn
from testbed.runfolder.summary import JobFigure, JobRow, Summary

NOTE = (
    "begins: after the first operation or step of all jobs. takes: from the first operation's or "
    "step's start to the last one's end. alone: the same when the job ran without the others, on "
    "the same hosts. slower: how many times as long the job takes beside the others."
)
TIMES_NOTE = (
    "together: beside the other jobs (over the whole job, also while others had ended). alone: "
    "when the job ran without the others."
)


def jobs_grid(summary: Summary) -> Grid:
    """Return the table of jobs, if the run had several: a row for each."""
    columns = [
        GridColumn("job", number=False),
        GridColumn("workload", number=False),
        GridColumn("ranks"),
        GridColumn("begins\n(s)"),
        GridColumn("takes\n(s)"),
        GridColumn("alone\n(s)"),
        GridColumn("slower\n(x)"),
        GridColumn("ended", number=False),
    ]
    return Grid("Jobs", columns, [_job_cells(row) for row in summary.jobs], NOTE)


def _job_cells(row: JobRow) -> list[str]:
    return [
        row.job,
        row.workload,
        str(row.ranks),
        _seconds(row.start_s),
        _seconds(row.seconds),
        _seconds(row.alone_seconds),
        _times(row.slowdown),
        row.state,
    ]


def job_times_grid(summary: Summary) -> Grid:
    """Return the table of the times of steps and operations of several jobs, and alone."""
    columns = [
        GridColumn("job", number=False),
        GridColumn("time of", number=False),
        GridColumn("together"),
        GridColumn("alone"),
        GridColumn("slower\n(x)"),
    ]
    rows: list[list[str]] = []
    for row in summary.jobs:
        for figure in row.figures:
            rows.append(_figure_cells(row.job, figure))
    return Grid("What the jobs cost each other", columns, rows, TIMES_NOTE)


def _figure_cells(job: str, figure: JobFigure) -> list[str]:
    alone = NONE if figure.alone_ms is None else format_microseconds(1000 * figure.alone_ms)
    together = format_microseconds(1000 * figure.ms)
    return [job, figure.what, together, alone, _times(figure.slowdown)]


def _seconds(value: float | None) -> str:
    return NONE if value is None else f"{value:.4f}"


def _times(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f}"
