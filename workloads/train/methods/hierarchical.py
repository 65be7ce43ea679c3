"""Data parallel by datacenter: gradients are summed inside each datacenter, then across.

One rank of each datacenter exchanges the sums, so every gradient crosses each WAN link once,
regardless of the number of hosts.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from ..gpt import GPT
from . import ddp


class Train(ddp.Train):
    """Data-parallel training with a hook of three stages."""

    def prepare(self, model: GPT) -> DistributedDataParallel:
        """Return the wrapped model with the hook, after making the groups."""
        sites = self.job.sites
        groups = [dist.new_group(site) for site in sites]  # every rank makes all groups
        self.leader = self.job.site[0]
        self.inside = groups[sites.index(self.job.site)]
        self.across = dist.new_group([site[0] for site in sites])
        network = super().prepare(model)
        in_order = ddp.InOrder(lambda bucket: self.average(bucket.buffer()))
        network.register_comm_hook(None, in_order.hook)

        return network

    def average(self, gradients: torch.Tensor) -> torch.Tensor:
        """Average flat `gradients` over all ranks, in place."""
        gradients /= self.job.world
        dist.reduce(gradients, self.leader, group=self.inside)
        if self.job.rank == self.leader:
            dist.all_reduce(gradients, group=self.across)

        dist.broadcast(gradients, self.leader, group=self.inside)
        return gradients
