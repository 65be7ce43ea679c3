"""Steps that continue after a peer has crashed and returned, with a new process group per attempt.

Each attempt also uses another port.

    testbed run examples/host-crash.yaml -- examples/rejoin.py

The number of attempts is kept in the host's working folder, as a checkpoint would be.
"""

import datetime
import os
import time
from pathlib import Path

import torch
import torch.distributed as dist

STEPS, TIMEOUT_S, PAUSE_S = 60, 10, 0.05
mark = Path("attempt")
attempt = int(mark.read_text()) + 1 if mark.exists() else 0
step = 0
while step < STEPS:
    mark.write_text(str(attempt))
    dist.init_process_group(
        "gloo",
        init_method=f"tcp://{os.environ['MASTER_ADDR']}:{int(os.environ['MASTER_PORT']) + attempt}",
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        timeout=datetime.timedelta(seconds=TIMEOUT_S),
    )
    try:
        reached = torch.tensor([step])
        dist.all_reduce(reached, op=dist.ReduceOp.MAX)
        step = int(reached)
        while step < STEPS:
            dist.all_reduce(torch.ones(1000))
            step += 1
            time.sleep(PAUSE_S)
    except RuntimeError as error:
        print(f"failed {time.time_ns()} {step} {type(error).__name__}", flush=True)
        attempt += 1
    dist.destroy_process_group()
print(f"done {attempt}", flush=True)
