"""Measure a network that stands and compare it with its plan."""

from __future__ import annotations

import socket
import struct
import time
from dataclasses import asdict, dataclass
from itertools import combinations, product
from typing import Any

from testbed.network.build import BuiltNetwork
from testbed.network.netlink import inside_netns
from testbed.plan import Direction, Host, Network

ECHO_FRAME_BYTES = 98  # 56 bytes of data, ICMP, IPv4 and Ethernet headers
PROBES = 3
TOLERANCE_NS, TOLERANCE_PART = 20_000, 0.001  # of an RTT on the virtual clock
REAL_TOLERANCE_NS, REAL_TOLERANCE_PART = 2_000_000, 0.02  # on the host's clock, where scheduling delays add up


@dataclass(frozen=True)
class RoundTrip:
    """RTT between the first hosts of two datacenters."""

    source: str
    target: str
    rtt_ms_expected: float
    rtt_ms_measured: float | None  # None: no answer
    ok: bool

    def record(self) -> dict[str, Any]:
        """As in summary.json `fidelity`."""
        values = asdict(self)
        return {"from": values.pop("source"), "to": values.pop("target"), **values}


def verify_round_trips(network: BuiltNetwork, *, virtual: bool) -> list[RoundTrip]:
    """Measure the RTT between every pair of datacenters."""
    plan = network.plan
    firsts = [plan.host(dc.hosts[0]) for dc in plan.datacenters]
    return [_round_trip(network, a, b, virtual) for a, b in combinations(firsts, 2)]


def _round_trip(network: BuiltNetwork, a: Host, b: Host, virtual: bool) -> RoundTrip:
    candidates = expected_rtts_ns(network.plan, a, b)
    longest = max(expected for expected, _jitter in candidates)
    fixed, part = (TOLERANCE_NS, TOLERANCE_PART) if virtual else (REAL_TOLERANCE_NS, REAL_TOLERANCE_PART)
    measured = measure_rtt_ns(network.pid(a.node), str(b.address.ip), timeout_s=1 + 10 * longest / 1e9)
    expected, jitter = min(candidates, key=lambda way: abs(way[0] - (measured or 0)))
    ok = measured is not None and abs(measured - expected) <= fixed + part * expected + 4 * jitter
    return RoundTrip(a.dc, b.dc, expected / 1e6, None if measured is None else measured / 1e6, ok)


def expected_rtts_ns(plan: Network, a: Host, b: Host) -> list[tuple[float, int]]:
    """RTT of an echo between two hosts of an idle network, and the sum of jitters on the way, in ns.

    One for each pair of paths there and back: several where equal paths share the traffic.
    """
    ways = product(plan.paths(a.dc, b.dc), plan.paths(b.dc, a.dc))
    return sorted({_expected_rtt_ns(plan, a, b, (*there, *back)) for there, back in ways})


def _expected_rtt_ns(plan: Network, a: Host, b: Host, steps: tuple[Direction, ...]) -> tuple[float, int]:
    """Propagation both ways, and the time to serialise the frame at every transmitter (8 x bytes / rate)."""
    cables = (*plan.fabric_cables(a.name, b.name), *plan.fabric_cables(b.name, a.name))
    delays = [a.nic_delay_ns, b.nic_delay_ns, *(c.delay_ns for c in cables), *(s.fibre.delay_ns for s in steps)]
    ports = [a.nic_up, b.nic_down, b.nic_up, a.nic_down, *(c.port for c in cables), *(s.bottleneck for s in steps)]
    serialising = sum(ECHO_FRAME_BYTES * 8 * 10**9 / port.rate_bps for port in ports)
    return sum(delays) + serialising, sum(step.fibre.jitter_ns for step in steps)


def measure_rtt_ns(pid: int, address: str, *, timeout_s: float) -> int | None:
    """Least RTT of a few ICMP echoes from the namespace of process `pid` to `address`; None without an answer."""
    with inside_netns(pid):
        connection = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    with connection:
        times = [_echo(connection, address, number, timeout_s) for number in range(PROBES)]
    return min((t for t in times if t is not None), default=None)


def _echo(connection: socket.socket, address: str, number: int, timeout_s: float) -> int | None:
    identifier = 0x7E57
    body = bytes(56)
    header = struct.pack("!BBHHH", 8, 0, 0, identifier, number)
    header = struct.pack("!BBHHH", 8, 0, _checksum(header + body), identifier, number)
    start = time.monotonic_ns()
    deadline = start + int(timeout_s * 1e9)
    connection.sendto(header + body, (address, 0))
    while (left := deadline - time.monotonic_ns()) > 0:
        connection.settimeout(left / 1e9)
        try:
            packet = connection.recv(2048)
        except TimeoutError:
            return None
        kind, _code, _sum, got_identifier, got_number = struct.unpack("!BBHHH", packet[20:28])
        if (kind, got_identifier, got_number) == (0, identifier, number):
            return time.monotonic_ns() - start
    return None


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF
