"""A CUDA and NCCL script, unchanged, on two hosts with a modelled GPU each, 10 ms apart."""

import json
from pathlib import Path

import polars as pl
import pytest

from testbed.core.gpus import modelled_gpu
from testbed.workers.gpu.build import gpu_libraries, why_no_gpus
from testbed.workers.gpu.figures import figures_of
from tests.support.runs import Command, Folder, Need

MB = 10**6
STEPS = 3
LAUNCHES = 900  # the queue of a stream holds more
WIDTH = 1024
SCRIPT = f"""
import os
import time
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

dist.init_process_group("nccl")
torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
big = torch.ones(16 * {MB} // 4, device="cuda")
begin_ns = time.time_ns()
for _ in range({LAUNCHES}):
    big.add_(1)
print("launches took", time.time_ns() - begin_ns)
torch.cuda.synchronize()
for _ in range(2):
    dist.all_reduce(big)
    torch.cuda.synchronize()
halves = [torch.empty({MB} // 4, device="cuda") for _ in range(2)]
dist.all_gather(halves, halves[0])
dist.all_to_all_single(big, big.clone())
if dist.get_rank() == 0:
    dist.send(halves[0], 1)
else:
    dist.recv(halves[0], 0)

model = DistributedDataParallel(nn.Linear({WIDTH}, {WIDTH}, bias=False, device="cuda"))
optimizer = torch.optim.AdamW(model.parameters())
for step in range({STEPS}):
    x = torch.randn(64, {WIDTH}).to("cuda")
    with torch.autocast("cuda", dtype=torch.bfloat16):
        loss = model(x).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    print("step", step, "loss", loss.item(), flush=True)

sharded = nn.Sequential(*[nn.Linear(512, 512, device="cuda") for _ in range(2)])
for layer in sharded:
    fully_shard(layer)
fully_shard(sharded)
sharded(torch.randn(8, 512, device="cuda")).sum().backward()
if loss.item() > 1:
    print("never")
print("peak", torch.cuda.max_memory_allocated())
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gpu-script") / "train.py"
    path.write_text(SCRIPT)
    return path


def _run(command: Command, pair: Path, script: Path, out: Path) -> Folder:
    options = ["--isolation", "process", "--gpu", "H100", "--out", out]
    queue = ["--set", "topology.wan.west-east.queue=500 ms"]  # drops are not the matter here
    command("run", pair, *options, *queue, "--", script)
    return Folder(out)


@pytest.fixture(scope="module")
def first(
    need: Need, command: Command, pair: Path, script: Path, tmp_path_factory: pytest.TempPathFactory
) -> Folder:
    need(not why_no_gpus(), "a C++ compiler and Python's headers")
    gpu_libraries()
    return _run(command, pair, script, tmp_path_factory.mktemp("gpus") / "first")


def _operations(folder: Folder, name: str) -> pl.DataFrame:
    rows = folder.ops.filter(pl.col("op") == name)
    return rows.sort("rank", "start_ns")


def test_the_script_runs_to_its_end(first: Folder) -> None:
    log = (first.path / "logs/rank-0.log").read_text()
    assert log.count("loss 0.0") == STEPS
    assert "never" not in log
    assert log.count("decides by the value of a modelled tensor") == 1
    assert first.status["faithful"]


def test_launches_take_no_time(first: Folder) -> None:
    """Two reads of the clock differ by 1 us, however many kernels are launched between them."""
    for rank in range(2):
        log = (first.path / f"logs/rank-{rank}.log").read_text()
        assert "launches took 1000\n" in log


def test_operations_are_recorded_with_their_times(first: Folder) -> None:
    """An all-reduce of two ranks sends each byte once: 16 MB at 1 Gbit/s take 128 ms."""
    reduced = _operations(first, "all_reduce").filter(pl.col("bytes") == 16 * MB)
    assert reduced.height == 4
    times_ms = ((reduced["end_ns"] - reduced["start_ns"]) / 1e6).to_list()
    # headers take 4 %; a ring of two waits a trip of 10 ms in each of its two loops, and once more
    # for its last data. TCP starts slowly: windows of 10 segments reach 2.5 MB after eight round
    # trips of 20 ms.
    assert min(times_ms) > 128 * 1.03 + 20
    assert max(times_ms) < 128 * 1.06 + 30 + 160
    for name, count in (("all_gather", 2), ("all_to_all", 2), ("send", 1), ("recv", 1)):
        assert _operations(first, name).filter(pl.col("bytes") > 0).height >= count


def test_bytes_cross_the_network(first: Folder) -> None:
    """Each direction carries what the ring algorithms send, and headers."""
    ddp_gradients = STEPS * WIDTH * WIDTH * 4
    ddp_parameters = WIDTH * WIDTH * 4  # broadcast once, from rank 0
    sent = 2 * 16 * MB + MB + 8 * MB + ddp_gradients
    for row in first.summary["wan"]:
        expected = sent
        if row["from"] == "west":
            expected += MB + ddp_parameters
        # headers of 4.5 %, messages of FSDP of 2 MB, the store
        assert expected < row["bytes"] < 1.06 * expected + 6 * MB


def test_a_second_run_takes_the_same_nanoseconds(
    command: Command, pair: Path, script: Path, first: Folder, tmp_path: Path
) -> None:
    second = _run(command, pair, script, tmp_path / "second")
    columns = ["rank", "op", "bytes", "iteration", "process_group", "start_ns", "end_ns"]
    tables = []
    for folder in (first, second):
        began_ns = folder.began_ns
        times = (pl.col("start_ns", "end_ns") - began_ns).name.keep()
        tables.append(folder.ops.select(columns).with_columns(times).sort("rank", "start_ns"))
    assert tables[0].equals(tables[1])


def test_steps_and_what_they_wait_for(first: Folder) -> None:
    """The parts of a step are those of gpu.parquet; its FLOPs are two products of each rank."""
    gpu = first.summary["gpu"]
    steps = pl.read_parquet(first.path / "gpu.parquet")
    parts = steps.select("busy_ns", "exposed_ns", "streams_ns", "launch_ns")
    durations = steps["end_ns"] - steps["start_ns"]
    assert parts.sum_horizontal().to_list() == durations.to_list()
    assert (gpu["steps"], gpu["ranks"], gpu["tokens_per_s"]) == (STEPS - 1, 2, None)
    # the input needs no gradient
    assert gpu["flops_per_step"] == 2 * 2 * (2 * 64 * WIDTH * WIDTH)
    # 4 MB at 1 Gbit/s, with headers of 4 %, and one trip: the second one overlaps the first
    bytes_ms = WIDTH * WIDTH * 4 * 8 / 1e6
    assert 1.04 * bytes_ms + 10 < gpu["exposed_ms"] < gpu["time_per_step_ms"]
    longest = gpu["exposed"][0]
    assert (longest["op"], longest["link"]) == ("all_reduce", "west-east")
    shares = sum(row["ms"] for row in gpu["exposed"])
    assert shares == pytest.approx(gpu["exposed_ms"])
    page = (first.path / "report.html").read_text()
    assert '<p class="verdict">The step waits for all_reduce over the WAN link west-east' in page


def test_a_decision_by_a_value_is_a_warning(first: Folder, script: Path) -> None:
    (warning,) = first.status["warnings"]
    line = SCRIPT.splitlines().index("if loss.item() > 1:") + 1
    assert warning["code"] == "value-decided"
    assert warning["message"].startswith(f"{script}, line {line}: ")


def test_the_timeline_has_a_thread_for_each_stream(first: Folder) -> None:
    events = json.loads((first.path / "trace.json").read_text())["traceEvents"]
    names = {event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert "rank 1 (east-h0): GPU 0, stream 0" in names
    assert any(event["name"] == "waits for all_reduce" for event in events)


def test_peak_memory(first: Folder) -> None:
    """The modelled peak memory is that of tensors, far below that of the device."""
    log = (first.path / "logs/rank-0.log").read_text()
    (peak,) = [int(line.split()[1]) for line in log.splitlines() if line.startswith("peak ")]
    assert 5 * 16 * MB > peak > 2 * 16 * MB
    assert peak < figures_of(modelled_gpu("H100"), 1).usable_bytes
    memory = first.summary["gpu"]["memory"][0]
    assert (memory["rank"], memory["peak_bytes"]) == (0, peak)
    assert memory["reserved_bytes"] % (2 * 2**20) == 0  # segments are multiples of 2 MiB
    assert peak <= memory["reserved_bytes"] < 2 * peak
