"""Runs side by side."""

import csv
import io
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from testbed.analysis.summarize import collect
from testbed.cli.main import app
from testbed.core.errors import InputError
from testbed.plan.resolve import resolve
from testbed.report.compare import Difference, measured, measured_grid, plan_differences
from testbed.runfolder.summary import (
    CollectiveRow,
    JobFigure,
    JobRow,
    Spread,
    Summary,
    TrainingSummary,
    WanRow,
)
from testbed.spec.overrides import parse_overrides
from testbed.spec.topology import Topology
from testbed.spec.workload import load_workload
from tests.support.synthetic import make_plan, two_dcs, write_run


def plan(*sets: str) -> dict[str, object]:
    overrides = parse_overrides(list(sets), ["topology", "workload"])
    topology = Topology.load("two-sites", overrides["topology"])
    work = load_workload("collectives", overrides["workload"])
    found: dict[str, object] = json.loads(
        resolve(topology, work, machine_memory_bytes=2**40).model_dump_json()
    )
    return found


def test_only_what_was_changed_differs() -> None:
    found = plan_differences(
        [plan(), plan("topology.wan.iowa-ohio.delay=20 ms", "workload.iterations=7")]
    )
    assert [row.what for row in found] == [
        "network.wan.iowa-ohio.forward.bottleneck.queue_packets",  # 1 bdp
        "network.wan.iowa-ohio.forward.fibre.delay_ns",
        "network.wan.iowa-ohio.backward.bottleneck.queue_packets",
        "network.wan.iowa-ohio.backward.fibre.delay_ns",
        "network.tcp.buffer_bytes",
        "network.tcp.send_buffer_bytes",
        "workers.settings.iterations",
    ]
    assert found[-1].values == (3, 7)
    assert plan_differences([plan(), plan()]) == []


def test_changes_are_told_as_people_read_them() -> None:
    event = "topology.events=[{at: 5 s, duration: 500 ms, links: all, down: true}]"
    found = {row.what: row.values for row in plan_differences([plan(), plan(event)])}
    assert found == {
        "change at 5 s": (None, "iowa-ohio: down"),
        "change at 5.5 s": (None, "iowa-ohio: up again"),
    }


def spread(value: float) -> Spread:
    return Spread(min=value, median=value, p95=value, max=value)


def summary(
    ms: float, *, training: TrainingSummary | None = None, wan_bytes: int = 2**21, drops: int = 0
) -> Summary:
    """Make a summary with one collective, and one direction of a link."""
    collective = CollectiveRow(
        op="all_reduce",
        bytes=1 << 20,
        ranks=2,
        iterations=3,
        time_us=spread(1000 * ms),
        slowest_us=1000 * ms,
        algbw_gbytes=1.0,
        busbw_gbytes=1.0,
    )
    link = WanRow(
        source="a",
        target="b",
        bytes=wan_bytes,
        drops=drops,
        rate_bps=10**9,
        mean_utilisation=0.5,
    )
    return Summary(collectives=[collective], training=training, wan=[link])


TRAINING = TrainingSummary(
    method="ddp",
    steps=4,
    ranks=2,
    parameters=None,
    step_ms=spread(200.0),
    compute_ms=100.0,
    exposed_ms=90.0,
    overlapped_ms=None,
    compute_utilisation=0.5,
    tokens_per_s=1e4,
    wan_bytes_per_step=None,
    wan_bytes_per_token=None,
    final_loss=3.5,
    seconds=0.8,
)


def test_drops_are_compared_if_there_are_any() -> None:
    runs = [summary(10.0), summary(10.0, wan_bytes=2**20, drops=7)]
    assert measured(runs)[-1] == Difference("a to b (dropped packets)", (None, 7))


