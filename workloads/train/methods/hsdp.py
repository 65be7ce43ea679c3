"""Hybrid sharding: torch's FSDP2 shards the model in each datacenter and replicates it across.

The method needs the same number of ranks in every datacenter.
"""

from __future__ import annotations

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from testbed.core.errors import InputError

from ..gpt import GPT
from . import Method


class Train(Method):
    """Training on this rank's shard of the parameters, gradients and optimizer state."""

    def prepare(self, model: GPT) -> nn.Module:
        """Shard each layer and then the rest of the model, and return the model."""
        sites = self.job.sites
        if len({len(site) for site in sites}) > 1:
            raise InputError("hsdp needs the same number of ranks in every datacenter")

        mesh = DeviceMesh("cpu", sites, mesh_dim_names=("across", "inside"))
        for layer in model:
            fully_shard(layer, mesh=mesh)

        fully_shard(model, mesh=mesh)
        return model
