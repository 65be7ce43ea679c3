"""A run that would never end is ended at --time-limit, with the line of each rank."""

from pathlib import Path

from tests.support.runs import Command, Folder

OPERATIONS = 3
WAITS_FOR_EVER = f"""
import os
import time
import torch
import torch.distributed as dist


def wait_for_the_other():
    while not os.path.exists("/nobody/writes/this"):
        time.sleep(10)


dist.init_process_group()
for _ in range({OPERATIONS}):
    dist.all_reduce(torch.ones(1000))
wait_for_the_other()
"""


def test_the_clock_of_the_run_is_limited(command: Command, pair: Path, tmp_path: Path) -> None:
    """An hour of virtual time, which takes seconds; what was recorded before is kept."""
    script = tmp_path / "waits.py"
    script.write_text(WAITS_FOR_EVER)
    out = tmp_path / "run"
    words = ["--isolation", "process", "--time-limit", "3600", "--out", out]
    done = command("run", pair, *words, "--", script, status=1)
    assert "time limit on the run's clock: 3600 s (--time-limit)" in done.stderr
    folder = Folder(out)
    assert folder.status["state"] == "failed"
    reason = folder.status["reason"]
    assert reason.startswith("the run has taken 3600 s of its clock (--time-limit)")
    line = WAITS_FOR_EVER.splitlines().index("        time.sleep(10)") + 1
    for rank, host in enumerate(("west-h0", "east-h0")):
        assert f"rank {rank} on {host}" in reason
    assert reason.count(f"waits.py:{line} in wait_for_the_other") == 2
    assert folder.ops.filter(op="all_reduce").height == 2 * OPERATIONS
