"""Intercept operators of torch.distributed's backends in the dispatcher of torch.

The operators ``c10d::*`` have no kernel for the dispatch key BackendSelect, which every call passes
just before the call reaches its backend.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import ProcessGroup

CHECKED = {"torch": ("2.13",)}
PASSED_BY_EVERY_CALL = "BackendSelect"

# Called with the operator's overload, then the arguments of the call.
Kernel = Callable[..., Any]


class DispatcherHooks:
    """Kernels for operators of c10d, registered until `close`."""

    def __init__(self) -> None:
        self._library = torch.library.Library("c10d", "IMPL")  # type: ignore[no-untyped-call]

    def add(self, operator: str, kernel: Kernel) -> None:
        """Call `kernel` with the overload and the arguments of every call of c10d::`operator`."""
        overload = getattr(torch.ops.c10d, operator).default
        self._library.impl(operator, partial(kernel, overload), PASSED_BY_EVERY_CALL)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Unregister the kernels."""
        self._library._destroy()  # type: ignore[no-untyped-call]


def call_backend(overload: Any, tensor: torch.Tensor, *arguments: Any, **options: Any) -> Any:
    """Call the kernel that the backend of `tensor` has for `overload`.

    A call by dispatch key releases the interpreter lock, which threads of the backend may need to
    finish the work that the kernel waits for.

    Args:
        overload: the overload of the operator.
        tensor: the tensor that selects the backend.
        arguments: positional arguments of the operator.
        options: keyword arguments of the operator.
    """
    return overload._op_dk(_backend_key(tensor), *arguments, **options)


def process_group(arguments: tuple[Any, ...]) -> ProcessGroup:
    """Return the process group among the arguments of a c10d operator."""
    for argument in arguments:
        if isinstance(argument, torch.ScriptObject):
            return ProcessGroup.unbox(argument)

    raise TypeError("an operator of c10d was called without a process group")


def member_ranks(group: ProcessGroup) -> list[int]:
    """Return torch's numbers of a group's ranks, in the group's order.

    The list is empty for a process group that was made without torch.distributed's functions.
    """
    try:
        return dist.get_process_group_ranks(group)
    except KeyError:
        return []


def tensor_bytes(tensor: torch.Tensor) -> int:
    """Return the bytes of the values of `tensor`, including the indices of a sparse tensor."""
    if tensor.is_sparse:
        return tensor._values().nbytes + tensor._indices().nbytes

    return tensor.nbytes


def _backend_key(tensor: torch.Tensor) -> torch._C.DispatchKey:
    name = torch._C._dispatch_key_for_device(tensor.device.type)
    if tensor.is_sparse:
        name = f"Sparse{name}"

    return torch._C.DispatchKey.__members__[name]
