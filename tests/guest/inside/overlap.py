"""DDP of two ranks over one slow link, with modelled GPU time; run inside a guest.

usage: overlap.py FOLDER RATE_MBIT...

For each rate: when the gradients of layers are ready, when all-reduces of buckets begin and end,
and how long steps take.
"""

import ctypes
import json
import os
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch
import torch._dynamo
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from testbed.workers.lib.modelled_compute import ModelledCompute

LAYERS = 8
WIDTH = 256  # each layer's weights are 256 KiB and a bucket
STEP_S = 0.240
STEPS = 4
DELAY_MS = 1
NAMES = ("a", "b")  # of the ranks' namespaces
ENVIRONMENT = {
    "GLOO_SOCKET_IFNAME": "eth0",
    "MASTER_ADDR": "10.9.0.1",
    "MASTER_PORT": "29500",
}


def make_network(rate_mbit: str) -> None:
    """Make two namespaces that a link joins, of that rate and `DELAY_MS` each way."""
    netem = f"netem rate {rate_mbit}mbit delay {DELAY_MS}ms limit 10000"
    commands = [f"ip netns add {name}" for name in NAMES]
    commands.append("ip link add eth0 netns a type veth peer name eth0 netns b")
    for number, name in enumerate(NAMES, start=1):
        inside = f"ip netns exec {name}"
        commands += [
            f"{inside} ip address add 10.9.0.{number}/24 dev eth0",
            f"{inside} ip link set eth0 up",
            f"{inside} ip link set lo up",
            f"{inside} tc qdisc add dev eth0 root {netem}",
        ]
    for command in commands:
        subprocess.run(command.split(), check=True)


def remove_network() -> None:
    for name in NAMES:
        subprocess.run(["ip", "netns", "delete", name], check=True)


class Recorder:
    """Times of one step, in seconds from its begin."""

    def __init__(self) -> None:
        self.begin = 0.0
        self.ready: list[float] = []  # of each layer's gradient
        self.buckets: list[list[float]] = []  # begin and end of each bucket's all-reduce

    def restart(self) -> None:
        self.ready.clear()
        self.buckets.clear()
        self.begin = time.time()

    def note_gradient(self, parameter: torch.Tensor) -> None:
        del parameter
        self.ready.append(time.time() - self.begin)

    def all_reduce(
        self,
        state: object,
        bucket: dist.GradBucket,  # type: ignore[name-defined]
    ) -> torch.futures.Future[torch.Tensor]:
        """Average a bucket over the ranks (a hook of DDP), and note when."""
        del state
        times = [time.time() - self.begin]
        self.buckets.append(times)
        work = dist.all_reduce(bucket.buffer().div_(2), async_op=True)
        assert work is not None

        def end(future: torch.futures.Future[list[torch.Tensor]]) -> torch.Tensor:
            times.append(time.time() - self.begin)
            return future.value()[0]

        averaged: torch.futures.Future[torch.Tensor] = work.get_future().then(end)
        return averaged

    def times(self, seconds: float) -> dict[str, Any]:
        buckets = [list(times) for times in self.buckets]
        return {"seconds": seconds, "ready": list(self.ready), "buckets": buckets}


def train(rank: int) -> dict[str, Any]:
    """Train on one rank, and give the times of its steps."""
    os.environ.update(ENVIRONMENT)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    layers = [nn.Linear(WIDTH, WIDTH, bias=False) for _layer in range(LAYERS)]
    model = nn.Sequential(*layers)
    ModelledCompute(model, step_time=STEP_S)
    network = DistributedDataParallel(model, bucket_cap_mb=WIDTH * WIDTH * 4 / 2**20)
    recorder = Recorder()
    network.register_comm_hook(None, recorder.all_reduce)
    for layer in layers:
        weight: Any = layer.weight
        weight.register_post_accumulate_grad_hook(recorder.note_gradient)
    steps = []
    for _step in range(STEPS):
        dist.barrier()
        recorder.restart()
        network(torch.ones(1, WIDTH)).sum().backward()
        steps.append(recorder.times(time.time() - recorder.begin))
    dist.barrier()
    return {"steps": steps}


def start_rank(rank: int, name: str, output: Path) -> int:
    """Train in a child process in the namespace `name`; give the process."""
    pid = os.fork()
    if pid != 0:
        return pid
    status = 1
    try:
        with Path("/run/netns", name).open() as namespace:
            assert ctypes.CDLL(None).setns(namespace.fileno(), 0) == 0
        output.write_text(json.dumps(train(rank)))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def main(folder: Path, rates: list[str]) -> int:
    results: dict[str, list[Any]] = {}
    for rate in rates:
        make_network(rate)
        outputs = [folder / f"{rate}-{rank}.json" for rank in range(len(NAMES))]
        pids: list[int] = []
        for rank, name in enumerate(NAMES):
            pids.append(start_rank(rank, name, outputs[rank]))
        statuses = [os.waitpid(pid, 0)[1] for pid in pids]
        if any(statuses):
            return 1
        results[rate] = [json.loads(output.read_text()) for output in outputs]
        remove_network()
    (folder / "result.json").write_text(json.dumps(results))
    return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
