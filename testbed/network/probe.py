"""Measure rate and loss of a WAN link with UDP packets from one border router to the other."""

from __future__ import annotations

import socket
import struct
import time
from dataclasses import dataclass

from testbed.network.built import BuiltNetwork
from testbed.network.netns import inside_netns
from testbed.network.qdiscs import wan_interface
from testbed.network.rtnetlink import TC_H_ROOT, netlink
from testbed.network.timers import exact_timers
from testbed.plan.model import Direction, Network, WanLink

ETHERNET = 14  # bytes
HEADERS = 28  # bytes of the IPv4 and UDP headers
PORT = 5201
RECEIVE_BUFFER = 256 * 2**20
SO_RCVBUFFORCE, SO_TIMESTAMPNS, UDP_SEGMENT = 33, 35, 103
LARGEST_DATAGRAM = 65_000
# Two portions are in the queue at most: these parts of the queue's length do not overflow it.
DROP_TAIL_SHARE = 2
MANAGED_SHARE = 12  # RED does not drop below a sixth of the queue's length
BIT_NS_PER_BYTE_S = 8 * 10**9
# In a guest, a process that has often read the clock sees a later time, until it waits.
CATCH_UP_S = 1e-6
LAST_WAIT_NS = 10**8  # wait for late packets


@dataclass(frozen=True)
class ProbeSchedule:
    """Schedule of the packets sent over one direction of a WAN link.

    Attributes:
        packets: total number of packets.
        payload: UDP payload of a packet in bytes.
        portion: number of packets sent without a pause.
        together: packets of a portion that one system call sends.
        pause_ns: time from the start of one portion to the start of the next, in ns.
        at_first: number of portions sent before the first pause.
        idle_ns: time in ns of each pause in which the queue may be empty.
    """

    packets: int
    payload: int
    portion: int
    together: int
    pause_ns: int
    at_first: int = 2
    idle_ns: int = 0

    @property
    def frame_bytes(self) -> int:
        """Length of a packet on the wire in bytes."""
        return self.payload + HEADERS + ETHERNET


@dataclass(frozen=True)
class ProbeResult:
    """The packets that arrived.

    Attributes:
        sent: number of packets sent.
        frame_bytes: length of a packet on the wire in bytes.
        arrivals: time in ns at which the kernel received a packet, by the packet's number.
        queue_drops: number of packets that the bottleneck's queue dropped.
        idle_part: largest part of the time in which the transmitter was idle.
    """

    sent: int
    frame_bytes: int
    arrivals: dict[int, int]
    queue_drops: int = 0
    idle_part: float = 0.0

    @property
    def lost(self) -> int:
        """Number of packets that did not arrive."""
        return self.sent - len(self.arrivals)

    @property
    def span_ns(self) -> int:
        """Time from the first arrival to the last, in ns."""
        if not self.arrivals:
            return 0
        times = self.arrivals.values()
        return max(times) - min(times)

    @property
    def rate_bps(self) -> float | None:
        """Rate on the wire after the first arrival, in bit/s.

        Packets lost on the way count, because each lost packet also occupied the transmitter;
        packets that the queue dropped did not. The clock moves in steps. At high rates several
        packets arrive in each step, so the rate is that from the end of the first step with packets
        to the end of the last but one, or of the last of two. None if all packets arrived at the
        same time, or if no packet arrived.
        """
        last_number: dict[int, int] = {}  # by the time of arrival
        for number, at_ns in self.arrivals.items():
            last_number[at_ns] = max(number, last_number.get(at_ns, number))
        steps_ns = sorted(last_number)
        if len(steps_ns) < 2:
            return None

        first_ns = steps_ns[0]
        end_ns = steps_ns[-2] if len(steps_ns) > 2 else steps_ns[-1]
        first_number, end_number = last_number[first_ns], last_number[end_ns]
        packets = end_number - first_number
        arrived = sum(1 for number in self.arrivals if first_number < number <= end_number)
        packets -= min(packets - arrived, self.queue_drops)
        bits = packets * self.frame_bytes * 8
        return bits * 1e9 / (end_ns - first_ns)


def send_probe(
    network: BuiltNetwork,
    link: WanLink,
    direction: Direction,
    *,
    packets: int,
    payload: int,
    least_pause_ns: int,
    timer_ns: int,
) -> ProbeResult:
    """Send datagrams over one direction of a WAN link and record their arrival times.

    The first datagrams fill the bottleneck's queue at once. The others follow at the bottleneck's
    rate in portions of half the queue, so that the queue neither empties nor overflows. A queue of
    a single packet gets one packet after another, and is empty for the time by which a timer may be
    late.

    Args:
        network: the built network.
        link: the WAN link.
        direction: a direction of the link.
        packets: number of datagrams.
        payload: length of each datagram in bytes.
        least_pause_ns: the shortest pause that a sleep can keep, in ns. If a portion takes less
            time, a single burst of at most the whole queue is sent.
        timer_ns: how late a timer may be, in ns.

    Returns:
        The arrival times of the packets that arrived.
    """
    plan = network.plan
    schedule = schedule_for(plan, direction, packets, payload, least_pause_ns, timer_ns)
    source_pid = network.pid(plan.router(direction.source))
    target_pid = network.pid(plan.router(direction.target))
    source_ip = str(direction.address.ip)
    target_ip = str(link.opposite(direction).address.ip)

    interface = wan_interface(plan.router(direction.source), link.index)
    drops_before = _dropped_skbs(source_pid, interface)

    with _udp_socket(source_pid) as sender, _udp_socket(target_pid) as receiver:
        receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
        receiver.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        receiver.bind((target_ip, PORT))

        sender.bind((source_ip, 0))
        sender.connect((target_ip, PORT))
        sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, payload)
        _send_portions(sender, schedule)

        timeout_s = _longest_gap_ns(direction, schedule) / 1e9
        arrivals = _receive(receiver, schedule.packets, timeout_s=timeout_s)

    dropped_skbs = _dropped_skbs(source_pid, interface) - drops_before
    return ProbeResult(
        sent=schedule.packets,
        frame_bytes=schedule.frame_bytes,
        arrivals=arrivals,
        queue_drops=dropped_skbs * schedule.together,
        idle_part=schedule.idle_ns / max(1, schedule.pause_ns),
    )


