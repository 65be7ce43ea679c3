"""Measure what a byte, a packet, a system call, a rank and a second of idle cost in CPU time.

Each cost is the difference between two runs that differ in nothing else, so what every run needs
cancels out. A run's CPU time is that of all processes that it has started. The runs have one CPU:
on two, a guest's kernel and its processes use CPU time to wait for each other.

usage: scripts/costs.py
"""

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

TESTBED = [sys.executable, "-m", "testbed"]
PROJECT = Path(__file__).resolve().parent.parent
PAIR = ["--set", "topology.datacenters.iowa.hosts=1", "--set", "topology.datacenters.ohio.hosts=1"]
MIB = 2**20
MESSAGE_BYTES = 64 * MIB
HEADER_BYTES = 52  # of IP and TCP with timestamps
CALLS = 200_000
IDLE_S = 10_000
RANKS = (4, 20)
SCRIPT = """
import os, sys, time
import torch.distributed as dist
dist.init_process_group("gloo")
for _ in range(int(sys.argv[1])):
    os.getppid()
time.sleep(float(sys.argv[2]))
dist.destroy_process_group()
"""


def cpu_seconds(*words: str) -> float:
    """Return the CPU seconds of a run in processes; exit if it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory(prefix="testbed-costs-") as scratch:
        options = ["--isolation", "process", "--quiet", "--out", f"{scratch}/run"]
        command = [*TESTBED, "run", "two-sites", *options, *words]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(words)} failed with status {done.returncode}:\n{done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def broadcasts(iterations: int, mtu: int) -> float:
    """Return the CPU seconds of some broadcasts of 64 MiB from one host to another."""
    settings = ["workload.ops=[broadcast]", "workload.warmup=0", "workload.sizes=[64 MiB]"]
    settings += ["workload.check=false", f"workload.iterations={iterations}", f"topology.mtu={mtu}"]
    words = ["collectives", *PAIR]
    for setting in settings:
        words += ["--set", setting]
    return cpu_seconds(*words)


def collectives(ranks: int) -> float:
    """Return the CPU seconds of small collectives among some ranks, each on a host."""
    hosts = f"topology.datacenters.iowa.hosts={ranks - 2}"
    return cpu_seconds("collectives", "--set", hosts, "--set", "workload.sizes=[4 KiB]")


def script(calls: int, idle_s: int) -> float:
    """Return the CPU seconds of a script with some system calls and some seconds of sleep."""
    with tempfile.TemporaryDirectory(prefix="testbed-costs-") as scratch:
        path = Path(scratch, "script.py")
        path.write_text(SCRIPT)
        return cpu_seconds(*PAIR, "--", str(path), str(calls), str(idle_s))


def main() -> None:
    """Measure and print the costs."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    per_byte: dict[int, float] = {}
    for mtu in (1500, 9000):
        per_byte[mtu] = (broadcasts(9, mtu) - broadcasts(1, mtu)) / (8 * MESSAGE_BYTES)

    # A packet for each 1448 or 8948 bytes: two equations for the cost of a packet and of a byte.
    data = {mtu: mtu - HEADER_BYTES for mtu in per_byte}
    packet_s = (per_byte[1500] - per_byte[9000]) / (1 / data[1500] - 1 / data[9000])
    byte_s = per_byte[1500] - packet_s / data[1500]
    print(f"packet from host to host              {packet_s * 1e6:8.1f} us")
    print(f"GB from host to host, without packets {byte_s * 1e9:8.1f} s")
    for mtu, cost in per_byte.items():
        print(f"GB from host to host, MTU {mtu}        {cost * 1e9:8.1f} s")

    nothing = script(0, 0)
    call_s = (script(CALLS, 0) - nothing) / (2 * CALLS)
    print(f"system call                           {call_s * 1e6:8.2f} us")
    idle_s = (script(0, IDLE_S) - nothing) / IDLE_S
    print(f"second in which nothing happens       {idle_s * 1e6:8.1f} us")
    few, many = RANKS
    rank_s = (collectives(many) - collectives(few)) / (many - few)
    print(f"rank and its host, collectives        {rank_s:8.2f} s")


if __name__ == "__main__":
    main()
