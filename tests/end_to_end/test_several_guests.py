"""Several guests do what one guest does, to the nanosecond, and leave nothing behind."""

import json
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest

from testbed.workers.gpu.build import why_no_gpus
from tests.support.runs import LOSSY, Command, set_options

FAST = """
name: fast
mtu: 9000
tcp: {offload: on}
datacenters:
  oslo: {hosts: 1, nic: {rate: 100 Gbit/s}}
  rome: {hosts: 1, nic: {rate: 100 Gbit/s}}
  bern: {hosts: 2, nic: {rate: 100 Gbit/s}}
wan:
  - {between: [oslo, rome], rate: 40 Gbit/s, delay: 5 ms}
  - {between: [rome, bern], rate: 10 Gbit/s, delay: 3 ms, queue: 500 packets, discipline: fq_codel}
"""
EVENTFUL = """
name: eventful
datacenters:
  oslo: {hosts: 2, nic: {rate: 10 Gbit/s}}
  bern: {hosts: 2, nic: {rate: 10 Gbit/s}}
wan:
  - {mesh: [oslo, bern], rate: 1 Gbit/s, delay: 10 ms}
events:
  - {at: 100 ms, links: all, rate: 200 Mbit/s}
  - {at: 200 ms, duration: 150 ms, links: all, down: true}
  - {at: 500 ms, links: all, delay: 30 ms}
  - {at: 600 ms, transfer: {from: oslo-h0, to: bern-h1, size: 2 MB}}
  - {at: 600 ms, transfer: {from: bern-h0, to: oslo-h1, size: 2 MB}}
"""
EVENTLESS = EVENTFUL.partition("events:")[0]
CRASHING = """
name: crashing
datacenters:
  oslo: {hosts: 1}
  bern: {hosts: 1}
wan:
  - {mesh: [oslo, bern], rate: 1 Gbit/s, delay: 10 ms}
events:
  - {at: 300 ms, hosts: bern-h0, crash: ranks}
"""
SCRIPT = """
import time
import torch
import torch.distributed as dist

dist.init_process_group("gloo")
rank = dist.get_rank()
for step in range(4):
    tensor = torch.full((1000 * (step + 1),), float(rank))
    dist.all_reduce(tensor)
    time.sleep(0.05 * (rank + 1))
    print(rank, step, tensor[0].item(), time.time_ns(), flush=True)
open(f"of-{rank}.txt", "w").write("done")
dist.destroy_process_group()
"""
GPU_SCRIPT = """
import os
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
dist.init_process_group("nccl")
rank, ranks = dist.get_rank(), dist.get_world_size()
mesh = init_device_mesh("cuda", (2, ranks // 2), mesh_dim_names=("replicate", "shard"))
model = nn.Sequential(*[nn.Linear(1024, 1024, device="cuda") for _ in range(4)])
for layer in model:
    fully_shard(layer, mesh=mesh)
fully_shard(model, mesh=mesh)
optimizer = torch.optim.AdamW(model.parameters(), fused=True)
for step in range(3):
    model(torch.ones(4096, 1024, device="cuda")).sum().backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    torch.cuda.synchronize()
found = [None] * ranks
dist.all_gather_object(found, {"rank": rank, "name": "x" * rank})
print(found, flush=True)
dist.destroy_process_group()
"""
SMALL = set_options({"ops": "[all_reduce,broadcast]", "sizes": "[64 KiB,1 MiB]", "iterations": 2})

Run = Callable[..., Path]


@pytest.fixture
def run(command: Command, tmp_path: Path) -> Run:
    """Carry out a run with a text as topology in a number of guests, and return its folder."""

    def carry_out(topology: str, guests: int, *words: object, status: int = 0) -> Path:
        path = tmp_path / "topology.yaml"
        path.write_text(topology)
        out = tmp_path / f"in-{guests}-{len(list(tmp_path.iterdir()))}"
        options = ["--guests", str(guests), "--out", out]
        command("run", path, *options, *words, status=status)
        return out

    return carry_out


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def operations(folder: Path) -> dict[str, list[Any]]:
    """What the ranks did when, without the ports and the windows of TCP."""
    fields = ("op", "bytes", "iteration", "start_ns", "end_ns")
    found: dict[str, list[Any]] = {}
    for path in sorted((folder / "raw").glob("ops-*.jsonl")):
        found[path.name] = [itemgetter(*fields)(line) for line in lines(path)]
    return found


def fields_of(record: dict[str, Any], fields: tuple[str, ...]) -> list[str]:
    return [str(record[field]) for field in fields]


def packets(folder: Path) -> dict[str, int]:
    """How many packets each capture has."""
    rows = json.loads((folder / "summary.json").read_text())["captures"]
    return {row["capture"]: row["records"] for row in rows}


def check_alike(several: dict[str, list[Any]], one: dict[str, list[Any]]) -> None:
    """Durations agree within 20 us or 0.1 %: guests change their ends of a link at the same time,
    one guest changes one end after the other.
    """
    assert several.keys() == one.keys()
    for name, ranks_operations in one.items():
        for found, expected in zip(several[name], ranks_operations, strict=True):
            assert found[:3] == expected[:3]
            (begin, end), (expected_begin, expected_end) = found[3:], expected[3:]
            expected_ns = expected_end - expected_begin
            assert end - begin == pytest.approx(expected_ns, abs=20_000, rel=0.001)


