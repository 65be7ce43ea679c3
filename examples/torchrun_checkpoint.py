"""Training that torchrun starts again from its checkpoint when a host has crashed.

    testbed run TOPOLOGY --env TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 -- torchrun --nnodes 2 \
        --rdzv-backend c10d --rdzv-endpoint west-h0:29400 --max-restarts 3 \
        examples/torchrun_checkpoint.py

Each rank writes its checkpoint into its host's working folder, which is there again when the host
is back. Without the variable torchrun keeps the address of the store that one of its agents opened
at first, and hangs if the host of that agent has crashed (torch 2.13).
"""

import os
import time
from pathlib import Path

import torch
import torch.distributed as dist

STEPS, COMPUTE_S = 60, 0.05
checkpoint = Path("checkpoint.pt")

dist.init_process_group("gloo")
reached = torch.tensor([torch.load(checkpoint)["step"] if checkpoint.exists() else 0])
dist.all_reduce(reached, op=dist.ReduceOp.MIN)
print(
    f"{time.time():.3f} start {os.environ['TORCHELASTIC_RESTART_COUNT']} at step {int(reached)}",
    flush=True,
)
for step in range(int(reached), STEPS):
    time.sleep(COMPUTE_S)
    dist.all_reduce(torch.ones(1000))
    torch.save({"step": step + 1}, checkpoint)
print(f"{time.time():.3f} done", flush=True)
dist.barrier()
dist.destroy_process_group()
