"""Training that survives the failure of a datacenter: torchft, with a replica group per datacenter.

    testbed run TOPOLOGY -- examples/torchft_sites.py --steps 60

Inside each datacenter gloo sums the gradients, with one part per host. Across datacenters torchft's
manager averages the gradients. When a datacenter crashes, the others drop the failed step and
continue without that datacenter. When the datacenter returns, it gets the model from one of the
others and joins. Rank 0 runs torchft's lighthouse, which counts the participants: rank 0's
datacenter must not crash.
"""

import argparse
import os
import socket
import time
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]
from torchft import Manager, Optimizer, ProcessGroupGloo
from torchft.coordination import LighthouseServer

from testbed.workers.lib.modelled_compute import ModelledCompute

LIGHTHOUSE_PORT, STORE_PORT, START_PORT = 29510, 29511, 29512

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=60)
parser.add_argument(
    "--step-time", type=float, default=0.1, help="of forward and backward pass on a GPU, in seconds"
)
parser.add_argument(
    "--timeout", type=float, default=5.0, help="of an operation across datacenters, in seconds"
)
parser.add_argument(
    "--heartbeat-timeout",
    type=float,
    default=1.0,
    help="after which a datacenter is lost, in seconds",
)
options = parser.parse_args()

rank, sites = int(os.environ["RANK"]), os.environ["TESTBED_DATACENTERS"].split(",")
site = sites[rank]
local_rank, local_world = sites[:rank].count(site), sites.count(site)
first_host = f"{site}-h0"

if rank == 0:
    lighthouse = LighthouseServer(
        bind=f"[::]:{LIGHTHOUSE_PORT}",
        min_replicas=1,
        join_timeout_ms=1000,
        heartbeat_timeout_ms=int(options.heartbeat_timeout * 1000),
    )
store = TCPStore(first_host, STORE_PORT, is_master=local_rank == 0, wait_for_workers=False)
dist.init_process_group(
    "gloo", store=PrefixStore("site", store), rank=local_rank, world_size=local_world
)

torch.manual_seed(0)  # all start with the same model; init_sync=True would make torchft send it
layers: list[nn.Module] = []
for _ in range(4):
    layers += [nn.Linear(512, 512), nn.ReLU()]
model = nn.Sequential(*layers, nn.Linear(512, 1))
ModelledCompute(model, step_time=options.step_time)
adam = torch.optim.AdamW(model.parameters())


def load(state: dict[str, Any]) -> None:
    """Resume from the state of another datacenter."""
    model.load_state_dict(state["model"])
    adam.load_state_dict(state["optimizer"])
    print(f"{time.time():.3f} got the state of another datacenter", flush=True)


manager = Manager(
    pg=ProcessGroupGloo(timeout=timedelta(seconds=options.timeout)),
    load_state_dict=load,
    state_dict=lambda: {"model": model.state_dict(), "optimizer": adam.state_dict()},
    min_replica_size=1,
    init_sync=False,
    timeout=timedelta(seconds=options.timeout),
    quorum_timeout=timedelta(seconds=60),
    rank=local_rank,
    world_size=local_world,
    store_addr=first_host,
    store_port=STORE_PORT,
    lighthouse_addr=f"http://{os.environ['MASTER_ADDR']}:{LIGHTHOUSE_PORT}",
    replica_id=site,
    hostname=socket.gethostname(),
)
# The lighthouse does not wait for datacenters that it has not heard of: without this, rank 0 would
# begin alone. A datacenter that returns finds the count complete.
start = TCPStore(os.environ["MASTER_ADDR"], START_PORT, world_size=len(sites), is_master=rank == 0)
optimizer = Optimizer(manager, adam)
parameters = list(model.parameters())
sizes = [p.numel() for p in parameters]
padding = torch.zeros(-sum(sizes) % local_world)
part = torch.empty((sum(sizes) + len(padding)) // local_world)
torch.manual_seed(rank)

while manager.current_step() < options.steps:
    batch = torch.randn(64, 512)
    optimizer.zero_grad()  # asks the lighthouse for the participants during the forward pass
    loss = (model(batch) - batch.sum(dim=1, keepdim=True)).square().mean()
    loss.backward()
    gradients = [p.grad.flatten() for p in parameters if p.grad is not None]
    gradient = torch.cat([*gradients, padding])
    dist.reduce_scatter_tensor(part, gradient)
    manager.allreduce(
        part.div_(local_world)
    ).wait()  # errors do not raise; the step is then committed by no group
    dist.all_gather_into_tensor(gradient, part)
    averages = torch.split(gradient[: sum(sizes)], sizes)
    for p, average in zip(parameters, averages, strict=True):
        p.grad = average.view_as(p).clone()
    before = manager.current_step()
    optimizer.step()
    fate = "done" if manager.current_step() > before else "dropped"
    participants = manager.num_participants()
    print(
        f"{time.time():.3f} step {before} {fate}, {participants} sites, loss {loss:.4f}",
        flush=True,
    )

print(f"{sum(p.double().sum() for p in parameters):.9f}: the sum of all parameters", flush=True)
manager.shutdown(wait=False)
dist.destroy_process_group()
