"""Operations of the workload `collectives`: the buffers, the timed call, and the check.

catalog.py lists the operations and defines how their sizes are counted; each operation is the
function with the operation's name. The root is the first rank of the group.

all_reduce, reduce and broadcast work in place, as in torch; all_to_all and send_recv have an input
and an output. For the other operations `in_place` chooses whether a rank's part lies in the buffer
of the whole.

gloo sends an operation through one of the connections of a pair of ranks. all_reduce, reduce and
broadcast are cut into as many pieces as there are connections, so that all connections work at
once; other operations use the connections in turn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist

from testbed.core.compat.torch_process_groups import reduce_scatter_single
from testbed.workers.lib.folded import folded_tensor
from testbed.workers.lib.hierarchy import Hierarchy

from .catalog import CATALOG
from .checked_values import NoValues, Values

ROOT = 0


def _nothing() -> None:
    return None


def _none_wrong() -> int:
    return 0


@dataclass(frozen=True)
class Case:
    """One operation on one size, on this rank.

    Attributes:
        size_bytes: size as reported.
        run: the timed call.
        prepare: fills the buffers.
        wrong: counts the elements of the result that differ from the expected values.
        result: flat; None: this rank gets no result.
    """

    size_bytes: int
    run: Callable[[], object]
    prepare: Callable[[], object] = _nothing
    wrong: Callable[[], int] = _none_wrong
    result: torch.Tensor | None = None


class Group:
    """Ranks that run operations together, and the settings of these operations."""

    def __init__(
        self,
        dtype: torch.dtype,
        *,
        group: dist.ProcessGroup | None = None,
        in_place: bool = False,
        connections: int = 1,
        hierarchy: Hierarchy | None = None,
        folded: bool = False,
    ) -> None:
        """Describe this rank's group.

        Args:
            dtype: data type of all buffers.
            group: the ranks; None: all ranks.
            in_place: whether a rank's part lies inside the buffer of the whole.
            connections: number of TCP connections between two ranks.
            hierarchy: the hierarchy whose methods carry out the operations; None: the library's
                operations.
            folded: whether the buffers share a few MiB of memory and hold no known values.
        """
        self.dtype = dtype
        self.group = group
        self.rank = dist.get_rank(group)
        self.ranks = dist.get_world_size(group)
        self.in_place = in_place
        self.connections = connections
        self.hierarchy = hierarchy
        self.folded = folded
        self.values = NoValues() if folded else Values(self.ranks, dtype)

    @property
    def is_root(self) -> bool:
        """Whether this rank is the root."""
        return self.rank == ROOT

    def buffer(self, size_bytes: int, parts: int = 1) -> torch.Tensor:
        """Return a new flat tensor.

        Args:
            size_bytes: size, rounded down to equal parts of at least one item each.
            parts: number of parts.
        """
        items_per_part = max(1, size_bytes // self.dtype.itemsize // parts)
        return self._new(parts * items_per_part)

    def buffer_like(self, other: torch.Tensor) -> torch.Tensor:
        """Return a new flat tensor as long as `other`."""
        return self._new(len(other))

    def _new(self, items: int) -> torch.Tensor:
        if self.folded:
            return folded_tensor(items, self.dtype)
        return torch.empty(items, dtype=self.dtype)

    def buffer_of(self, op: str, size_bytes: int) -> torch.Tensor:
        """Return a new flat tensor of an operation's whole size, rounded as in the catalog."""
        parts = self.ranks if CATALOG[op].in_parts else 1
        return self.buffer(size_bytes, parts)

    def part(self, whole: torch.Tensor, rank: int) -> torch.Tensor:
        """Return the part of `whole` that belongs to `rank`."""
        return whole.chunk(self.ranks)[rank]

    def own_part(self, whole: torch.Tensor) -> torch.Tensor:
        """Return this rank's part of `whole` if operations are in place, otherwise a new tensor."""
        part = self.part(whole, self.rank)
        return part if self.in_place else self.buffer_like(part)

    def striped(
        self, start: Callable[[torch.Tensor], dist.Work | None], tensor: torch.Tensor
    ) -> None:
        """Run an operation on pieces of a tensor at the same time, one piece for each connection.

        Args:
            start: starts the operation on a piece.
            tensor: the whole tensor.
        """
        works = [start(piece) for piece in tensor.chunk(self.connections)]
        for work in works:
            if work is not None:
                work.wait()


