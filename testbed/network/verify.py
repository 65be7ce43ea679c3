"""Measure a built network and compare the results with the network's plan."""

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
from testbed.network.built import BuiltNetwork
from testbed.network.netns import inside_netns
from testbed.plan.model import Bottleneck, Direction, Fibre, Host, Loss, Network, WanLink
from testbed.runfolder.records import RoundTripRow

ECHO_FRAME_BYTES = 98  # 56 bytes of data, ICMP, IPv4 and Ethernet headers
ECHO_DATA_BYTES = 56
ECHO_IDENTIFIER = 0x7E57
ECHO_REQUEST, ECHO_REPLY = 8, 0  # types of ICMP messages
IPV4_HEADER_BYTES = 20
PROBES = 3
JITTERS = 4  # a measured time may differ by this multiple of a path's jitter
RATE_FLOW_S, JITTERS_PER_FLOW = 0.002, 400  # a flow that measures a rate lasts at least this long,
LEAST_RATE_PACKETS = 2000  # has at least this number of packets
MOST_PACKETS = 20_000  # and at most this number
MANAGED_RATE_PART = 0.005  # a managed queue may drop packets before they are sent
LOSS_PACKETS, LOSS_PAYLOAD = 10_000, 100
LOSS_DEVIATIONS = 4


@dataclass(frozen=True)
class Tolerances:
    """Tolerances of measurements on one kind of clock.

    Attributes:
        rtt_ns: absolute tolerance of an RTT in ns.
        rtt_part: additional tolerance of an RTT, as a fraction of the RTT.
        rate_part: tolerance of a rate, as a fraction of the rate.
        timer_ns: how late a netem timer may be, in ns.
        least_pause_ns: the shortest pause that the sender of packets can keep, in ns.
        longest_flow_s: the longest flow of packets that measures a rate, in seconds.
    """

    rtt_ns: int
    rtt_part: float
    rate_part: float
    timer_ns: int
    least_pause_ns: int
    longest_flow_s: float


VIRTUAL_CLOCK = Tolerances(
    rtt_ns=20_000,
    rtt_part=0.001,
    rate_part=0.001,
    timer_ns=1_000,
    least_pause_ns=100_000,
    longest_flow_s=60.0,
)
REAL_CLOCK = Tolerances(  # scheduling delays add up
    rtt_ns=2_000_000,
    rtt_part=0.02,
    rate_part=0.05,
    timer_ns=1_000_000,
    least_pause_ns=20_000_000,
    longest_flow_s=1.0,
)


def _tolerances(*, virtual: bool) -> Tolerances:
    return VIRTUAL_CLOCK if virtual else REAL_CLOCK


@dataclass(frozen=True, order=True)
class ExpectedRtt:
    """The RTT in ns of an echo over a pair of paths, and the sum of the jitters of both paths."""

    rtt_ns: float
    jitter_ns: int


def verify_round_trips(network: BuiltNetwork, *, virtual: bool) -> list[RoundTripRow]:
    """Measure the RTT between every pair of datacenters of an idle network."""
    rows: list[RoundTripRow] = []
    for rtt in _check_rtts(network, virtual):
        row = RoundTripRow(
            source=rtt.source,
            target=rtt.target,
            rtt_ms_expected=rtt.expected,
            rtt_ms_measured=rtt.measured,
            tolerance_ms=rtt.tolerance,
            ok=rtt.ok,
        )
        rows.append(row)
    return rows


def _check_rtts(network: BuiltNetwork, virtual: bool) -> Iterator[Check]:
    """Measure the RTT in ms between the first hosts of every pair of datacenters.

    The first of the pair must have been built here.
    """
    for a, b in combinations(network.plan.first_hosts(), 2):
        if network.plan.is_here(a.dc):
            yield _check_rtt(network, a, b, virtual)


def _check_rtt(network: BuiltNetwork, a: Host, b: Host, virtual: bool) -> Check:
    """Compare the measured RTT between two hosts with the nearest expected RTT."""
    candidates = expected_rtts(network.plan, a, b)
    longest_ns = max(candidate.rtt_ns for candidate in candidates)
    timeout_s = 1 + 10 * longest_ns / 1e9
    address = str(b.address.ip)
    measured_ns = measure_rtt_ns(network.pid(a.node), address, timeout_s=timeout_s)

    nearest_to = measured_ns or 0
    expected = min(candidates, key=lambda candidate: abs(candidate.rtt_ns - nearest_to))
    return check(
        quantity="rtt",
        source=a.dc,
        target=b.dc,
        unit="ms",
        expected=expected.rtt_ns / 1e6,
        measured=None if measured_ns is None else measured_ns / 1e6,
        tolerance=_rtt_tolerance_ns(expected, virtual) / 1e6,
    )