def test_figures_and_their_ratios() -> None:
    figures = measured([summary(10.0), summary(25.0, training=TRAINING)])
    assert figures == [
        Difference("all_reduce 1 MiB (ms)", (10.0, 25.0)),
        Difference("step (ms)", (None, 200.0)),
        Difference("tokens/s", (None, 1e4)),
        Difference("utilisation (%)", (None, 50.0)),
        Difference("exposed (ms)", (None, 90.0)),
        Difference("median step (ms)", (None, 200.0)),
        Difference("WAN bytes per step", (None, None)),
        Difference("final loss", (None, 3.5)),
        Difference("seconds of training", (None, 0.8)),
        Difference("a to b (MiB)", (2.0, 2.0)),
    ]
    rows = measured_grid(figures, ["one", "two"]).rows
    assert rows[0] == ["all_reduce 1 MiB (ms)", "10", "25", "2.500"]
    assert rows[1] == ["step (ms)", "-", "200", "-"]


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    """Two runs of the same name in two folders; the second has another seed and other times."""
    folders = []
    for folder, seed in (("a", 1), ("b", 2)):
        run = write_run(tmp_path / folder / "run", make_plan(two_dcs(), seed=seed))
        collect(run)
        folders.append(run)
    slower = json.loads(folders[1].summary.read_text())
    slower["collectives"][1]["time_us"]["median"] *= 2
    folders[1].summary.write_text(json.dumps(slower))
    return [str(run.path) for run in folders]


def command(*words: str) -> str:
    result = CliRunner().invoke(app, ["compare", *words], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_the_command_as_json(runs: list[str]) -> None:
    found = json.loads(command(*runs, "-f", "json"))
    assert found["runs"] == runs
    assert found["plan"] == [{"what": "seed", "values": [1, 2]}]
    assert {"what": "all_reduce 1 MiB (ms)", "values": [60.0, 120.0]} in found["measured"]


def test_the_command_as_csv(runs: list[str]) -> None:
    rows = list(csv.reader(io.StringIO(command(*runs, "-f", "csv"))))
    assert ["setting", "a/run", "b/run"] in rows
    assert ["seed", "1", "2"] in rows
    assert ["all_reduce 1 MiB (ms)", "60", "120", "2.000"] in rows


def test_the_command_writes_a_page(runs: list[str], tmp_path: Path) -> None:
    page = tmp_path / "compared.html"
    assert f"page: {page}" in command(*runs, "--html", str(page))
    html = page.read_text()
    for part in (
        "What was done",
        "a/run",
        "b/run",
        "figure-latency",
        "figure-use",
        "all_reduce 1 MiB (ms)",
        "2.000",
    ):
        assert part in html
    with pytest.raises(InputError, match="cannot write"):
        command(*runs, "--html", str(tmp_path / "nowhere" / "page.html"))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("summary.json", "{", "b/run: cannot read summary.json"),
        ("plan.json", "[]", "b/run: plan.json is not a JSON object"),
        (
            "summary.json",
            '{"training": {"step_ms": 3}}',
            "b/run: summary.json: 'training' is damaged and was skipped",
        ),
    ],
)
def test_the_command_refuses_what_is_damaged(
    runs: list[str], name: str, text: str, message: str
) -> None:
    (Path(runs[1]) / name).write_text(text)
    with pytest.raises(InputError, match=message):
        command(*runs)


def test_the_command_refuses_what_it_cannot_compare(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least two run folders"):
        command(str(tmp_path))
    with pytest.raises(InputError, match="is not a run folder"):
        command(str(tmp_path), str(tmp_path))


def test_jobs_side_by_side() -> None:
    def summary(seconds: float, step_ms: float) -> Summary:
        row = JobRow(
            job="a",
            workload="train",
            ranks=2,
            hosts=["x-h0"],
            state="completed",
            seconds=seconds,
            alone_seconds=2.0,
            figures=[JobFigure(what="step", ms=step_ms)],
        )
        return Summary(jobs=[row])

    assert measured([summary(3.0, 30), summary(4.0, 40)]) == [
        Difference("a: time (s)", (3.0, 4.0)),
        Difference("a: times as long as alone", (1.5, 2.0)),
        Difference("a: step (ms)", (30, 40)),
    ]
