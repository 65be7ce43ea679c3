"""Measure the load of this machine's CPUs during the operations of a run on the real clock."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

SAMPLE_S = 0.5
LEAST_SECONDS = 1e-3
STEAL_FIELD = 8  # index in the first line of /proc/stat (proc(5))


class CpuLoad:
    """Meter of the CPU load from `begin` to the last sample.

    Attributes:
        busy: fraction of the time in which the run used the CPU, or some program waited for a CPU.
        steal: fraction of the time in which the hypervisor withheld CPUs from this machine.
    """

    def __init__(self, cpu_seconds: Callable[[], float]) -> None:
        self._run_cpu_seconds = cpu_seconds
        self._began = time.monotonic()
        self._sampled = self._began
        self._began_cpu_s = 0.0
        self._began_steal_s = 0.0
        self.busy = 0.0
        self.steal = 0.0

    def begin(self) -> None:
        """Start the measurement."""
        self._began = time.monotonic()
        self._began_cpu_s = self._cpu_seconds()
        self._began_steal_s = _steal_seconds()

    def sample_if_due(self) -> None:
        """Take a sample, unless the last sample is recent."""
        if time.monotonic() - self._sampled >= SAMPLE_S:
            self.sample()

    def sample(self) -> None:
        """Update the measured load; unchanged if the run has ended."""
        cpu_s = self._cpu_seconds()
        self._sampled = time.monotonic()
        if cpu_s:
            seconds = max(self._sampled - self._began, LEAST_SECONDS)
            self.busy = (cpu_s - self._began_cpu_s) / seconds
            self.steal = (_steal_seconds() - self._began_steal_s) / seconds

    def _cpu_seconds(self) -> float:
        """Return the CPU time of the run plus the time in which any program waited for a CPU, in s.

        The waiting program may belong to the run. 0 if the run has ended.
        """
        run_cpu_s = self._run_cpu_seconds()
        if not run_cpu_s:
            return 0.0
        return run_cpu_s + _cpu_pressure_seconds()


def _cpu_pressure_seconds() -> float:
    """Return the time in s in which some process of this machine waited for a CPU.

    The source is pressure stall information (Linux 4.20); 0 where not available.
    """
    try:
        first_line = Path("/proc/pressure/cpu").read_text().splitlines()[0]
    except (OSError, IndexError):
        return 0.0
    total_us = int(first_line.rpartition("total=")[2])
    return total_us / 1e6


def _steal_seconds() -> float:
    """Return the steal time of this machine in s, as the mean over the CPUs."""
    first_line = Path("/proc/stat").read_text().split("\n", 1)[0]
    ticks = int(first_line.split()[STEAL_FIELD])
    seconds = ticks / os.sysconf("SC_CLK_TCK")
    return seconds / (os.cpu_count() or 1)
