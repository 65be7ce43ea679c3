"""Data parallel with gradients in float16: torch's hook, half the bytes."""

from __future__ import annotations

import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from ..gpt import GPT
from . import ddp


class Train(ddp.Train):
    """Data-parallel training with torch's float16 hook."""

    def prepare(self, model: GPT) -> DistributedDataParallel:
        """Return the wrapped model with the hook."""
        network = super().prepare(model)
        network.register_comm_hook(dist.group.WORLD, fp16_compress_hook)

        return network
