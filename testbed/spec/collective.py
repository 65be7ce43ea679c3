"""Static properties of a collective operation: sizes, data flow, bandwidth factors.

workloads/collectives/catalog.py lists the operations.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

AUTO_ITERATIONS = "auto"  # value of the setting `iterations`: as many as the median needs


class DataFlow(Enum):
    """The direction of the data: which ranks need the data of which ranks."""

    ALL_TO_ALL = "every rank needs the data of every other rank"
    FROM_ROOT = "every rank needs the root's data"
    TO_ROOT = "the root needs every rank's data"
    TO_NEXT = "every rank needs the data of the rank before it; the first needs the last one's"


class Cut(Protocol):
    """One direction of a cut through the ranks: from the ranks in A to the ranks in B."""

    @property
    def inside(self) -> int:
        """Number of ranks in A."""

    @property
    def outside(self) -> int:
        """Number of ranks in B."""

    @property
    def root_inside(self) -> bool:
        """Whether the root is in A."""

    @property
    def messages(self) -> int:
        """Number of ranks in A whose next rank is in B."""


Parts = Sequence[Sequence[int]]  # bytes of each rank's parts, as that rank recorded them


@dataclass(frozen=True)
class Unequal:
    """Which data of an operation with unequal parts one rank needs of another.

    Attributes:
        needed: Bytes that rank `target` needs of rank `source`, by parts, source and target.
        crossing: Bytes that must cross from the first ranks to the second, by parts and both.
    """

    needed: Callable[[Parts, int, int], int]
    crossing: Callable[[Parts, Collection[int], Collection[int]], int]


@dataclass(frozen=True)
class Collective:
    """One collective operation.

    Attributes:
        name: Name of the operation in settings and records.
        size: Meaning of an operation's size, as in nccl-tests (see its doc/PERFORMANCE.md).
        flow: The direction of the data.
        crossing: Bytes that must cross a cut, per byte of the size.
        messages: Messages per byte of the size and group of ranks beyond the first, of reduction
            and distribution together; 0 if no bound on the volume is known.
        bus_factor: Bus bandwidth / algorithm bandwidth for a number of ranks (nccl-tests).
        in_parts: Whether the size is rounded to a multiple of ranks x item size.
        separate_output: Whether input and output cannot share memory.
        hierarchical: Whether a version with stages inside and across datacenters exists.
        unequal: Which data the ranks need where their parts differ; None: parts are equal.
    """

    name: str
    size: str
    flow: DataFlow
    crossing: Callable[[Cut], float]
    messages: int
    bus_factor: Callable[[int], float]
    in_parts: bool = False
    separate_output: bool = False
    hierarchical: bool = False
    unequal: Unequal | None = None

    @property
    def has_root(self) -> bool:
        """Whether one rank has the data before or after the operation."""
        return self.flow in (DataFlow.FROM_ROOT, DataFlow.TO_ROOT)


def collectives() -> Mapping[str, Collective]:
    """Return the operations of the workload `collectives` by name."""
    catalog: Mapping[str, Collective] = importlib.import_module(
        "testbed.workloads.collectives.catalog"
    ).CATALOG
    return catalog
