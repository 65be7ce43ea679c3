"""Measure a network that stands and compare it with its plan."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import combinations, product
from math import sqrt
from typing import Any

from testbed.network import probe
from testbed.network.build import BuiltNetwork
from testbed.network.netlink import inside_netns
from testbed.plan.model import Direction, Fibre, Host, Network, WanLink

ECHO_FRAME_BYTES = 98  # 56 bytes of data, ICMP, IPv4 and Ethernet headers
PROBES = 3
TOLERANCE_NS, TOLERANCE_PART = 20_000, 0.001  # of an RTT on the virtual clock
REAL_TOLERANCE_NS, REAL_TOLERANCE_PART = (
    2_000_000,
    0.02,
)  # on the host's clock, where scheduling delays add up
RATE_PART, REAL_RATE_PART = 0.005, 0.05
TIMER_NS, REAL_TIMER_NS = 1_000, 1_000_000  # by which a timer of netem may be late
LEAST_PAUSE_NS, REAL_LEAST_PAUSE_NS = 100_000, 20_000_000  # that the sender can keep to
RATE_FLOW_S, JITTERS_PER_FLOW = 0.002, 400  # how long packets flow at least to measure a rate,
LEAST_RATE_PACKETS = 2000  # with at least so many of them,
LONGEST_FLOW_S, REAL_LONGEST_FLOW_S = 60.0, 1.0  # unless it takes longer than this,
MOST_PACKETS = 20_000  # or more than these
LOSS_PACKETS, LOSS_PAYLOAD = 10_000, 100


@dataclass(frozen=True)
class RoundTrip:
    """RTT between the first hosts of two datacenters."""

    source: str
    target: str
    rtt_ms_expected: float
    rtt_ms_measured: float | None  # None: no answer
    tolerance_ms: float
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
    measured = measure_rtt_ns(
        network.pid(a.node), str(b.address.ip), timeout_s=1 + 10 * longest / 1e9
    )
    expected, jitter = min(candidates, key=lambda way: abs(way[0] - (measured or 0)))
    tolerance = _rtt_tolerance_ns(expected, jitter, virtual=virtual)
    ok = measured is not None and abs(measured - expected) <= tolerance
    measured_ms = None if measured is None else measured / 1e6
    return RoundTrip(a.dc, b.dc, expected / 1e6, measured_ms, tolerance / 1e6, ok)


def _rtt_tolerance_ns(expected: float, jitter: int, *, virtual: bool) -> float:
    """By how much a measured RTT may differ from the expected one; `jitter` is the sum of those on
    the way.
    """
    fixed, part = (
        (TOLERANCE_NS, TOLERANCE_PART) if virtual else (REAL_TOLERANCE_NS, REAL_TOLERANCE_PART)
    )
    return fixed + part * expected + 4 * jitter


def expected_rtts_ns(plan: Network, a: Host, b: Host) -> list[tuple[float, int]]:
    """RTT of an echo between two hosts of an idle network, and the sum of jitters on the way, in
    ns.

    One for each pair of paths there and back: several where equal paths share the traffic.
    """
    ways = product(plan.paths(a.dc, b.dc), plan.paths(b.dc, a.dc))
    return sorted({_expected_rtt_ns(plan, a, b, (*there, *back)) for there, back in ways})


def _expected_rtt_ns(
    plan: Network, a: Host, b: Host, steps: tuple[Direction, ...]
) -> tuple[float, int]:
    """Propagation both ways, and the time to serialise the frame at every transmitter (8 x bytes /
    rate).
    """
    cables = (*plan.fabric_cables(a.name, b.name), *plan.fabric_cables(b.name, a.name))
    delays = [
        a.nic_delay_ns,
        b.nic_delay_ns,
        *(c.delay_ns for c in cables),
        *(s.fibre.delay_ns for s in steps),
    ]
    ports = [
        a.nic_up,
        b.nic_down,
        b.nic_up,
        a.nic_down,
        *(c.port for c in cables),
        *(s.bottleneck for s in steps),
    ]
    serialising = sum(ECHO_FRAME_BYTES * 8 * 10**9 / port.rate_bps for port in ports)
    return sum(delays) + serialising, sum(step.fibre.jitter_ns for step in steps)


def measure_rtt_ns(pid: int, address: str, *, timeout_s: float) -> int | None:
    """Least RTT of a few ICMP echoes from the namespace of process `pid` to `address`; None without
    an answer.
    """
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


@dataclass(frozen=True)
class Check:
    """A figure of the network that stands, beside that of its plan."""

    quantity: str  # rtt | rate | loss
    source: str  # datacenters
    target: str
    unit: str  # ms | Mbit/s | %
    expected: float
    measured: float | None  # None: nothing arrived
    tolerance: float  # in the unit
    error: float | None  # in the unit
    ok: bool

    def record(self) -> dict[str, Any]:
        """As printed by `topo verify`."""
        values = asdict(self)
        return {
            "quantity": values.pop("quantity"),
            "from": values.pop("source"),
            "to": values.pop("target"),
            **values,
        }


def check(
    quantity: str,
    source: str,
    target: str,
    unit: str,
    expected: float,
    measured: float | None,
    tolerance: float,
) -> Check:
    """Compare; all figures in `unit`."""
    error = None if measured is None else measured - expected
    ok = error is not None and abs(error) <= tolerance
    return Check(quantity, source, target, unit, expected, measured, tolerance, error, ok)


def verify(network: BuiltNetwork, *, virtual: bool, quick: bool) -> Iterator[Check]:
    """Measure, one after another: the RTT of every pair of datacenters, and unless `quick` each WAN
    link direction's rate and, where it loses packets, its loss.

    Tolerances: RTT 20 us + 0.1 % (virtual clock) or 2 ms + 2 % (real), and four times the jitter on
    the way. Rate 0.5 % or 5 %, and what timers and jitter shift the ends of the measurement. Loss:
    four standard deviations of its count.
    """
    firsts = [network.plan.host(dc.hosts[0]) for dc in network.plan.datacenters]
    for a, b in combinations(firsts, 2):
        trip = _round_trip(network, a, b, virtual)
        yield check(
            "rtt",
            trip.source,
            trip.target,
            "ms",
            trip.rtt_ms_expected,
            trip.rtt_ms_measured,
            trip.tolerance_ms,
        )
    for link in () if quick else network.plan.wan:
        for way in link.directions:
            yield _rate(network, link, way, virtual)
            if loss_of(way.fibre)[0]:
                yield _loss(network, link, way, virtual)


def _rate(network: BuiltNetwork, link: WanLink, way: Direction, virtual: bool) -> Check:
    payload = network.plan.mtu - probe.HEADERS
    rate = way.bottleneck.rate_bps
    per_second = rate / (8 * network.plan.mtu)
    longest_s = LONGEST_FLOW_S if virtual else REAL_LONGEST_FLOW_S
    flow_s = max(RATE_FLOW_S, JITTERS_PER_FLOW * way.fibre.jitter_ns / 1e9)
    wanted = max(per_second * flow_s, LEAST_RATE_PACKETS)
    packets = max(2, int(min(wanted, per_second * longest_s, MOST_PACKETS)))
    found = probe.send(
        network,
        link,
        way,
        packets=packets,
        payload=payload,
        least_pause_ns=_least_pause_ns(virtual),
    )
    part = RATE_PART if virtual else REAL_RATE_PART
    shift = (TIMER_NS if virtual else REAL_TIMER_NS) + 4 * way.fibre.jitter_ns
    tolerance = rate * (part + min(1.0, shift / max(1, found.span_ns)))
    measured = None if found.rate_bps is None else found.rate_bps / 1e6
    return check("rate", way.source, way.target, "Mbit/s", rate / 1e6, measured, tolerance / 1e6)


def _loss(network: BuiltNetwork, link: WanLink, way: Direction, virtual: bool) -> Check:
    expected, spread = loss_of(way.fibre)
    found = probe.send(
        network,
        link,
        way,
        packets=LOSS_PACKETS,
        payload=LOSS_PAYLOAD,
        least_pause_ns=_least_pause_ns(virtual),
    )
    tolerance = (4 * sqrt(found.sent * expected * (1 - expected) * spread) + 1) / found.sent
    return check(
        "loss",
        way.source,
        way.target,
        "%",
        100 * expected,
        100 * found.lost / found.sent,
        100 * tolerance,
    )


def loss_of(fibre: Fibre) -> tuple[float, float]:
    """Part of the packets that do not arrive, and by what its variance exceeds that of independent
    losses.

    A corrupted packet fails its checksum. Of a Gilbert-Elliott chain: the stationary mean, and (1 +
    c) / (1 - c) with the correlation c = 1 - p - r of neighbours.
    """
    loss = fibre.loss
    if loss.model == "independent":
        return 1 - (1 - loss.p) * (1 - fibre.corrupt), 1.0
    if loss.p + loss.r == 0:
        return 1 - (1 - loss.one_minus_k) * (1 - fibre.corrupt), 1.0
    bad = loss.p / (loss.p + loss.r)
    mean = bad * loss.one_minus_h + (1 - bad) * loss.one_minus_k
    correlation = 1 - loss.p - loss.r
    return 1 - (1 - mean) * (1 - fibre.corrupt), max(1.0, (1 + correlation) / (1 - correlation))


def _least_pause_ns(virtual: bool) -> int:
    return LEAST_PAUSE_NS if virtual else REAL_LEAST_PAUSE_NS
