"""Managed queues (RED, fq_codel): a token bucket whose queue drops or marks packets.

    tbf 1:  rate of the link, a bucket of one frame, and some for late timers
     └── red, fq_codel or pfifo 2:  as long as the link's queue

A token bucket releases the first packet of a burst immediately, where a transmitter would first
spend time to serialise the packet. The fibre behind the bucket has the same rate and so adds
exactly that time (see `testbed.network.qdiscs`).

A drop-tail queue (pfifo) is behind a token bucket where the kernel's netem would send what it has
queued at the rate of the time when each packet arrived.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

# Probability at the upper threshold: Floyd, "RED: Discussions of Setting Parameters", 1997.
RED_PROBABILITY = 0.1
STAB_CELLS = 256
MOST_RED_BITS = 31  # of the upper threshold times the inverse of the weight (red_check_params)
LARGEST_SHIFT = 31
# RFC 8289: the target is 5 % of the interval, and the interval is the worst-case RTT.
CODEL_TARGET = 0.05
CODEL_INTERVAL_US = 100_000
RED_FIELDS = ("limit", "minimum", "maximum", "weight_log", "slope_log", "cell_log", "ecn")
CODEL_FIELDS = ("limit", "target", "interval", "quantum", "ecn")


@dataclass(frozen=True)
class Red:
    """Parameters of random early detection (RED).

    Lengths are in bytes; `weight_log`, `slope_log` and `cell_log` are the fields of struct
    tc_red_qopt.
    """

    limit: int
    minimum: int
    maximum: int
    weight_log: int
    slope_log: int
    cell_log: int
    ecn: bool
    idle_shifts: bytes


@dataclass(frozen=True)
class FqCodel:
    """Parameters of fq_codel, which runs CoDel on each flow: `limit` in packets, times in us."""

    limit: int
    target: int
    interval: int
    quantum: int
    ecn: bool


@dataclass(frozen=True)
class Fifo:
    """A drop-tail queue: `limit` in packets."""

    limit: int


@dataclass(frozen=True)
class ManagedQueue:
    """A token bucket and the queue behind the bucket: rate in byte/s, bucket size in bytes."""

    rate_bytes: int
    burst: int
    queue: Red | FqCodel | Fifo


def red(limit: int, rate_bytes: int, frame: int, *, ecn: bool) -> Red:
    """Return the parameters of RED for a queue.

    The upper threshold is half of the limit and three times the lower threshold; the average
    follows bursts of (2 minimum + maximum) / 3 (tc-red(8)). `idle_shifts` halves the average while
    the queue is idle: the kernel indexes `idle_shifts` by the idle time in us, shifted right by
    `cell_log`, and shifts the average right by that entry.

    Args:
        limit: length of the queue in bytes.
        rate_bytes: rate of the link in byte/s.
        frame: length of a full frame in bytes.
        ecn: whether to mark packets instead of dropping them.
    """
    minimum = max(frame, limit // 6)
    maximum = max(3 * frame, limit // 2)
    weight_log = _red_weight_log(minimum, maximum, frame)
    weight_log = min(weight_log, MOST_RED_BITS - maximum.bit_length())

    slope = (maximum - minimum) / RED_PROBABILITY
    slope_log = max(0, math.floor(math.log2(slope)))

    halvings_per_us = -math.log2(1 - 2.0**-weight_log) * rate_bytes / frame / 1e6
    longest_us = LARGEST_SHIFT / halvings_per_us
    longest_cell_us = max(1.0, longest_us / STAB_CELLS)
    cell_log = max(0, math.ceil(math.log2(longest_cell_us)))

    return Red(
        limit=limit,
        minimum=minimum,
        maximum=maximum,
        weight_log=weight_log,
        slope_log=min(slope_log, LARGEST_SHIFT),
        cell_log=min(cell_log, LARGEST_SHIFT),
        ecn=ecn,
        idle_shifts=_idle_shifts(cell_log, halvings_per_us),
    )


def _red_weight_log(minimum: int, maximum: int, frame: int) -> int:
    """Return the logarithm of the smallest weight whose average follows bursts (tc-red(8))."""
    burst = max(1, (2 * minimum + maximum) // (3 * frame))
    excess = burst + 1 - minimum / frame

    for weight_log in range(1, 32):
        weight = 2.0**-weight_log
        followed = (1 - (1 - weight) ** burst) * 2**weight_log
        if excess <= followed:
            return weight_log
    return LARGEST_SHIFT


def _idle_shifts(cell_log: int, halvings_per_us: float) -> bytes:
    """Return the right shift of RED's average for each cell of 2^`cell_log` us of idle time."""
    shifts: list[int] = []
    for cell in range(STAB_CELLS):
        idle_us = cell << cell_log
        shifts.append(min(LARGEST_SHIFT, int(idle_us * halvings_per_us)))
    shifts[-1] = LARGEST_SHIFT
    return bytes(shifts)


def fq_codel(limit: int, rtt_ns: int, frame: int, *, ecn: bool) -> FqCodel:
    """Return the parameters of fq_codel for a queue.

    Args:
        limit: length of the queue in packets.
        rtt_ns: RTT of the path in ns.
        frame: length of a full frame in bytes.
        ecn: whether to mark packets instead of dropping them.
    """
    interval = max(CODEL_INTERVAL_US, rtt_ns // 1000)
    target = int(CODEL_TARGET * interval)
    return FqCodel(
        limit=limit,
        target=target,
        interval=interval,
        quantum=frame,
        ecn=ecn,
    )


def expected(managed: ManagedQueue) -> dict[str, Any]:
    """Return the values that `read` must return: `rate_bytes`, and `queue` with its parameters.

    The kernel keeps CoDel's times in units of 1.024 us.
    """
    queue = managed.queue
    if isinstance(queue, Fifo):
        values = {"limit": queue.limit}
    elif isinstance(queue, Red):
        values = {name: int(getattr(queue, name)) for name in RED_FIELDS}
    else:
        values = {name: int(getattr(queue, name)) for name in CODEL_FIELDS}
        values["target"] = _codel_time(queue.target)
        values["interval"] = _codel_time(queue.interval)
    return {"rate_bytes": managed.rate_bytes, "queue": values}


def _codel_time(time_us: int) -> int:
    ticks = time_us * 1000 >> 10  # CODEL_SHIFT
    return (ticks << 10) // 1000
