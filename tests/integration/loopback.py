"""Runs scenarios of ranks on loopback, in forked processes that share one import of torch.

usage: python tests/integration/loopback.py SCENARIO...

Prints a JSON object: {scenario: [the result of rank 0, rank 1, ...]}.
"""

import datetime
import itertools
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from testbed.workloads.collectives.operations import OPERATIONS, Group
from testbed.workloads.collectives.repeats import AgreedRepeats

from testbed.workers.lib.hierarchy import Hierarchy, direct_reduce_scatter, new_groups, rails

DTYPES = ("float32", "float64", "float16", "bfloat16", "int8", "uint8", "int32", "int64")
APART = ("all_to_all", "send_recv")
HIERARCHICAL = ("all_reduce", "all_gather", "reduce_scatter", "broadcast", "barrier")
EQUAL, UNEVEN, CROSSED = [[0, 1], [2, 3]], [[0, 1, 2], [3]], [[0, 3], [2, 1]]
SIZE = 300_000  # bytes: more than a period of the values, for all types but float64 and int64

Outcomes = dict[str, list[int]]  # by case: see outcome


def outcome(group: Group, op: str, size: int = SIZE) -> list[int]:
    """Count wrong elements, and again with one element changed (1 where the rank has no result)."""
    case = OPERATIONS[op](group, size)
    for _ in range(2):  # what an iteration leaves must not spoil the next
        case.prepare()
        dist.barrier()
        case.run()
    right = case.wrong()
    if case.result is None:
        return [right, 1]
    case.result[len(case.result) // 2] += 1
    return [right, case.wrong()]


def flat() -> Outcomes:
    """Every operation of gloo in every type."""
    return {
        f"{op} {dtype}": outcome(
            Group(getattr(torch, dtype)), op, 24_000 if dtype != "float32" else SIZE
        )
        for op, dtype in itertools.product(OPERATIONS, DTYPES)
    }


def in_place() -> Outcomes:
    group = Group(torch.float32, in_place=True)
    return {op: outcome(group, op) for op in OPERATIONS if op not in APART}


def odd_sizes() -> Outcomes:
    """Sizes that no number of ranks divides, and less than an item per rank."""
    outcomes: Outcomes = {}
    for op in OPERATIONS:
        for size in (4, 28, 4004):
            group = Group(torch.int32, in_place=op not in APART)
            outcomes[f"{op} {size}"] = outcome(group, op, size)
    return outcomes


def groups() -> Outcomes:
    """Two groups at the same time."""
    group = new_groups(rails(EQUAL))
    return {op: outcome(Group(torch.float32, group=group), op) for op in OPERATIONS}


def alone() -> Outcomes:
    """Groups of one rank."""
    group = new_groups([[rank] for rank in range(dist.get_world_size())])
    return {op: outcome(Group(torch.float32, group=group), op) for op in OPERATIONS}


def connections() -> Outcomes:
    """With three interfaces (be_rank): the results, and the connections of this process."""
    before = established()
    group = Group(torch.float32, connections=3)
    results = {op: outcome(group, op) for op in ("all_reduce", "broadcast", "reduce", "all_gather")}
    return {**results, "connections": [0, established()], "before": [0, before]}


def established() -> int:
    """TCP connections of this process, but those to the store."""
    inodes = set()
    for fd in Path("/proc/self/fd").iterdir():
        try:
            name = str(fd.readlink())
        except OSError:
            continue
        if name.startswith("socket:["):
            inodes.add(name[8:-1])
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    # A set: the list has some twice while others connect.
    return len({line[9] for line in lines if line[3] == "01"} & inodes)


def hierarchy(datacenters: list[list[int]], dtype: torch.dtype = torch.float32) -> Outcomes:
    made = Hierarchy(datacenters)
    group = Group(dtype, hierarchy=made)
    results = {op: outcome(group, op) for op in HIERARCHICAL}
    results |= {
        f"{op} in place": outcome(Group(dtype, hierarchy=made, in_place=True), op)
        for op in HIERARCHICAL
    }
    results |= {f"{op} of 1": outcome(group, op, 4) for op in HIERARCHICAL}
    x = torch.rand(
        1003, generator=torch.Generator().manual_seed(dist.get_rank()), dtype=torch.float64
    )
    y = x.clone()
    made.all_reduce(x)
    dist.all_reduce(y)
    results["all_reduce as dist.all_reduce"] = [int((x - y).abs().max() > 1e-12), 1]
    return results


def equal() -> Outcomes:
    return hierarchy(EQUAL)


def uneven() -> Outcomes:
    return hierarchy(UNEVEN)


def crossed() -> Outcomes:
    """Datacenters whose ranks are neither neighbours nor in order."""
    return hierarchy(CROSSED, torch.int8)


def one_datacenter() -> Outcomes:
    return hierarchy([[0, 1, 2, 3]])


def one_rank_each() -> Outcomes:
    return hierarchy([[0], [1], [2], [3]])


def misuse() -> dict[str, list[str] | list[float]]:
    """Errors of Hierarchy and the bytes of a direct reduce-scatter."""
    messages: list[str] = []
    for datacenters in ([[0, 1], [2]], [[0, 1], [1, 2, 3]]):
        try:
            Hierarchy(datacenters)
        except ValueError as error:
            messages.append(str(error))
    try:
        Hierarchy(EQUAL).broadcast(torch.zeros(1), 1)
    except ValueError as error:
        messages.append(str(error))
    x = torch.arange(8.0) * (dist.get_rank() + 1)
    direct_reduce_scatter(x[:2], x)
    return {"messages": messages, "sum": x[:2].tolist()}


def agreement() -> dict[str, int]:
    """How many iterations every rank makes; only rank 0's times are those of the name."""
    series = {
        "steady": [100] * 6,
        "slow start": [400, 300, 200, *[100] * 30],
        "swing": [100, 300] * 20,
    }
    counts: dict[str, int] = {}
    for name, times_ns in series.items():
        repeats = AgreedRepeats(20, dist.get_rank())
        mine = times_ns if dist.get_rank() == 0 else [100 * (1 + n % 7) for n in range(40)]
        done = 0
        while repeats.more(mine[:done]):
            done += 1
        counts[name] = done
    return counts


SCENARIOS: dict[str, Callable[[], Mapping[str, object]]] = {
    scenario.__name__: scenario
    for scenario in (
        flat,
        in_place,
        odd_sizes,
        groups,
        alone,
        connections,
        equal,
        uneven,
        crossed,
        one_datacenter,
        one_rank_each,
        misuse,
        agreement,
    )
}


def be_rank(rank: int, ranks: int, scenario: str, folder: Path) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = ",".join(["lo"] * (3 if scenario == "connections" else 1))
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=ranks,
        timeout=datetime.timedelta(seconds=30),
    )
    (folder / f"{rank}.json").write_text(json.dumps(SCENARIOS[scenario]()))
    dist.barrier()


def run(scenario: str, ranks: int = 4) -> list[dict[str, Any]]:
    """The results of all ranks."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pids = []
        for rank in range(ranks):
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    be_rank(rank, ranks, scenario, folder)
                    status = 0
                finally:
                    if status:
                        sys.excepthook(*sys.exc_info())
                    os._exit(status)
            pids.append(pid)
        statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        if any(statuses):
            sys.exit(f"a rank of {scenario} failed")
        return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(ranks)]


if __name__ == "__main__":
    print(json.dumps({scenario: run(scenario) for scenario in sys.argv[1:]}))