def _rtt_tolerance_ns(expected: ExpectedRtt, virtual: bool) -> float:
    """Return the tolerance of a measured RTT in ns."""
    tolerances = _tolerances(virtual=virtual)
    proportional_ns = tolerances.rtt_part * expected.rtt_ns
    return tolerances.rtt_ns + proportional_ns + JITTERS * expected.jitter_ns


def expected_rtts(plan: Network, a: Host, b: Host) -> list[ExpectedRtt]:
    """Return the RTTs of an echo between two hosts of an idle network, shortest first.

    Each pair of paths there and back has one RTT; several pairs exist where equal paths share the
    traffic.

    Args:
        plan: the network.
        a: the host that sends the echo.
        b: the host that answers.
    """
    forward_paths = plan.paths(a.dc, b.dc)
    backward_paths = plan.paths(b.dc, a.dc)
    expected: set[ExpectedRtt] = set()

    for forward, backward in product(forward_paths, backward_paths):
        directions = forward + backward
        expected.add(_expected_rtt(plan, a, b, directions))
    return sorted(expected)


def _expected_rtt(
    plan: Network, a: Host, b: Host, directions: tuple[Direction, ...]
) -> ExpectedRtt:
    """Return the propagation delay both ways plus the serialisation time at every transmitter.

    Args:
        plan: the network.
        a: the host that sends the echo.
        b: the host that answers.
        directions: the WAN link directions that echo and answer cross.
    """
    delay_ns = a.nic_delay_ns + b.nic_delay_ns
    jitter_ns = a.nic_jitter_ns + b.nic_jitter_ns
    transmitters = [a.nic_up, b.nic_down, b.nic_up, a.nic_down]

    cables = plan.fabric_cables(a.name, b.name) + plan.fabric_cables(b.name, a.name)
    for cable in cables:
        delay_ns += cable.delay_ns
        transmitters.append(cable.port)

    for direction in directions:
        delay_ns += direction.fibre.delay_ns
        jitter_ns += direction.fibre.jitter_ns
        transmitters.append(direction.bottleneck)

    serialising_ns = sum(_serialising_ns(transmitter) for transmitter in transmitters)
    return ExpectedRtt(delay_ns + serialising_ns, jitter_ns)


def _serialising_ns(transmitter: Bottleneck) -> float:
    """Return the time in ns that a transmitter needs for the frame of an echo."""
    return ECHO_FRAME_BYTES * 8 * 10**9 / transmitter.rate_bps


def measure_rtt_ns(pid: int, address: str, *, timeout_s: float) -> int | None:
    """Return the smallest RTT of a few ICMP echoes in ns; None without an answer.

    Args:
        pid: a process in the sender's network namespace.
        address: IPv4 address that answers.
        timeout_s: how long to wait for each answer, in seconds.
    """
    with inside_netns(pid):
        connection = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)

    times: list[int] = []
    with connection:
        for number in range(PROBES):
            rtt_ns = _echo(connection, address, number, timeout_s)
            if rtt_ns is not None:
                times.append(rtt_ns)
    return min(times, default=None)


def _echo(connection: socket.socket, address: str, number: int, timeout_s: float) -> int | None:
    """Send an echo request, wait for the reply with the same number, and return the RTT in ns."""
    request = _echo_request(number)
    start_ns = time.monotonic_ns()
    deadline_ns = start_ns + int(timeout_s * 1e9)

    connection.sendto(request, (address, 0))
    left_ns = deadline_ns - time.monotonic_ns()
    while left_ns > 0:
        connection.settimeout(left_ns / 1e9)
        try:
            packet = connection.recv(2048)
        except TimeoutError:
            return None

        if _is_reply(packet, number):
            return time.monotonic_ns() - start_ns
        left_ns = deadline_ns - time.monotonic_ns()
    return None


