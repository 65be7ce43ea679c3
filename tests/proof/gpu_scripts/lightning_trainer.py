"""Train a small network with Lightning's Trainer."""

import sys

import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Model(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(256, 1024), nn.ReLU(), nn.Linear(1024, 10))

    def training_step(self, batch, _number):
        loss = nn.functional.cross_entropy(self.layers(batch[0]), batch[1])
        self.log("loss", loss, prog_bar=True, sync_dist=True)
        return loss

    def validation_step(self, batch, _number):
        self.log(
            "val_loss", nn.functional.cross_entropy(self.layers(batch[0]), batch[1]), sync_dist=True
        )

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters())


strategy, nodes, devices = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
data = TensorDataset(torch.randn(256, 256), torch.randint(10, (256,)))
loader = DataLoader(data, batch_size=16)
trainer = lightning.Trainer(
    accelerator="gpu",
    strategy=strategy,
    num_nodes=nodes,
    devices=devices,
    max_epochs=1,
    precision="bf16-mixed",
    enable_progress_bar=False,
    logger=False,
    gradient_clip_val=1.0 if strategy == "ddp" else None,
)
trainer.fit(Model(), loader, loader)
print("steps", trainer.global_step)
