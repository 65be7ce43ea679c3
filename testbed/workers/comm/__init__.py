"""Communication libraries by name: settings and calls that ranks need to exchange data."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Protocol

from testbed.workers.comm import gloo


class CommLibrary(Protocol):
    """A communication library that torch.distributed can use as its backend."""

    @property
    def name(self) -> str:
        """Name of the backend in torch.distributed, and of the library's algorithms."""

    @property
    def dtypes(self) -> frozenset[str]:
        """Names of torch's data types that all operations of the library accept."""

    @property
    def operations(self) -> frozenset[str]:
        """Names of the library's operations (workloads/collectives/catalog.py)."""

    @property
    def whole_copies(self) -> Mapping[str, int]:
        """Number of whole-size copies that a rank holds, by operation; none for others."""

    @property
    def extra_buffer_bytes(self) -> int:
        """The most memory in bytes that the library allocates for one operation."""

    def environment(self, interface: str, connections: int) -> Mapping[str, str]:
        """Return the environment variables of a rank.

        Args:
            interface: the interface to the emulated network.
            connections: number of TCP connections between two ranks.
        """

    def init_process_group(self, timeout: timedelta) -> None:
        """Join the default process group that the environment describes.

        Args:
            timeout: time after which an operation fails.
        """


DEFAULT = gloo.NAME
_LIBRARIES: Mapping[str, CommLibrary] = {gloo.NAME: gloo.Gloo()}


def library(name: str = DEFAULT) -> CommLibrary:
    """Return a communication library by its name.

    Raises:
        KeyError: no library has that name.
    """
    return _LIBRARIES[name]


def names() -> tuple[str, ...]:
    """Return the names of all libraries."""
    return tuple(_LIBRARIES)
