"""Train a small network with torchft's DDP or DiLoCo: each rank is a replica group."""

import os
import sys
from datetime import timedelta

import torch
from torch import nn
from torch.distributed import TCPStore
from torchft import DistributedDataParallel, Manager, Optimizer, ProcessGroupNCCL
from torchft.coordination import LighthouseServer
from torchft.local_sgd import DiLoCo

LIGHTHOUSE_PORT, START_PORT, STORE_PORT = 29510, 29511, 29520
method = sys.argv[1]
rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
local_rank = int(os.environ["LOCAL_RANK"])
torch.cuda.set_device(local_rank)
master, host = os.environ["MASTER_ADDR"], os.uname().nodename
if rank == 0:
    lighthouse = LighthouseServer(
        bind=f"[::]:{LIGHTHOUSE_PORT}", min_replicas=world_size, join_timeout_ms=10000
    )
start = TCPStore(master, START_PORT, world_size=world_size, is_master=rank == 0)
store = TCPStore(host, STORE_PORT + local_rank, is_master=True, wait_for_workers=False)
model = nn.Sequential(nn.Linear(512, 2048), nn.ReLU(), nn.Linear(2048, 512)).cuda()
inner = torch.optim.AdamW(model.parameters())
manager = Manager(
    pg=ProcessGroupNCCL(timeout=timedelta(seconds=60)),
    load_state_dict=lambda state: model.load_state_dict(state["model"]),
    state_dict=lambda: {"model": model.state_dict()},
    min_replica_size=world_size,
    use_async_quorum=method == "ddp",
    init_sync=False,
    rank=0,
    world_size=1,
    store_addr=host,
    store_port=STORE_PORT + local_rank,
    replica_id=f"replica-{rank}",
    lighthouse_addr=f"http://{master}:{LIGHTHOUSE_PORT}",
    timeout=timedelta(seconds=60),
    hostname=host,
)


def step(module, optimizer):
    optimizer.zero_grad()
    module(torch.randn(16, 512, device="cuda")).square().mean().backward()
    optimizer.step()


if method == "ddp":
    module, optimizer = DistributedDataParallel(manager, model), Optimizer(manager, inner)
    while manager.current_step() < 4:
        step(module, optimizer)
        print("step", manager.current_step(), manager.num_participants(), flush=True)
else:
    outer = torch.optim.SGD(model.parameters(), lr=0.7, momentum=0.9, nesterov=True)
    with DiLoCo(manager, [model], inner, outer, sync_every=4):
        while manager.current_step() < 3:
            step(model, inner)
    print("outer steps", manager.current_step(), manager.num_participants(), flush=True)
print("done", flush=True)
start.add("done", 1)
if rank == 0:
    import time

    while int(start.add("done", 0)) < world_size:
        time.sleep(0.1)
manager.shutdown(wait=False)
