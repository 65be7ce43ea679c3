"""Measure testbed's own performance.

Reports the wall seconds of commands until their table and until their end, the wall seconds of
their stages, the speed-up of sweeps and of single runs by a second guest, and the time of large
all-reduces among 32 hosts.

usage: scripts/bench.py [NAME ...]     names from `CASES`, sweep, guests or hosts; default: all

Run the benchmark on an otherwise idle machine.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from testbed.runfolder.status import read_status
from testbed.runfolder.summary import StageRow
from testbed.sweep.point_record import read_point_record

TESTBED = [sys.executable, "-m", "testbed"]
PROJECT = Path(__file__).resolve().parent.parent
ONE_COLLECTIVE = [
    "--set",
    "workload.ops=[all_reduce]",
    "--set",
    "workload.sizes=[4 KiB]",
    "--set",
    "workload.warmup=0",
    "--set",
    "workload.iterations=1",
]
UP_TO_1_MIB = ["--set", "workload.sizes={from: 4 KiB, to: 1 MiB}"]  # as `make demo`
# name: maximum seconds on two cores, arguments of `testbed run`
CASES = {
    "two-sites": (60, ["two-sites", "collectives", "--isolation", "process"]),
    "four-processes": (
        3,
        ["two-sites", "collectives", "--isolation", "process", *ONE_COLLECTIVE],
    ),
    "ten-processes": (
        8,
        ["microsoft-openai-five", "collectives", "--isolation", "process", *ONE_COLLECTIVE],
    ),
    "ten-containers": (5, ["microsoft-openai-five", "collectives", *ONE_COLLECTIVE]),
    "demo": (100, ["microsoft-openai-five", "collectives", *UP_TO_1_MIB]),
}
SWEEP = "sweep"
GUESTS = "guests"
HOSTS = "hosts"
LARGE = [
    "collectives",
    "--isolation",
    "process",
    "--set",
    "workload.ops=[all_reduce]",
    "--set",
    "workload.sizes=[16 MiB, 64 MiB]",
    "--set",
    "workload.iterations=2",
]
# topology: least speed-up of the operations by a second guest; five sites are two and three
DIVIDED = {"two-sites": 1.8, "microsoft-openai-five": 1.5}
LEAST_GAIN = 1.8  # speed-up by two parallel guests
MOST_OVERHEAD = 4  # seconds of a point outside its operations
EXPERIMENT = """
topology: two-sites
workload: collectives
settings: {run.isolation: process}
sweep:
  grid:
    topology.wan.iowa-ohio.delay: {from: 1 ms, to: 100 ms, points: 6, scale: log}
    topology.wan.iowa-ohio.rate: [1 Gbit/s, 2 Gbit/s, 5 Gbit/s, 10 Gbit/s]
"""

MOST_HOSTS_S = 90  # seconds of the three runs of `AMONG_32_HOSTS`
# As docs/accuracy.md measures with four and eight hosts.
AMONG_32_HOSTS = """
topology: {topology}
workload: collectives
settings:
  topology.datacenters.aws.hosts: 32
  workload.ops: [all_reduce]
  workload.sizes: [128 MiB]
  workload.warmup: 1
  workload.iterations: 3
  workload.payload: folded
  run.isolation: process
sweep:
  list:
    - {{topology.datacenters.aws.nic.delay: 1 ms, topology.datacenters.aws.nic.rate: 5 Gbit/s}}
    - {{topology.datacenters.aws.nic.delay: 5 ms, topology.datacenters.aws.nic.rate: 2 Gbit/s}}
    - {{topology.datacenters.aws.nic.delay: 10 ms, topology.datacenters.aws.nic.rate: 1 Gbit/s}}
"""
AWS = PROJECT / "experiments" / "published" / "networks" / "aws.yaml"


def command(*words: str | Path) -> tuple[float, float]:
    """Return a command's wall seconds until its table and its end; exit if the command fails."""
    begin = time.monotonic()
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            [*TESTBED, *words], cwd=PROJECT, stdout=subprocess.PIPE, stderr=errors
        ) as process,
    ):
        assert process.stdout is not None
        process.stdout.read(1)
        table = time.monotonic() - begin
        process.stdout.read()
        if process.wait() != 0:
            errors.seek(0)
            said = errors.read().decode()
            asked = " ".join(map(str, words))
            sys.exit(f"testbed {asked} failed with status {process.returncode}:\n{said}")
    return table, time.monotonic() - begin