def all_reduce(group: Group, size_bytes: int) -> Case:
    """Sum over ranks, in place."""
    tensor = group.buffer_of("all_reduce", size_bytes)
    hierarchy = group.hierarchy

    def start(piece: torch.Tensor) -> dist.Work | None:
        work: dist.Work | None = dist.all_reduce(piece, group=group.group, async_op=True)
        return work

    def run() -> None:
        if hierarchy is not None:
            hierarchy.all_reduce(tensor)
        else:
            group.striped(start, tensor)

    def prepare() -> None:
        group.values.fill(tensor, group.rank)

    def wrong() -> int:
        return group.values.differing_from_sum(tensor)

    return Case(tensor.nbytes, run, prepare, wrong, tensor)


def all_gather(group: Group, size_bytes: int) -> Case:
    """Gather the parts of all ranks at every rank."""
    whole = group.buffer_of("all_gather", size_bytes)
    part = group.own_part(whole)
    parts = list(whole.chunk(group.ranks))
    hierarchy = group.hierarchy

    def prepare() -> None:
        group.values.poison(whole)
        group.values.fill(part, group.rank)

    def run() -> None:
        if hierarchy is not None:
            hierarchy.all_gather(whole, part)
        else:
            dist.all_gather(parts, part, group=group.group)

    def wrong() -> int:
        return _wrong_in_parts(group, parts)

    return Case(whole.nbytes, run, prepare, wrong, whole)


def reduce_scatter(group: Group, size_bytes: int) -> Case:
    """Sum over ranks, and leave each rank its part of the sum."""
    whole = group.buffer_of("reduce_scatter", size_bytes)
    part = group.own_part(whole)
    hierarchy = group.hierarchy

    def prepare() -> None:
        group.values.poison(part)
        group.values.fill(whole, group.rank)

    def run() -> None:
        if hierarchy is not None:
            hierarchy.reduce_scatter(part, whole)
        else:
            reduce_scatter_single(part, whole, group=group.group)

    def wrong() -> int:
        return group.values.differing_from_sum(part, group.rank * len(part))

    return Case(whole.nbytes, run, prepare, wrong, part)


def all_to_all(group: Group, size_bytes: int) -> Case:
    """Send rank i's j-th part to rank j, as its i-th part."""
    sent = group.buffer_of("all_to_all", size_bytes)
    received = group.buffer_like(sent)
    group.values.fill(sent, group.rank)
    own_offset = group.rank * len(group.part(sent, group.rank))

    def run() -> None:
        dist.all_to_all_single(received, sent, group=group.group)

    def prepare() -> None:
        group.values.poison(received)

    def wrong() -> int:
        count = 0
        for rank in range(group.ranks):
            count += group.values.differing(group.part(received, rank), rank, own_offset)

        return count

    return Case(sent.nbytes, run, prepare, wrong, received)


def broadcast(group: Group, size_bytes: int) -> Case:
    """Send the root's buffer to all ranks."""
    tensor = group.buffer_of("broadcast", size_bytes)
    hierarchy = group.hierarchy

    def start(piece: torch.Tensor) -> dist.Work | None:
        work: dist.Work | None = dist.broadcast(
            piece, group=group.group, group_src=ROOT, async_op=True
        )
        return work

    def prepare() -> None:
        if group.is_root:
            group.values.fill(tensor, ROOT)
        else:
            group.values.poison(tensor)

    def run() -> None:
        if hierarchy is not None:
            hierarchy.broadcast(tensor)
        else:
            group.striped(start, tensor)

    def wrong() -> int:
        return group.values.differing(tensor, ROOT)

    return Case(tensor.nbytes, run, prepare, wrong, tensor)


