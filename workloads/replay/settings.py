"""Settings of `replay`: the communication of a recorded trace."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr
from testbed.workloads.collectives.buffers import RANK_MEMORY, buffer_bytes, connections_bytes

from testbed.core.units import UnitError
from testbed.spec.workload import Workload
from testbed.workers import comm

from .programs import ProgramItem
from .trace import MESSAGES
from .trace_set import load_programs, trace_files

MIB = 2**20
ITEM_MEMORY = 2000  # bytes of an item of the longest program, in Python
BUFFERS = 4 * MIB  # all buffers of a rank share this memory
AT_ONCE = 2  # threads of gloo in a process group, each with an operation
Version = tuple[tuple[str, int, int], ...]  # path, time of the last change and size of each file


class Replay(Workload):
    """Operations of a recorded trace, with its computation as modelled time.

    `trace` names Chakra execution traces, or traces of PyTorch's profiler.
    """

    workload: Literal["replay"] = "replay"
    trace: str = Field(
        "",
        description="folder or pattern with a trace for each rank, or one trace that all ranks "
        "repeat",
    )
    computation: Annotated[float, Field(gt=0)] = Field(
        1.0, description="factor on the recorded computation and pauses; 0.5: twice as fast"
    )
    warmup: Annotated[int, Field(strict=True, ge=0)] = Field(
        0, description="number of first steps of the trace that statistics ignore"
    )

    _ranks: int = PrivateAttr(0)

    def for_hosts(self, addresses: Mapping[str, str]) -> Replay:
        """Return the workload for the ranks of a topology.

        Raises:
            UnitError: The traces cannot be read, or do not fit the ranks or each other.
        """
        if not self.trace:
            raise UnitError(
                "no trace to replay",
                "name one: testbed run TOPOLOGY -- replay TRACE, or --set workload.trace=TRACE",
            )
        ready = self.model_copy()
        ready._ranks = len(addresses) * self.ranks_per_host
        ready._loaded(ready._ranks)
        return ready

    def settings(self, ranks: int) -> dict[str, Any]:
        """Return the settings with the programs of the ranks (programs.py) and their groups."""
        settings = self.model_dump(exclude={"workload", "description"})
        return {**settings, **self._loaded(ranks)}

    @property
    def longest_pause_ns(self) -> int:
        """Longest computation or pause of the traces in ns."""
        if not self._ranks:
            return 0
        return max((_pause_ns(item) for item in self._items(self._ranks)), default=0)

    def largest_tensor_bytes(self, ranks: int) -> int:
        """Return the size in bytes of the largest operation."""
        return max((item.get("bytes", 0) for item in self._items(ranks)), default=1)

    @property
    def rank_program_bytes(self) -> int:
        """Memory in bytes of a rank without its tensors."""
        rank_bytes: int = RANK_MEMORY
        return rank_bytes

    def rank_tensors_bytes(self, ranks: int) -> int:
        """Return the memory in bytes that a rank's operations and program need."""
        sizes: list[int] = []
        for item in self._items(ranks):
            if "op" in item and item["op"] not in MESSAGES:
                size = buffer_bytes(
                    item["op"], item["bytes"], ranks, algorithm=comm.DEFAULT, folded=True
                )
                sizes.append(size)
        longest = max(len(program) for program in self._loaded(ranks)["programs"])
        peers = ranks + sum(len(members) for members in self._loaded(ranks)["groups"].values())
        connected_bytes: int = connections_bytes(peers)
        operations_bytes = BUFFERS + sum(sorted(sizes)[-AT_ONCE:])
        return operations_bytes + connected_bytes + longest * ITEM_MEMORY

    def _items(self, ranks: int) -> Iterator[ProgramItem]:
        for program in self._loaded(ranks)["programs"]:
            yield from program

    def _loaded(self, ranks: int) -> Mapping[str, Any]:
        version: list[tuple[str, int, int]] = []
        for path in trace_files(self.trace):
            status = path.stat()
            version.append((str(path), status.st_mtime_ns, status.st_size))
        return _load(self.trace, ranks, self.computation, tuple(version))


@lru_cache(maxsize=2)
def _load(trace: str, ranks: int, computation: float, version: Version) -> Mapping[str, Any]:
    """Read traces once; `version` changes with the files."""
    del version
    return load_programs(trace, ranks, computation)


def _pause_ns(item: ProgramItem) -> int:
    return max(item.get("compute_ns", 0), item.get("pause_ns", 0))
