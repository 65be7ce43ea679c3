"""Small parts of a plan: seeds, hardware addresses, queues in packets."""

from __future__ import annotations

import hashlib
from decimal import ROUND_CEILING, Decimal

from testbed.plan.model import Bottleneck
from testbed.spec.wan import QueueLength

PORT_QUEUE = QueueLength(Decimal(16 * 2**20), "bytes")  # of a port inside a datacenter


def stable_seed(seed: int, name: str) -> int:
    """The seed, below 2^64, of the random element `name` in a run with `seed`."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big")


def queue_packets(queue: QueueLength, rate: int, rtt_ns: int, frame: int) -> int:
    """Frames of `frame` bytes that hold `queue`, rounded up, at least 1. `rate` in bit/s; `rtt_ns`
    is that of a bdp.
    """
    if queue.unit == "packets":
        size = queue.amount * frame
    elif queue.unit == "bytes":
        size = queue.amount
    else:
        time_ns = queue.amount * rtt_ns if queue.unit == "bdp" else queue.amount
        size = time_ns * rate / (8 * 10**9)
    return max(1, int((size / frame).to_integral_value(ROUND_CEILING)))


def port(rate: int, queue: QueueLength | None, frame: int) -> Bottleneck:
    """A port inside a datacenter: `rate` in bit/s, `frame` in bytes."""
    return Bottleneck(
        rate_bps=rate, queue_packets=queue_packets(queue or PORT_QUEUE, rate, 0, frame)
    )


def mac(kind: int, major: int, minor: int) -> str:
    """A locally administered address.

    Kinds: 0 hosts, 1 gateways on their subnet, 2 routers on WAN links, 3 the cables of a fabric.
    """
    return ":".join(f"{byte:02x}" for byte in (2, kind, *divmod(major, 256), *divmod(minor, 256)))
