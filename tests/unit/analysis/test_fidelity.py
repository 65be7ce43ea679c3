"""Limits of a run on the real clock: what is within them is silent, what is beyond says why and
what to do.
"""

import copy
import time
from pathlib import Path

import polars as pl
import pytest

from testbed.analysis import fidelity
from testbed.analysis.network_history import History
from testbed.measure.clock_health import straining, throttled_seconds
from testbed.runfolder.folder import RunDir
from tests.support.synthetic import make_plan, two_dcs

CALM = {
    "seconds": 10.0,
    "late_us": {"median": 80.0, "p99": 900.0, "max": 5000.0, "samples": 500},
    "throttled_s": {"hosts/a": 0.1, "hosts/b": 0.0},
    "backlog_drops": 0,
    "fibre_drops": {},
}


def said(tmp_path: Path, strain: object, busy: float = 0.5, steal: float = 0.01) -> list[str]:
    run = RunDir.create(tmp_path / "run")
    run.write_json(run.strain, strain)
    return list(fidelity.doubts(run, busy=busy, steal=steal))


def test_a_calm_machine(tmp_path: Path) -> None:
    assert said(tmp_path, CALM) == []


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        (
            ["late_us", "p99"],
            1100.0,
            "one timer in a hundred was 1.1 ms late or more (limit 1 ms); use --clock virtual",
        ),
        (
            ["throttled_s", "hosts/b"],
            0.5,
            "held back by its CPU limit for 5% of the time; raise it with --cpus, or use",
        ),
        (
            ["backlog_drops"],
            3,
            "3 packets found no room in the kernel's backlog; use --clock virtual",
        ),
        (
            ["fibre_drops"],
            {"w0b": 7},
            "the fibre w0b, which loses nothing, dropped 7 packets; use --clock virtual",
        ),
    ],
)
def test_beyond_a_limit(tmp_path: Path, path: list[str], value: object, text: str) -> None:
    strain: dict = copy.deepcopy(CALM)
    place = strain
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    (only,) = said(tmp_path, strain)
    assert text in only


def test_cpu_and_steal(tmp_path: Path) -> None:
    busy, steal = said(tmp_path, CALM, busy=0.75, steal=0.05)
    assert "the CPU was the limit: it was used or wanted for 75% of the time" in busy
    assert "did not get its CPUs for 5.0% of the time (steal); use --clock virtual" in steal


def samples(
    part_of_rate: float, backlog: int, count: int = 20, step_s: float = 0.02
) -> pl.DataFrame:
    """Of the one link of two datacenters, 1 Gbit/s each way."""
    return pl.DataFrame(
        [
            {
                "time_ns": int(number * step_s * 1e9),
                "source": source,
                "target": target,
                "link": "a-b",
                "bytes": int(number * step_s * 1e9 / 8 * part_of_rate),
                "packets": 0,
                "drops": 0,
                "backlog_bytes": backlog,
            }
            for number in range(count)
            for source, target in (("a", "b"), ("b", "a"))
        ]
    )


@pytest.fixture
def plan():
    return make_plan(two_dcs())


@pytest.mark.parametrize(("part", "ok"), [(1.0, True), (0.97, True), (0.93, False), (1.2, False)])
def test_a_full_link_has_its_rate(plan, part: float, ok: bool) -> None:
    link = plan.network.wan[0]
    full = link.forward.bottleneck.queue_packets * plan.network.mtu
    scale = link.forward.bottleneck.rate_bps / 1e9
    rows = fidelity.rates(
        History((plan.network,)),
        samples(part * scale, full).with_columns(
            source=pl.col("source").replace({"a": link.forward.source, "b": link.forward.target}),
            target=pl.col("target").replace({"a": link.forward.source, "b": link.forward.target}),
        ),
    )
    assert [row["ok"] for row in rows] == [ok, ok]
    assert rows[0]["rate_bps"] == pytest.approx(part * rows[0]["planned_bps"], rel=1e-3)
    assert rows[0]["seconds"] == pytest.approx(19 * 0.02)
    assert (
        [("planned are" in text) for text in fidelity.rate_doubts(rows)] == []
        if ok
        else [True, True]
    )


def test_an_empty_queue_says_nothing_about_the_rate(plan) -> None:
    history = History((plan.network,))
    assert fidelity.rates(history, samples(0.5, 0)) == []
    full = plan.network.wan[0].forward.bottleneck.queue_packets * plan.network.mtu
    assert fidelity.rates(history, samples(0.5, full, count=3)) == []  # too short
    assert (
        fidelity.rates(history, samples(0.5, full, step_s=1.0)) == []
    )  # may have run empty between samples


def test_timers_are_timed(tmp_path: Path) -> None:
    with straining(tmp_path) as seen:
        time.sleep(0.5)
    record = seen.record()
    late = record["late_us"]
    assert 10 <= late["samples"] <= 26
    assert 0 <= late["median"] <= late["p99"] <= late["max"]
    assert record["seconds"] == pytest.approx(0.5, abs=0.2)


def test_hosts_that_were_held_back(tmp_path: Path) -> None:
    for name, limit, held in (("limited", "100000 100000", 250_000), ("free", "max 100000", 0)):
        (tmp_path / "hosts" / name).mkdir(parents=True)
        (tmp_path / "hosts" / name / "cpu.max").write_text(limit + "\n")
        (tmp_path / "hosts" / name / "cpu.stat").write_text(
            f"usage_usec 9\nnr_throttled 5\nthrottled_usec {held}\n"
        )
    assert throttled_seconds(tmp_path) == {"hosts/limited": 0.25}
