"""Watch for signs that a kernel on the real clock cannot keep up.

The signs are late timers, packets dropped because a backlog was full, and throttled hosts. On the
virtual clock nothing needs watching: no time passes while the machine computes.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from testbed.runfolder.records import ClockHealth, TimerLateness

CGROUPS = Path("/sys/fs/cgroup")
INTERVAL_NS = 20_000_000
# One line per CPU; the second field counts packets dropped because the backlog was full.
SOFTNET = Path("/proc/net/softnet_stat")
PERCENTILE = 0.99


@dataclass
class Observations:
    """Signs of overload recorded while the clock was watched.

    Attributes:
        seconds: duration of the watch in seconds.
        late_us: delay of each timer in us.
        throttled_s: time in seconds that each control group was throttled, by name.
        backlog_drops: number of packets dropped because the kernel's backlog was full.
    """

    seconds: float = 0.0
    late_us: list[float] = field(default_factory=list)
    throttled_s: dict[str, float] = field(default_factory=dict)
    backlog_drops: int = 0

    def record(self, fibre_drops: Mapping[str, int]) -> ClockHealth:
        """Return the record for raw/strain.json.

        Args:
            fibre_drops: number of unexpected drops of each fibre, by interface.
        """
        late_us = sorted(self.late_us) or [0.0]
        p99 = late_us[min(len(late_us) - 1, int(PERCENTILE * len(late_us)))]
        lateness = TimerLateness(
            median=round(statistics.median(late_us), 1),
            p99=round(p99, 1),
            max=round(late_us[-1], 1),
            samples=len(self.late_us),
        )
        throttled_s = {name: round(seconds, 3) for name, seconds in self.throttled_s.items()}

        return ClockHealth(
            seconds=round(self.seconds, 3),
            late_us=lateness,
            throttled_s=throttled_s,
            backlog_drops=self.backlog_drops,
            fibre_drops=dict(fibre_drops),
        )


@contextmanager
def watching(groups: Path = CGROUPS) -> Iterator[Observations]:
    """Watch the clock within the block; the observations are complete after the block.

    Args:
        groups: folder of the control groups, which must outlive the block.
    """
    observations = Observations()
    stop = threading.Event()
    timers = threading.Thread(
        target=_time_timers, args=(observations.late_us, stop), name="late-timers", daemon=True
    )
    began = time.monotonic()
    throttled_before, drops_before = throttled_seconds(groups), backlog_drops()
    timers.start()
    try:
        yield observations
    finally:
        stop.set()
        timers.join()
        observations.seconds = time.monotonic() - began
        for name, seconds in throttled_seconds(groups).items():
            observations.throttled_s[name] = seconds - throttled_before.get(name, 0.0)

        observations.backlog_drops = backlog_drops() - drops_before


def _time_timers(late_us: list[float], stop: threading.Event) -> None:
    while not stop.is_set():
        due_ns = time.monotonic_ns() + INTERVAL_NS
        time.sleep(INTERVAL_NS / 1e9)
        late_us.append((time.monotonic_ns() - due_ns) / 1000)


def throttled_seconds(groups: Path) -> Mapping[str, float]:
    """Return how long the CPU limit throttled each control group that has one.

    Args:
        groups: folder of the control groups.

    Returns:
        Seconds by the group's name below `groups`.
    """
    seconds: dict[str, float] = {}
    for limit in groups.rglob("cpu.max"):
        if limit.read_text().startswith("max"):
            continue

        lines = (limit.parent / "cpu.stat").read_text().splitlines()
        stat = dict(line.split() for line in lines)
        name = str(limit.parent.relative_to(groups))
        seconds[name] = int(stat.get("throttled_usec", 0)) / 1e6

    return seconds


def backlog_drops() -> int:
    """Return the number of packets dropped since boot because a CPU's backlog was full."""
    return sum(int(line.split()[1], 16) for line in SOFTNET.read_text().splitlines())
