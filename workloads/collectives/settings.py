"""Collective operations of torch.distributed over a range of sizes, one after the other, as
nccl-tests does.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from testbed.core.units import Size, UnitError, format_size
from testbed.spec.base import Count, Flag, Problem, Strict, refuse
from testbed.spec.workload import Workload

Op = Literal[
    "all_reduce",
    "all_gather",
    "reduce_scatter",
    "all_to_all",
    "broadcast",
    "reduce",
    "gather",
    "scatter",
    "send_recv",
    "barrier",
]
Dtype = Literal["float32", "float64", "float16", "bfloat16", "int8", "uint8", "int32", "int64"]
Groups = Literal["all", "datacenter", "rail"]
Algorithm = Literal["gloo", "hierarchical"]
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
HIERARCHICAL: tuple[Op, ...] = (
    "all_reduce",
    "all_gather",
    "reduce_scatter",
    "broadcast",
    "barrier",
)
APART: tuple[Op, ...] = ("all_to_all", "send_recv")  # input and output cannot share memory
KIB, MIB = 2**10, 2**20


class SizeRange(Strict):
    """Sizes from `from` to at most `to`, each `factor` times the one before."""

    from_: Size = Field(4 * KIB, alias="from")
    to: Size = 16 * MIB
    factor: Annotated[int, Field(strict=True, ge=2)] = 4

    def values(self) -> list[int]:
        """The sizes in bytes."""
        sizes = []
        size = self.from_
        while 0 < size <= self.to:
            sizes.append(size)
            size *= self.factor
        return sizes


class Collectives(Workload):
    """Every op of `ops` at every size of `sizes` (a barrier has none), `warmup` times and then
    `iterations` times.

    A size is that of the tensor that the op is applied to, as in nccl-tests: for all_gather and
    gather the total over the ranks, for reduce_scatter, all_to_all and scatter the whole input of a
    rank. The worker rounds these down to a multiple of ranks x item size, and up to one item per
    rank.
    """

    workload: Literal["collectives"] = "collectives"
    ops: list[Op] = Field(list(DEFAULT_OPS), min_length=1)
    sizes: Annotated[
        Annotated[list[Size], Tag("(list)")] | Annotated[SizeRange, Tag("(range)")],
        Discriminator(lambda value: "(list)" if isinstance(value, list) else "(range)"),
    ] = SizeRange()
    dtype: Dtype = "float32"
    warmup: Annotated[int, Field(strict=True, ge=0)] = Field(
        1, description="iterations that are not measured"
    )
    iterations: Count = Field(3, description="measured iterations of each op and size")
    in_place: Flag = Field(
        False, description="whether a rank's part lies in the buffer of the whole"
    )
    groups: Groups = Field(
        "all", description="who works together: all ranks, or several groups at the same time"
    )
    algorithm: Algorithm = Field(
        "gloo", description="gloo's own, or in stages inside and across datacenters"
    )
    connections: Count = Field(1, description="gloo's TCP connections between two ranks")
    check: Flag = Field(True, description="whether every result is compared with the right one")

    def settings(self, ranks: int) -> dict[str, Any]:
        """The settings in base units; `sizes` is the list of bytes."""
        return self.model_dump(exclude={"workload", "description"}) | {
            "sizes": self.bytes_of_sizes()
        }

    def largest_tensor_bytes(self, ranks: int) -> int:
        """Bytes of the largest tensor that a rank holds."""
        return max(*self.bytes_of_sizes(), ranks * ITEM_BYTES[self.dtype])

    def bytes_of_sizes(self) -> list[int]:
        """All sizes in bytes, in the order written."""
        return self.sizes.values() if isinstance(self.sizes, SizeRange) else list(self.sizes)

    @model_validator(mode="after")
    def _whole_items(self) -> Collectives:
        item = ITEM_BYTES[self.dtype]
        sizes = self.bytes_of_sizes()
        if not sizes:
            raise UnitError(
                "there is no size",
                "write a list such as [4 KiB, 1 MiB]; in a range, from is at most to",
            )
        for size in sizes:
            if size == 0 or size % item:
                raise UnitError(
                    f"the size {format_size(size)} is not a multiple of {item} B, the size of {self.dtype}",
                    "choose another size or dtype",
                )
        return self

    @model_validator(mode="after")
    def _possible(self) -> Collectives:
        """Refuse what gloo or the hierarchy cannot do."""
        problems = []
        if self.in_place and (apart := [op for op in self.ops if op in APART]):
            what = f"{' and '.join(apart)} cannot be in place: torch wants an output apart from the input"
            problems.append(
                Problem(
                    ("in_place",),
                    what,
                    f"write in_place: false, or leave {' and '.join(apart)} out",
                )
            )
        if self.algorithm == "hierarchical":
            flat = [op for op in self.ops if op not in HIERARCHICAL]
            if flat:
                what = f"there is no hierarchical {', '.join(flat)}"
                problems.append(
                    Problem(("algorithm",), what, f"hierarchical are {', '.join(HIERARCHICAL)}")
                )
            if self.groups != "all":
                what = f"groups: {self.groups} leaves nothing for a hierarchy: it joins all ranks of all datacenters"
                problems.append(Problem(("groups",), what, "write groups: all, or algorithm: gloo"))
        refuse(problems, type(self).__name__)
        return self
