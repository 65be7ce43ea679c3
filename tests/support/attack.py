"""A script for the ranks of a run, which attacks the run folder and makes up figures.

Writes outcomes.json into the working folder: for each attempt "done", or the error.
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

TERABYTE = 2**40


def attempts(run: Path, rank: int, hosts: list[str]) -> dict[str, Callable[[], object]]:
    """Return what a rank tries, of which only the last may succeed."""
    raw, logs = run / "raw", run / "logs"
    own = raw / f"ops-{rank}.jsonl"
    other = (rank + 1) % len(hosts)
    return {
        "exit": lambda: (raw / "exit").write_text("0\n"),
        "remove events": (raw / "events.jsonl").unlink,
        "remove own records": own.unlink,
        "rewrite own records": lambda: os.truncate(own, 0),
        "mode of own records": lambda: own.chmod(0o666),
        "read own records": lambda: os.open(own, os.O_RDONLY | os.O_NONBLOCK),
        "records of another rank": lambda: (raw / f"ops-{other}.jsonl").open("ab"),
        "new records": lambda: (raw / "links.jsonl").open("ab"),
        "exits": lambda: (raw / "exits.jsonl").open("ab"),
        "status": lambda: (run / "status.json").write_text("{}"),
        "plan": lambda: (run / "plan.json").open("ab"),
        "a sparse terabyte": lambda: (run / "captures/huge").open("wb").truncate(TERABYTE),
        "work of another host": lambda: (run / "work" / hosts[other] / "file").write_text("x"),
        "log of another rank": lambda: (logs / f"rank-{other}.log").open("ab"),
        "move a folder": lambda: logs.rename(run / "gone"),
        "own work": lambda: Path("file").write_text("x"),
    }


def outcome_of(action: Callable[[], object]) -> str:
    try:
        action()
    except OSError as error:
        return os.strerror(error.errno or 0)
    return "done"


def write_false_records(raw: Path, rank: int, ranks: int) -> None:
    """Write all-reduces of 1 ns, the outcome of the run, and the start of another rank."""
    now = time.time_ns()
    record: dict[str, object] = {"op": "all_reduce", "bytes": 4096, "group_size": ranks}
    record |= {"phase": "measure", "dtype": "float32", "start_ns": now, "end_ns": now + 1}
    with (raw / f"ops-{rank}.jsonl").open("ab", buffering=0) as records:
        for iteration in range(3):
            line = json.dumps({**record, "iteration": iteration})
            records.write(line.encode() + b"\n")
    with (raw / "events.jsonl").open("ab", buffering=0) as events:
        events.write(b'{"stage": "run", "state": "completed", "time_ns": 1}\n')
        events.write(b'{"stage": "ops", "state": "begin", "time_ns": 1}\n')
    start = {"rank": (rank + 1) % ranks, "host": "x", "interfaces": []}
    start |= {"capabilities": 0, "no_new_privileges": True}
    with (raw / "ranks.jsonl").open("ab", buffering=0) as starts:
        starts.write(json.dumps(start).encode() + b"\n")


def leave_traps() -> None:
    """Leave a program with the owner's rights where nobody may look, and sparse terabytes."""
    closed = Path("closed")
    closed.mkdir()
    os.mkfifo(closed / "fifo")
    program = closed / "program"
    program.write_text("#!/bin/sh\nid\n")
    program.chmod(0o6755)
    closed.chmod(0)
    with Path("huge").open("wb") as file:
        file.truncate(TERABYTE)
    os.ftruncate(1, TERABYTE)


def main() -> None:
    run = Path(os.environ["TESTBED_RUN_FOLDER"])
    rank = int(os.environ["RANK"])
    hosts = os.environ["TESTBED_HOSTS"].split(",")
    dist.init_process_group("gloo")
    dist.all_reduce(torch.ones(1000))
    outcomes = {name: outcome_of(action) for name, action in attempts(run, rank, hosts).items()}
    Path("outcomes.json").write_text(json.dumps(outcomes))
    write_false_records(run / "raw", rank, len(hosts))
    leave_traps()
    dist.barrier()


if __name__ == "__main__":
    main()
