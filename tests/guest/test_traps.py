"""How the guest's kernel stops its processes: the ways give the same results and see a loss."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from testbed.guest.boot import Guest, GuestSpec, start_guest
from testbed.guest.kernel import Kernel
from testbed.guest.session import processes_of
from tests.support.guests import (
    MEMORY_BYTES,
    WAYS,
    console,
    finish,
    kernel_that_stops,
    measure_links,
)
from tests.support.links_scenarios import link, two_host_scenario

KILLED = 128 + signal.SIGSEGV  # what a shell tells of a process that lost its registers
LONGEST_S = 60


def test_all_ways_give_the_same_figures(kernel: Kernel, tmp_path: Path) -> None:
    """TCP with losses, a program that sends and one that receives: equal in all digits."""
    lossy = link("100 Mbit/s", "20 ms", loss="1 %", queue="1 bdp")
    scenarios = {"lossy": two_host_scenario("tcp", lossy, seconds=2, settle=0)}
    results: dict[str, Any] = {}
    for way in WAYS:
        stopping = kernel_that_stops(kernel, way)
        results[way] = measure_links(stopping, tmp_path / way, scenarios, "virtual")
    assert results["by ptrace"]["lossy"]
    assert results["on one CPU"] == results["by ptrace"]
    assert results["on two CPUs"] == results["by ptrace"]


@pytest.mark.parametrize("way", WAYS[1:])
def test_a_process_that_the_host_kills_ends_in_the_guest(
    kernel: Kernel, way: str, tmp_path: Path
) -> None:
    folder = tmp_path / "shared"
    (folder / "raw").mkdir(parents=True)
    spec = GuestSpec(
        kernel=kernel_that_stops(kernel, way),
        command=["sh", "-c", "yes > /dev/null; echo it ended with $?"],
        writable=folder,
        memory_bytes=MEMORY_BYTES,
        clock="virtual",
        console=folder / "console.log",
        clock_file=folder / "raw/clock",
    )
    with start_guest(spec) as guest:
        os.kill(busiest_process(guest), signal.SIGKILL)
        assert finish(guest) == 0, console(folder)
    assert f"it ended with {KILLED}" in console(folder)


def busiest_process(guest: Guest) -> int:
    """Wait until a process of the guest has used a second of CPU time, and return its number."""
    kernel = guest.process.pid
    second = os.sysconf("SC_CLK_TCK")
    deadline = time.monotonic() + LONGEST_S
    while time.monotonic() < deadline:
        for process in processes_of(kernel):
            if process.pid != kernel and process.ticks > second:
                return process.pid
        time.sleep(0.1)
    raise AssertionError(f"no process is busy:\n{console(guest.writable)}")
