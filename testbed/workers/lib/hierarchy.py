"""Collectives in stages: inside each datacenter, across datacenters, inside again.

The WAN carries each byte once per datacenter, and the WAN's delay is paid once for each step
between datacenters instead of each step between ranks. Every rank calls the same methods in the
same order. Tensors are flat.

If all datacenters have the same number of ranks, k, the ranks with the same index in their
datacenters form a *rail*, and each rail carries 1/k of the data, so that all NICs and k connections
share the work. Otherwise the first rank of each datacenter, its *leader*, carries all data.

============== ================================== ==========================================
operation      equal datacenters                  unequal datacenters
============== ================================== ==========================================
all_reduce     reduce-scatter inside, all-reduce  reduce to the leader, all-reduce among
               along the rail, all-gather inside  leaders, broadcast inside
all_gather     all-gather along the rail, then    gather at the leader, all-gather among
               inside                             leaders, broadcast inside
reduce_scatter reduce-scatter inside, then along  reduce to the leader, all-reduce among
               the rail                           leaders, scatter inside
broadcast      among leaders, then inside         the same
barrier        inside, among leaders, inside      the same
============== ================================== ==========================================

Across datacenters, ranks send each part directly to the rank that needs the part
(`direct_all_reduce` and its two halves). A ring, as in gloo, sends as many bytes, but in n - 1
steps for each half, one delay after another, and through few of the links. A ring would be better
on a WAN that is itself a ring, because direct messages then cross several links. Inside a
datacenter, the reduce-scatter is direct too: gloo has no reduce-scatter, and torch's is a whole
all-reduce of which one part is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import torch
import torch.distributed as dist

from testbed.plan.model import Plan


def datacenter_ranks(plan: Plan) -> dict[str, list[int]]:
    """Return the ranks of each datacenter that has ranks, by the datacenter's name."""
    ranks: dict[str, list[int]] = {}

    for rank in plan.workers.ranks:
        datacenter = plan.network.host(rank.host).dc
        ranks.setdefault(datacenter, []).append(rank.rank)

    return ranks