@contextmanager
def on_cpus(number: int) -> Iterator[None]:
    """Let the commands of the block run on so many CPUs only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[-number:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def measure(arguments: list[str]) -> tuple[float, float, list[StageRow]]:
    """Return the wall seconds of one run until its table and its end, and its stages."""
    with tempfile.TemporaryDirectory(prefix="testbed-bench-") as scratch:
        out = Path(scratch, "run")
        until_table, until_end = command("run", *arguments, "--out", out)
        return until_table, until_end, stages_of(out)


def stages_of(run_folder: Path) -> list[StageRow]:
    """Return the stages of a run."""
    status, problems = read_status(run_folder / "status.json")
    if status is None:
        sys.exit(f"{run_folder}: {problems[0]}")
    return status.stages


def cpu_seconds() -> float:
    """Return the CPU seconds that this machine has used since boot."""
    busy_and_idle = [int(ticks) for ticks in Path("/proc/stat").read_text().split()[1:9]]
    return (sum(busy_and_idle) - sum(busy_and_idle[3:5])) / os.sysconf("SC_CLK_TCK")


class Sweep(NamedTuple):
    """Wall and CPU seconds of a sweep, and its median seconds per point outside operations."""

    seconds: float
    cpu_seconds: float
    outside_seconds: float


def measure_sweep(jobs: int) -> Sweep:
    """Run 24 points, `jobs` in parallel."""
    with tempfile.TemporaryDirectory(prefix="testbed-bench-") as scratch:
        experiment, out = Path(scratch, "bench.yaml"), Path(scratch, "sweep")
        experiment.write_text(EXPERIMENT)
        begin = cpu_seconds()
        _, seconds = command("sweep", experiment, "--jobs", str(jobs), "--out", out)
        return Sweep(
            seconds, cpu_seconds() - begin, statistics.median(map(overhead, out.glob("points/*")))
        )


def overhead(point: Path) -> float:
    """Return a point's wall seconds outside operations: boot, network, torch, tables, page."""
    record = read_point_record(point)
    if record is None:
        sys.exit(f"{point} has no point.json")
    ops_seconds = 0.0
    for stage in stages_of(point):
        if stage.stage == "ops":
            ops_seconds += stage.wall_seconds or 0.0
    return record.wall_seconds - ops_seconds


def main() -> None:
    """Run the cases, and print a line for each."""
    known = [*CASES, SWEEP, GUESTS, HOSTS]
    names = sys.argv[1:] or known
    unknown = set(names) - set(known)
    if unknown:
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; the names are {', '.join(known)}")
    print(f"{'case':<16}{'table':>7}{'goal':>6}{'end':>7}  stages (all in seconds)")
    for name in names:
        if name not in CASES:
            continue
        goal, arguments = CASES[name]
        table, end, stages = measure(arguments)
        parts = "  ".join(f"{stage.stage} {stage.wall_seconds or 0.0:.1f}" for stage in stages)
        print(f"{name:<16}{table:>7.1f}{goal:>6}{end:>7.1f}  {parts}", flush=True)
    if SWEEP in names:
        bench_sweep()
    if GUESTS in names:
        bench_guests()
    if HOSTS in names:
        bench_hosts()


def bench_guests() -> None:
    """Print the wall seconds of all-reduces in one guest and in two, means of two runs each.

    Each guest has one CPU: one guest would borrow the other CPU for its processes.
    """
    for topology, goal in DIVIDED.items():
        seconds: dict[int, list[float]] = {1: [], 2: []}
        for guests in (1, 2, 2, 1):
            with on_cpus(guests):
                _, _, stages = measure([topology, *LARGE, "--guests", str(guests)])
            ops = sum(stage.wall_seconds or 0.0 for stage in stages if stage.stage == "ops")
            seconds[guests].append(ops)
        one, two = statistics.mean(seconds[1]), statistics.mean(seconds[2])
        gain = f"{one / two:.2f} times as fast (goal {goal})"
        each = "; ".join(format_seconds(values) for values in seconds.values())
        print(f"{GUESTS:<16}{'':>7}{'':>6}{two:>7.1f}  {topology}: {gain}; ops {each}", flush=True)


def bench_hosts() -> None:
    """Print the time of all-reduces among 32 hosts in three settings, as a sweep."""
    with tempfile.TemporaryDirectory(prefix="testbed-bench-") as scratch:
        experiment, out = Path(scratch, "hosts.yaml"), Path(scratch, "sweep")
        experiment.write_text(AMONG_32_HOSTS.format(topology=AWS))
        begin = cpu_seconds()
        _, seconds = command("sweep", experiment, "--out", out)
        cpu = cpu_seconds() - begin
    what = f"all-reduces of 128 MiB among 32 hosts, three settings; CPU time {cpu:.1f}"
    print(f"{HOSTS:<16}{'':>7}{MOST_HOSTS_S:>6}{seconds:>7.1f}  {what}", flush=True)


def format_seconds(values: list[float]) -> str:
    """Return seconds as text."""
    return ", ".join(f"{value:.1f}" for value in values)


def bench_sweep() -> None:
    """Print the time of the sweep with one guest and with two parallel guests: means of two runs.

    The order of the runs cancels a linear drift in the speed of the machine.
    """
    measured: dict[int, list[Sweep]] = {1: [], 2: []}
    for jobs in (1, 2, 2, 1):
        with on_cpus(jobs):
            measured[jobs].append(measure_sweep(jobs))
    one = sum(sweep.seconds for sweep in measured[1])
    two = sum(sweep.seconds for sweep in measured[2])
    print_sweeps("24 points, one guest at a time", "", measured[1])
    print_sweeps(
        f"two at a time: {one / two:.2f} times as fast", f"{one / 2 / LEAST_GAIN:.1f}", measured[2]
    )


def print_sweeps(what: str, goal: str, sweeps: list[Sweep]) -> None:
    """Print a line of the table.

    Args:
        what: Label of the line.
        goal: Goal of the benchmark, as text.
        sweeps: Results of the repeated sweeps.
    """
    seconds, cpu, outside = (statistics.mean(column) for column in zip(*sweeps, strict=True))
    each = ", ".join(f"{sweep.seconds:.1f}" for sweep in sweeps)
    overhead = f"a point outside its operations {outside:.1f} (goal {MOST_OVERHEAD})"
    parts = f"{each}; CPU time {cpu:.1f}; {overhead}"
    print(f"{SWEEP:<16}{'':>7}{goal:>6}{seconds:>7.1f}  {what}: {parts}", flush=True)


if __name__ == "__main__":
    main()
