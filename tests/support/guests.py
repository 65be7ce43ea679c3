"""Run scripts of ``tests/guest/inside`` in guests."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import testbed
from testbed.execution.guest_code import GUEST_ENVIRONMENT
from testbed.guest.boot import Clock, Guest, GuestSpec, start_guest
from testbed.guest.kernel import Kernel

INSIDE = Path(__file__).parents[1] / "guest/inside"
PROJECT = Path(testbed.__file__).parent.parent
MEMORY_BYTES = 3 * 2**30
WAYS = ("by ptrace", "on one CPU", "on two CPUs")  # to stop processes; see `kernel_that_stops`
LONGEST_S = 1500  # of wall time; on two idle cores the scripts take 5 to 300 s


def kernel_that_stops(kernel: Kernel, way: str) -> Kernel:
    """The kernel, told how to stop its processes; `way` is one of `WAYS`."""
    two_cpus = kernel.two_cpus and way == "on two CPUs"
    return replace(kernel, seccomp=way != "by ptrace", two_cpus=two_cpus)


@contextmanager
def guest_with(
    kernel: Kernel, script: str, folder: Path, *arguments: object, clock: Clock = "virtual"
) -> Iterator[Guest]:
    """Boot a guest that runs a script of ``inside/``.

    Args:
        kernel: the guest kernel.
        script: the script's name.
        folder: the script's first argument, a new folder: the one that it may write to.
        arguments: the script's other arguments.
        clock: the guest's clock.
    """
    (folder / "raw").mkdir(parents=True)
    spec = GuestSpec(
        kernel=kernel,
        command=[sys.executable, str(INSIDE / script), str(folder), *map(str, arguments)],
        writable=folder,
        memory_bytes=MEMORY_BYTES,
        clock=clock,
        console=folder / "console.log",
        clock_file=folder / "raw/clock",
        readable=[PROJECT, Path(sys.prefix), Path(sys.base_prefix)],
        environment={"PYTHONPATH": str(PROJECT), **GUEST_ENVIRONMENT},
    )
    with start_guest(spec) as guest:
        yield guest


def finish(guest: Guest) -> int:
    """Wait for the end of the script, and give its exit status."""
    deadline = time.monotonic() + LONGEST_S
    while (status := guest.status()) is None:
        assert time.monotonic() < deadline, f"the guest does not end:\n{console(guest.writable)}"
        time.sleep(0.05)
    return status


def console(folder: Path) -> str:
    """Read what the guest of a shared folder printed."""
    return (folder / "console.log").read_text(errors="replace")


def result(folder: Path) -> dict[str, Any]:
    """Read the result.json that a script left in its shared folder."""
    path = folder / "result.json"
    assert path.exists(), f"the script did not finish:\n{console(folder)}"
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def measure_links(
    kernel: Kernel, folder: Path, scenarios: dict[str, Any], clock: Clock
) -> dict[str, Any]:
    """Measure links with inside/links.py.

    Args:
        kernel: the guest kernel.
        folder: the folder that is shared with the guest, a new one.
        scenarios: the scenarios by name (see links_scenarios.py).
        clock: the guest's clock.

    Returns:
        What the script measured in each scenario.
    """
    with guest_with(kernel, "links.py", folder, clock=clock) as guest:
        (folder / "scenarios.json").write_text(json.dumps(scenarios))
        assert finish(guest) == 0, console(folder)
    return result(folder)
