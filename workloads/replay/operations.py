"""Start the operations of a replay on torch.distributed, from buffers with meaningless contents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from testbed.workloads.collectives.buffers import buffer_bytes

from testbed.core.compat.torch_process_groups import reduce_scatter_single
from testbed.workers import comm
from testbed.workers.lib.folded import folded_tensor

from .programs import Program, ProgramItem
from .trace import MESSAGES

ALIGNED = 8  # bytes of the largest item of a type
AT_ONCE = 2  # threads of gloo in a process group, each with an operation


class Operations:
    """The process groups and buffers of this rank."""

    def __init__(
        self, program: Program, groups: Mapping[str, Sequence[int]], timeout: timedelta
    ) -> None:
        """Make the process groups; every rank must do so.

        Args:
            program: the operations to come.
            groups: the ranks of each group but that of all ranks, by name.
            timeout: timeout of operations.
        """
        self._groups: dict[str, dist.ProcessGroup | None] = {"": None}
        self._ranks: dict[str, Sequence[int]] = {"": range(dist.get_world_size())}
        for name, ranks in groups.items():
            self._ranks[name] = ranks
            self._groups[name] = dist.new_group(list(ranks), timeout=timeout, group_desc=name)

        sizes = [ALIGNED]
        copied = [0]
        for item in program:
            if "op" not in item:
                continue
            ranks = self._ranks[item.get("group", "")]
            sizes.append(max(item["bytes"], sum(item.get("received", ()))) + ALIGNED * len(ranks))
            if item["op"] not in MESSAGES:
                copied.append(
                    buffer_bytes(
                        item["op"],
                        item["bytes"],
                        len(ranks),
                        algorithm=comm.DEFAULT,
                        folded=True,
                    )
                )
        self.copied_bytes = sum(sorted(copied)[-AT_ONCE:])
        items = -(-max(sizes) // ALIGNED)
        self._input = folded_tensor(items, torch.int64)
        self._output = folded_tensor(items, torch.int64)

    def start(self, item: ProgramItem) -> dist.Work | None:
        """Start an operation, and return its work."""
        work: dist.Work | None = _STARTS[item["op"]](self, item)
        return work

    def group(self, item: ProgramItem) -> dist.ProcessGroup | None:
        """Return the process group of an operation; None for all ranks."""
        return self._groups[item.get("group", "")]

    def ranks(self, item: ProgramItem) -> Sequence[int]:
        """Return the ranks of an operation."""
        return self._ranks[item.get("group", "")]

    def whole(self, item: ProgramItem, *, output: bool = False) -> torch.Tensor:
        """Return a buffer of an operation's size."""
        dtype = getattr(torch, item["dtype"])
        length = max(1, item["bytes"] // dtype.itemsize)
        return self._buffer(length, dtype, output=output)

    def equal_parts(self, item: ProgramItem, *, output: bool = False) -> torch.Tensor:
        """Return a buffer of an operation's size, rounded to equal parts for all ranks."""
        dtype = getattr(torch, item["dtype"])
        count = len(self.ranks(item))
        length = max(1, item["bytes"] // dtype.itemsize // count)
        return self._buffer(count * length, dtype, output=output)

    def in_parts(self, item: ProgramItem, *, output: bool = False) -> list[torch.Tensor]:
        """Return the part of each rank of such a buffer."""
        return list(self.equal_parts(item, output=output).chunk(len(self.ranks(item))))

    def _buffer(self, length: int, dtype: torch.dtype, *, output: bool) -> torch.Tensor:
        memory = (self._output if output else self._input).view(torch.uint8)
        return memory[: length * dtype.itemsize].view(dtype)

    def is_root(self, item: ProgramItem) -> bool:
        """Return whether this rank is the root."""
        return item["root"] == dist.get_rank()


def _all_reduce(operations: Operations, item: ProgramItem) -> Any:
    return dist.all_reduce(operations.whole(item), group=operations.group(item), async_op=True)


def _all_gather(operations: Operations, item: ProgramItem) -> Any:
    parts = operations.in_parts(item, output=True)
    own = operations.in_parts(item)[0]
    return dist.all_gather(parts, own, group=operations.group(item), async_op=True)


def _reduce_scatter(operations: Operations, item: ProgramItem) -> Any:
    own = operations.in_parts(item, output=True)[0]
    sent = operations.equal_parts(item)
    return reduce_scatter_single(own, sent, group=operations.group(item), async_op=True)


def _all_to_all(operations: Operations, item: ProgramItem) -> Any:
    group = operations.group(item)
    if "parts" not in item:
        sent = operations.equal_parts(item)
        received = operations.equal_parts(item, output=True)
        return dist.all_to_all_single(received, sent, group=group, async_op=True)

    parts, arriving = item["parts"], item["received"]
    sent = operations.whole({**item, "bytes": sum(parts)})[: sum(parts)]
    received = operations.whole({**item, "bytes": sum(arriving)}, output=True)[: sum(arriving)]
    return dist.all_to_all_single(received, sent, arriving, parts, group=group, async_op=True)


def _broadcast(operations: Operations, item: ProgramItem) -> Any:
    return dist.broadcast(
        operations.whole(item), item["root"], group=operations.group(item), async_op=True
    )


def _reduce(operations: Operations, item: ProgramItem) -> Any:
    return dist.reduce(
        operations.whole(item), item["root"], group=operations.group(item), async_op=True
    )


def _gather(operations: Operations, item: ProgramItem) -> Any:
    parts = operations.in_parts(item, output=True) if operations.is_root(item) else None
    own = operations.in_parts(item)[0]
    return dist.gather(own, parts, item["root"], group=operations.group(item), async_op=True)


def _scatter(operations: Operations, item: ProgramItem) -> Any:
    parts = operations.in_parts(item) if operations.is_root(item) else None
    own = operations.in_parts(item, output=True)[0]
    return dist.scatter(own, parts, item["root"], group=operations.group(item), async_op=True)


def _barrier(operations: Operations, item: ProgramItem) -> Any:
    return dist.barrier(group=operations.group(item), async_op=True)


def _send(operations: Operations, item: ProgramItem) -> Any:
    return dist.isend(operations.whole(item), item["peer"], tag=item["tag"])


def _recv(operations: Operations, item: ProgramItem) -> Any:
    return dist.irecv(operations.whole(item, output=True), item["peer"], tag=item["tag"])


_STARTS: Mapping[str, Callable[[Operations, ProgramItem], Any]] = {
    "all_reduce": _all_reduce,
    "all_gather": _all_gather,
    "reduce_scatter": _reduce_scatter,
    "all_to_all": _all_to_all,
    "broadcast": _broadcast,
    "reduce": _reduce,
    "gather": _gather,
    "scatter": _scatter,
    "barrier": _barrier,
    "send": _send,
    "recv": _recv,
}
