"""Defaults and stores of torch.distributed's process groups, and a name that torch has changed."""

from __future__ import annotations

import contextlib
import socket
from datetime import timedelta
from typing import Any

import torch.distributed as dist
import torch.distributed.distributed_c10d as c10d
from torch._C._distributed_c10d import ProcessGroup

CHECKED = {"torch": ("2.13",)}

# torch 2.13 renamed reduce_scatter_tensor.
reduce_scatter_single = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def set_default_timeout(timeout: timedelta) -> None:
    """Set the timeout of process groups that are created without a timeout."""
    c10d.default_pg_timeout = timeout


def store_address(group: ProcessGroup) -> str:
    """Return IP address and port of the TCPStore in which the ranks of a group found each other.

    A group with another kind of store gets this host's name.
    """
    store: Any = group.get_group_store()
    while hasattr(store, "underlying_store"):
        store = store.underlying_store

    host = getattr(store, "host", None)
    if host is None:
        return socket.gethostname()

    if host == "localhost" or host.startswith("127."):
        host = socket.gethostname()

    with contextlib.suppress(OSError):  # then every rank has the same name for it
        host = socket.gethostbyname(host)

    return f"{host}:{store.port}"
