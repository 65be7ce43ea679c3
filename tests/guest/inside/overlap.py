"""DDP of two ranks over one slow link, with modelled GPU time; run inside a guest.

usage: overlap.py FOLDER RATE_MBIT...

For each rate: when the layers' backward passes begin, when bucket all-reduces begin and end, and
how long steps take.
"""

import ctypes
import json
import os
import subprocess
import sys
import time
import traceback
from pathlib import Path

import torch
import torch._dynamo
import torch.distributed as dist
from testbed.workloads.lib.modelled_compute import ModelledCompute
from torch import nn
from torch.nn.parallel import DistributedDataParallel

LAYERS, WIDTH, STEP_S, STEPS = 8, 256, 0.240, 4  # each layer's weights are 256 KiB and a bucket
DELAY_MS = 1


def network(rate_mbit: str) -> list[str]:
    """Two namespaces joined by a link of that rate and delay each way."""
    names = ["a", "b"]
    commands = [f"ip netns add {name}" for name in names]
    commands.append("ip link add eth0 netns a type veth peer name eth0 netns b")
    for number, name in enumerate(names, start=1):
        inside = f"ip netns exec {name}"
        commands += [
            f"{inside} ip address add 10.9.0.{number}/24 dev eth0",
            f"{inside} ip link set eth0 up",
            f"{inside} ip link set lo up",
            f"{inside} tc qdisc add dev eth0 root netem rate {rate_mbit}mbit delay {DELAY_MS}ms limit 10000",
        ]
    for command in commands:
        subprocess.run(command.split(), check=True)
    return names


def remove(names: list[str]) -> None:
    for name in names:
        subprocess.run(["ip", "netns", "delete", name], check=True)


def train(rank: int) -> dict:
    """One rank: its steps, each with the begin of backward passes and the buckets' times, in s from
    its start.
    """
    os.environ |= {"GLOO_SOCKET_IFNAME": "eth0", "MASTER_ADDR": "10.9.0.1", "MASTER_PORT": "29500"}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    model = nn.Sequential(*[nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS)])
    ModelledCompute(model, step_time=STEP_S)
    network = DistributedDataParallel(model, bucket_cap_mb=WIDTH * WIDTH * 4 / 2**20)
    buckets: list[list[float]] = []
    ready: list[float] = []

    def hook(_state, bucket):
        times = [time.time() - begin]
        buckets.append(times)
        work = dist.all_reduce(bucket.buffer().div_(2), async_op=True)

        def ended(future):
            times.append(time.time() - begin)
            return future.value()[0]

        return work.get_future().then(ended)

    network.register_comm_hook(None, hook)
    for layer in model:
        layer.weight.register_post_accumulate_grad_hook(
            lambda _p: ready.append(time.time() - begin)
        )
    steps = []
    for _ in range(STEPS):
        dist.barrier()
        begin = time.time()
        network(torch.ones(1, WIDTH)).sum().backward()
        end = time.time() - begin
        steps.append({"seconds": end, "ready": ready[:], "buckets": [b[:] for b in buckets]})
        buckets.clear()
        ready.clear()
    dist.barrier()
    return {"steps": steps}


def main(folder: Path, rates: list[str]) -> int:
    results = {}
    for rate in rates:
        names, pids = network(rate), []
        for rank, name in enumerate(names):
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    with Path("/run/netns", name).open() as namespace:
                        assert ctypes.CDLL(None).setns(namespace.fileno(), 0) == 0
                    (folder / f"{rate}-{rank}.json").write_text(json.dumps(train(rank)))
                    status = 0
                except BaseException:
                    traceback.print_exc()
                finally:
                    sys.stderr.flush()
                    os._exit(status)
            pids.append(pid)
        if any(os.waitpid(pid, 0)[1] for pid in pids):
            return 1
        results[rate] = [
            json.loads((folder / f"{rate}-{rank}.json").read_text()) for rank in range(2)
        ]
        remove(names)
    (folder / "result.json").write_text(json.dumps(results))
    return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