def reduce(group: Group, size_bytes: int) -> Case:
    """Sum over ranks at the root; gloo leaves partial sums in the other ranks' buffers."""
    tensor = group.buffer_of("reduce", size_bytes)

    def start(piece: torch.Tensor) -> dist.Work | None:
        work: dist.Work | None = dist.reduce(
            piece, group=group.group, group_dst=ROOT, async_op=True
        )
        return work

    def run() -> None:
        group.striped(start, tensor)

    def prepare() -> None:
        group.values.fill(tensor, group.rank)

    def wrong() -> int:
        return group.values.differing_from_sum(tensor) if group.is_root else 0

    return Case(tensor.nbytes, run, prepare, wrong, tensor if group.is_root else None)


@dataclass(frozen=True)
class _RootBuffers:
    """Buffers of gather and scatter: only the root has the whole buffer."""

    whole: torch.Tensor | None
    parts: list[torch.Tensor]  # of the whole; empty at other ranks
    part: torch.Tensor  # this rank's

    @classmethod
    def make(cls, group: Group, op: str, size_bytes: int) -> _RootBuffers:
        """Return this rank's buffers for an operation."""
        if not group.is_root:
            return cls(None, [], group.buffer(size_bytes // group.ranks))

        whole = group.buffer_of(op, size_bytes)
        part = group.own_part(whole)
        return cls(whole, list(whole.chunk(group.ranks)), part)


def gather(group: Group, size_bytes: int) -> Case:
    """Gather the parts of all ranks at the root."""
    buffers = _RootBuffers.make(group, "gather", size_bytes)
    part = buffers.part

    def prepare() -> None:
        for root_part in buffers.parts:
            group.values.poison(root_part)

        group.values.fill(part, group.rank)

    def run() -> None:
        dist.gather(part, buffers.parts or None, group=group.group, group_dst=ROOT)

    def wrong() -> int:
        return _wrong_in_parts(group, buffers.parts)

    return Case(part.nbytes * group.ranks, run, prepare, wrong, buffers.whole)


def scatter(group: Group, size_bytes: int) -> Case:
    """Send the root's i-th part to rank i."""
    buffers = _RootBuffers.make(group, "scatter", size_bytes)
    part = buffers.part

    def prepare() -> None:
        group.values.poison(part)
        for rank, root_part in enumerate(buffers.parts):
            group.values.fill(root_part, ROOT, rank * len(part))

    def run() -> None:
        dist.scatter(part, buffers.parts or None, group=group.group, group_src=ROOT)

    def wrong() -> int:
        return group.values.differing(part, ROOT, group.rank * len(part))

    return Case(part.nbytes * group.ranks, run, prepare, wrong, part)


def send_recv(group: Group, size_bytes: int) -> Case:
    """Send every rank's buffer to the next rank in a ring, all at the same time."""
    sent = group.buffer_of("send_recv", size_bytes)
    received = group.buffer_like(sent)
    group.values.fill(sent, group.rank)
    before = (group.rank - 1) % group.ranks
    after = (group.rank + 1) % group.ranks

    def run() -> None:
        if group.ranks == 1:
            received.copy_(sent)
            return

        sending = dist.isend(sent, group=group.group, group_dst=after)
        receiving = dist.irecv(received, group=group.group, group_src=before)
        for work in (sending, receiving):
            if work is not None:
                work.wait()

    def prepare() -> None:
        group.values.poison(received)

    def wrong() -> int:
        return group.values.differing(received, before)

    return Case(sent.nbytes, run, prepare, wrong, received)


def barrier(group: Group, size_bytes: int) -> Case:
    """Wait for all ranks, without data."""
    del size_bytes
    hierarchy = group.hierarchy

    def run() -> None:
        if hierarchy is not None:
            hierarchy.barrier()
        else:
            dist.barrier(group=group.group)

    return Case(0, run)


def _wrong_in_parts(group: Group, parts: list[torch.Tensor]) -> int:
    """Return the number of wrong elements where part r must hold rank r's values."""
    wrong = 0
    for rank, part in enumerate(parts):
        wrong += group.values.differing(part, rank)

    return wrong


OPERATIONS: dict[str, Callable[[Group, int], Case]] = {name: globals()[name] for name in CATALOG}
