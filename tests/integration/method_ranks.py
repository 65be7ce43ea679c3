"""Runs training methods in ranks of this machine: the processes of test_methods.py.

usage: python method_ranks.py CASES.json FOLDER

CASES.json is {name: {"method", "world", "steps", "optimizer", settings...}}; for each name FOLDER
gets <name>-<rank>.pt with this rank's losses and parameters.
"""

import datetime
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch._dynamo
import torch.distributed as dist
import torch.distributed.fsdp
import torch.distributed.pipelining
from testbed.workloads.train import methods
from testbed.workloads.train.gpt import GPT, Text, make_gpt
from torch.distributed.tensor import DTensor

from testbed.core.linux import die_with_parent

PARAMETERS, LAYERS, SEQUENCE, BATCH = 20_000, 2, 16, 4
DEFAULTS = {
    "bucket": 2**14,
    "powersgd_rank": 2,
    "sync_every": 2,
    "outer_lr": 0.7,
    "outer_momentum": 0.9,
    "exchange_dtype": "float32",
    "early_exchange": False,
    "fragments": 2,
    "overlap": 0,
    "microbatches": 4,
    "schedule": "1f1b",
}
OPTIMIZERS: dict[str, Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=1e-2),
    "adamw-smooth": lambda parameters: torch.optim.AdamW(parameters, lr=3e-3, eps=1e-3),
}


def make_model() -> GPT:
    return make_gpt(PARAMETERS, LAYERS, SEQUENCE, seed=1)


def batches(world: int, steps: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    text = Text(SEQUENCE, seed=1)
    return [text.batch(step, BATCH * world) for step in range(steps)]


def train(rank: int, world: int, case: dict[str, Any]) -> dict[str, Any]:
    """One rank of one case."""
    model, paced = make_model(), []
    half = list(range(world // 2)), list(range(world // 2, world))
    job = methods.Job(
        rank=rank,
        world=world,
        sites=[site for site in half if site],
        model=model,
        settings=DEFAULTS | case,
        optimizer=OPTIMIZERS[case["optimizer"]],
        pace=lambda module, parts: paced.append((module, parts)),
    )
    method = methods.load(case["method"])(job)
    losses = [method.step(*batch) for batch in batches(world, case["steps"])]
    method.finish()
    held = getattr(method, "stage", model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    parameters = {}
    for name, parameter in held.named_parameters():
        whole = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
        parameters[names.get(id(parameter), name)] = whole.detach().clone()
    return {"losses": losses, "parameters": parameters, "paced": len(paced)}


def main(cases: dict[str, dict[str, Any]], folder: Path) -> int:
    torch.set_num_threads(1)
    failed = 0
    for name, case in cases.items():
        pids = []
        with tempfile.TemporaryDirectory() as store:
            for rank in range(case["world"]):
                pid = os.fork()
                if pid == 0:
                    die_with_parent()
                    status = 1
                    try:
                        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
                        dist.init_process_group(
                            "gloo",
                            init_method=f"file://{store}/store",
                            rank=rank,
                            world_size=case["world"],
                            timeout=datetime.timedelta(seconds=20),
                        )
                        torch.save(train(rank, case["world"], case), folder / f"{name}-{rank}.pt")
                        dist.barrier()
                        status = 0
                    except BaseException:
                        traceback.print_exc()
                    finally:
                        sys.stderr.flush()
                        os._exit(status)
                pids.append(pid)
            failed += sum(os.waitpid(pid, 0)[1] != 0 for pid in pids)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])))
