"""Times and shares in tables for people and for programs."""

from __future__ import annotations

import pytest

from testbed.core.units import format_microseconds, format_share
from testbed.report.grid import Grid
from testbed.report.tables import collectives_grid
from testbed.runfolder.summary import CollectiveRow, Spread, Summary
from testbed.sweep.cells import cell, column_of, heading


@pytest.mark.parametrize(
    ("us", "text"),
    [
        (1_234_567, "1.235 s"),
        (999_999, "1000 ms"),
        (200_943.2, "200.9 ms"),
        (60.031, "60.03 us"),
        (0.5, "500 ns"),
        (27_018_243, "27.02 s"),
        (None, "-"),
    ],
)
def test_microseconds_with_a_unit(us: float | None, text: str) -> None:
    assert format_microseconds(us) == text


def summary_of(*medians_us: float) -> Summary:
    rows = []
    for size, median in enumerate(medians_us, start=1):
        rows.append(
            CollectiveRow(
                op="all_reduce",
                bytes=4096 * size,
                ranks=4,
                iterations=3,
                time_us=Spread(min=median, median=median, p95=median, max=median),
                slowest_us=median,
                algbw_gbytes=0.1,
                busbw_gbytes=0.1,
                bound_us=median / 2,
                efficiency=0.5,
                dtype="float32",
            )
        )
    return Summary(collectives=rows)


def column(grid: Grid, name: str) -> list[str]:
    headers = [each.header for each in grid.columns]
    position = headers.index(name)
    return [row[position] for row in grid.rows]


def test_short_times_share_the_unit_of_their_column() -> None:
    grid = collectives_grid(summary_of(60.03, 999_999))
    assert column(grid, "time\n(us)") == ["60.0", "999999"]
    assert column(grid, "bound\n(us)") == ["30.0", "500000"]


def test_long_times_have_a_unit_each() -> None:
    grid = collectives_grid(summary_of(60.03, 1_234_567))
    assert column(grid, "time") == ["60.03 us", "1.235 s"]
    assert column(grid, "bound") == ["30.02 us", "617.3 ms"]


def test_programs_get_microseconds() -> None:
    grid = collectives_grid(summary_of(60.03, 1_234_567), for_programs=True)
    assert column(grid, "time\n(us)") == ["60.0", "1234567"]


def test_cells_of_a_sweep() -> None:
    assert cell("time_us", 1_234_567.0) == "1.235 s"
    assert cell("step_ms", 1234.5) == "1.234 s"
    assert cell("efficiency", 0.832) == cell("utilisation", 0.832) == "83.2 %"
    assert cell("wan_utilisation", None) == "-"
    assert cell("faithful", False) == "NO"
    assert cell("wan_drops", 12) == "12"
    assert format_share(1.0) == "100.0 %"


def test_headings_stand_for_columns() -> None:
    assert [heading(name) for name in ("time_us", "step_ms", "wall_seconds")] == [
        "time",
        "step",
        "wall_seconds",
    ]
    assert column_of("time", ["delay", "time_us"]) == "time_us"
    assert column_of("time_us", ["delay", "time_us"]) == "time_us"
    assert column_of("colour", ["delay", "time_us"]) == "colour"
