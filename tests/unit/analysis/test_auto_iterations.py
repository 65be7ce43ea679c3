"""What a run with `iterations: auto` says about its medians."""

from pathlib import Path

import pytest

from testbed.analysis.summarize import collect
from testbed.report.tables import collectives_grid
from testbed.runfolder.folder import RunDir
from testbed.runfolder.records import Operation, append
from testbed.runfolder.summary import Summary
from testbed.runfolder.tables import collectives_table
from tests.support.synthetic import MS, START_NS, make_plan, two_dcs, write_run

TIMES_MS = {"all_reduce": [101, 100, 100, 100, 100, 99], "all_gather": [100, 300] * 6}


def summary_of(path: Path, iterations: object) -> Summary:
    """Measure a run whose ranks took `TIMES_MS`."""
    plan = make_plan(two_dcs())
    workers = plan.workers.model_copy(update={"settings": {"iterations": iterations}})
    run = write_run(path, plan.model_copy(update={"workers": workers}))
    for rank in plan.workers.ranks:
        run.rank_ops(rank.rank).write_text("")
        write_ops(run, rank.rank)
    return collect(run)


def write_ops(run: RunDir, rank: int) -> None:
    start_ns = START_NS
    for number, (op, times) in enumerate(TIMES_MS.items()):
        for iteration, ms in enumerate(times):
            operation = Operation(
                op=op,
                bytes=4096,
                group_size=2,
                iteration=iteration,
                phase="measure",
                dtype="float32",
                start_ns=start_ns,
                end_ns=start_ns + ms * MS,
                case=number,
            )
            append(run.rank_ops(rank), operation)
            start_ns += 400 * MS


def test_how_well_a_median_is_known(tmp_path: Path) -> None:
    """Six times: the interval is from the least to the largest, 1 ms of 100 ms. Twelve of two
    values: it is from the third to the tenth, 100 ms from the median of 200 ms.
    """
    summary = summary_of(tmp_path / "run", "auto")
    steady, swings = summary.collectives
    assert (steady.iterations, steady.settled) == (6, "yes")
    assert steady.median_within == pytest.approx(0.01)
    assert (swings.iterations, swings.settled) == (12, "swing")
    assert swings.median_within == pytest.approx(0.5)
    assert collectives_table(summary)["median_within"].to_list() == [0.01, 0.5]

    grid = collectives_grid(summary)
    headers = [column.header.split()[0] for column in grid.columns]
    calls, within = headers.index("calls"), headers.index("±")
    assert [(row[calls], row[within]) for row in grid.rows] == [("6", "1.00"), ("12", "50.00")]


def test_a_fixed_number_of_iterations_says_nothing(tmp_path: Path) -> None:
    summary = summary_of(tmp_path / "run", 12)
    assert [row.median_within for row in summary.collectives] == [None, None]
    headers = [column.header.split()[0] for column in collectives_grid(summary).columns]
    assert "±" not in headers
