"""What is known of a collective operation without running it: sizes, data flow, bandwidth factors.

The operations themselves are listed in workloads/collectives/catalog.py.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Protocol


class DataFlow(Enum):
    """Which ranks need whose data."""

    ALL_TO_ALL = "every rank needs the data of every other rank"
    FROM_ROOT = "every rank needs the root's data"
    TO_ROOT = "the root needs every rank's data"
    TO_NEXT = "every rank needs the data of the rank before it; the first needs the last one's"


class Cut(Protocol):
    """One direction of a cut through the ranks: from those in A to those in B."""

    @property
    def inside(self) -> int:
        """Ranks in A."""

    @property
    def outside(self) -> int:
        """Ranks in B."""

    @property
    def root_inside(self) -> bool:
        """Whether the root is in A."""

    @property
    def messages(self) -> int:
        """Ranks in A whose next rank is in B."""


@dataclass(frozen=True)
class Collective:
    """One collective operation.

    Attributes:
        name: of the operation, as in settings and records.
        size: what the size of an operation counts, as nccl-tests does (its doc/PERFORMANCE.md).
        flow: which ranks need whose data.
        crossing: bytes that must cross a cut, per byte of the size.
        messages: messages per byte of the size and group of ranks beyond the first, of reduction
            and distribution together; 0 where no bound on the volume is known.
        bus_factor: bus bandwidth / algorithm bandwidth for a number of ranks (nccl-tests).
        in_parts: whether the size is rounded to a multiple of ranks x item size.
        separate_output: whether input and output cannot share memory.
        hierarchical: whether there is a version in stages inside and across datacenters.
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


def collectives() -> Mapping[str, Collective]:
    """Return the operations of the workload `collectives` by name."""
    catalog: Mapping[str, Collective] = importlib.import_module(
        "testbed.workloads.collectives.catalog"
    ).CATALOG
    return catalog
