"""The same network on the virtual clock and on the real one, at rates that a CPU can carry.

On the real clock the guest is an ordinary Linux with Mininet and tc, without the edits that make
time virtual; no publication is needed to compare both. docs/accuracy.md says where the clocks do
not agree, and why.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import fmean

import polars as pl
import pytest

from tests.support.runs import Command, Folder, all_reduce, set_options

TOPOLOGY = """
name: slow
datacenters:
  west: {hosts: HOSTS, nic: {rate: 1 Gbit/s, delay: 0 ms}}
  east: {hosts: 1, nic: {rate: 1 Gbit/s, delay: 0 ms}}
wan:
  - {between: [west, east], rate: RATE, delay: 20 ms, queue: 1 MiB}
"""
CLOCKS = ("virtual", "real")
TOLERANCE = 0.02  # calls and timers take up to 2 ms in the guest, and messages 0.15 s or more
RING_TOLERANCE = 0.02  # means of three runs were 0.5 to 1.7 % higher

pytestmark = [pytest.mark.proof, pytest.mark.alone]


@contextmanager
def priority() -> Iterator[None]:
    """Run commands before all ordinary processes, if this user may: a late CPU is a late packet."""
    usual = os.sched_getscheduler(0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        yield
        return
    try:
        yield
    finally:
        os.sched_setscheduler(0, usual, os.sched_param(0))


def run(command: Command, topology: Path, clock: str, number: int, job: list[str]) -> Folder:
    """Carry out the job on a clock.

    Args:
        command: runs the testbed.
        topology: topology file; the run's folder is made next to it.
        clock: virtual or real.
        number: number of the run.
        job: options of the workload.

    Returns:
        The folder of the run.
    """
    out = topology.parent / f"{clock}-{number}"
    options = ["--clock", clock, "--isolation", "process", "--out", out]
    with priority() if clock == "real" else nullcontext():
        command("run", topology, "collectives", *job, *options)
    return Folder(out)


def total_s(folder: Folder) -> float:
    """Return the time from the beginning of the first operation to the end of the last one."""
    return float(folder.ops.select(pl.col("end_ns").max() - pl.col("start_ns").min()).item()) / 1e9


def topology_in(folder: Path, rate: str, hosts: int) -> Path:
    """Write the topology: a link of this rate, so many hosts in the west, and one in the east."""
    path = folder / "slow.yaml"
    path.write_text(TOPOLOGY.replace("RATE", rate).replace("HOSTS", str(hosts)))
    return path


@pytest.mark.parametrize("rate", ["10 Mbit/s", "30 Mbit/s", "100 Mbit/s"])
def test_messages(rate: str, command: Command, tmp_path: Path) -> None:
    """Median times of messages (broadcasts of two ranks) agree within 2 %."""
    values = {"ops": "[broadcast]", "sizes": "[1 MiB, 4 MiB]", "iterations": 5, "warmup": 1}
    topology = topology_in(tmp_path, rate, hosts=1)
    runs = [run(command, topology, clock, 0, set_options(values)) for clock in CLOCKS]
    virtual, real = (folder.median_ms("broadcast") for folder in runs)
    print(f"\n{rate}: virtual {virtual}, real {real}")
    assert len(virtual) == 2
    assert real == pytest.approx(virtual, rel=TOLERANCE)


@pytest.mark.parametrize("rate", ["10 Mbit/s", "30 Mbit/s"])
def test_all_reduces(rate: str, command: Command, tmp_path: Path) -> None:
    """Eighteen rings of three ranks take the same time within 3 %, as a mean of three runs.

    Single rings differ by more: threads of a rank that are ready at the same time may run in
    another order, which changes what a ring waits for.
    """
    job = all_reduce("256 KiB, 2 MiB", iterations=7, warmup=2)
    topology = topology_in(tmp_path, rate, hosts=2)
    virtual_s = total_s(run(command, topology, "virtual", 0, job))
    real_s = [total_s(run(command, topology, "real", number, job)) for number in range(3)]
    print(f"\n{rate}: virtual {virtual_s:.3f} s, real {real_s}")
    assert fmean(real_s) == pytest.approx(virtual_s, rel=RING_TOLERANCE)