def rails(datacenters: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return the groups of ranks with the same index in their datacenters, each in ascending order.

    Args:
        datacenters: the ranks of each datacenter; a small datacenter has no rank in the last rails.
    """
    longest = max(len(ranks) for ranks in datacenters)
    grouped = []

    for index in range(longest):
        rail = [ranks[index] for ranks in datacenters if index < len(ranks)]
        grouped.append(sorted(rail))

    return grouped


def new_groups(
    groups: Sequence[Sequence[int]], timeout: timedelta | None = None
) -> dist.ProcessGroup | None:
    """Make several process groups; every rank must call this function.

    Args:
        groups: the ranks of each group.
        timeout: timeout of operations in the groups; None: the default.

    Returns:
        This rank's group, or None if this rank is in none of the groups.
    """
    own_group = None

    for ranks in groups:
        group = dist.new_group(list(ranks), timeout=timeout)
        if dist.get_rank() in ranks:
            own_group = group

    return own_group


def direct_reduce_scatter(
    output: torch.Tensor, tensor: torch.Tensor, group: dist.ProcessGroup | None = None
) -> None:
    """Sum each part of a tensor at one rank, with a message between any two ranks.

    Args:
        output: receives the sum of this rank's part; may be a slice of `tensor`.
        tensor: flat, one equal part for each rank of `group`.
        group: the ranks that take part; None: all ranks.
    """
    ranks = dist.get_world_size(group)
    received = torch.empty_like(tensor)
    dist.all_to_all_single(received, tensor, group=group)
    by_sender = received.view(ranks, -1)
    torch.sum(by_sender, dim=0, dtype=tensor.dtype, out=output)


def direct_all_gather(
    output: torch.Tensor, part: torch.Tensor, group: dist.ProcessGroup | None = None
) -> None:
    """Gather the parts of all ranks at every rank, with a message between any two ranks.

    Args:
        output: flat; receives the parts in the order of the ranks.
        part: this rank's part; may be a slice of `output`.
        group: the ranks that take part; None: all ranks.
    """
    ranks = dist.get_world_size(group)
    copies = part.repeat(ranks)
    dist.all_to_all_single(output, copies, group=group)


def direct_all_reduce(tensor: torch.Tensor, group: dist.ProcessGroup | None = None) -> None:
    """Sum the flat `tensor` over the ranks of `group`, in place."""
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
    """Return a tensor whose length is a multiple of `parts`.

    Args:
        tensor: flat.
        parts: number of equal parts.

    Returns:
        `tensor` itself if its length is a multiple, otherwise a copy padded with zeros.
    """
    missing = -len(tensor) % parts
    if missing == 0:
        return tensor

    zeros = tensor.new_zeros(missing)
    return torch.cat([tensor, zeros])


class Hierarchy:
    """The process groups of a set of datacenters and the collectives over these groups.

    Attributes:
        equal: whether all datacenters have the same number of ranks.
        is_leader: whether this rank is the first of its datacenter.
        inside: the group of this rank's datacenter.
        across: the group of this rank's rail, or of the leaders; None if this rank is in neither.
    """

    def __init__(
        self, datacenters: Sequence[Sequence[int]], timeout: timedelta | None = None
    ) -> None:
        """Make the groups; every rank of the default group must make the same hierarchy.

        Args:
            datacenters: the ranks of each datacenter; every rank is in exactly one datacenter.
            timeout: timeout of operations in the groups; None: the default.

        Raises:
            ValueError: a rank is missing, or is in several datacenters.
        """
        all_ranks: list[int] = []

        for ranks in datacenters:
            all_ranks.extend(ranks)

        if sorted(all_ranks) != list(range(dist.get_world_size())):
            raise ValueError("every rank must be in exactly one datacenter")

        own_rank = dist.get_rank()
        # as torch orders the ranks of a group
        self._datacenters = sorted(sorted(ranks) for ranks in datacenters)
        self._own = next(ranks for ranks in self._datacenters if own_rank in ranks)
        sizes = {len(ranks) for ranks in datacenters}
        self.equal = len(sizes) == 1
        self.is_leader = own_rank == self._own[0]

        self.inside = new_groups(self._datacenters, timeout)
        along = rails(self._datacenters)
        leaders_only = along[:1]
        self.across = new_groups(along if self.equal else leaders_only, timeout)

    def all_reduce(self, tensor: torch.Tensor) -> None:
        """Sum `tensor` over all ranks, in place."""
        if not self.equal:
            dist.reduce(tensor, group=self.inside, group_dst=0)
            if self.across is not None:
                direct_all_reduce(tensor, self.across)

            dist.broadcast(tensor, group=self.inside, group_src=0)
            return

        size = len(self._own)
        whole = padded(tensor, size)
        shard_length = len(whole) // size
        shard = whole.new_empty(shard_length)
        direct_reduce_scatter(shard, whole, self.inside)
        direct_all_reduce(shard, self.across)
        shards = list(whole.chunk(size))
        dist.all_gather(shards, shard, group=self.inside)
        if whole is not tensor:
            tensor.copy_(whole[: len(tensor)])

    def all_gather(self, output: torch.Tensor, part: torch.Tensor) -> None:
        """Gather the parts of all ranks at every rank.

        Args:
            output: receives the parts in the order of the ranks.
            part: this rank's part; all parts have the same number of elements.
        """
        if self.equal:
            self._all_gather_along_rails(output, part)
        else:
            self._all_gather_at_leaders(output, part)

    def _all_gather_along_rails(self, output: torch.Tensor, part: torch.Tensor) -> None:
        """Gather flat parts across datacenters, then inside; arguments as of `all_gather`."""
        datacenters = len(self._datacenters)
        column = part.new_empty(datacenters * len(part))
        direct_all_gather(column, part, self.across)
        all_columns = column.new_empty(len(output))
        columns = list(all_columns.chunk(len(self._own)))
        dist.all_gather(columns, column, group=self.inside)
        self._to_ranks(all_columns, output, len(part))

    def _all_gather_at_leaders(self, output: torch.Tensor, part: torch.Tensor) -> None:
        """Exchange one block of flat parts per datacenter; all blocks are as long as the largest.

        Arguments as of `all_gather`.
        """
        datacenters = len(self._datacenters)
        longest = max(len(ranks) for ranks in self._datacenters)
        block = part.new_zeros(longest * len(part))
        parts = None
        if self.is_leader:
            all_parts = list(block.chunk(longest))
            parts = all_parts[: len(self._own)]

        dist.gather(part, parts, group=self.inside, group_dst=0)
        blocks = block.new_empty(datacenters * len(block))
        if self.across is not None:
            direct_all_gather(blocks, block, self.across)

        dist.broadcast(blocks, group=self.inside, group_src=0)
        blocks_by_datacenter = blocks.chunk(datacenters)

        for ranks, received in zip(self._datacenters, blocks_by_datacenter, strict=True):
            received_parts = received.chunk(longest)
            for rank, received_part in zip(ranks, received_parts, strict=False):
                target = _part_of(output, rank, len(part))
                target.copy_(received_part)

    def reduce_scatter(self, output: torch.Tensor, tensor: torch.Tensor) -> None:
        """Sum each part of a tensor at one rank.

        Args:
            output: receives the sum of this rank's part; may be a slice of `tensor`.
            tensor: one equal part for each rank; the values may change.
        """
        if self.equal:
            self._reduce_scatter_along_rails(output, tensor)
        else:
            self._reduce_scatter_at_leaders(output, tensor)

    def _reduce_scatter_along_rails(self, output: torch.Tensor, tensor: torch.Tensor) -> None:
        """Sum inside datacenters, then across; arguments as of `reduce_scatter`."""
        columns = torch.empty_like(tensor)
        self._from_ranks(tensor, columns, len(output))
        column = tensor.new_empty(len(self._datacenters) * len(output))
        direct_reduce_scatter(column, columns, self.inside)
        direct_reduce_scatter(output, column, self.across)

    def _reduce_scatter_at_leaders(self, output: torch.Tensor, tensor: torch.Tensor) -> None:
        """Sum at the leaders, which send each rank its part; arguments as of `reduce_scatter`."""
        dist.reduce(tensor, group=self.inside, group_dst=0)
        parts = None
        if self.across is not None:
            direct_all_reduce(tensor, self.across)
            world_size = dist.get_world_size()
            all_parts = tensor.chunk(world_size)
            parts = [all_parts[rank].contiguous() for rank in self._own]

        received = torch.empty_like(output)  # `output` may be a part of `tensor`
        dist.scatter(received, parts, group=self.inside, group_src=0)
        output.copy_(received)

    def broadcast(self, tensor: torch.Tensor, root: int = 0) -> None:
        """Copy the values of one rank to all ranks.

        Args:
            tensor: sent by the root; receives the root's values on other ranks.
            root: a rank, which must be the first of its datacenter.

        Raises:
            ValueError: `root` is not the first rank of a datacenter.
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
        """Return the ranks of the first rail, then the ranks of the second rail, and so on."""
        order: list[int] = []
        for rail in rails(self._datacenters):
            order += rail
        return order

    def _to_ranks(self, columns: torch.Tensor, output: torch.Tensor, length: int) -> None:
        """Copy parts of `length` elements from the order of rails to the order of ranks."""
        for position, rank in enumerate(self._order()):
            target = _part_of(output, rank, length)
            target.copy_(_part_of(columns, position, length))

    def _from_ranks(self, tensor: torch.Tensor, columns: torch.Tensor, length: int) -> None:
        """Copy parts of `length` elements from the order of ranks to the order of rails."""
        for position, rank in enumerate(self._order()):
            target = _part_of(columns, position, length)
            target.copy_(_part_of(tensor, rank, length))


def _part_of(tensor: torch.Tensor, index: int, length: int) -> torch.Tensor:
    """Return the part of a flat tensor with the number `index`; parts have `length` elements."""
    return tensor[index * length :][:length]
