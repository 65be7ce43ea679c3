"""The operations of the workload `collectives`: their buffers, the call that is timed, and the
check of the result.

Sizes are counted as nccl-tests does (its doc/PERFORMANCE.md); the root is the first rank of the
group:

============== ================================================================================
all_reduce     every rank's buffer
all_gather     the total over the ranks, which is every rank's output
reduce_scatter every rank's input
all_to_all     every rank's input; each rank sends the j-th of its parts to rank j
broadcast      every rank's buffer
reduce         every rank's buffer
gather         the total over the ranks, which is the root's output
scatter        the root's input
send_recv      what a rank sends to the next rank; the last one sends to the first
barrier        none
============== ================================================================================

all_reduce, reduce and broadcast work in place, as torch has it; all_to_all and send_recv have an
input and an output. For the others `in_place` chooses whether a rank's part lies in the buffer of
the whole.

gloo sends an operation through one of the connections of a pair. all_reduce, reduce and broadcast
are cut into as many pieces as there are connections, which then all work at once; other operations
take the connections in turn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist

from ..lib.hierarchy import Hierarchy
from .checked_values import POISON, Values

# torch 2.13 has renamed it.
reduce_scatter_single = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def _nothing() -> None:
    return None


@dataclass(frozen=True)
class Case:
    """One operation on one size, on this rank."""

    size_bytes: int  # as reported
    run: Callable[[], object]
    prepare: Callable[[], object] = _nothing  # fill the buffers
    wrong: Callable[[], int] = lambda: (
        0
    )  # elements of the result that differ from the expected values
    result: torch.Tensor | None = None  # flat; None: this rank gets none


class Group:
    """Ranks that do operations together, and how they do them."""

    def __init__(
        self,
        dtype: torch.dtype,
        *,
        group: dist.ProcessGroup | None = None,
        in_place: bool = False,
        connections: int = 1,
        hierarchy: Hierarchy | None = None,
    ) -> None:
        """`group` None: all ranks. With a `hierarchy`, operations are those of its methods."""
        self.dtype = dtype
        self.group = group
        self.rank, self.ranks = dist.get_rank(group), dist.get_world_size(group)
        self.in_place = in_place
        self.connections = connections
        self.hierarchy = hierarchy
        self.values = Values(self.ranks, dtype)

    def buffer(self, size_bytes: int, parts: int = 1) -> torch.Tensor:
        """A new flat tensor of `size_bytes`, rounded down to `parts` equal parts of at least one
        item.
        """
        return torch.empty(
            parts * max(1, size_bytes // self.dtype.itemsize // parts), dtype=self.dtype
        )

    def part(self, whole: torch.Tensor, rank: int | None = None) -> torch.Tensor:
        """This rank's part of `whole`, or that of `rank`."""
        return whole.chunk(self.ranks)[self.rank if rank is None else rank]

    def own(self, whole: torch.Tensor) -> torch.Tensor:
        """This rank's part of `whole` if the operation is in place, else new memory for it."""
        return self.part(whole) if self.in_place else torch.empty_like(self.part(whole))

    def striped(
        self, start: Callable[[torch.Tensor], dist.Work | None], tensor: torch.Tensor
    ) -> None:
        """`start` an operation on each of the pieces of `tensor`, one for each connection, and wait
        for all.
        """
        for work in [start(piece) for piece in tensor.chunk(self.connections)]:
            if work is not None:
                work.wait()


def all_reduce(group: Group, size_bytes: int) -> Case:
    """Sum over ranks, in place."""
    x = group.buffer(size_bytes)
    hierarchy = group.hierarchy

    def run() -> None:
        if hierarchy is not None:
            hierarchy.all_reduce(x)
        else:
            group.striped(lambda piece: dist.all_reduce(piece, group=group.group, async_op=True), x)

    return Case(
        x.nbytes,
        run,
        lambda: group.values.fill(x, group.rank),
        lambda: group.values.differing_from_sum(x),
        x,
    )


def all_gather(group: Group, size_bytes: int) -> Case:
    """Every rank gets every rank's part."""
    whole = group.buffer(size_bytes, group.ranks)
    part, parts = group.own(whole), list(whole.chunk(group.ranks))
    hierarchy = group.hierarchy

    def prepare() -> None:
        whole.fill_(POISON)
        group.values.fill(part, group.rank)

    def run() -> None:
        if hierarchy is not None:
            hierarchy.all_gather(whole, part)
        else:
            dist.all_gather(parts, part, group=group.group)

    return Case(
        whole.nbytes,
        run,
        prepare,
        lambda: sum(group.values.differing(got, rank) for rank, got in enumerate(parts)),
        whole,
    )


def reduce_scatter(group: Group, size_bytes: int) -> Case:
    """Every rank gets its part of the sum over ranks."""
    whole = group.buffer(size_bytes, group.ranks)
    part = group.own(whole)
    hierarchy = group.hierarchy

    def prepare() -> None:
        part.fill_(POISON)
        group.values.fill(whole, group.rank)

    def run() -> None:
        if hierarchy is not None:
            hierarchy.reduce_scatter(part, whole)
        else:
            reduce_scatter_single(part, whole, group=group.group)

    return Case(
        whole.nbytes,
        run,
        prepare,
        lambda: group.values.differing_from_sum(part, group.rank * len(part)),
        part,
    )