def _dropped_skbs(pid: int, interface: str) -> int:
    """Return the number of drops that the root qdisc of an interface has counted.

    Args:
        pid: a process in the network namespace of the interface.
        interface: name of the interface.
    """
    with netlink(pid) as connection:
        index = connection.index_of(interface)
        for qdisc in connection.pyroute2().get_qdiscs(index=index):
            if qdisc["parent"] == TC_H_ROOT:
                queue = qdisc.get_attr("TCA_STATS2").get_attr("TCA_STATS_QUEUE")
                return int(queue["drops"])

    return 0


def _longest_gap_ns(direction: Direction, schedule: ProbeSchedule) -> int:
    """Return the longest time in ns without an arrival while packets are still in flight."""
    fibre = direction.fibre
    travel_ns = fibre.delay_ns + 4 * fibre.jitter_ns
    return travel_ns + 2 * schedule.pause_ns + LAST_WAIT_NS


def schedule_for(
    plan: Network,
    direction: Direction,
    packets: int,
    payload: int,
    least_pause_ns: int,
    timer_ns: int,
) -> ProbeSchedule:
    """Return the schedule that `send_probe` follows; the arguments are those of `send_probe`."""
    bottleneck = direction.bottleneck
    together = max(1, min(plan.tcp.packets_per_skb, LARGEST_DATAGRAM // payload))
    if bottleneck.discipline == "drop-tail":
        slots = max(1, bottleneck.queue_packets // plan.tcp.packets_per_skb)  # netem counts skbs
        calls = max(1, slots // DROP_TAIL_SHARE)
    else:
        at_once = max(1, bottleneck.queue_packets // MANAGED_SHARE)
        together = min(together, at_once)
        slots = bottleneck.queue_packets // together
        calls = at_once // together

    portion = calls * together
    holds_two = 2 * calls <= slots

    frame_bytes = payload + HEADERS + ETHERNET
    pause_ns = portion * frame_bytes * BIT_NS_PER_BYTE_S // bottleneck.rate_bps
    idle_ns = 0 if holds_two else timer_ns
    if holds_two and pause_ns < least_pause_ns:
        packets = min(packets, 2 * portion)
        portion = packets

    return ProbeSchedule(
        packets=packets,
        payload=payload,
        portion=portion,
        together=together,
        pause_ns=pause_ns + idle_ns,
        at_first=2 if holds_two else 1,
        idle_ns=idle_ns,
    )


def _udp_socket(pid: int) -> socket.socket:
    """Open a UDP socket in the network namespace of process `pid`."""
    with inside_netns(pid):
        return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def _send_portions(sender: socket.socket, schedule: ProbeSchedule) -> None:
    """Send all packets; each packet begins with its number."""
    exact_timers()
    time.sleep(CATCH_UP_S)
    filling = bytes(schedule.payload - 4)
    begin_ns = time.monotonic_ns()
    number = 0
    portions = 0

    while number < schedule.packets:
        end = min(schedule.packets, number + schedule.portion)
        while number < end:
            last = min(end, number + schedule.together)
            datagrams = [struct.pack("!I", n) + filling for n in range(number, last)]
            sender.send(b"".join(datagrams))
            number = last

        portions += 1
        due_ns = begin_ns + (1 + portions - schedule.at_first) * schedule.pause_ns
        wait_ns = due_ns - time.monotonic_ns()
        if number < schedule.packets and wait_ns > 0:
            time.sleep(wait_ns / 1e9)


def _receive(receiver: socket.socket, packets: int, *, timeout_s: float) -> dict[int, int]:
    """Return the arrival time of each packet in ns, by the packet's number.

    Args:
        receiver: socket that stamps packets with their arrival time.
        packets: number of packets to wait for.
        timeout_s: how long packets are on their way, and how long to wait for the next one, in
            seconds.
    """
    # A process that reads the clock while packets are on their way moves the guest's time.
    time.sleep(timeout_s)
    receiver.settimeout(timeout_s)
    arrivals: dict[int, int] = {}
    while len(arrivals) < packets:
        try:
            data, control, _flags, _sender = receiver.recvmsg(4, 64)
        except TimeoutError:
            break

        _level, _type, timestamp = control[0]
        seconds, nanoseconds = struct.unpack("qq", timestamp)
        number = int.from_bytes(data, "big")
        arrivals.setdefault(number, seconds * 10**9 + nanoseconds)
    return arrivals
