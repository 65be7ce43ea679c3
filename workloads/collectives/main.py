"""Times collective operations, size after size, as nccl-tests does.

    testbed run two-sites collectives --set workload.sizes='[4 KiB, 1 MiB]' --set
    workload.iterations=3

Every iteration begins with a barrier, so that no rank is still busy with the one before; then each
rank takes the time from its call to its return. Buffers are allocated once per size and hold known
values; after every iteration each rank counts the elements that differ from what mathematics says.
Checking costs no virtual time.
"""

from __future__ import annotations

import datetime
import time

import torch
import torch.distributed as dist

from testbed.workers.rank import RankContext
from testbed.workers.recorder import Operation

from ..lib.heap import populate_heap
from ..lib.hierarchy import Hierarchy, datacenter_ranks, new_groups, rails
from .operations import OPERATIONS, Group

RECORDS_ITSELF = True
GLOO_BYTES = 16 * 2**20  # gloo's own buffers are at most a few MiB an operation
BUFFERS = {"gloo": 2, "hierarchical": 4}  # of the whole size, with those in between


def name_groups(groups: str, datacenters: dict[str, list[int]]) -> dict[str, list[int]]:
    """The ranks of each group that works at the same time, by its name; none where all ranks work
    together.
    """
    if groups == "datacenter":
        return datacenters
    if groups == "rail":
        return {f"rail-{i}": ranks for i, ranks in enumerate(rails(list(datacenters.values())))}
    return {}


def make_group(context: RankContext) -> tuple[str, Group]:
    """The group that this rank works in, and its name."""
    settings = context.settings
    timeout = datetime.timedelta(seconds=context.plan.workers.timeout_s)
    datacenters = datacenter_ranks(context.plan)
    named = name_groups(settings["groups"], datacenters)
    hierarchical = settings["algorithm"] == "hierarchical"
    group = Group(
        getattr(torch, settings["dtype"]),
        group=new_groups(list(named.values()), timeout),
        in_place=settings["in_place"],
        connections=settings["connections"],
        hierarchy=Hierarchy(list(datacenters.values()), timeout) if hierarchical else None,
    )
    return next((name for name, ranks in named.items() if context.rank in ranks), ""), group


def main(context: RankContext) -> None:
    """Run every operation at every size."""
    settings = context.settings
    name, group = make_group(context)
    cases = [
        (op, size)
        for op in settings["ops"]
        for size in ([0] if op == "barrier" else settings["sizes"])
    ]
    iterations = settings["warmup"] + settings["iterations"]
    populated = 0
    context.recorder.expect(len(cases) * iterations)
    for op, size in cases:
        if size > populated:
            populate_heap(BUFFERS[settings["algorithm"]] * size + GLOO_BYTES)
            populated = size
        case = OPERATIONS[op](group, size)
        for iteration in range(iterations):
            case.prepare()
            dist.barrier()
            start = time.time_ns()
            case.run()
            end = time.time_ns()
            context.recorder.record(
                Operation(
                    op=op,
                    bytes=case.size_bytes,
                    group_size=group.ranks,
                    group=name,
                    algorithm=settings["algorithm"],
                    iteration=iteration - settings["warmup"],
                    dtype=settings["dtype"],
                    phase="warmup" if iteration < settings["warmup"] else "measure",
                    start_ns=start,
                    end_ns=end,
                    wrong=case.wrong() if settings["check"] else -1,
                )
            )
