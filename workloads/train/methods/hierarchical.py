"""Data parallel that knows the datacenters: gradients are summed inside each, then across by one
rank of each.

So every gradient crosses each WAN link once, whatever the number of hosts.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from ..gpt import GPT
from . import ddp


class Train(ddp.Train):
    """As `ddp`, with a hook of three stages."""

    def prepare(self, model: GPT) -> DistributedDataParallel:
        """Make the groups and add the hook."""
        groups = [dist.new_group(site) for site in self.job.sites]  # every rank makes all groups
        self.leader = self.job.site[0]
        self.inside = groups[self.job.sites.index(self.job.site)]
        self.across = dist.new_group([site[0] for site in self.job.sites])
        network = super().prepare(model)
        network.register_comm_hook(
            None, ddp.InOrder(lambda bucket: self.average(bucket.buffer())).hook
        )
        return network

    def average(self, gradients: torch.Tensor) -> torch.Tensor:
        """The mean over all ranks, in place."""
        gradients /= self.job.world
        dist.reduce(gradients, self.leader, group=self.inside)
        if self.job.rank == self.leader:
            dist.all_reduce(gradients, group=self.across)
        dist.broadcast(gradients, self.leader, group=self.inside)
        return gradients
