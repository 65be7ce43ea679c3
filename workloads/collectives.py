"""Times collective operations, size after size, as nccl-tests does.

    testbed run two-sites collectives --set workload.sizes='[4 KiB, 1 MiB]' --set workload.iterations=3

Every iteration begins with a barrier, so that no rank is still busy with the one before; then each rank takes the time
from its call to its return. Buffers are allocated once per size and hold known values; after every iteration each rank
counts the elements that differ from what mathematics says. Checking costs no virtual time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist

from testbed.workers.memory import populate_heap
from testbed.workers.rank import RankContext
from testbed.workers.recorder import Operation

RECORDS_ITSELF = True
GLOO_BYTES = 16 * 2**20  # gloo's own buffers are at most a few MiB an operation


@dataclass
class Case:
    """One operation on one size, on this rank."""

    size_bytes: int  # as reported: the buffer; for all_gather the sum over ranks
    prepare: Callable[[], None]  # fill the buffers
    run: Callable[[], object]
    wrong: Callable[[], int]  # elements that differ from the expected values


def contribution(rank: int) -> int:
    """The value that every element of a rank's input has. Small, so that sums fit an int8 for up to 63 ranks."""
    return 1 + rank % 3


def differing(tensor: torch.Tensor, value: int) -> int:
    """How many elements are not `value`, wrapped as the dtype wraps. In pieces: new memory is dear in a guest."""
    expected = torch.tensor(value).to(tensor.dtype)
    return sum(int(torch.count_nonzero(piece != expected)) for piece in tensor.split(1 << 16))


def all_reduce(rank: int, ranks: int, size_bytes: int, dtype: torch.dtype) -> Case:
    """Sum over ranks, in place."""
    x = torch.empty(max(1, size_bytes // dtype.itemsize), dtype=dtype)
    total = sum(contribution(r) for r in range(ranks))
    return Case(x.nbytes, lambda: _fill(x, contribution(rank)), lambda: dist.all_reduce(x), lambda: differing(x, total))


def all_gather(rank: int, ranks: int, size_bytes: int, dtype: torch.dtype) -> Case:
    """Every rank gets every rank's part; `size_bytes` is the sum of the parts."""
    part = torch.empty(max(1, size_bytes // dtype.itemsize // ranks), dtype=dtype)
    parts = [torch.empty_like(part) for _ in range(ranks)]
    return Case(
        part.nbytes * ranks,
        lambda: _fill(part, contribution(rank)),
        lambda: dist.all_gather(parts, part),
        lambda: sum(differing(got, contribution(r)) for r, got in enumerate(parts)),
    )


def broadcast(rank: int, ranks: int, size_bytes: int, dtype: torch.dtype) -> Case:
    """Rank 0's buffer to all."""
    del ranks
    x = torch.empty(max(1, size_bytes // dtype.itemsize), dtype=dtype)
    return Case(
        x.nbytes,
        lambda: _fill(x, contribution(0) if rank == 0 else 0),
        lambda: dist.broadcast(x, 0),
        lambda: differing(x, contribution(0)),
    )


def barrier(rank: int, ranks: int, size_bytes: int, dtype: torch.dtype) -> Case:
    """No data: all wait for all."""
    del rank, ranks, size_bytes, dtype
    return Case(0, lambda: None, dist.barrier, lambda: 0)


OPERATIONS: dict[str, Callable[[int, int, int, torch.dtype], Case]] = {
    "all_reduce": all_reduce,
    "all_gather": all_gather,
    "broadcast": broadcast,
    "barrier": barrier,
}


def _fill(tensor: torch.Tensor, value: int) -> None:
    tensor.fill_(value)


def main(context: RankContext) -> None:
    """Run every operation at every size."""
    settings = context.settings
    dtype = getattr(torch, settings["dtype"])
    cases = [(op, size) for op in settings["ops"] for size in ([0] if op == "barrier" else settings["sizes"])]
    iterations = settings["warmup"] + settings["iterations"]
    populated = 0
    context.recorder.expect(len(cases) * iterations)
    for op, size in cases:
        if size > populated:
            populate_heap(2 * size + GLOO_BYTES)
            populated = size
        case = OPERATIONS[op](context.rank, context.world_size, size, dtype)
        for iteration in range(iterations):
            case.prepare()
            dist.barrier()
            start = time.time_ns()
            case.run()
            end = time.time_ns()
            context.recorder.record(
                Operation(
                    op=op, bytes=case.size_bytes, group_size=context.world_size,
                    iteration=iteration - settings["warmup"], dtype=settings["dtype"],
                    phase="warmup" if iteration < settings["warmup"] else "measure",
                    start_ns=start, end_ns=end, wrong=case.wrong() if settings["check"] else -1,
                )
            )  # fmt: skip
