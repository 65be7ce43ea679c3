"""Train a small network with DeepSpeed's ZeRO."""

import sys

import deepspeed
import torch
from torch import nn

stage = int(sys.argv[1])
deepspeed.init_distributed("nccl")
model = nn.Sequential(nn.Linear(512, 2048), nn.ReLU(), nn.Linear(2048, 512))
config = {
    "train_micro_batch_size_per_gpu": 8,
    "gradient_accumulation_steps": 2,
    "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "torch_adam": True}},
    "bf16": {"enabled": True},
    "zero_optimization": {"stage": stage, "overlap_comm": True},
    "gradient_clipping": 1.0,
}
engine, optimizer, _, _ = deepspeed.initialize(
    model=model, model_parameters=model.parameters(), config=config
)
for step in range(8):
    batch = torch.randn(8, 512, device=engine.device, dtype=torch.bfloat16)
    loss = engine(batch).float().square().mean()
    engine.backward(loss)
    engine.step()
    if engine.global_rank == 0:
        print("step", step, "loss", loss.item(), flush=True)
engine.save_checkpoint("checkpoint")
print("peak", torch.cuda.max_memory_allocated())
