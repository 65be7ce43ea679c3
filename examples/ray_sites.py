"""Ray on the hosts of a run: its head on the first host, a worker on each other host.

    testbed run TOPOLOGY --isolation process --memory '2 GiB' -- python3 examples/ray_sites.py

Each host starts this script once. The first host then gives every host an actor. The actors send
arrays to each other as objects of Ray, and sum tensors by torch.distributed, as Ray Train does.
"""

import os
import socket
import subprocess
import sys
import time
from typing import Any

import numpy as np
import ray
import torch
import torch.distributed as dist
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

RAY_PORT, END_PORT, TORCH_PORT = 6379, 29550, 29551
SIZES, REPEATS = (4096, 1 << 20), 4  # bytes
TRIES = 60  # of a host to reach the head, a second apart

node, nodes = int(os.environ["TESTBED_NODE_RANK"]), int(os.environ["TESTBED_NODES"])
head = os.environ["TESTBED_MASTER"]
address = socket.gethostbyname(socket.gethostname())


def start_ray(*words: str) -> subprocess.Popen[bytes]:
    """Start Ray on this host: a program that ends Ray's processes when it ends."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus", "1"]
    command += ["--node-ip-address", address, "--object-store-memory", str(100 << 20)]
    return subprocess.Popen([*command, "--disable-usage-stats", *words])


@ray.remote(num_cpus=1)
class Site:
    """One host: holds arrays, and is a rank of torch.distributed."""

    def __init__(self, rank: int, world: int, master: str) -> None:
        method = f"tcp://{master}:{TORCH_PORT}"
        dist.init_process_group("gloo", init_method=method, rank=rank, world_size=world)

    def make(self, size: int) -> np.ndarray:
        """Return an array of `size` bytes, which stays on this host until another host asks."""
        return np.ones(size, np.uint8)

    def take(self, array: np.ndarray) -> int:
        """Return the bytes of an array, which comes from another host as an argument."""
        return array.nbytes

    def all_reduce(self, size: int) -> float:
        """Sum a tensor of `size` bytes over all hosts, and return how long that took in ms."""
        values = torch.ones(size // 4)
        begin = time.time()
        dist.all_reduce(values)
        assert values[0] == dist.get_world_size()
        return 1000 * (time.time() - begin)


def work() -> None:
    """Give each host an actor, and time what they send to each other."""
    sites = []
    by_name: list[Any] = sorted(ray.nodes(), key=is_elsewhere)  # type: ignore[no-untyped-call]
    for rank, found in enumerate(by_name):
        there = NodeAffinitySchedulingStrategy(found["NodeID"], soft=False)
        placed = Site.options(scheduling_strategy=there)  # type: ignore[attr-defined]
        sites.append(placed.remote(rank, nodes, head))

    for size in SIZES:
        for _ in range(REPEATS):
            array = sites[-1].make.remote(size)
            ray.wait([array], fetch_local=False)
            begin = time.time()
            assert ray.get(sites[0].take.remote(array)) == size
            took_ms = 1000 * (time.time() - begin)
        print(f"object of {size} B: {took_ms:.3f} ms", flush=True)

        for _ in range(REPEATS):
            times = ray.get([site.all_reduce.remote(size) for site in sites])
        print(f"all-reduce of {size} B: {max(times):.3f} ms", flush=True)


def is_elsewhere(found: dict[str, Any]) -> bool:
    """Return whether a node of Ray is not this host."""
    return bool(found["NodeManagerAddress"] != address)


def join_head() -> subprocess.Popen[bytes]:
    """Start Ray on this host once the head answers."""
    for _ in range(TRIES):
        try:
            socket.create_connection((head, RAY_PORT)).close()
        except OSError:
            time.sleep(1)
        else:
            break
    return start_ray("--address", f"{head}:{RAY_PORT}")


if node == 0:
    end = socket.create_server((address, END_PORT))
    here = start_ray("--head", "--port", str(RAY_PORT), "--include-dashboard", "false")
    others = [end.accept()[0] for _ in range(nodes - 1)]
    ray.init(address=f"{address}:{RAY_PORT}")
    while sum(found["Alive"] for found in ray.nodes()) < nodes:  # type: ignore[no-untyped-call]
        time.sleep(0.1)
    work()
    ray.shutdown()
else:
    here = join_head()
    with socket.create_connection((head, END_PORT)) as until_the_end:
        until_the_end.recv(1)
here.terminate()
here.wait()