def all_to_all(group: Group, size_bytes: int) -> Case:
    """Rank i's j-th part goes to rank j, as its i-th part."""
    sent = group.buffer(size_bytes, group.ranks)
    received = torch.empty_like(sent)
    group.values.fill(sent, group.rank)
    mine = group.rank * len(group.part(sent))
    return Case(
        sent.nbytes,
        lambda: dist.all_to_all_single(received, sent, group=group.group),
        lambda: received.fill_(POISON),
        lambda: sum(
            group.values.differing(group.part(received, rank), rank, mine)
            for rank in range(group.ranks)
        ),
        received,
    )


def broadcast(group: Group, size_bytes: int) -> Case:
    """The root's buffer to all."""
    x = group.buffer(size_bytes)
    hierarchy = group.hierarchy

    def prepare() -> None:
        if group.rank == 0:
            group.values.fill(x, 0)
        else:
            x.fill_(POISON)

    def run() -> None:
        if hierarchy is not None:
            hierarchy.broadcast(x)
        else:
            group.striped(
                lambda piece: dist.broadcast(piece, group=group.group, group_src=0, async_op=True),
                x,
            )

    return Case(x.nbytes, run, prepare, lambda: group.values.differing(x, 0), x)


def reduce(group: Group, size_bytes: int) -> Case:
    """The sum over ranks to the root; gloo leaves partial sums in the other ranks' buffers."""
    x = group.buffer(size_bytes)
    return Case(
        x.nbytes,
        lambda: group.striped(
            lambda piece: dist.reduce(piece, group=group.group, group_dst=0, async_op=True), x
        ),
        lambda: group.values.fill(x, group.rank),
        lambda: group.values.differing_from_sum(x) if group.rank == 0 else 0,
        x if group.rank == 0 else None,
    )


def gather(group: Group, size_bytes: int) -> Case:
    """Every rank's part to the root."""
    whole = None
    if group.rank == 0:
        whole = group.buffer(size_bytes, group.ranks)
        part = group.own(whole)
        parts = list(whole.chunk(group.ranks))
    else:
        part, parts = group.buffer(size_bytes // group.ranks), []

    def prepare() -> None:
        for buffer in parts:
            buffer.fill_(POISON)
        group.values.fill(part, group.rank)

    return Case(
        part.nbytes * group.ranks,
        lambda: dist.gather(part, parts or None, group=group.group, group_dst=0),
        prepare,
        lambda: sum(group.values.differing(got, rank) for rank, got in enumerate(parts)),
        whole,
    )


def scatter(group: Group, size_bytes: int) -> Case:
    """The root's i-th part to rank i."""
    if group.rank == 0:
        whole = group.buffer(size_bytes, group.ranks)
        part = group.own(whole)
        parts = list(whole.chunk(group.ranks))
    else:
        part, parts = group.buffer(size_bytes // group.ranks), []

    def prepare() -> None:
        part.fill_(POISON)
        for rank, buffer in enumerate(parts):
            group.values.fill(buffer, 0, rank * len(part))

    return Case(
        part.nbytes * group.ranks,
        lambda: dist.scatter(part, parts or None, group=group.group, group_src=0),
        prepare,
        lambda: group.values.differing(part, 0, group.rank * len(part)),
        part,
    )


def send_recv(group: Group, size_bytes: int) -> Case:
    """Every rank's buffer to the next rank, as a ring, all at once."""
    sent = group.buffer(size_bytes)
    received = torch.empty_like(sent)
    group.values.fill(sent, group.rank)
    before, after = (group.rank - 1) % group.ranks, (group.rank + 1) % group.ranks

    def run() -> None:
        if group.ranks == 1:
            received.copy_(sent)
            return
        works = [
            dist.isend(sent, group=group.group, group_dst=after),
            dist.irecv(received, group=group.group, group_src=before),
        ]
        for work in works:
            if work is not None:
                work.wait()

    return Case(
        sent.nbytes,
        run,
        lambda: received.fill_(POISON),
        lambda: group.values.differing(received, before),
        received,
    )


def barrier(group: Group, size_bytes: int) -> Case:
    """No data: all wait for all."""
    del size_bytes
    if group.hierarchy is not None:
        return Case(0, group.hierarchy.barrier)
    return Case(0, lambda: dist.barrier(group=group.group))


OPERATIONS: dict[str, Callable[[Group, int], Case]] = {
    "all_reduce": all_reduce,
    "all_gather": all_gather,
    "reduce_scatter": reduce_scatter,
    "all_to_all": all_to_all,
    "broadcast": broadcast,
    "reduce": reduce,
    "gather": gather,
    "scatter": scatter,
    "send_recv": send_recv,
    "barrier": barrier,
}
