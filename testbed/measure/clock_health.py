"""Signs that a kernel on the real clock cannot keep up: late timers, packets without room, hosts
that were held back.

On the virtual clock there is nothing to watch: no time passes while the machine computes.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
INTERVAL_NS = 20_000_000
SOFTNET = Path(
    "/proc/net/softnet_stat"
)  # a line for each CPU; its second field counts packets without room
PERCENTILE = 0.99


@dataclass
class Strain:
    """What was seen; see `record`."""

    seconds: float = 0.0
    late_us: list[float] = field(default_factory=list)
    throttled_s: dict[str, float] = field(default_factory=dict)
    backlog_drops: int = 0

    def record(self) -> dict[str, object]:
        """As in raw/strain.json: by how much timers were late, in us; for how many seconds of
        `seconds` each control group was held back by its CPU limit; how many packets found no room
        in the kernel's backlog."""
        late = sorted(self.late_us) or [0.0]
        return {
            "seconds": round(self.seconds, 3),
            "late_us": {
                "median": round(statistics.median(late), 1),
                "p99": round(late[min(len(late) - 1, int(PERCENTILE * len(late)))], 1),
                "max": round(late[-1], 1),
                "samples": len(self.late_us),
            },
            "throttled_s": {name: round(seconds, 3) for name, seconds in self.throttled_s.items()},
            "backlog_drops": self.backlog_drops,
        }


@contextmanager
def straining(groups: Path = CGROUPS) -> Iterator[Strain]:
    """Watch within the block; what was seen is complete after it. Control groups must outlive the
    block.
    """
    seen = Strain()
    stop = threading.Event()
    thread = threading.Thread(
        target=_time_timers, args=(seen.late_us, stop), name="late-timers", daemon=True
    )
    begin, throttled, drops = time.monotonic(), throttled_seconds(groups), backlog_drops()
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()
        seen.seconds = time.monotonic() - begin
        after = throttled_seconds(groups)
        seen.throttled_s = {name: value - throttled.get(name, 0.0) for name, value in after.items()}
        seen.backlog_drops = backlog_drops() - drops


def _time_timers(late_us: list[float], stop: threading.Event) -> None:
    while not stop.is_set():
        due = time.monotonic_ns() + INTERVAL_NS
        time.sleep(INTERVAL_NS / 1e9)
        late_us.append((time.monotonic_ns() - due) / 1000)


def throttled_seconds(groups: Path) -> Mapping[str, float]:
    """For how long each control group that has a CPU limit was held back by it, by its name below
    `groups`.
    """
    found = {}
    for limit in groups.rglob("cpu.max"):
        if limit.read_text().startswith("max"):
            continue
        stat = dict(line.split() for line in (limit.parent / "cpu.stat").read_text().splitlines())
        found[str(limit.parent.relative_to(groups))] = int(stat.get("throttled_usec", 0)) / 1e6
    return found


def backlog_drops() -> int:
    """Packets for which there was no room in the backlog of a CPU, since this machine was
    started.
    """
    return sum(int(line.split()[1], 16) for line in SOFTNET.read_text().splitlines())
