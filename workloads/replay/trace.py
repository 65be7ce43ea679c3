"""A recorded trace of one rank: what the rank did, and what had to end before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

# Bytes of an item; the types that gloo has. Others are sent as bytes.
ITEM_BYTES = {
    "float32": 4,
    "float64": 8,
    "float16": 2,
    "bfloat16": 2,
    "int8": 1,
    "uint8": 1,
    "int32": 4,
    "int64": 8,
}
BYTES = "uint8"
ROOTED = ("broadcast", "reduce", "gather", "scatter")
IN_PARTS = ("all_gather", "reduce_scatter", "all_to_all", "gather", "scatter")
MESSAGES = ("send", "recv")
OPERATIONS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "barrier", *ROOTED)


@dataclass(frozen=True)
class Communication:
    """An operation of a process group, as one rank takes part in it.

    Attributes:
        op: Name of the operation, as in workloads/collectives/catalog.py, or ``send`` or ``recv``.
        bytes: Size in bytes, or bytes of this rank's part (`is_part`).
        group: Name of the process group; empty for that of all ranks.
        dtype: Name of torch's data type.
        is_part: Whether `bytes` counts one rank's part of the whole.
        root: The root's number among all ranks; None if the trace does not say.
        peer: The other rank's number among all ranks, for messages.
        tag: Tag of a message.
        parts: Bytes that this rank sends to each rank of the group, where they differ.
    """

    op: str
    bytes: int
    group: str = ""
    dtype: str = BYTES
    is_part: bool = False
    root: int | None = None
    peer: int | None = None
    tag: int = 0
    parts: tuple[int, ...] = ()


@dataclass(frozen=True)
class Node:
    """A piece of computation, or an operation.

    Attributes:
        name: Name in the trace, for messages to people.
        after: Numbers of the nodes that have to end before, in the trace's order of nodes.
        start_ns: Begin; None if the trace has no times.
        duration_ns: Duration.
        lane: Nodes of a lane follow each other; empty: of none.
        step: Number of the training step; None if unknown.
        communication: The operation; None for computation.
    """

    name: str
    after: tuple[int, ...]
    start_ns: int | None
    duration_ns: int
    lane: str
    step: int | None = None
    communication: Communication | None = None


@dataclass(frozen=True)
class RankTrace:
    """What one rank did.

    Attributes:
        path: The file.
        nodes: All nodes.
        groups: The ranks of process groups, by name, as far as the trace says.
        rank: Number of the rank, if the trace says.
        world_size: Number of ranks, if the trace says.
        own_clock: Whether times may not be compared with those of other ranks.
    """

    path: Path
    nodes: Sequence[Node]
    groups: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    rank: int | None = None
    world_size: int | None = None
    own_clock: bool = False


def is_default_group(name: str) -> bool:
    """Return whether a process group is that of all ranks: torch calls this group 0."""
    return name.partition(":")[0] in ("", "0", "default_pg")
