"""What programs see of the guest's virtual clock, and what they cost it.

usage: clocks.py FOLDER

Times in ns. `RAW` is virtual time itself: the kernel counts a read of it as 1 us.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from testbed.execution.inside_measurement import seed_kernel
from testbed.network.timers import exact_timers

RAW = time.CLOCK_MONOTONIC_RAW
SYSTEM_CALLS = 5000
SPIN_NS = 20_000_000
WAIT_S = 0.05
SLEEPER = "import os, time; time.sleep(0.05); os.write(1, b'x')"


def virtual_ns() -> int:
    """Return virtual time, in ns of CLOCK_MONOTONIC."""
    return time.clock_gettime_ns(RAW)


def least_steps() -> dict[str, float]:
    """Return the least difference of two successive reads of each clock, in s."""
    readers: dict[str, Callable[[], float]] = {
        "time": time.time,
        "monotonic": time.monotonic,
        "perf_counter": time.perf_counter,
        "datetime": lambda: datetime.now().microsecond / 1e6,
    }
    steps = {}
    for name, read in readers.items():
        time.sleep(0.3)
        reads = [read() for _ in range(100)]
        steps[name] = min(later - sooner for sooner, later in pairwise(reads))

    return steps


def cost_of_system_calls() -> dict[str, int]:
    """Return by how much the clock moved while this process made system calls, in ns."""
    folder = os.open("/", os.O_RDONLY)
    missing = Path(f"/missing-{'x' * 100}")

    def fail() -> None:
        with suppress(OSError):
            missing.stat()

    costs = {}
    calls: dict[str, Callable[[], object]] = {"fstat": lambda: os.fstat(folder), "failing": fail}
    for name, call in calls.items():
        time.sleep(0.001)
        begin_ns = time.monotonic_ns()
        for _ in range(SYSTEM_CALLS):
            call()
        costs[name] = time.monotonic_ns() - begin_ns

    return costs


def spin() -> dict[str, int]:
    """Read the clock until time has passed, while another process waits for less."""
    begin_ns = time.monotonic_ns()
    code = (
        "import sys, time\n"
        f"time.sleep(({begin_ns} + {SPIN_NS // 2} - time.monotonic_ns()) / 1e9)\n"
        "print(time.monotonic_ns())\n"
    )
    other = subprocess.Popen([sys.executable, "-ISc", code], stdout=subprocess.PIPE, text=True)
    while time.monotonic_ns() < begin_ns + SPIN_NS:
        pass

    end_ns = virtual_ns()
    woken, _nothing = other.communicate()
    return {"spun": end_ns - begin_ns, "other_woke": int(woken) - begin_ns}


def polls() -> dict[str, int]:
    """Wait for a child in loops that never sleep, and return how long each took."""
    took = {}
    for name, poll in {
        "recv": nothing_to_receive,
        "wait": child_runs,
        "yield": child_runs_for_yielding,
    }.items():
        begin_ns = virtual_ns()
        for _ in poll():
            pass
        took[name] = virtual_ns() - begin_ns

    return took


def nothing_to_receive() -> Iterator[None]:
    """Yield as long as a child has sent nothing."""
    near, far = socket.socketpair()
    near.setblocking(False)
    child = subprocess.Popen([sys.executable, "-ISc", SLEEPER], stdout=far.fileno())
    while True:
        try:
            near.recv(1)
            break
        except BlockingIOError:
            yield

    child.wait()


def child_runs() -> Iterator[None]:
    """Yield as long as a child runs."""
    child = subprocess.Popen([sys.executable, "-ISc", SLEEPER], stdout=subprocess.DEVNULL)
    while child.poll() is None:
        yield


def child_runs_for_yielding() -> Iterator[None]:
    """Yield as long as a child's output is empty, between calls of sched_yield()."""
    near, far = os.pipe()
    child = subprocess.Popen([sys.executable, "-ISc", SLEEPER], stdout=far)
    os.close(far)
    os.set_blocking(near, False)
    while True:
        os.sched_yield()
        with suppress(BlockingIOError):
            os.read(near, 1)
            break
        yield

    child.wait()


def sleeps() -> int:
    """Return how long a hundred sleeps of 1 ms took, in ns."""
    begin_ns = time.monotonic_ns()
    for _ in range(100):
        time.sleep(0.001)

    return time.monotonic_ns() - begin_ns


def random_numbers() -> list[str]:
    """Return what the kernel draws after each of three seeds, of which the first two are equal."""
    drawn = []
    for seed in (1, 1, 2):
        seed_kernel(seed)
        drawn.append(os.urandom(8).hex())

    return drawn


def main(folder: Path) -> None:
    """Measure, and write the results to result.json in `folder`."""
    exact_timers()
    measured = {
        "steps_s": least_steps(),
        "system_calls": cost_of_system_calls(),
        "spin": spin(),
        "polls": polls(),
        "sleeps": sleeps(),
        "random": random_numbers(),
        "tcp_mem": Path("/proc/sys/net/ipv4/tcp_mem").read_text().split(),
    }
    (folder / "result.json").write_text(json.dumps(measured))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
