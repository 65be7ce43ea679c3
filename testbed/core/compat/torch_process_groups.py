"""Defaults of torch.distributed's process groups, and a name that torch has changed."""

from __future__ import annotations

from datetime import timedelta

import torch.distributed as dist
import torch.distributed.distributed_c10d as c10d

CHECKED = {"torch": ("2.13",)}

# torch 2.13 has renamed reduce_scatter_tensor.
reduce_scatter_single = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def set_default_timeout(timeout: timedelta) -> None:
    """Give process groups that are made without a timeout this one."""
    c10d.default_pg_timeout = timeout
