"""Time collective operations, size after size, as nccl-tests does.

    testbed run two-sites collectives --set workload.sizes='[4 KiB, 1 MiB]' \
        --set workload.iterations=3

Every iteration begins with a barrier, so that no rank is still busy with the previous iteration.
Then each rank measures the time from its call to its return. Buffers are allocated once per size
and hold known values; after every iteration each rank counts the elements that differ from the
mathematically correct result. Checking costs no virtual time.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta
from itertools import count

import torch
import torch.distributed as dist

from testbed.runfolder.records import Operation, TcpUse
from testbed.workers.lib.heap import populate_heap
from testbed.workers.lib.hierarchy import Hierarchy, datacenter_ranks, new_groups, rails
from testbed.workers.tcp_watch import TcpWatch
from testbed.workers.workload import RankContext

from .buffers import buffer_bytes
from .catalog import CATALOG, HIERARCHICAL
from .operations import OPERATIONS, ROOT, Case, Group
from .repeats import repeats_of

RECORDS_ITSELF = True


def name_groups(groups: str, datacenters: Mapping[str, list[int]]) -> dict[str, list[int]]:
    """Return the ranks of each group, by the group's name; all groups work at the same time.

    Args:
        groups: ``all``, ``datacenter`` or ``rail``.
        datacenters: the ranks of each datacenter.

    Returns:
        The groups; empty if all ranks work together.
    """
    if groups == "datacenter":
        return dict(datacenters)
    if groups == "rail":
        return {f"rail-{i}": ranks for i, ranks in enumerate(rails(list(datacenters.values())))}

    return {}


def make_group(context: RankContext) -> tuple[str, Group]:
    """Return the name of this rank's group, and the group."""
    settings = context.settings
    timeout = timedelta(seconds=context.plan.workers.timeout_s)
    datacenters = datacenter_ranks(context.plan)
    ranks_by_name = name_groups(settings["groups"], datacenters)
    process_group = new_groups(list(ranks_by_name.values()), timeout)
    hierarchy = None
    if settings["algorithm"] == HIERARCHICAL:
        hierarchy = Hierarchy(list(datacenters.values()), timeout)

    group = Group(
        getattr(torch, settings["dtype"]),
        group=process_group,
        in_place=settings["in_place"],
        connections=settings["connections"],
        hierarchy=hierarchy,
        folded=settings.get("payload") == "folded",
    )
    for name, ranks in ranks_by_name.items():
        if context.rank in ranks:
            return name, group

    return "", group


def list_cases(ops: list[str], sizes: list[int]) -> list[tuple[str, int]]:
    """Return each operation with each size in bytes; a barrier has size 0."""
    cases: list[tuple[str, int]] = []
    for op in ops:
        if op == "barrier":
            cases.append((op, 0))
            continue
        for size in sizes:
            cases.append((op, size))

    return cases


def main(context: RankContext) -> None:
    """Run every operation at every size."""
    settings = context.settings
    group_name, group = make_group(context)
    cases = list_cases(settings["ops"], settings["sizes"])
    repeats = repeats_of(settings, context.rank)
    populated = 0
    case: Case | None = None
    watch = TcpWatch()
    watch.look_for_connections()
    context.recorder.expect(len(cases) * (settings["warmup"] + repeats.most))

    for number, (op, size) in enumerate(cases):
        root = ROOT if CATALOG[op].has_root else None
        needed = buffer_bytes(
            op,
            size,
            group.ranks,
            algorithm=settings["algorithm"],
            in_place=settings["in_place"],
            folded=group.folded,
        )
        case = None  # frees the buffers of the operation before
        if needed > populated:
            populate_heap(needed)
            populated = needed

        case = OPERATIONS[op](group, size)
        times_ns: list[int] = []
        for repetition in count(-settings["warmup"]):
            start_ns, end_ns, tcp = timed(case, watch)
            if repetition >= 0:
                times_ns.append(end_ns - start_ns)
            context.recorder.record(
                Operation(
                    op=op,
                    bytes=case.size_bytes,
                    group_size=group.ranks,
                    group=group_name,
                    algorithm=settings["algorithm"],
                    iteration=repetition,
                    dtype=settings["dtype"],
                    phase="warmup" if repetition < 0 else "measure",
                    start_ns=start_ns,
                    end_ns=end_ns,
                    wrong=case.wrong() if settings["check"] else -1,
                    group_rank=group.rank,
                    root=root,
                    case=number,
                    tcp=tcp,
                )
            )
            if settings["pause"]:
                time.sleep(settings["pause"] / 1e9)
            if not repeats.more(times_ns):
                break


def timed(case: Case, watch: TcpWatch) -> tuple[int, int, TcpUse | None]:
    """Run one iteration.

    Args:
        case: the operation.
        watch: reads the TCP connections of this rank.

    Returns:
        Begin and end of this rank's call in Unix ns, and its use of TCP.
    """
    case.prepare()
    dist.barrier()
    before = watch.snapshot()
    start_ns = time.time_ns()
    case.run()
    end_ns = time.time_ns()

    return start_ns, end_ns, watch.use_since(before)
