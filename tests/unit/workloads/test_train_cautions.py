"""Warnings before a run of streaming-diloco, whose overlap is to hide the exchanges."""

from typing import Any

import pytest
from testbed.workloads.train.cautions import cautions

from testbed.analysis.workload_summary import workload_cautions
from testbed.plan.model import Plan
from testbed.plan.resolve import resolve
from testbed.spec.options import RunOptions
from testbed.spec.overrides import Override
from testbed.spec.topology import Topology
from testbed.spec.workload import load_workload


def plan_of(delay: str, rate: str = "10 Gbit/s", **settings: Any) -> Plan:
    topology = Topology.model_validate(
        {
            "name": "pair",
            "datacenters": {
                "a": {"hosts": 1, "nic": {"delay": "0 ms"}},
                "b": {"hosts": 1, "nic": {"delay": "0 ms"}},
            },
            "wan": [{"between": ["a", "b"], "rate": rate, "delay": delay}],
        }
    )
    values = {"method": "streaming-diloco", "step_time": "50 ms", **settings}
    overrides = [Override(name, (name,), value) for name, value in values.items()]
    options = RunOptions(isolation="process")
    memory = 2**40
    job = load_workload("train", overrides)
    return resolve(topology, job, options, machine_memory_bytes=memory)


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (plan_of("30 ms"), "at least 60 ms (the round trip), but"),
        (plan_of("30 ms"), "only 50 ms meanwhile (overlap: 1, 50 ms a step)"),
        (plan_of("30 ms"), "--set workload.overlap=2 hides"),
        (plan_of("130 ms", overlap=2), "--set workload.overlap=6 hides"),
        (plan_of("300 ms"), "overlap=13 hides at least this time, and needs --set workload.sync_"),
        (plan_of("30 ms", overlap=1, early_exchange=True, step_time="30 ms"), "only 50 ms"),
        (plan_of("1 ms", rate="100 Mbit/s"), "at least 161 ms (sending 2 MB)"),
    ],
)
def test_numbers(plan: Plan, expected: str) -> None:
    (problem,) = cautions(plan)
    assert problem.code == "overlap-short"
    assert expected in problem.message


@pytest.mark.parametrize(
    "plan",
    [
        plan_of("24 ms"),
        plan_of("30 ms", overlap=2),
        plan_of("30 ms", overlap=0),
        plan_of("30 ms", method="diloco"),
        plan_of("30 ms", early_exchange=True, step_time="40 ms"),
    ],
)
def test_nothing_to_say(plan: Plan) -> None:
    assert workload_cautions(plan) == []