def _echo_request(number: int) -> bytes:
    """Return the ICMP echo request with sequence number `number` (RFC 792)."""
    data = bytes(ECHO_DATA_BYTES)
    without_sum = struct.pack("!BBHHH", ECHO_REQUEST, 0, 0, ECHO_IDENTIFIER, number)
    checksum = _checksum(without_sum + data)
    return struct.pack("!BBHHH", ECHO_REQUEST, 0, checksum, ECHO_IDENTIFIER, number) + data


def _is_reply(packet: bytes, number: int) -> bool:
    """Return whether an IPv4 packet is the reply to echo request `number`."""
    header = packet[IPV4_HEADER_BYTES : IPV4_HEADER_BYTES + 8]
    kind, _code, _checksum, identifier, reply_number = struct.unpack("!BBHHH", header)
    if kind != ECHO_REPLY or identifier != ECHO_IDENTIFIER:
        return False
    return bool(reply_number == number)


def _checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071) of an even number of bytes."""
    words = struct.unpack(f"!{len(data) // 2}H", data)
    total: int = sum(words)
    total = (total >> 16) + (total & 0xFFFF)
    total += total >> 16
    return ~total & 0xFFFF


@dataclass(frozen=True)
class Check:
    """A measured figure of the built network, and the expected figure from the plan."""

    quantity: str  # rtt | rate | loss
    source: str  # datacenters
    target: str
    unit: str  # ms | Mbit/s | %
    expected: float
    measured: float | None  # None: no packet arrived
    tolerance: float  # in the unit
    error: float | None  # in the unit
    ok: bool

    def record(self) -> dict[str, Any]:
        """Return the object that `topo verify` prints."""
        values = asdict(self)
        return {
            "quantity": values.pop("quantity"),
            "from": values.pop("source"),
            "to": values.pop("target"),
            **values,
        }


def check(
    *,
    quantity: str,
    source: str,
    target: str,
    unit: str,
    expected: float,
    measured: float | None,
    tolerance: float,
) -> Check:
    """Compare a measured figure with the expected figure.

    Args:
        quantity: rtt, rate or loss.
        source: name of a datacenter.
        target: name of a datacenter.
        unit: unit of the figures: ms, Mbit/s or %.
        expected: the plan's figure.
        measured: the network's figure; None: no packet arrived.
        tolerance: largest allowed difference between the figures.
    """
    error = None
    ok = False
    if measured is not None:
        error = measured - expected
        ok = abs(error) <= tolerance

    return Check(
        quantity=quantity,
        source=source,
        target=target,
        unit=unit,
        expected=expected,
        measured=measured,
        tolerance=tolerance,
        error=error,
        ok=ok,
    )


def verify(network: BuiltNetwork, *, virtual: bool, quick: bool) -> Iterator[Check]:
    """Measure a network and yield one check after another.

    The checks are the RTT of every pair of datacenters, the rate of each WAN link direction, and
    the loss of each direction that loses packets. Tolerances: RTT 20 us + 0.1 % (virtual clock) or
    2 ms + 2 % (real clock), plus four times the jitter of the path. Rate 0.5 % or 5 %, plus the
    effect of timers and jitter on the ends of the measurement, and of timers on a queue of a single
    packet. Loss: four standard deviations of
    the number of lost packets.

    Args:
        network: an idle network.
        virtual: whether the network runs on a virtual clock.
        quick: whether to measure only RTTs.
    """
    yield from _check_rtts(network, virtual)
    if quick:
        return

    for link in network.plan.wan:
        for direction in link.directions:
            yield _check_rate(network, link, direction, virtual)
            loss, _spread = loss_of(direction.fibre)
            if loss:
                yield _check_loss(network, link, direction, virtual)


def verify_fastest(network: BuiltNetwork, *, virtual: bool) -> Iterator[Check]:
    """Measure the rate of the fastest direction of a WAN link, in both directions of the link.

    A machine that carries these rates one at a time carries the other rates too. Yields nothing
    without a WAN link.

    Args:
        network: an idle network.
        virtual: whether the network runs on a virtual clock.
    """
    fastest: WanLink | None = None
    most_bps = 0
    for link in network.plan.wan:
        rate_bps = max(direction.bottleneck.rate_bps for direction in link.directions)
        if rate_bps > most_bps:
            fastest, most_bps = link, rate_bps
    if fastest is None:
        return
    for direction in fastest.directions:
        yield _check_rate(network, fastest, direction, virtual)


def _check_rate(network: BuiltNetwork, link: WanLink, direction: Direction, virtual: bool) -> Check:
    tolerances = _tolerances(virtual=virtual)
    rate_bps = direction.bottleneck.rate_bps
    jitter_ns = direction.fibre.jitter_ns

    result = probe.send_probe(
        network,
        link,
        direction,
        packets=_rate_packets(network.plan, direction, tolerances),
        payload=network.plan.mtu - probe.HEADERS,
        least_pause_ns=tolerances.least_pause_ns,
        timer_ns=tolerances.timer_ns,
    )
    measured_bps = result.rate_bps

    shift_ns = tolerances.timer_ns + JITTERS * jitter_ns
    shifted_part = min(1.0, shift_ns / max(1, result.span_ns))
    rate_part = tolerances.rate_part
    if direction.bottleneck.discipline != "drop-tail":
        rate_part = max(rate_part, MANAGED_RATE_PART)
    tolerance_bps = rate_bps * min(1.0, rate_part + shifted_part + result.idle_part)
    return check(
        quantity="rate",
        source=direction.source,
        target=direction.target,
        unit="Mbit/s",
        expected=rate_bps / 1e6,
        measured=None if measured_bps is None else measured_bps / 1e6,
        tolerance=tolerance_bps / 1e6,
    )


def _rate_packets(plan: Network, direction: Direction, tolerances: Tolerances) -> int:
    """Return the number of full-size packets that measure the rate of a direction."""
    rate_bps = direction.bottleneck.rate_bps
    packets_per_s = rate_bps / (8 * plan.mtu)

    jitter_ns = direction.fibre.jitter_ns
    flow_s = max(RATE_FLOW_S, JITTERS_PER_FLOW * jitter_ns / 1e9)
    wanted = max(packets_per_s * flow_s, LEAST_RATE_PACKETS)

    most = min(packets_per_s * tolerances.longest_flow_s, MOST_PACKETS)
    return max(2, int(min(wanted, most)))


def _check_loss(network: BuiltNetwork, link: WanLink, direction: Direction, virtual: bool) -> Check:
    expected, spread = loss_of(direction.fibre)
    tolerances = _tolerances(virtual=virtual)
    result = probe.send_probe(
        network,
        link,
        direction,
        packets=LOSS_PACKETS,
        payload=LOSS_PAYLOAD,
        least_pause_ns=tolerances.least_pause_ns,
        timer_ns=tolerances.timer_ns,
    )
    queue_drops = min(result.lost, result.queue_drops)
    passed = max(1, result.sent - queue_drops)
    deviation = sqrt(passed * expected * (1 - expected) * spread)
    tolerance = (LOSS_DEVIATIONS * deviation + 1) / passed
    return check(
        quantity="loss",
        source=direction.source,
        target=direction.target,
        unit="%",
        expected=100 * expected,
        measured=100 * (result.lost - queue_drops) / passed,
        tolerance=100 * tolerance,
    )


def loss_of(fibre: Fibre) -> tuple[float, float]:
    """Return the fraction of packets that a fibre loses, and the burstiness of the losses.

    A corrupted packet fails its checksum and therefore counts as lost.

    Returns:
        The fraction, and the factor, at least 1, by which the variance of the number of lost
            packets exceeds that of independent losses.
    """
    lost = fibre.loss.p
    spread = 1.0
    if fibre.loss.model == "gilbert-elliott":
        lost, spread = _bursty_loss(fibre.loss)
    return 1 - (1 - lost) * (1 - fibre.corrupt), spread


def _bursty_loss(loss: Loss) -> tuple[float, float]:
    """Return the stationary mean of a Gilbert-Elliott chain, and the factor of its variance.

    The factor is (1 + c) / (1 - c), where c = 1 - p - r is the correlation of neighbouring packets.
    """
    if loss.p + loss.r == 0:  # the chain stays in the good state
        return loss.one_minus_k, 1.0

    bad = loss.p / (loss.p + loss.r)
    mean = bad * loss.one_minus_h + (1 - bad) * loss.one_minus_k

    correlation = 1 - loss.p - loss.r
    spread = (1 + correlation) / (1 - correlation)
    return mean, max(1.0, spread)
