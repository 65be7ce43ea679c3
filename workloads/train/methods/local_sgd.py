"""Local SGD (arXiv 1805.09767): ranks train separately; torch averages the parameters.

The average follows every `sync_every` steps.
"""

from __future__ import annotations

import torch.distributed as dist
from torch.distributed.algorithms.model_averaging.utils import average_parameters

from . import Job, Method


class Train(Method):
    """Local SGD; calls torch's averaging directly: PeriodicModelAverager would start at step 1."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.steps = 0

    def update(self) -> None:
        """Take an inner step, and average the parameters if the average is due."""
        super().update()
        self.steps += 1
        if self.steps % self.job.settings["sync_every"] == 0:
            average_parameters(iter(self.model.parameters()), dist.group.WORLD)  # type: ignore[arg-type]
