"""How busy this machine's CPUs are while a run on the real clock carries out its operations."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

SAMPLE_S = 0.5
LEAST_SECONDS = 1e-3
STEAL_FIELD = 8  # of the first line of /proc/stat (proc(5))


class CpuLoad:
    """Measures the load from `begin` to the last sample.

    Attributes:
        busy: part of the time for which the run computed, or some program waited for a CPU.
        steal: part of the time for which the host of this machine kept its CPUs for others.
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
        """Begin to measure."""
        self._began = time.monotonic()
        self._began_cpu_s = self._cpu_seconds()
        self._began_steal_s = _steal_seconds()

    def sample_if_due(self) -> None:
        """Take a sample, unless there was one not long ago."""
        if time.monotonic() - self._sampled >= SAMPLE_S:
            self.sample()

    def sample(self) -> None:
        """Measure the load so far; it stays as it was if the run has ended."""
        cpu_s = self._cpu_seconds()
        self._sampled = time.monotonic()
        if cpu_s:
            seconds = max(self._sampled - self._began, LEAST_SECONDS)
            self.busy = (cpu_s - self._began_cpu_s) / seconds
            self.steal = (_steal_seconds() - self._began_steal_s) / seconds

    def _cpu_seconds(self) -> float:
        """Give the CPU time of the run, and the time for which any program waited for a CPU.

        The one that waits may be a program of the run. 0 if the run has ended.
        """
        run_cpu_s = self._run_cpu_seconds()
        if not run_cpu_s:
            return 0.0
        return run_cpu_s + _cpu_pressure_seconds()


def _cpu_pressure_seconds() -> float:
    """Give the time for which some process of this machine waited for a CPU.

    From pressure stall information (Linux 4.20); 0 where that is not available.
    """
    try:
        first_line = Path("/proc/pressure/cpu").read_text().splitlines()[0]
    except (OSError, IndexError):
        return 0.0
    total_us = int(first_line.rpartition("total=")[2])
    return total_us / 1e6


def _steal_seconds() -> float:
    """Give the time for which this machine's host kept a CPU for others; mean over the CPUs."""
    first_line = Path("/proc/stat").read_text().split("\n", 1)[0]
    ticks = int(first_line.split()[STEAL_FIELD])
    seconds = ticks / os.sysconf("SC_CLK_TCK")
    return seconds / (os.cpu_count() or 1)
