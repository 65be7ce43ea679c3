"""A training step of two hosts as a CUDA graph, with its all-reduce."""

from pathlib import Path

import polars as pl
import pytest

from testbed.workers.gpu.build import gpu_libraries, why_no_gpus
from tests.support.runs import Command, Folder, Need

WIDTH, LAYERS, REPLAYS = 512, 8, 4
SCRIPT = f"""
import sys
import torch
import torch.distributed as dist
from torch import nn

dist.init_process_group("nccl")
model = nn.Sequential(*[nn.Linear({WIDTH}, {WIDTH}, bias=False) for _ in range({LAYERS})]).cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
batch = torch.randn(64, {WIDTH}, device="cuda")
gradients = torch.zeros({LAYERS} * {WIDTH}**2, device="cuda")


def step():
    optimizer.zero_grad()
    model(batch).sum().backward()
    work = dist.all_reduce(gradients, async_op=True)
    gradients_of_one = gradients[: {WIDTH}]
    work.wait()
    gradients_of_one.add_(1)
    optimizer.step()


side = torch.cuda.Stream()
side.wait_stream(torch.cuda.current_stream())
with torch.cuda.stream(side):
    step()
torch.cuda.synchronize()
graph = torch.cuda.CUDAGraph()
if sys.argv[1] == "graph":
    with torch.cuda.graph(graph):
        step()
for _ in range({REPLAYS}):
    if sys.argv[1] == "graph":
        graph.replay()
    else:
        step()
    torch.cuda.synchronize()
dist.destroy_process_group()
"""
EAGER_NS, GRAPH_NS = 3800, 3400


@pytest.fixture(scope="module", autouse=True)
def _libraries(need: Need) -> None:
    need(not why_no_gpus(), "a C++ compiler and Python's headers")
    gpu_libraries()


def test_a_graph_with_an_all_reduce(command: Command, tmp_path: Path) -> None:
    """Replays record operations and steps, as eager steps do, with less time between kernels."""
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    runs = {}
    for kind in ("eager", "graph"):
        out = tmp_path / kind
        options = ["--set", "topology.datacenters.*.hosts=1", "--isolation", "process"]
        options += ["--gpu", "H100", "--gpus-per-host", "1", "--out", str(out)]
        command("run", "two-sites", *options, "--", str(script), kind)
        runs[kind] = Folder(out)

    for run in runs.values():
        reduces = run.ops.filter(op="all_reduce").sort("rank", "iteration")
        assert reduces["iteration"].to_list() == [*range(1 + REPLAYS)] * 2
        assert reduces["bytes"].unique().to_list() == [4 * LAYERS * WIDTH**2]
        steps = run.summary["gpu"]["steps"]
        assert steps == REPLAYS

    frames = {kind: pl.read_parquet(run.path / "gpu.parquet") for kind, run in runs.items()}
    eager, graph = (frames[kind].filter(rank=0, step=2) for kind in ("eager", "graph"))
    assert graph["flops"].to_list() == eager["flops"].to_list()
    # products forward and backward, the sum and its gradient, an addition; the optimizer's is long
    short = LAYERS + (2 * LAYERS - 1) + 2 + 1
    saved = eager["busy_ns"][0] - graph["busy_ns"][0]
    assert saved == short * (EAGER_NS - GRAPH_NS)
    times = {}
    for kind, run in runs.items():
        last = run.ops.filter(op="all_reduce", rank=0, iteration=REPLAYS)
        times[kind] = last["end_ns"][0] - last["start_ns"][0]
    assert times["graph"] == pytest.approx(times["eager"], rel=0.001)
