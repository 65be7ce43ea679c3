"""Lower bounds, the network's history and the periods of a run whose network changes."""

from functools import partial
from pathlib import Path

import polars as pl
import pytest

from testbed.analysis.event_periods import periods
from testbed.analysis.link_samples import sent_bytes
from testbed.analysis.lower_bounds import Bounds
from testbed.analysis.network_history import History, happened
from testbed.plan.model import Plan
from testbed.runfolder.folder import RunDir
from testbed.runfolder.records import NetworkChange, append
from tests.support.events import GBIT, SECOND, collectives_plan


def test_bounds_with_events(tmp_path: Path) -> None:
    """A broadcast from a: 10 ms, while a-c takes 5 ms and a-b 10 ms; bytes at the larger rate."""
    plan = collectives_plan(
        tmp_path, "{at: 1 s, links: a-c, delay: 5 ms}", "{at: 2 s, links: a-b, rate: 100 Gbit/s}"
    )
    before = Bounds(plan.network.model_copy(update={"changes": ()}), plan.workers.ranks)
    over_time = Bounds(plan.network, plan.workers.ranks)
    nic_us = 5
    assert before.us("broadcast", 8) == pytest.approx(30_000 + nic_us, abs=1)
    assert over_time.us("broadcast", 8) == pytest.approx(10_000 + nic_us, abs=1)
    assert over_time.us("all_reduce", 2**30) < before.us("all_reduce", 2**30)


def records(tmp_path: Path, plan: Plan, times_s: list[float]) -> RunDir:
    run = RunDir.create(tmp_path / "run")
    for number, (change, time_s) in enumerate(zip(plan.network.changes, times_s, strict=False)):
        due_ns = 100 * SECOND + change.at_ns
        time_ns = round(time_s * SECOND)
        append(run.changes, NetworkChange(number=number, due_ns=due_ns, time_ns=time_ns))
    return run


def test_rates_over_time(tmp_path: Path) -> None:
    event = "{at: 1 s, duration: 2 s, links: a-b, rate: 1 Gbit/s}"
    plan = collectives_plan(tmp_path, event, "{at: 50 s, links: b-c, down: true}")
    history = History.of(plan, records(tmp_path, plan, [101, 103]))
    assert len(history.states) == 3
    rate = history.mean_rate_bps
    assert rate("a-b", "a", 100 * SECOND, 101 * SECOND) == 10 * GBIT
    assert rate("a-b", "b", 100 * SECOND, 104 * SECOND) == (10 + 2 * 1 + 10) / 4 * GBIT
    assert rate("a-b", "a", 102 * SECOND, 102 * SECOND) == GBIT
    assert rate("b-c", "b", 100 * SECOND, 104 * SECOND) == 10 * GBIT
    assert len(history.pieces("b-c", "b")) == 1
    pieces = history.pieces("a-b", "a")
    assert [begin // SECOND for begin, _, _ in pieces[1:]] == [101, 103]
    assert [direction.bottleneck.rate_bps for _, _, direction in pieces[1:]] == [GBIT, 10 * GBIT]


def test_bytes_between_samples_follow_the_rate(tmp_path: Path) -> None:
    """A full link of 10 Gbit/s that has 1 Gbit/s from 101 s on; the samples are at 100 and 102 s.

    In proportion to time, the second half would have 5.5 Gbit in a second on 1 Gbit/s.
    """
    plan = collectives_plan(tmp_path, "{at: 1 s, duration: 2 s, links: a-b, rate: 1 Gbit/s}")
    history = History.of(plan, records(tmp_path, plan, [101, 103]))
    times = [100 * SECOND, 102 * SECOND]
    samples = pl.DataFrame({"time_ns": times, "bytes": [7, 7 + 11 * GBIT // 8]})

    def sent_bits(begin_s: float, end_s: float) -> float:
        span = (round(begin_s * SECOND), round(end_s * SECOND))
        return 8 * sent_bytes(samples, *span, partial(history.capacity_bits, "a-b", "a"))

    assert sent_bits(100, 102) == pytest.approx(11 * GBIT)
    assert sent_bits(101, 102) == pytest.approx(GBIT)
    assert sent_bits(100.5, 101.5) == pytest.approx(5.5 * GBIT)
    assert sent_bits(90, 100.5) == pytest.approx(5 * GBIT)
    assert sent_bits(101.5, 200) == pytest.approx(0.5 * GBIT)


def test_damaged_history(tmp_path: Path) -> None:
    plan = collectives_plan(
        tmp_path, "{at: 1 s, duration: 2 s, every: 3 s, times: 3, links: a-b, down: true}"
    )
    run = records(tmp_path, plan, [101, 103])
    with run.changes.open("a") as file:
        file.write('{"number": 7, "time_ns": 1}\n')
        file.write('{"number": 2, "time_ns": "soon"}\n')
    assert [change.number for change in happened(plan, run)] == [0, 1]
    assert happened(plan, RunDir(tmp_path / "nowhere")) == []


def test_periods(tmp_path: Path) -> None:
    """Operations of 1 s each, but for one during the outage; the last change was not reached."""
    plan = collectives_plan(
        tmp_path,
        "{at: 2 s, duration: 3 s, links: a-b, down: true}",
        "{at: 60 s, links: a-b, delay: 1 ms}",
    )
    run = records(tmp_path, plan, [102, 105])
    spans = [(100, 101), (101, 102), (102, 106), (106, 107), (107, 108)]
    rows_of_ranks = []
    for begin_s, end_s in spans:
        for rank in (0, 1):
            times = {"start_ns": begin_s * SECOND, "end_ns": end_s * SECOND}
            rows_of_ranks.append({"rank": rank, **times})
    ops = pl.DataFrame(rows_of_ranks)
    of_link = [change for change in plan.network.changes if change.what[0].startswith("a-b")]
    network = plan.network.model_copy(update={"changes": tuple(of_link)})
    plan = plan.model_copy(update={"network": network})
    rows = periods(plan.network.changes, happened(plan, run), ops, None)
    assert [(row.at_s, row.what, row.seconds, row.finished) for row in rows] == [
        (0, ["as built"], 2, 2),
        (2, ["a-b: down"], 3, 0),
        (5, ["a-b: up again"], 3, 3),
        (60, ["a-b: delay 10 ms → 1 ms"], None, None),
    ]
    assert [row.per_s for row in rows] == [1, 0, 1, None]
    assert {row.unit for row in rows} == {"operation"}
    assert periods((), [], ops, None) == []
