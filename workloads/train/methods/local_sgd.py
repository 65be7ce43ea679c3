"""Local SGD (arXiv 1805.09767): every rank trains by itself; every `sync_every` steps torch
averages the parameters.
"""

from __future__ import annotations

import torch.distributed as dist
from torch.distributed.algorithms.model_averaging.utils import average_parameters

from . import Job, Method


class Train(Method):
    """torch's PeriodicModelAverager would average after the first step too; this calls what it
    calls.
    """

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.steps = 0

    def update(self) -> None:
        """An own step, and the average when it is due."""
        super().update()
        self.steps += 1
        if self.steps % self.job.settings["sync_every"] == 0:
            average_parameters(iter(self.model.parameters()), dist.group.WORLD)
