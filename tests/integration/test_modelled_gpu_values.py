"""Values of small tensors on modelled GPUs: what operators and collectives make of them."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from testbed.core.gpus import modelled_gpu
from testbed.workers.gpu.build import why_no_gpus
from testbed.workers.gpu.device_library import LIBRARIES, VALUES, gpu_environment
from tests.support.gpus import BEGIN
from tests.support.shared import Need

RANKS = 2
JOIN = """
import os
import torch.distributed as dist
rank = int(os.environ["RANK"])
dist.init_process_group("nccl", init_method=os.environ["STORE"], rank=rank, world_size=2)
torch.cuda.set_device(rank)
"""


def _run_ranks(code: str, libraries: Path, folder: Path) -> list[Any]:
    """Run code as two ranks of one host; return what each prints as JSON."""
    values = folder / "values"
    values.mkdir()
    environment = {
        **os.environ,
        LIBRARIES: str(libraries),
        VALUES: str(values),
        "STORE": f"file://{folder}/store",
        **gpu_environment(modelled_gpu("H100"), RANKS),
    }
    ranks = []
    for rank in range(RANKS):
        command = [sys.executable, "-c", BEGIN + JOIN + textwrap.dedent(code)]
        pipe = subprocess.PIPE
        environment["RANK"] = str(rank)
        ranks.append(
            subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)
        )

    results = []
    for process in ranks:
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        results.append(json.loads(output))

    return results


def test_operators_compute_small_tensors(on_gpus: Any) -> None:
    """Counts, flags and masks have values, unless something without values goes into them."""
    result, log = on_gpus(
        """
        lengths = torch.tensor([3, 1, 2], device="cuda")
        lengths += 1
        flags = torch.zeros(4, device="cuda")
        flags[1:3] = 5
        padded = torch.nonzero(torch.arange(6, device="cuda") % 2 == 0).flatten()
        if lengths.max().item() > 3:
            lengths.resize_(4)
        noise = torch.randn(3, device="cuda")
        noise[0] = 7
        mixed = lengths[:3] * noise
        print(json.dumps([lengths[:3].tolist(), flags.tolist(), padded.tolist(),
                          noise.tolist(), mixed.tolist()]))
        """
    )
    assert result == [[4, 2, 3], [0, 5, 5, 0], [0, 2, 4], [7, 0, 0], [0, 0, 0]]
    assert "decides by the value" not in log


def test_a_small_model_has_no_values(on_gpus: Any) -> None:
    result, log = on_gpus(
        """
        model = nn.Linear(64, 64).cuda()
        loss = model(torch.ones(2, 64).cuda()).square().mean()
        loss.backward()
        if loss.item() > 1:
            pass
        print(json.dumps([loss.item(), model.weight.grad.norm().item()]))
        """
    )
    assert result == [0, 0]
    assert "decides by the value" in log


def test_collectives_carry_values(need: Need, request: Any, tmp_path: Path) -> None:
    need(not why_no_gpus(), "a C++ compiler and Python's headers")
    results = _run_ranks(
        """
        result = {}
        flag = torch.tensor([rank + 1.5], device="cuda")
        dist.all_reduce(flag)
        flag /= 2
        result["mean"] = flag.item()
        most = torch.tensor([rank], device="cuda")
        dist.all_reduce(most, dist.ReduceOp.MAX)
        result["most"] = most.item()
        gathered = torch.zeros(4, dtype=torch.long, device="cuda")
        dist.all_gather_into_tensor(gathered, torch.tensor([rank, 7], device="cuda"))
        result["gathered"] = gathered.tolist()
        sent = torch.arange(2, device="cuda") + 10 * rank
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent)
        result["received"] = received.tolist()
        part = torch.empty(1, dtype=torch.long, device="cuda")
        dist.reduce_scatter_tensor(part, torch.arange(2, device="cuda"))
        result["part"] = part.item()
        number = torch.tensor([42 * rank], device="cuda")
        if rank == 1:
            dist.send(number, 0)
        else:
            dist.recv(number, 1)
        result["number"] = number.item()
        loss = torch.randn(100, device="cuda").mean() + 1
        dist.all_reduce(loss)
        result["loss"] = loss.item()
        print(json.dumps(result))
        dist.destroy_process_group()
        """,
        request.getfixturevalue("libraries"),
        tmp_path,
    )
    for rank, result in enumerate(results):
        assert result == {
            "mean": 2.0,
            "most": 1,
            "gathered": [0, 7, 1, 7],
            "received": [rank, 10 + rank],
            "part": 2 * rank,
            "number": 42,
            "loss": 0,
        }


def test_collectives_carry_objects(need: Need, request: Any, tmp_path: Path) -> None:
    need(not why_no_gpus(), "a C++ compiler and Python's headers")
    results = _run_ranks(
        """
        texts = [None, None]
        dist.all_gather_object(texts, "x" * (1 + 40 * rank))
        things = ["hello", rank] if rank == 0 else [None, None]
        dist.broadcast_object_list(things, 0)
        gathered = [None, None] if rank == 0 else None
        dist.gather_object(rank, gathered, 0)
        scattered = [None]
        dist.scatter_object_list(scattered, ["a", "b"] if rank == 0 else None, 0)
        print(json.dumps([[len(text) for text in texts], things, gathered, scattered]))
        dist.destroy_process_group()
        """,
        request.getfixturevalue("libraries"),
        tmp_path,
    )
    assert results == [
        [[1, 41], ["hello", 0], [0, 1], ["a"]],
        [[1, 41], ["hello", 0], None, ["b"]],
    ]
