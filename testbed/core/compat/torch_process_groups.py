"""Defaults and stores of torch.distributed's process groups, and a name that torch has changed.

A process group that was made without torch.distributed's functions has neither a name nor a list of
ranks. The prefix of its store tells it from other groups; torch does not say the prefix, so it is
noted when the store is made.
"""

from __future__ import annotations

import contextlib
import functools
import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from weakref import WeakKeyDictionary

import torch.distributed as dist
import torch.distributed.distributed_c10d as c10d
from torch._C._distributed_c10d import PrefixStore, ProcessGroup, Store

CHECKED = {"torch": ("2.13",)}

_store_prefixes: WeakKeyDictionary[Store, str] = WeakKeyDictionary()
_group_prefixes: WeakKeyDictionary[ProcessGroup, str] = WeakKeyDictionary()

# torch 2.13 renamed reduce_scatter_tensor.
reduce_scatter_single = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def set_default_timeout(timeout: timedelta) -> None:
    """Set the timeout of process groups that are created without a timeout."""
    c10d.default_pg_timeout = timeout
    module: Any = c10d
    if module.default_pg_nccl_timeout is not None:  # of modelled GPUs
        module.default_pg_nccl_timeout = timeout


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


def note_store_prefixes() -> None:
    """Note the prefixes of stores, and of the process groups made with them, from now on."""
    for made, note in ((PrefixStore, _note_store), (ProcessGroup, _note_group)):
        if not hasattr(made.__init__, "__wrapped__"):
            made.__init__ = _noting(made.__init__, note)  # type: ignore[method-assign]


def store_prefix(group: ProcessGroup) -> str:
    """Return the prefix of a group's store; empty without one, or if it was not noted."""
    return _group_prefixes.get(group, "")


def _noting(initialise: Callable[..., None], note: Callable[..., None]) -> Callable[..., None]:
    """Return an ``__init__`` that notes the object and the arguments."""

    @functools.wraps(initialise)
    def __init__(made: Any, *arguments: Any, **options: Any) -> None:
        initialise(made, *arguments, **options)
        note(made, *arguments, *options.values())

    return __init__


def _note_store(made: Store, *arguments: Any) -> None:
    prefix = next((value for value in arguments if isinstance(value, str)), "")
    inner = next((value for value in arguments if isinstance(value, Store)), None)
    outer = "" if inner is None else _store_prefixes.get(inner, "")
    _store_prefixes[made] = "/".join(part for part in (outer, prefix) if part)


def _note_group(made: ProcessGroup, *arguments: Any) -> None:
    store = next((value for value in arguments if isinstance(value, Store)), None)
    prefix = "" if store is None else _store_prefixes.get(store, "")
    if prefix:
        _group_prefixes[made] = prefix
