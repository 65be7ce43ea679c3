"""Memory that a rank needs, by itself and for the buffers of an operation. Does not import torch.

Buffers are measured with torch 2.13 and four ranks, by the growth of a rank's memory in units of
the size: gloo copies the whole of all_gather, reduce_scatter and gather, and may hold the copy of
the iteration before; the hierarchy's stages hold up to 5.5 buffers.
"""

from __future__ import annotations

from testbed.workers import comm

from .catalog import CATALOG, HIERARCHICAL

KIB, MIB = 2**10, 2**20
# Measured in guests of 4, 20 and 64 ranks (scripts/memory.py): 13.2 MiB for a rank, as ranks are
# forks of one process, and 14 KiB for each rank that it is connected with. The estimates are a
# fifth larger.
RANK_MEMORY = 16 * MIB
CONNECTION_MEMORY = 16 * KIB
# Whole-size buffers that several operations leave as holes in the heap; folded: in that of gloo.
HOLES, FOLDED_HOLES = 2, 1
HIERARCHICAL_BUFFERS = 6  # whole-size buffers, including those of the intermediate stages


def connections_bytes(ranks: int, connections: int = 1) -> int:
    """Return the memory in bytes of a rank's connections with the other ranks.

    Args:
        ranks: number of ranks.
        connections: TCP connections between two ranks.
    """
    return ranks * connections * CONNECTION_MEMORY


def buffer_bytes(
    op: str,
    size: int,
    ranks: int,
    *,
    algorithm: str,
    in_place: bool = False,
    folded: bool = False,
) -> int:
    """Return the memory in bytes that a rank needs for an operation.

    Args:
        op: name of the operation.
        size: bytes of the operation.
        ranks: number of ranks.
        algorithm: a communication library, or ``hierarchical``.
        in_place: whether a rank's part lies inside the buffer of the whole.
        folded: whether the operation's own buffers take no memory.
    """
    library = comm.library()
    own = own_buffers(op, ranks, in_place=in_place)
    buffers = own + library.whole_copies.get(op, 0)
    if algorithm == HIERARCHICAL:
        buffers = HIERARCHICAL_BUFFERS
    if folded:
        buffers -= own

    return round(buffers * size) + min(size, library.extra_buffer_bytes)


def holes_bytes(size: int, operations: int, *, folded: bool) -> int:
    """Return the memory in bytes that several operations of a run leave unused in a rank.

    Args:
        size: bytes of the largest operation.
        operations: number of kinds of operations.
        folded: whether the operations' own buffers take no memory.
    """
    if operations == 1:
        return 0
    return size * (FOLDED_HOLES if folded else HOLES)


def own_buffers(op: str, ranks: int, *, in_place: bool) -> float:
    """Return the sum of the buffers that a rank passes to an operation, in units of the size.

    Args:
        op: name of the operation.
        ranks: number of ranks.
        in_place: whether a rank's part lies inside the buffer of the whole.
    """
    collective = CATALOG[op]
    if collective.separate_output:
        return 2
    if collective.in_parts and not in_place:
        return 1 + 1 / ranks
    return 1
