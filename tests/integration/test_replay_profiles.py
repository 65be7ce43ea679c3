"""Traces that PyTorch's profiler writes of two ranks with gloo are read as what the ranks did."""

import subprocess
import sys
from pathlib import Path

from testbed.workloads.replay.trace_set import load_programs

SCRIPT = """
import sys
import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile

dist.init_process_group("gloo")
rank = dist.get_rank()
tensor = torch.ones(1024)
with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
    for _ in range(2):
        torch.ones(300, 300) @ torch.ones(300, 300)
        work = dist.all_reduce(tensor, async_op=True)
        torch.ones(300, 300) @ torch.ones(300, 300)
        work.wait()
        dist.all_gather([torch.empty(64), torch.empty(64)], tensor[:64])
        dist.broadcast(tensor[:10], 1)
        dist.all_to_all_single(torch.empty(1024), tensor)
        dist.gather(tensor[:8], [torch.empty(8), torch.empty(8)] if rank == 0 else None)
        if rank == 0:
            dist.send(tensor[:100], 1)
        else:
            dist.recv(tensor[:100], 0)
        dist.barrier()
        profiler.step()
profiler.export_chrome_trace(f"{sys.argv[1]}/rank{rank}.json")
dist.destroy_process_group()
"""
FLOAT = 4
EXPECTED = [
    ("all_reduce", 1024 * FLOAT),
    ("all_gather", 128 * FLOAT),
    ("broadcast", 10 * FLOAT),
    ("all_to_all", 1024 * FLOAT),
    ("gather", 16 * FLOAT),
    ("message", 100 * FLOAT),
    ("barrier", 0),
]


def test_a_profile_of_gloo(tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text(SCRIPT)
    traces = tmp_path / "traces"
    traces.mkdir()
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, *launch, str(script), str(traces)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr

    programs = load_programs(str(traces), 2, 1.0)["programs"]
    for rank, program in enumerate(programs):
        operations = [item for item in program if "op" in item]
        message = ("send", "recv")[rank]
        expected = [(message if op == "message" else op, size) for op, size in EXPECTED * 2]
        assert [(item["op"], item["bytes"]) for item in operations] == expected
        roots = [item["root"] for item in operations if "root" in item]
        assert roots == [1, 0] * 2
        assert sum(item.get("compute_ns", 0) for item in program) > 0
