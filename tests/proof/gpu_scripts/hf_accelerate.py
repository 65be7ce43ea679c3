"""Train a small network with Hugging Face Accelerate."""

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

accelerator = Accelerator(mixed_precision="bf16", gradient_accumulation_steps=2)
model = nn.Sequential(nn.Linear(256, 1024), nn.ReLU(), nn.Linear(1024, 10))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
data = TensorDataset(torch.randn(512, 256), torch.randint(10, (512,)))
loader = DataLoader(data, batch_size=32, shuffle=True, num_workers=1, pin_memory=True)
scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=10)
model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
for epoch in range(2):
    for inputs, labels in loader:
        with accelerator.accumulate(model):
            with accelerator.autocast():
                loss = nn.functional.cross_entropy(model(inputs), labels)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    gathered = accelerator.gather_for_metrics(loss.detach())
    accelerator.print("epoch", epoch, gathered.shape, loss.item())
accelerator.save_state("state")
accelerator.wait_for_everyone()
accelerator.load_state("state")
accelerator.print("done")
accelerator.end_training()
