"""Kernels of modelled GPUs while an operation of NCCL holds a part of the device."""

import json
from pathlib import Path

import polars as pl
import pytest

from testbed.core.gpus import modelled_gpu
from testbed.workers.gpu.build import gpu_libraries, why_no_gpus
from testbed.workers.gpu.figures import figures_of
from tests.support.runs import Command, Folder, Need

H100 = figures_of(modelled_gpu("H100"), 2)
WIDTH = 8192
PRODUCT_MS = 2 * WIDTH**3 / 722e12 * 1e3  # 0.73 of 989 TFLOP/s
FEWER_CHANNELS = 6
LAUNCHES_MS = 0.01  # each launch reads the clock, which takes 1 us
OVERLAP = f"""
import json
import os
import time
import torch
import torch.distributed as dist

dist.init_process_group("nccl")
torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
x = torch.randn({WIDTH}, {WIDTH}, device="cuda", dtype=torch.bfloat16)
tensor = torch.ones(2**28, device="cuda")


def measure(operator, count, group):
    torch.cuda.synchronize()
    time.sleep(1 - time.time() % 1)  # both ranks begin at the same time
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    if group is not None:
        dist.all_reduce(tensor, group=group, async_op=True)
    for _ in range(count):
        operator()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end)


every = dist.new_group()
dist.all_reduce(tensor, group=every)  # connects
os.environ["NCCL_MAX_CTAS"] = "{FEWER_CHANNELS}"
fewer = dist.new_group()
dist.all_reduce(tensor, group=fewer)
x @ x, x + x  # the first call of an operator works its shape out
product, addition = lambda: x @ x, lambda: x + x
times = [
    measure(product, 10, None),
    measure(product, 10, every),
    measure(product, 1, every),
    measure(product, 10, fewer),
    measure(addition, 40, None),
    measure(addition, 40, every),
]
print("times", json.dumps(times))
dist.destroy_process_group()
"""


@pytest.fixture(scope="module", autouse=True)
def _libraries(need: Need) -> None:
    need(not why_no_gpus(), "a C++ compiler and Python's headers")
    gpu_libraries()


def test_operations_hold_a_part_of_the_device(command: Command, tmp_path: Path) -> None:
    """Products lose what the operation holds: channels of 132 multiprocessors, as long as it runs.

    An addition is as fast as the memory, which fewer multiprocessors saturate too, but of whose
    rate the operation takes as much as a ring has on NVLink.
    """
    script, out = tmp_path / "overlap.py", tmp_path / "run"
    script.write_text(OVERLAP)
    options: list[object] = ["--set", "topology.datacenters.*.hosts=1", "--isolation", "process"]
    options += ["--gpu", "H100", "--gpus-per-host", 2, "--out", out]
    command("run", "single-cluster", *options, "--", script)
    run = Folder(out)
    lines = (run.path / "logs/rank-0.log").read_text().splitlines()
    [text] = [line for line in lines if line.startswith("times ")]
    alone, beside, one, beside_fewer, additions, beside_additions = json.loads(text[6:])

    rows = run.ops.filter((pl.col("rank") == 0) & (pl.col("op") == "all_reduce"))
    durations_ms = ((rows["end_ns"] - rows["start_ns"]) / 1e6).to_list()
    _connects, _connects_too, first_ms, second_ms, third_ms, last_ms = durations_ms
    share = H100.model.channels / H100.model.multiprocessors
    fewer = FEWER_CHANNELS / H100.model.multiprocessors

    assert alone == pytest.approx(10 * PRODUCT_MS, rel=0.001)
    assert share == 24 / 132
    assert first_ms < alone
    assert beside == pytest.approx(alone + first_ms * share, abs=LAUNCHES_MS)
    assert second_ms > one
    assert one == pytest.approx(alone / 10 / (1 - share), abs=LAUNCHES_MS)
    assert beside_fewer == pytest.approx(alone + third_ms * fewer, abs=LAUNCHES_MS)
    memory_share = H100.local_bytes_per_ns / H100.bytes_per_ns
    assert last_ms < additions
    assert beside_additions == pytest.approx(additions + last_ms * memory_share, abs=LAUNCHES_MS)
