"""Changes that a run's main cause of time gives a reason for, and the table of their results."""

from pathlib import Path
from typing import Any

import pytest

from testbed.analysis.advice import Proposal, figures, main_figure, proposals
from testbed.analysis.measured_changes import ChangedRun, MeasuredChange, measured
from testbed.api import Advice, Run, prepare
from testbed.cli.advise import advice_grid
from testbed.plan.model import Plan
from testbed.plan.resolve import resolve
from testbed.report.page import write_page
from testbed.runfolder.folder import RunDir
from testbed.runfolder.status import Status, write_status
from testbed.runfolder.summary import Cause, CauseKind, CollectiveRow, Spread, Summary, WanRow
from testbed.spec.options import RunOptions
from testbed.spec.overrides import parse_overrides
from testbed.spec.topology import Topology
from testbed.spec.workload import load_workload
from tests.support.synthetic import make_plan, two_dcs, write_run

MEMORY = 2**40


def plan_of(workload: str = "collectives", *sets: str, topology: str = "two-sites") -> Plan:
    """The plan of a preset's workload, with settings as after --set."""
    overrides = parse_overrides(sets, ["topology", "workload"])
    spec = Topology.load(topology, overrides["topology"])
    job = load_workload(workload, overrides["workload"])
    options = RunOptions(isolation="process")
    return resolve(spec, job, options, machine_memory_bytes=MEMORY)


def row(op: str, ms: float, **values: Any) -> CollectiveRow:
    us = 1000 * ms
    return CollectiveRow(
        op=op,
        bytes=2**20,
        ranks=8,
        iterations=3,
        time_us=Spread(min=us, median=us, p95=us, max=us),
        slowest_us=us,
        algbw_gbytes=1,
        busbw_gbytes=1,
        dtype="float32",
        **values,
    )


def summary_of(cause: CauseKind, *rows: CollectiveRow, drops: int = 0) -> Summary:
    wan = WanRow(
        source="iowa",
        target="ohio",
        link="iowa-ohio",
        bytes=1,
        rate_bps=1,
        mean_utilisation=0.5,
        drops=drops,
    )
    dominant = Cause(what="latency", cause=cause, why="")
    return Summary(collectives=list(rows) or [row("all_reduce", 10)], wan=[wan], dominant=dominant)


def words(plan: Plan, cause: CauseKind, **values: Any) -> list[str]:
    return [" ".join(one.words) for one in proposals(plan, summary_of(cause, **values))]


BBR = "topology.tcp.congestion_control=bbr"
MORE = "workload.connections=4"
STREAMING = "workload.method=streaming-diloco"


@pytest.mark.parametrize(
    ("cause", "plan", "expected"),
    [
        ("idle-restart", plan_of(), ["topology.tcp.slow_start_after_idle=false"]),
        ("idle-restart", plan_of("collectives", "topology.tcp.slow_start_after_idle=false"), []),
        ("slow-start", plan_of(), [MORE]),
        ("loss", plan_of(), [BBR, MORE]),
        ("loss", plan_of("collectives", BBR, MORE), []),
        (
            "receive-window",
            plan_of("collectives", "topology.tcp.buffer=1 MiB"),
            ["topology.tcp.buffer=auto"],
        ),
        (
            "send-buffer",
            plan_of("collectives", "topology.tcp.buffer=512 MiB"),
            ["topology.tcp.buffer=1 GiB"],
        ),
        ("steps", plan_of(), ["workload.algorithm=hierarchical"]),
        (
            "steps",
            plan_of("collectives", "workload.ops=[all_to_all, all_reduce]"),
            ["workload.algorithm=hierarchical workload.ops=[all_reduce]"],
        ),
        (
            "steps",
            plan_of("collectives", "workload.ops=[all_to_all]"),
            [],
        ),
        (
            "steps",
            plan_of("collectives", "topology.datacenters.*.hosts=1"),
            [],
        ),
        ("propagation", plan_of(), []),
        ("propagation", plan_of("train"), ["workload.method=diloco", STREAMING]),
        (
            "rate",
            plan_of("train", "workload.steps=5"),
            [
                "workload.method=hierarchical",
                "workload.method=diloco workload.sync_every=3",
                f"{STREAMING} workload.sync_every=3",
            ],
        ),
        (
            "propagation",
            plan_of("train", "workload.method=diloco", "workload.steps=3"),
            [f"{STREAMING} workload.sync_every=2"],
        ),
        ("propagation", plan_of("train", STREAMING, "workload.step_time=100 ms"), []),
        (
            "propagation",
            plan_of("train", STREAMING, "workload.step_time=10 ms"),
            ["workload.overlap=2"],
        ),
        (
            "steps",
            plan_of("train", STREAMING, "workload.step_time=1 ms"),
            ["workload.overlap=9"],
        ),
        ("late-rank", plan_of("train"), []),
        ("compute", plan_of("train"), []),
    ],
)
def test_by_cause(cause: CauseKind, plan: Plan, expected: list[str]) -> None:
    assert words(plan, cause) == expected


