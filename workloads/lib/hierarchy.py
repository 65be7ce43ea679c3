"""Collectives in stages: inside each datacenter, across datacenters, inside again.

So that the WAN carries each byte once for each datacenter, and its delay is paid once for each step
between datacenters and not for each step between ranks. Every rank calls the same methods in the
same order. Tensors are flat.

Where all datacenters have equally many ranks, k, the ranks with the same index in their datacenters
form a *rail*, and each rail carries 1/k of the data, so that all NICs and k connections share the
work. Otherwise the first rank of each datacenter, its *leader*, carries all.

============== =======================================
================================================= operation      equal datacenters
    unequal ones ============== =======================================
    =================================================
all_reduce     reduce-scatter inside, all-reduce       reduce to the leader, all-reduce among
leaders,
               along the rail, all-gather inside       broadcast inside
all_gather     all-gather along the rail, then inside  gather at the leader, all-gather among
leaders,
                                                       broadcast inside
reduce_scatter reduce-scatter inside, then along the   reduce to the leader, all-reduce among
leaders,
               rail                                    scatter inside
broadcast      among leaders, then inside              the same
barrier        inside, among leaders, inside           the same
============== =======================================
=================================================

Across datacenters, ranks send each part straight to where it is wanted (`direct_all_reduce` and its
two halves). A ring, as gloo's, sends as many bytes, but in n - 1 steps for each half, one delay
after another, and through few of the links. A ring would be better where the WAN is one itself, for
what is sent straight then crosses several links. Inside, the reduce-scatter is direct too: gloo has
none, and torch's is a whole all-reduce of which a part is kept.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence

import torch
import torch.distributed as dist

from testbed.plan.model import Plan


def datacenter_ranks(plan: Plan) -> dict[str, list[int]]:
    """The ranks of each datacenter that has some, by its name."""
    ranks: dict[str, list[int]] = {}
    for rank in plan.workers.ranks:
        ranks.setdefault(plan.network.host(rank.host).dc, []).append(rank.rank)
    return ranks


def rails(datacenters: Sequence[Sequence[int]]) -> list[list[int]]:
    """The ranks with the same index in their datacenters, ascending; smaller datacenters lack the
    later ones.
    """
    longest = max(len(ranks) for ranks in datacenters)
    return [sorted(ranks[i] for ranks in datacenters if i < len(ranks)) for i in range(longest)]


def new_groups(
    groups: Sequence[Sequence[int]], timeout: datetime.timedelta | None = None
) -> dist.ProcessGroup | None:
    """Make a process group of each of `groups`, on all ranks; return the one that this rank is
    in.
    """
    mine = None
    for ranks in groups:
        group = dist.new_group(list(ranks), timeout=timeout)
        if dist.get_rank() in ranks:
            mine = group
    return mine


def direct_reduce_scatter(
    output: torch.Tensor, tensor: torch.Tensor, group: dist.ProcessGroup | None = None
) -> None:
    """Let `output` hold the sum over `group` of this rank's part of `tensor`, of which it may be a
    piece.
    """
    ranks = dist.get_world_size(group)
    received = torch.empty_like(tensor)
    dist.all_to_all_single(received, tensor, group=group)
    torch.sum(received.view(ranks, -1), dim=0, dtype=tensor.dtype, out=output)


def direct_all_gather(
    output: torch.Tensor, part: torch.Tensor, group: dist.ProcessGroup | None = None
) -> None:
    """Let `output` hold the parts of all ranks of `group`; `part` may be a piece of it."""
    dist.all_to_all_single(output, part.repeat(dist.get_world_size(group)), group=group)


def direct_all_reduce(tensor: torch.Tensor, group: dist.ProcessGroup | None = None) -> None:
    """Sum `tensor` over the ranks of `group`, in place."""
    ranks = dist.get_world_size(group)
    if ranks == 1:
        return
    whole = padded(tensor, ranks)
    part = whole.new_empty(len(whole) // ranks)
    direct_reduce_scatter(part, whole, group)
    direct_all_gather(whole, part, group)
    if whole is not tensor:
        tensor.copy_(whole[: len(tensor)])


def padded(tensor: torch.Tensor, parts: int) -> torch.Tensor:
    """`tensor`, or a copy with zeros at its end if `parts` equal parts would not make it up."""
    missing = -len(tensor) % parts
    return torch.cat([tensor, tensor.new_zeros(missing)]) if missing else tensor


class Hierarchy:
    """The process groups of a set of datacenters and the collectives over them."""

    def __init__(
        self, datacenters: Sequence[Sequence[int]], timeout: datetime.timedelta | None = None
    ) -> None:
        """Make the groups; every rank of the default group must do so, and be in exactly one of
        `datacenters`.

        Raises:
            ValueError: a rank is missing, or is in several datacenters.
        """
        if sorted(rank for ranks in datacenters for rank in ranks) != list(
            range(dist.get_world_size())
        ):
            raise ValueError("every rank must be in exactly one datacenter")
        me = dist.get_rank()
        self._datacenters = sorted(
            sorted(ranks) for ranks in datacenters
        )  # as torch orders the ranks of a group
        self._mine = next(ranks for ranks in self._datacenters if me in ranks)
        self.equal = len({len(ranks) for ranks in datacenters}) == 1
        self.inside = new_groups(self._datacenters, timeout)
        along = rails(self._datacenters)
        self.across = new_groups(
            along if self.equal else along[:1], timeout
        )  # None: this rank does not take part
        self.is_leader = me == self._mine[0]

    def all_reduce(self, tensor: torch.Tensor) -> None:
        """Sum `tensor` over all ranks, in place."""
        size = len(self._mine)
        if not self.equal:
            dist.reduce(tensor, group=self.inside, group_dst=0)
            if self.across is not None:
                direct_all_reduce(tensor, self.across)
            dist.broadcast(tensor, group=self.inside, group_src=0)
            return
        whole = padded(tensor, size)
        shard = whole.new_empty(len(whole) // size)
        direct_reduce_scatter(shard, whole, self.inside)
        direct_all_reduce(shard, self.across)
        dist.all_gather(list(whole.chunk(size)), shard, group=self.inside)
        if whole is not tensor:
            tensor.copy_(whole[: len(tensor)])

    def all_gather(self, output: torch.Tensor, part: torch.Tensor) -> None:
        """Let `output` hold the parts of all ranks, in their order; all have as many elements."""
        if self.equal:
            column = part.new_empty(len(self._datacenters) * len(part))
            direct_all_gather(column, part, self.across)
            columns = column.new_empty(len(output))
            dist.all_gather(list(columns.chunk(len(self._mine))), column, group=self.inside)
            self._to_ranks(columns, output, len(part))
            return
        longest = max(len(ranks) for ranks in self._datacenters)
        block = part.new_zeros(longest * len(part))
        parts = list(block.chunk(longest))[: len(self._mine)] if self.is_leader else None
        dist.gather(part, parts, group=self.inside, group_dst=0)
        blocks = block.new_empty(len(self._datacenters) * len(block))
        if self.across is not None:
            direct_all_gather(blocks, block, self.across)
        dist.broadcast(blocks, group=self.inside, group_src=0)
        for ranks, of_ranks in zip(
            self._datacenters, blocks.chunk(len(self._datacenters)), strict=True
        ):
            for rank, got in zip(ranks, of_ranks.chunk(longest), strict=False):
                output[rank * len(part) :][: len(part)] = got

    def reduce_scatter(self, output: torch.Tensor, tensor: torch.Tensor) -> None:
        """Let `output` hold the sum over all ranks of this rank's part of `tensor`, which may
        change.
        """
        if self.equal:
            columns = torch.empty_like(tensor)
            self._from_ranks(tensor, columns, len(output))
            column = tensor.new_empty(len(self._datacenters) * len(output))
            direct_reduce_scatter(column, columns, self.inside)
            direct_reduce_scatter(output, column, self.across)
            return
        dist.reduce(tensor, group=self.inside, group_dst=0)
        parts = None
        if self.across is not None:
            direct_all_reduce(tensor, self.across)
            every = tensor.chunk(dist.get_world_size())
            parts = [every[rank].contiguous() for rank in self._mine]
        received = torch.empty_like(output)  # `output` may be a part of `tensor`
        dist.scatter(received, parts, group=self.inside, group_src=0)
        output.copy_(received)

    def broadcast(self, tensor: torch.Tensor, root: int = 0) -> None:
        """Rank `root`'s `tensor` to all; the root must be the first rank of its datacenter.

        Raises:
            ValueError: it is not.
        """
        leaders = [ranks[0] for ranks in self._datacenters]
        if root not in leaders:
            raise ValueError(
                f"the root of a broadcast must be the first rank of a datacenter, one of {leaders}"
            )
        if self.is_leader:
            dist.broadcast(tensor, group=self.across, group_src=leaders.index(root))
        dist.broadcast(tensor, group=self.inside, group_src=0)

    def barrier(self) -> None:
        """Wait for all ranks."""
        dist.barrier(group=self.inside)
        if self.is_leader:
            dist.barrier(group=self.across)
        dist.barrier(group=self.inside)

    def _order(self) -> list[int]:
        """The ranks of the first rail, then those of the second, and so on."""
        return [rank for rail in rails(self._datacenters) for rank in rail]

    def _to_ranks(self, columns: torch.Tensor, output: torch.Tensor, part: int) -> None:
        """From rail by rail to rank by rank."""
        for place, rank in enumerate(self._order()):
            output[rank * part :][:part] = columns[place * part :][:part]

    def _from_ranks(self, tensor: torch.Tensor, columns: torch.Tensor, part: int) -> None:
        """From rank by rank to rail by rail."""
        for place, rank in enumerate(self._order()):
            columns[place * part :][:part] = tensor[rank * part :][:part]
