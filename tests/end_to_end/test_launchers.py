"""Launchers on two hosts 10 ms apart: ranks that a host's script starts, commands on other hosts,
hosts that work separately.
"""

import json
from pathlib import Path

from tests.support.runs import Command, Folder

SPAWN = """
import os
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

LOCAL = 2


def work(local, node, nodes):
    rank = node * LOCAL + local
    dist.init_process_group("gloo", rank=rank, world_size=nodes * LOCAL)
    for _ in range(5):
        dist.all_reduce(torch.ones(1000))
    groups = [dist.new_group([each]) for each in range(nodes * LOCAL)]
    for _ in range(1 + rank):  # each rank has another number of them
        dist.broadcast(torch.ones(7), src=rank, group=groups[rank])
    print("rank", dist.get_rank(), "of", dist.get_world_size(), flush=True)
    dist.barrier()  # rank 0's store is needed until then
    dist.destroy_process_group()


if __name__ == "__main__":
    node, nodes = int(os.environ["TESTBED_NODE_RANK"]), int(os.environ["TESTBED_NODES"])
    mp.spawn(work, args=(node, nodes), nprocs=LOCAL)
"""
REMOTE = r"""
set -e
test $TESTBED_NODE_RANK = 0 || exit 0
test $(ssh east-h0 hostname) = east-h0
test "$(echo 6 7 | ssh -o StrictHostKeyChecking=no east-h0 'read a b; echo $((a * b))')" = 42
status=0; ssh 10.1.0.1 'exit 7' || status=$?
test $status = 7
ssh east-h0 'test -z "$RANK" && pwd && echo $TESTBED_NODE_RANK'
pdsh -w west-h0,east-h0 'echo %n' | sort
echo over
"""
SEPARATE = """
import os
import torch
import torch.distributed as dist

dist.init_process_group("gloo", init_method="tcp://127.0.0.1:29700", rank=0, world_size=1)
for _ in range(4):
    dist.all_reduce(torch.ones(1000))
print("\\x1b[2Jdone", flush=True)
"""


def operations(folder: Folder, rank: int, op: str) -> int:
    lines = (folder.path / f"raw/ops-{rank}.jsonl").read_text().splitlines()
    return sum(json.loads(line)["op"] == op for line in lines)


def test_ranks_that_a_script_spawns(command: Command, pair: Path, tmp_path: Path) -> None:
    """Each is recorded under its own rank, not under that of the process that started it."""
    (tmp_path / "spawn.py").write_text(SPAWN)
    words = ["--isolation", "process", "--nproc-per-host", 2, "--out", tmp_path / "run"]
    command("run", pair, *words, "--", "python", tmp_path / "spawn.py")
    folder = Folder(tmp_path / "run")
    assert folder.status["faithful"], folder.status["warnings"]
    assert folder.summary["problems"] == []
    assert [operations(folder, rank, "broadcast") for rank in range(4)] == [1, 2, 3, 4]
    assert [operations(folder, rank, "all_reduce") for rank in range(4)] == [5, 5, 5, 5]
    logs = [(folder.path / f"logs/rank-{rank}.log").read_text() for rank in (0, 2)]
    assert "rank 1 of 4" in logs[0]
    assert "rank 3 of 4" in logs[1]


def test_commands_on_other_hosts(command: Command, pair: Path, tmp_path: Path) -> None:
    """ssh and pdsh cross the emulated network, in containers without rights."""
    (tmp_path / "remote.sh").write_text(REMOTE)
    out = tmp_path / "run"
    command("run", pair, "--out", out, "--quiet", "--", "sh", tmp_path / "remote.sh")
    folder = Folder(out)
    assert folder.status["faithful"], folder.status["warnings"]
    assert (out / "logs/rank-0.log").read_text().splitlines()[-5:] == [
        str(out / "work/east-h0"),
        "1",
        "east-h0: 1",
        "west-h0: 0",
        "over",
    ]


def test_hosts_that_work_separately(command: Command, pair: Path, tmp_path: Path) -> None:
    """The run completes and says loudly that nothing left a host; what rank 0 prints is shown with
    its control characters as escapes.
    """
    (tmp_path / "separate.py").write_text(SEPARATE)
    out = tmp_path / "run"
    words = ["--isolation", "process", "--out", out]
    done = command("run", pair, *words, "--", tmp_path / "separate.py")
    assert "warning: each of the 2 hosts worked alone" in " ".join(done.stdout.split())
    assert "rank 0: testbed: warning: the world size of this process group is 1" in done.stderr
    assert "rank 0: \\x1b[2Jdone" in done.stderr
    assert "\x1b" not in done.stderr + done.stdout
    assert [warning["code"] for warning in Folder(out).status["warnings"]] == ["separate-hosts"]
