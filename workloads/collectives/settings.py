"""Settings of `collectives`: operations of torch.distributed over a range of sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from testbed.core.median import FEWEST
from testbed.core.units import Size, Time, format_size
from testbed.spec.base import Count, Flag, Mistake, Strict, refuse
from testbed.spec.workload import Workload
from testbed.workers import comm

from .buffers import RANK_MEMORY, buffer_bytes, connections_bytes, holes_bytes
from .catalog import CATALOG, HIERARCHICAL

if TYPE_CHECKING:
    Op = str
else:
    Op = Literal[tuple(CATALOG)]
Dtype = Literal["float32", "float64", "float16", "bfloat16", "int8", "uint8", "int32", "int64"]
Groups = Literal["all", "datacenter", "rail"]
# The algorithms: those of a communication library, by the library's name, or the testbed's
# hierarchy on top of the library.
Algorithm = Literal["gloo", "hierarchical"]
Payload = Literal["real", "folded"]
DEFAULT_OPS: tuple[Op, ...] = ("all_reduce", "all_gather", "broadcast", "barrier")
ITEM_BYTES: dict[Dtype, int] = {
    "float32": 4,
    "float64": 8,
    "float16": 2,
    "bfloat16": 2,
    "int8": 1,
    "uint8": 1,
    "int32": 4,
    "int64": 8,
}
KIB, MIB = 2**10, 2**20


def _kind_of_iterations(value: object) -> str:
    return "(auto)" if isinstance(value, str) else "(number)"


Iterations = Annotated[
    Annotated[Count, Tag("(number)")] | Annotated[Literal["auto"], Tag("(auto)")],
    Discriminator(_kind_of_iterations),
]


class SizeRange(Strict):
    """Sizes from `from` to at most `to`, each `factor` times the previous size."""

    from_: Size = Field(4 * KIB, alias="from")
    to: Size = 16 * MIB
    factor: Annotated[int, Field(strict=True, ge=2)] = 4

    def values(self) -> list[int]:
        """Return the sizes in bytes."""
        sizes = []
        size = self.from_

        while 0 < size <= self.to:
            sizes.append(size)
            size *= self.factor

        return sizes


def _kind_of_sizes(value: object) -> str:
    return "(range)" if isinstance(value, Mapping | SizeRange) else "(list)"


class Collectives(Workload):
    """Every operation of `ops` at every size of `sizes` (a barrier has no size).

    Each operation runs `warmup` times and then `iterations` times, or with ``auto`` until rank 0's
    median is known within 1 %, at most `iteration_limit` times. A size is the size of the tensor
    that the operation is applied to, as in nccl-tests (catalog.py names that tensor for each
    operation). The worker rounds the sizes of tensors that have a part for each rank down to a
    multiple of ranks x item size, but never below one item per rank.
    """

    workload: Literal["collectives"] = "collectives"
    ops: list[Op] = Field(list(DEFAULT_OPS), min_length=1)
    sizes: Annotated[
        Annotated[list[Size], Tag("(list)")] | Annotated[SizeRange, Tag("(range)")],
        Discriminator(_kind_of_sizes),
    ] = SizeRange()
    dtype: Dtype = "float32"
    warmup: Annotated[int, Field(strict=True, ge=0)] = Field(
        1, description="iterations before the measured ones"
    )
    iterations: Iterations = Field(
        3,
        description="measured iterations of each op and size; auto: until the median is known "
        "within 1 %",
    )
    iteration_limit: Annotated[int, Field(strict=True, ge=FEWEST)] = Field(
        100, description="largest number of measured iterations with iterations: auto"
    )
    pause: Time = Field(0, description="sleep of every rank after each iteration", examples=["1 s"])
    in_place: Flag = Field(False, description="place a rank's part inside the buffer of the whole")
    groups: Groups = Field(
        "all", description="ranks that communicate: all, or several groups at the same time"
    )
    algorithm: Algorithm = Field(
        "gloo", description="gloo's algorithm, or stages inside and across datacenters"
    )
    connections: Count = Field(1, description="TCP connections of gloo between two ranks")
    check: Flag = Field(True, description="compare every result with the correct one")
    payload: Payload = Field(
        "real",
        description="memory of the buffers. real: their size. folded: a few MiB for each rank, "
        "mapped again and again, for more ranks and larger sizes than fit; results are not checked",
    )

    def settings(self, ranks: int) -> dict[str, Any]:
        """Return the settings in base units; `sizes` is a list of bytes."""
        settings = self.model_dump(exclude={"workload", "description"})
        settings["sizes"] = self.bytes_of_sizes()
        settings["check"] = self.check and not self.is_folded
        if not self.is_folded:
            del settings["payload"]  # plans with and without this setting are equal

        return settings

    @property
    def is_folded(self) -> bool:
        """Whether the buffers of a rank share a few MiB of memory."""
        return self.payload == "folded"

    def largest_tensor_bytes(self, ranks: int) -> int:
        """Return the size in bytes of the largest tensor that a rank holds."""
        return max(*self.bytes_of_sizes(), ranks * ITEM_BYTES[self.dtype])

    @property
    def rank_program_bytes(self) -> int:
        """Memory in bytes of a rank without its tensors, and without what ranks share."""
        return RANK_MEMORY

    def rank_tensors_bytes(self, ranks: int) -> int:
        """Return the memory in bytes that a rank's buffers and connections need (buffers.py)."""
        largest = self.largest_tensor_bytes(ranks)
        most = 0
        for op in self.ops:
            needed = buffer_bytes(
                op,
                largest,
                ranks,
                algorithm=self.algorithm,
                in_place=self.in_place,
                folded=self.is_folded,
            )
            most = max(most, needed)

        holes = holes_bytes(largest, len(self.ops), folded=self.is_folded)
        return most + holes + connections_bytes(ranks, self.connections)

    @property
    def longest_pause_ns(self) -> int:
        """Time in ns for which a rank sleeps after an iteration."""
        return self.pause

    def bytes_of_sizes(self) -> list[int]:
        """Return all sizes in bytes, in the order written."""
        if isinstance(self.sizes, SizeRange):
            return self.sizes.values()

        return list(self.sizes)

    @model_validator(mode="after")
    def _whole_items(self) -> Collectives:
        sizes = self.bytes_of_sizes()
        problems = []
        if not sizes:
            remedy = "use a list such as [4 KiB, 1 MiB]; in a range, `from` must be at most `to`"
            problems.append(Mistake(("sizes",), "sizes is empty", remedy))

        item = ITEM_BYTES[self.dtype]
        for size in sizes:
            if size == 0 or size % item:
                problem = (
                    f"the size {format_size(size)} is not a multiple of {item} B, the size of "
                    f"{self.dtype}"
                )
                problems.append(Mistake(("sizes",), problem, "choose another size or dtype"))
                break

        refuse(problems, type(self).__name__)
        return self

    @model_validator(mode="after")
    def _possible(self) -> Collectives:
        """Refuse settings that the library or the hierarchy does not support."""
        problems = self._library_problems()
        if self.in_place:
            problems += self._in_place_problems()
        if self.algorithm == HIERARCHICAL:
            problems += self._hierarchy_problems()

        refuse(problems, type(self).__name__)
        return self

    def _library_problems(self) -> list[Mistake]:
        library = comm.library()
        problems = []
        missing = [op for op in self.ops if op not in library.operations]
        if missing:
            problems.append(Mistake(("ops",), f"{library.name} has no {', '.join(missing)}"))
        if self.dtype not in library.dtypes:
            problems.append(Mistake(("dtype",), f"{library.name} has no {self.dtype}"))

        return problems

    def _in_place_problems(self) -> list[Mistake]:
        separate = [op for op in self.ops if CATALOG[op].separate_output]
        if not separate:
            return []

        names = " and ".join(separate)
        problem = f"{names} cannot run in place: torch requires separate input and output tensors"
        remedy = f"write in_place: false, or leave {names} out"

        return [Mistake(("in_place",), problem, remedy)]

    def _hierarchy_problems(self) -> list[Mistake]:
        problems = []
        flat = [op for op in self.ops if not CATALOG[op].hierarchical]
        if flat:
            known = [op for op, collective in CATALOG.items() if collective.hierarchical]
            problem = f"no hierarchical algorithm for {', '.join(flat)}"
            remedy = f"hierarchical are {', '.join(known)}"
            problems.append(Mistake(("algorithm",), problem, remedy))

        if self.groups != "all":
            problem = (
                f"groups: {self.groups} leaves no hierarchy; a hierarchical operation joins "
                "all ranks of all datacenters"
            )
            remedy = f"write groups: all, or algorithm: {comm.DEFAULT}"
            problems.append(Mistake(("groups",), problem, remedy))

        return problems
