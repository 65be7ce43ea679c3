"""Every method of `train` in containers of four hosts at two sites, and one of them on the real
clock.
"""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from testbed.workloads.train.settings import MethodName

from tests.support.runs import set_options

Command = Callable[..., subprocess.CompletedProcess[str]]

TOPOLOGY = """
name: two-by-two
datacenters:
  west: {hosts: 2, nic: {rate: 10 Gbit/s}}
  east: {hosts: 2, nic: {rate: 10 Gbit/s}}
wan: [{between: [west, east], rate: 1 Gbit/s, delay: 5 ms}]
"""
SETTINGS = {
    "parameters": 200_000,
    "layers": 2,
    "sequence": 32,
    "steps": 8,
    "step_time": "50 ms",
    "sync_every": 4,
    "lr": 0.01,
    "microbatches": 4,
}


def run(
    command: Command, folder: Path, method: str, *options: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The status of a run and what it says of its training."""
    topology, out = folder / "topology.yaml", folder / "run"
    topology.write_text(TOPOLOGY)
    words = set_options(SETTINGS)
    command(
        "run",
        topology,
        "train",
        *words,
        "--set",
        f"workload.method={method}",
        *options,
        "--out",
        out,
    )
    return json.loads((out / "status.json").read_text()), json.loads(
        (out / "summary.json").read_text()
    )["training"]


@pytest.mark.proof
@pytest.mark.parametrize("method", get_args(MethodName))
def test_a_method_in_containers(method: str, command: Command, tmp_path: Path) -> None:
    """It completes, learns (from ln 128 = 4.85), crosses the WAN, and no step is shorter than its
    computation.

    A pipeline's rank computes a part of the model for all ranks' batches: as long as the whole
    model for its own.
    """
    status, training = run(command, tmp_path, method)
    assert (status["state"], status["faithful"]) == ("completed", True), status
    assert training["ranks"] == 4
    assert training["final_loss"] < 4.6
    assert training["wan_bytes_per_step"] > 0
    assert training["late_ms"] == 0
    if method != "async-ps":  # whose server computes nothing
        assert training["step_ms"]["min"] >= 49.9
        assert 0 < training["compute_utilisation"] <= 1


@pytest.mark.proof
def test_training_on_the_real_clock(command: Command, tmp_path: Path) -> None:
    """A step is not shorter than its computation; whether the CPU kept up is for the run to say."""
    status, training = run(command, tmp_path, "ddp", "--clock", "real", "--isolation", "process")
    assert status["state"] == "completed"
    assert training["step_ms"]["min"] >= 49
    assert status["faithful"] or status["warnings"]
