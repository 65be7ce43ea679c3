"""Runs side by side."""

import json
from pathlib import Path

from testbed.report.compare import Difference, measured, measured_grid, plan_differences
from testbed.resolve import resolve
from testbed.spec.topology import Topology
from testbed.spec.workload import load_workload
from testbed.spec.yaml_source import parse_overrides


def plan(*sets: str) -> dict[str, object]:
    overrides = parse_overrides(list(sets), ["topology", "workload"])
    topology = Topology.load("two-sites", overrides["topology"])
    work = load_workload("collectives", overrides["workload"])
    found: dict[str, object] = json.loads(resolve(topology, work, machine_memory_bytes=2**40).model_dump_json())
    return found


def test_only_what_was_changed_differs() -> None:
    found = plan_differences([plan(), plan("topology.wan.iowa-ohio.delay=20 ms", "workload.iterations=7")])
    assert [row.what for row in found] == [
        "network.wan.iowa-ohio.forward.bottleneck.queue_packets",  # 1 bdp
        "network.wan.iowa-ohio.forward.fibre.delay_ns",
        "network.wan.iowa-ohio.backward.bottleneck.queue_packets",
        "network.wan.iowa-ohio.backward.fibre.delay_ns",
        "network.tcp.buffer_bytes",
        "workers.settings.iterations",
    ]
    assert found[-1].values == (3, 7)
    assert plan_differences([plan(), plan()]) == []


def summary(ms: float, **training: object) -> dict[str, object]:
    row = {"op": "all_reduce", "bytes": 1 << 20, "time_us": {"median": 1000 * ms}}
    return {"collectives": [row], "training": training or None, "wan": [{"from": "a", "to": "b", "bytes": 2**21}]}


def test_drops_are_compared_if_there_are_any() -> None:
    runs = [summary(10.0), summary(10.0)]
    runs[1]["wan"] = [{"from": "a", "to": "b", "bytes": 2**20, "drops": 7}]
    assert measured(runs)[-1] == Difference("a to b (dropped packets)", (None, 7))


def test_figures_and_their_ratios() -> None:
    figures = measured([summary(10.0), summary(25.0, step_ms={"median": 200.0}, final_loss=3.5)])
    assert figures == [
        Difference("all_reduce 1 MiB (ms)", (10.0, 25.0)),
        Difference("step (ms)", (None, 200.0)),
        Difference("final loss", (None, 3.5)),
        Difference("a to b (MiB)", (2.0, 2.0)),
    ]
    rows = measured_grid(figures, ["one", "two"]).rows
    assert rows[0] == ["all_reduce 1 MiB (ms)", "10", "25", "2.500"]
    assert rows[1] == ["step (ms)", "-", "200", "-"]


def test_the_command_refuses_what_it_cannot_compare(tmp_path: Path) -> None:
    import pytest
    from typer.testing import CliRunner

    from testbed.cli import app
    from testbed.errors import InputError

    with pytest.raises(InputError, match="at least two run folders"):
        CliRunner().invoke(app, ["compare", str(tmp_path)], catch_exceptions=False)
    with pytest.raises(InputError, match="is not a run folder"):
        CliRunner().invoke(app, ["compare", str(tmp_path), str(tmp_path)], catch_exceptions=False)