def test_longer_queue() -> None:
    """9.9 ms of packets at 10 Gbit/s; without drops nothing is said of queues."""
    plan = plan_of("collectives", "topology.wan.iowa-ohio.queue=9.9 ms")
    assert words(plan, "drops", drops=3) == ["topology.wan.iowa-ohio.queue=19.6 ms", BBR]
    assert words(plan, "drops") == [BBR]


@pytest.mark.parametrize("workload", ["collectives", "train"])
@pytest.mark.parametrize("steps", [4, 20])
def test_every_proposal_is_possible(workload: str, steps: int) -> None:
    sets = ["topology.tcp.buffer=1 MiB"]
    if workload == "train":
        sets += [f"workload.steps={steps}", "workload.warmup=2"]
    plan = plan_of(workload, *sets)
    for cause in CauseKind.__args__:  # type: ignore[attr-defined]
        for proposal in proposals(plan, summary_of(cause, drops=5)):
            plan_of(workload, *sets, *proposal.words)


def test_no_cause() -> None:
    summary = summary_of("loss").model_copy(update={"dominant": None})
    assert proposals(plan_of(), summary) == []


def test_the_figure_of_a_run() -> None:
    """The operation with the most time, whatever the algorithm."""
    flat = summary_of("steps", row("broadcast", 3), row("all_reduce", 10))
    figure = main_figure(flat)
    assert figure is not None
    assert (figure.what, figure.ms) == ("all_reduce of 1 MiB, float32", 10)
    staged = summary_of("steps", row("all_reduce", 4, algorithm="hierarchical"))
    assert figures(staged)[figure.what] == 4
    assert main_figure(Summary()) is None


def changes_of(tmp_path: Path) -> tuple[Run, list[MeasuredChange]]:
    """A run of 10 ms, and its change to BBR: measured (4 ms), failed, and refused."""
    plan = make_plan(two_dcs())
    base_folder = write_run(tmp_path / "run", plan)
    base = finished(base_folder, summary_of("loss", row("all_reduce", 10)))
    changed_folder = write_run(tmp_path / "changed", plan)
    finished(changed_folder, summary_of("loss", row("all_reduce", 4)))
    proposal = Proposal({"topology.tcp.congestion_control": "bbr"}, "of losses")
    figure = main_figure(base.summary)
    assert figure is not None
    outcomes = (
        ChangedRun(changed_folder),
        ChangedRun(changed_folder, "out of memory"),
        ChangedRun(None, "not possible"),
    )
    return base, [measured(figure, proposal, outcome) for outcome in outcomes]


def test_table_and_page(tmp_path: Path) -> None:
    base, changes = changes_of(tmp_path)
    folder = str(tmp_path / "changed")
    assert advice_grid(changes).rows == [
        [BBR, "10 ms", "4 ms", "-60.0", "yes", folder],
        [BBR, "10 ms", "failed", "-", "-", folder],
        [BBR, "10 ms", "refused", "-", "-", "-"],
    ]
    page = " ".join(write_page(RunDir(base.path)).read_text().split())
    assert "--set 'topology.tcp.congestion_control=bbr'</code>: BBR follows" in page


def test_table_in_python(tmp_path: Path) -> None:
    base, changes = changes_of(tmp_path)
    table = Advice(base, changes).table
    assert table["settings"].to_list() == [BBR] * 3
    assert table["changed_ms"].to_list() == [4, None, None]
    assert table["change_percent"].to_list()[0] == pytest.approx(-60)
    assert table["faithful"].to_list() == [True, None, None]
    assert table["error"].to_list() == ["", "out of memory", "not possible"]
    assert Advice(base, []).table.columns == table.columns


def test_a_prepared_run_with_other_settings() -> None:
    """All else stays, also of models made in Python, and the first run is not changed."""
    topology = Topology.load("two-sites")
    overrides = parse_overrides(["workload.iterations=7"], ["workload"])
    job = load_workload("collectives", overrides["workload"])
    options = RunOptions(isolation="process", seed=5)
    prepared = prepare(topology, job, options)
    words = [BBR, "workload.algorithm=hierarchical", "workload.ops=[all_reduce]"]
    changed = prepared.changed(words)
    assert changed.plan.network.tcp.congestion_control == "bbr"
    assert changed.plan.workers.settings["algorithm"] == "hierarchical"
    assert changed.plan.workers.settings["iterations"] == 7
    assert prepared.plan.network.tcp.congestion_control == "cubic"
    same = prepared.changed([])
    assert same.plan.model_dump_json() == prepared.plan.model_dump_json()


def finished(run: RunDir, summary: Summary) -> Run:
    """A completed run with this summary."""
    run.summary.write_text(summary.model_dump_json(by_alias=True))
    status = Status(command=["testbed", "run"], pid=1, state="completed", faithful=True)
    write_status(run.status, status)
    return Run(run)
