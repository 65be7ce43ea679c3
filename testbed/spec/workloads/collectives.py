"""Collective operations of torch.distributed over a range of sizes, one after the other, as nccl-tests does."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Discriminator, Field, Tag, model_validator

from testbed.spec.model import Count, Flag, Strict
from testbed.spec.workload import Workload
from testbed.units import Size, UnitError, format_size

Op = Literal["all_reduce", "all_gather", "broadcast", "barrier"]
Dtype = Literal["float32", "float16", "float64", "int32", "int8"]
ITEM_BYTES: dict[Dtype, int] = {"float32": 4, "float16": 2, "float64": 8, "int32": 4, "int8": 1}
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
    """Every op of `ops` at every size of `sizes` (a barrier has none), `warmup` times and then `iterations` times.

    A size is that of the tensor that the op is applied to; for all_gather it is the total over all ranks, as in
    nccl-tests. The worker rounds that total down to a multiple of ranks x item size, and up to one item per rank.
    """

    workload: Literal["collectives"] = "collectives"
    ops: list[Op] = Field(list(get_args(Op)), min_length=1)
    sizes: Annotated[
        Annotated[list[Size], Tag("(list)")] | Annotated[SizeRange, Tag("(range)")],
        Discriminator(lambda value: "(list)" if isinstance(value, list) else "(range)"),
    ] = SizeRange()
    dtype: Dtype = "float32"
    warmup: Annotated[int, Field(strict=True, ge=0)] = Field(1, description="iterations that are not measured")
    iterations: Count = Field(3, description="measured iterations of each op and size")
    connections: Count = Field(1, description="gloo's TCP connections between two ranks")
    check: Flag = Field(True, description="whether every result is compared with the right one")

    def settings(self, ranks: int) -> dict[str, Any]:
        """The settings in base units; `sizes` is the list of bytes."""
        return self.model_dump(exclude={"workload", "description"}) | {"sizes": self.bytes_of_sizes()}

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
            raise UnitError("there is no size", "write a list such as [4 KiB, 1 MiB]; in a range, from is at most to")
        for size in sizes:
            if size == 0 or size % item:
                raise UnitError(
                    f"the size {format_size(size)} is not a multiple of {item} B, the size of {self.dtype}",
                    "choose another size or dtype",
                )
        return self
