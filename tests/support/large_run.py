"""A run folder of 40 ranks in five datacenters that have done 10 000 operations each."""

import json
from itertools import combinations
from pathlib import Path

from testbed.plan.model import Plan
from testbed.runfolder.folder import RunDir
from testbed.runfolder.status import Status, write_status
from tests.support.synthetic import GBIT, MS, START_NS, make_network, make_plan

DATACENTERS, HOSTS, OPERATIONS, SAMPLES = 5, 8, 10_000, 1000
SIZES = [4096 << 2 * i for i in range(7)]


def large_plan() -> Plan:
    """Make the plan of the large run."""
    names = [f"dc{i}" for i in range(DATACENTERS)]
    wan = {
        pair: (10 * GBIT, 10 * GBIT, (5 + i) * MS) for i, pair in enumerate(combinations(names, 2))
    }
    return make_plan(make_network(dict.fromkeys(names, HOSTS), wan), capture="none")


def write_large_run(path: Path) -> RunDir:
    """Write the large run; records are written as text, for speed."""
    plan = large_plan()
    run = RunDir.create(path)
    run.plan.write_text(plan.model_dump_json())
    run.spec.write_text("name: hand-made\n---\nworkload: collectives\n")
    ranks = len(plan.workers.ranks)
    for rank in plan.workers.ranks:
        with run.rank_ops(rank.rank).open("w") as file:
            for number in range(OPERATIONS):
                start = START_NS + number * 10 * MS + rank.rank * 1000
                record = {
                    "op": ("all_reduce", "all_gather")[number // 7 % 2],
                    "bytes": SIZES[number % 7],
                    "group_size": ranks,
                    "iteration": number // 14,
                    "phase": "measure",
                    "dtype": "float32",
                    "start_ns": start,
                    "end_ns": start + 5 * MS + number % 977,
                    "wrong": 0,
                    "group": "",
                    "algorithm": "gloo",
                }
                file.write(json.dumps(record) + "\n")
    with run.link_samples.open("w") as file:
        for i in range(SAMPLES):
            for link in plan.network.wan:
                for direction in link.directions:
                    row = {
                        "time_ns": START_NS + i * 100 * MS,
                        "source": direction.source,
                        "target": direction.target,
                        "link": link.key,
                        "bytes": i * (i + link.index) * 1000,
                        "packets": i * 400,
                        "drops": 0,
                        "backlog_bytes": i * 7919 % 100_000,
                    }
                    file.write(json.dumps(row) + "\n")
    run.fidelity.write_text("[]")
    run.events.write_text("")
    write_status(run.status, Status(state="completed", exit_status=0))
    return run
