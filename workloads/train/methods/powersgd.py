"""Data parallel with gradients as products of thin matrices: torch's hook for PowerSGD.

PowerSGD is arXiv 1905.13727. Each bucket takes three all-reduces in sequence, so the method saves
bytes and costs round trips. The first two steps exchange whole gradients.
"""

from __future__ import annotations

import torch
from torch.distributed import GradBucket  # type: ignore[attr-defined]
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

from ..gpt import GPT
from . import ddp

WHOLE_STEPS = 2  # the hook's minimum with error feedback


class Train(ddp.Train):
    """Data-parallel training with matrices of rank `powersgd_rank`."""

    def prepare(self, model: GPT) -> DistributedDataParallel:
        """Return the wrapped model with the hook."""
        network = super().prepare(model)
        rank = self.job.settings["powersgd_rank"]
        state = PowerSGDState(None, matrix_approximation_rank=rank, start_powerSGD_iter=WHOLE_STEPS)

        def average(bucket: GradBucket) -> torch.Tensor:
            return powerSGD_hook(state, bucket).wait()

        network.register_comm_hook(None, ddp.InOrder(average).hook)
        return network
