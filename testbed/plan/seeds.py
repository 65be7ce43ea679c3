"""Derive small parts of a plan: seeds, hardware addresses, queues in packets."""

from __future__ import annotations

import hashlib
from decimal import ROUND_CEILING, Decimal

from testbed.plan.model import Bottleneck
from testbed.spec.wan import QueueLength

PORT_QUEUE = QueueLength(Decimal(16 * 2**20), "bytes")  # default of ports in datacenters
BIT_NS_PER_BYTE_S = 8 * 10**9


def stable_seed(seed: int, name: str) -> int:
    """Return the seed, below 2^64, of the random element `name` in a run with `seed`."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


def queue_packets(queue: QueueLength, rate: int, rtt_ns: int, frame: int) -> int:
    """Return the length of a queue in frames, rounded up, at least 1.

    Args:
        queue: length in any unit.
        rate: bit/s of the queue's link.
        rtt_ns: RTT for a length in bandwidth-delay products.
        frame: bytes of a frame.
    """
    queue_bytes = _queue_bytes(queue, rate, rtt_ns, frame)
    frames = (queue_bytes / frame).to_integral_value(ROUND_CEILING)
    return max(1, int(frames))


def _queue_bytes(queue: QueueLength, rate: int, rtt_ns: int, frame: int) -> Decimal:
    if queue.unit == "packets":
        return queue.amount * frame
    if queue.unit == "bytes":
        return queue.amount
    time_ns = queue.amount
    if queue.unit == "bdp":
        time_ns = queue.amount * rtt_ns
    return time_ns * rate / BIT_NS_PER_BYTE_S


def port(rate: int, queue: QueueLength | None, frame: int) -> Bottleneck:
    """Return the bottleneck of a port inside a datacenter.

    Args:
        rate: bit/s.
        queue: length of the queue; None: 16 MiB.
        frame: bytes of a frame.
    """
    packets = queue_packets(queue or PORT_QUEUE, rate, 0, frame)
    return Bottleneck(rate_bps=rate, queue_packets=packets)


def mac(kind: int, major: int, minor: int) -> str:
    """Return a locally administered MAC address.

    Args:
        kind: 0 hosts, 1 gateways on their subnet, 2 routers on WAN links, 3 cables of a fabric.
        major: index of the datacenter or link, below 65536.
        minor: index of the interface within `major`, below 65536.
    """
    major_high, major_low = divmod(major, 256)
    minor_high, minor_low = divmod(minor, 256)
    octets = bytes([2, kind, major_high, major_low, minor_high, minor_low])
    return octets.hex(":")
