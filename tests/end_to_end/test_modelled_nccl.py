"""Modelled GPUs: trees of NCCL, gloo in place of NCCL, and fewer bytes on the wire."""

from pathlib import Path

import polars as pl
import pytest
import yaml

from testbed.workers.gpu.build import gpu_libraries, why_no_gpus
from tests.support.runs import Command, Folder, Need

SITES = ("a", "b", "c", "d")
NICS = {"hosts": 1, "nic": {"rate": "10 Gbit/s", "delay": "0 us"}}
FOUR_SITES = {
    "name": "four",
    "datacenters": dict.fromkeys(SITES, NICS),
    "wan": [{"mesh": "all", "rate": "10 Gbit/s", "delay": "10 ms"}],
}
INFINITE = """
peak: {bfloat16: 1000000000 EFLOP/s}
memory: 80 GB
memory_rate: 1000000 Tbit/s
peer_rate: 1000000 Tbit/s
host_rate: 1000000 Tbit/s
kernel_time: 0 us
"""
ALGORITHMS = """
import os
import time
import torch
import torch.distributed as dist


def reduce_three_times(group):
    for _ in range(3):
        time.sleep(1 - time.time() % 1)  # all ranks begin at the same time
        dist.all_reduce(numbers, group=group)
        torch.cuda.synchronize()


dist.init_process_group("nccl")
numbers = torch.ones(256, device="cuda")
reduce_three_times(None)  # NCCL chooses a tree for so few bytes
os.environ["NCCL_ALGO"] = "Ring"
reduce_three_times(dist.new_group(group_desc="rings"))
dist.destroy_process_group()
"""
OPERATIONS = """
import sys
import time
import torch
import torch.distributed as dist

backend, device = sys.argv[1:]
dist.init_process_group(backend)
ranks = dist.get_world_size()
numbers = torch.ones(2**18, device=device)
parts = [torch.ones(2**18, device=device) for _ in range(ranks)]
whole = torch.ones(2**18 * ranks, device=device)


def wait():
    if device == "cuda":
        torch.cuda.synchronize()
    time.sleep(0.5)


for _ in range(2):
    for run in (
        lambda: dist.all_reduce(numbers),
        lambda: dist.broadcast(numbers, 1),
        lambda: dist.reduce(numbers, 0),
        lambda: dist.all_gather(parts, numbers),
        lambda: dist.all_gather_into_tensor(whole, numbers),
        lambda: dist.reduce_scatter_tensor(numbers, whole),
        lambda: dist.all_to_all_single(numbers, numbers.clone()),
        lambda: dist.gather(numbers, parts if dist.get_rank() == 0 else None),
        lambda: dist.scatter(numbers, parts if dist.get_rank() == 0 else None),
        lambda: dist.send(numbers, 1) if dist.get_rank() == 0 else dist.recv(numbers, 0),
        lambda: dist.barrier(),
    ):
        run()
        wait()
dist.destroy_process_group()
"""
WIDTH = 1024
STEPS = 4
TRAINING = f"""
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

dist.init_process_group("nccl")
layers = [nn.Linear({WIDTH}, {WIDTH}, bias=False) for _ in range(4)]
model = DistributedDataParallel(nn.Sequential(*layers).cuda())
optimizer = torch.optim.SGD(model.parameters())
for _ in range({STEPS}):
    model(torch.randn(4096, {WIDTH}, device="cuda")).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
torch.cuda.synchronize()
dist.destroy_process_group()
"""
SCALE = 10
SWITCHES_NS = 20_000

MIB = 2**20
GPUS = 4
LARGE_OPERATIONS = f"""
import os
import time
import torch
import torch.distributed as dist

os.environ["NCCL_ALGO"] = "Ring"
dist.init_process_group("nccl")
torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
whole = torch.ones(32 * {MIB} // 4, device="cuda")
part = torch.ones(4 * {MIB} // 4, device="cuda")
operations = [
    lambda: dist.all_reduce(whole),
    lambda: dist.all_gather_into_tensor(whole, part),
    lambda: dist.reduce_scatter_tensor(part, whole),
]
for operation in operations:
    for _ in range(2):
        operation()
        torch.cuda.synchronize()
        time.sleep(2 - time.time() % 1)  # all ranks begin at the same time
dist.destroy_process_group()
"""


@pytest.fixture(scope="module", autouse=True)
def _libraries(need: Need) -> None:
    need(not why_no_gpus(), "a C++ compiler and Python's headers")
    gpu_libraries()


def _run(command: Command, out: Path, topology: Path, script: str, *words: object) -> Folder:
    """Run a script; words up to ``--`` are options, the others arguments of the script."""
    path = out.with_suffix(".py")
    path.write_text(script)
    place = words.index("--") if "--" in words else len(words)
    options, arguments = words[:place], words[place + 1 :]
    command(
        "run", topology, "--isolation", "process", "--out", out, *options, "--", path, *arguments
    )
    return Folder(out)