def states(folder: Path) -> Any:
    status = json.loads((folder / "status.json").read_text())
    return status["state"], status["faithful"]


def test_losses_and_jitter(run: Run) -> None:
    """In three guests; tests below have two."""
    sizes = set_options({"ops": "[all_reduce,broadcast]", "sizes": "[64 KiB,256 KiB]"})
    words = ["collectives", *sizes, "--isolation", "process", "--capture", "all"]
    alone = run(LOSSY, 1, *words)
    one = operations(alone)
    assert len(one) == 4
    assert all(one.values())
    folder = run(LOSSY, 3, *words)
    assert operations(folder) == one
    assert packets(folder) == packets(alone)
    assert states(folder) == ("completed", True)

    summary = json.loads((folder / "summary.json").read_text())
    assert [row["datacenters"] for row in summary["guests"]] == [["oslo"], ["bern"], ["lima"]]
    assert all(row["packets"] > 500 and row["cpu_seconds"] > 0 for row in summary["guests"])
    assert len(summary["fidelity"]) == 3
    assert len(summary["wan"]) == 6
    assert not (folder / "guests").exists()


def test_segmentation_offload_through_a_third_guest(run: Run) -> None:
    """Packets of 64 KiB, which rome passes on between two others."""
    sizes = set_options({"ops": "[all_reduce,all_gather]", "sizes": "[8 MiB]", "iterations": 1})
    words = ["collectives", *sizes, "--isolation", "process"]
    one, three = run(FAST, 1, *words), run(FAST, 3, *words)
    assert operations(three) == operations(one)
    work = json.loads((three / "summary.json").read_text())["guests"]
    assert any(row["bytes"] > 10_000 * row["packets"] for row in work)


def test_events_transfers_and_captures(run: Run) -> None:
    words = ["collectives", *SMALL, "--isolation", "process", "--capture", "all"]
    one, two = run(EVENTFUL, 1, *words), run(EVENTFUL, 2, *words)
    check_alike(operations(two), operations(one))
    assert states(two) == states(one)

    for name, fields in (
        ("changes.jsonl", ("number", "due_ns")),
        ("transfers.jsonl", ("source", "target", "received")),
    ):
        found = []
        for folder in (one, two):
            records = lines(folder / "raw" / name)
            found.append(sorted(fields_of(record, fields) for record in records))
        assert found[0]
        assert found[0] == found[1]
    captured, expected = packets(two), packets(one)
    assert len(expected) == 8
    assert captured == {name: pytest.approx(number, rel=0.001) for name, number in expected.items()}


def test_containers_that_train(run: Run) -> None:
    words = ["train", *set_options({"steps": 2}), "--isolation", "container"]
    one, two = run(LOSSY, 1, *words), run(LOSSY, 2, *words)
    assert operations(two) == operations(one)
    losses = []
    for folder in (one, two):
        steps = lines(folder / "raw" / "train-0.jsonl")
        losses.append([step.get("loss") for step in steps])
    assert losses[0] == losses[1]
    assert states(two) == ("completed", True)


def test_a_script(run: Run, tmp_path: Path) -> None:
    """What it prints and writes is in the run folder, as from one guest."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    words = ["--isolation", "process", "--", script]
    one, two = run(LOSSY, 1, *words), run(LOSSY, 2, *words)
    assert operations(two) == operations(one)
    for rank, host in enumerate(["oslo-h0", "oslo-h1", "bern-h0", "lima-h0"]):
        logs = [(folder / f"logs/rank-{rank}.log").read_text() for folder in (one, two)]
        printed = [log.partition("\n")[2] for log in logs]  # after a line with the folder
        assert printed[0] == printed[1]
        assert printed[0].count("\n") == 4
        assert (two / "work" / host / f"of-{rank}.txt").read_text() == "done"


@pytest.mark.skipif(why_no_gpus() != "", reason=why_no_gpus())
def test_modelled_gpus(run: Run, tmp_path: Path) -> None:
    """Operations of NCCL, and values that ranks of several guests exchange."""
    script = tmp_path / "script.py"
    script.write_text(GPU_SCRIPT)
    gpus = ["--gpu", "H100", "--gpus-per-host", 2]
    for isolation in ("process", "container"):
        words = ["--isolation", isolation, *gpus, "--", script]
        one, two = run(EVENTLESS, 1, *words), run(EVENTLESS, 2, *words)
        assert operations(two) == operations(one)
        assert states(two) == ("completed", True)
        steps = [json.loads((folder / "summary.json").read_text())["gpu"] for folder in (one, two)]
        assert steps[0] == steps[1]
        expected = [{"rank": rank, "name": "x" * rank} for rank in range(8)]
        for rank in range(8):
            assert str(expected) in (two / f"logs/rank-{rank}.log").read_text()


def test_a_crash(run: Run) -> None:
    """The ranks of one guest are killed; the other guest's rank fails, and the run ends."""
    words = ["collectives", "--isolation", "process"]
    words += set_options({"ops": "[all_reduce]", "sizes": "[64 KiB]", "iterations": 50})
    one, two = run(CRASHING, 1, *words, status=1), run(CRASHING, 2, *words, status=1)
    assert operations(two) == operations(one)
    status = json.loads((two / "status.json").read_text())
    assert status["state"] == "failed"
    assert "bern-h0 had crashed as scheduled" in status["reason"]
