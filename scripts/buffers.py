"""Measure how many buffers of an operation's size each collective needs in a rank.

Forks ranks on this machine that connect over loopback, as the ranks of a run, and prints by how
much the memory of the first two grows with an operation, in units of the size.

usage: scripts/buffers.py [SIZE_MIB [RANKS [real|folded [gloo|hierarchical]]]]
       defaults: 32 4 real gloo
"""

import os
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from testbed.workloads.collectives.catalog import CATALOG
from testbed.workloads.collectives.operations import OPERATIONS, Group

from testbed.workers.fleet import ENVIRONMENT
from testbed.workers.lib.hierarchy import Hierarchy
from testbed.workers.zygote import forked

MIB = 2**20
ITERATIONS = 2
SHOWN_RANKS = 2
DEFAULTS = ("32", "4", "real", "gloo")


def anonymous_bytes() -> int:
    """Return the private memory of this process; of a process that never gives memory back."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return int(fields["RssAnon"].split()[0]) * 1024


def be_rank(op: str, rank: int, store: str, size: int, ranks: int, kinds: tuple[str, str]) -> int:
    """Run an operation on small buffers, then on buffers of `size`, and print the growth."""
    payload, algorithm = kinds
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    hierarchy = None
    if algorithm == "hierarchical":
        middle = ranks // 2
        hierarchy = Hierarchy([list(range(middle)), list(range(middle, ranks))])

    group = Group(torch.float32, hierarchy=hierarchy, folded=payload == "folded")
    run(op, group, MIB)
    before = anonymous_bytes()
    run(op, group, size)
    growth = (anonymous_bytes() - before) / size
    dist.barrier()
    if rank < SHOWN_RANKS:
        print(f"{op:<16}rank {rank} {growth:6.2f}", flush=True)
    return 0


def run(op: str, group: Group, size: int) -> None:
    """Run an operation several times on the same buffers."""
    case = OPERATIONS[op](group, size)
    for _ in range(ITERATIONS):
        case.prepare()
        dist.barrier()
        case.run()


def measure(op: str, size: int, ranks: int, kinds: tuple[str, str]) -> None:
    """Fork the ranks of one operation, and wait for them; exit if one fails."""
    with tempfile.TemporaryDirectory(prefix="testbed-buffers-") as folder:
        pids: list[int] = []
        for rank in range(ranks):
            work = partial(be_rank, op, rank, f"{folder}/store", size, ranks, kinds)
            pids.append(forked(work))

        for pid in pids:
            _pid, status = os.waitpid(pid, 0)
            if status != 0:
                sys.exit(f"a rank of {op} failed")


def with_environment(environment: Mapping[str, str]) -> None:
    """Start this program again with the allocator's settings of ranks, which it reads once."""
    if any(os.environ.get(name) != value for name, value in environment.items()):
        os.environ.update(environment)
        os.execv(sys.executable, [sys.executable, *sys.argv])


def main() -> None:
    """Print the growth for every operation."""
    with_environment({**ENVIRONMENT, "GLOO_SOCKET_IFNAME": "lo"})
    given = sys.argv[1:]
    size_mib, ranks, payload, algorithm = [*given, *DEFAULTS[len(given) :]]
    for op, collective in CATALOG.items():
        if op == "barrier" or (algorithm == "hierarchical" and not collective.hierarchical):
            continue
        measure(op, int(size_mib) * MIB, int(ranks), (payload, algorithm))


if __name__ == "__main__":
    main()
