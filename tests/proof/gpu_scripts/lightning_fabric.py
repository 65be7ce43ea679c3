"""Train a small network with Lightning Fabric."""

import sys

import torch
from lightning import Fabric
from torch import nn

strategy, nodes, devices = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
fabric = Fabric(
    accelerator="cuda", strategy=strategy, num_nodes=nodes, devices=devices, precision="bf16-mixed"
)
fabric.launch()
model = nn.Sequential(nn.Linear(256, 1024), nn.ReLU(), nn.Linear(1024, 10))
model = fabric.setup_module(model)
optimizer = fabric.setup_optimizers(torch.optim.AdamW(model.parameters()))
for step in range(4):
    inputs = torch.randn(16, 256, device=fabric.device)
    labels = torch.randint(10, (16,), device=fabric.device)
    loss = nn.functional.cross_entropy(model(inputs), labels)
    fabric.backward(loss)
    optimizer.step()
    optimizer.zero_grad()
    fabric.print("step", step, fabric.all_reduce(loss).item())
fabric.save("fabric.ckpt", {"model": model})
fabric.barrier()
fabric.print("done")
