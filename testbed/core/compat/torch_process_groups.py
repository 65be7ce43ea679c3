"""Set defaults of torch.distributed's process groups, and resolve a name that torch has changed."""

from __future__ import annotations

from datetime import timedelta

import torch.distributed as dist
import torch.distributed.distributed_c10d as c10d

CHECKED = {"torch": ("2.13",)}

# torch 2.13 renamed reduce_scatter_tensor.
reduce_scatter_single = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def set_default_timeout(timeout: timedelta) -> None:
    """Set the timeout of process groups that are created without a timeout."""
    c10d.default_pg_timeout = timeout