def _times_ms(rows: pl.DataFrame) -> list[float]:
    return ((rows["end_ns"] - rows["start_ns"]) / 1e6).to_list()


def test_trees_have_fewer_trips_than_rings(command: Command, tmp_path: Path) -> None:
    """A ring of four has six trips of 10 ms. A tree has two levels, up and down."""
    topology = tmp_path / "four.yaml"
    topology.write_text(yaml.safe_dump(FOUR_SITES))
    run = _run(command, tmp_path / "run", topology, ALGORITHMS, "--gpu", "H100")
    ops = run.ops.filter(pl.col("op") == "all_reduce").sort("start_ns")
    for group, trips in (("", 4), ("rings", 6)):
        longest_ms = []
        for iteration in (1, 2):  # the first one connects
            calls = ops.filter(group=group, iteration=iteration)
            assert calls.height == 4
            longest_ms.append(max(_times_ms(calls)))
        assert longest_ms == pytest.approx([trips * 10.0] * 2, abs=0.3)


def test_infinitely_fast_gpus_with_gloo_take_the_times_of_gloo(
    command: Command, pair: Path, tmp_path: Path
) -> None:
    """The same bytes by the same library over the same network, but for switches of threads.

    A stream's thread starts operations and sees their ends, instead of the script's and torch's own
    threads; the guest's kernel takes some microseconds for a switch between threads.
    """
    gpu = tmp_path / "infinite.yaml"
    gpu.write_text(INFINITE)
    options = ("--gpu", gpu, "--comm", "gloo", "--", "nccl", "cuda")
    on_gpus = _run(command, tmp_path / "gpus", pair, OPERATIONS, *options)
    on_cpus = _run(command, tmp_path / "cpus", pair, OPERATIONS, "--", "gloo", "cpu")
    columns = ["rank", "op", "bytes", "algorithm", "iteration"]
    durations = (pl.col("end_ns") - pl.col("start_ns")).alias("ns")
    tables = []
    for run in (on_gpus, on_cpus):
        tables.append(run.ops.select(*columns, durations).sort(columns))

    both = tables[0].join(tables[1], on=columns, suffix="_cpu")
    assert both.height == tables[0].height == tables[1].height == 2 * 2 * 11
    differences_ns = (both["ns"] - both["ns_cpu"]).abs()
    assert differences_ns.max() <= SWITCHES_NS  # type: ignore[operator]  # polars' any number
    assert both["ns"].median() > 1000 * SWITCHES_NS  # type: ignore[operator]


def test_scaled_training_takes_the_same_time(command: Command, pair: Path, tmp_path: Path) -> None:
    """With a tenth of the bytes and of the rates, steps take as long; the model stays the same."""
    queue = ["--set", "topology.wan.west-east.queue=500 ms"]
    whole = _run(command, tmp_path / "whole", pair, TRAINING, "--gpu", "H100", *queue)
    scaled = _run(
        command, tmp_path / "scaled", pair, TRAINING, "--gpu", "H100", "--scale", SCALE, *queue
    )
    of_whole, of_scaled = whole.summary["gpu"], scaled.summary["gpu"]
    assert of_scaled["memory"] == of_whole["memory"]
    assert of_scaled["flops_per_step"] == of_whole["flops_per_step"]
    assert of_scaled["compute_ms"] == pytest.approx(of_whole["compute_ms"], rel=1e-6)
    last = [run.summary["gpu"]["step_ms"]["min"] for run in (whole, scaled)]
    assert last[1] == pytest.approx(last[0], rel=0.05)
    sent = [run.summary["wan"][0]["bytes"] for run in (whole, scaled)]
    # the store's and the headers of small packets are not divided
    assert sent[1] == pytest.approx(sent[0] / SCALE, rel=0.1)
    for row in scaled.summary["collectives"]:
        assert not row["below_bound"]


def test_rings_cross_the_network_with_several_gpus_on_a_host(
    command: Command, pair: Path, tmp_path: Path
) -> None:
    """Each link between the hosts carries seven eighths of the tensor, of an all-reduce twice.

    At 1 Gbit/s, 28 MiB take 235 ms, and headers 4 %. So few bytes take up to four times as long:
    each chunk waits for the one before to come around, while TCP's windows grow from 10 segments.
    """
    options = ["--gpu", "H100", "--gpus-per-host", GPUS]
    options += ["--set", "topology.wan.west-east.queue=500 ms"]  # drops are not the matter here
    folder = _run(command, tmp_path / "run", pair, LARGE_OPERATIONS, *options)
    for name, tensors in (("all_reduce", 2), ("all_gather", 1), ("reduce_scatter", 1)):
        rows = folder.ops.filter((pl.col("op") == name) & (pl.col("iteration") == 1))
        times_ms = _times_ms(rows)
        least_ms = tensors * 28 * MIB * 8 / 1e6 * 1.03
        assert len(times_ms) == 2 * GPUS
        assert max(times_ms) > least_ms + 10
        assert max(times_ms) < 4 * least_ms
