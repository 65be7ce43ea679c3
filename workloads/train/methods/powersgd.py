"""Data parallel with gradients as products of thin matrices (PowerSGD, arXiv 1905.13727): torch's
hook.

Each bucket takes three all-reduces, one after the other, so it saves bytes and costs round trips.
The first two steps exchange whole gradients.
"""

from __future__ import annotations

from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

from ..gpt import GPT
from . import ddp

WHOLE_STEPS = 2  # the fewest that the hook allows with error feedback


class Train(ddp.Train):
    """`powersgd_rank`: of the matrices."""

    def prepare(self, model: GPT) -> DistributedDataParallel:
        """Add the hook."""
        network = super().prepare(model)
        rank = self.job.settings["powersgd_rank"]
        state = PowerSGDState(None, matrix_approximation_rank=rank, start_powerSGD_iter=WHOLE_STEPS)
        network.register_comm_hook(
            None, ddp.InOrder(lambda bucket: powerSGD_hook(state, bucket).wait()).hook
        )
        return network
