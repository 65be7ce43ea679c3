"""UDP from one border router straight to the other across their WAN link: what the link does to
packets, one by one.
"""

from __future__ import annotations

import socket
import struct
import time
from dataclasses import dataclass

from testbed.network.build import BuiltNetwork
from testbed.network.netlink import inside_netns
from testbed.network.timers import exact_timers
from testbed.plan.model import Direction, WanLink

ETHERNET, HEADERS = 14, 28  # bytes: Ethernet's, and those of IPv4 and UDP
PORT = 5201
RECEIVE_BUFFER = 256 * 2**20
SO_RCVBUFFORCE, SO_TIMESTAMPNS, UDP_SEGMENT = 33, 35, 103
LARGEST_DATAGRAM = 65_000
MANAGED_SHARE = 12  # RED leaves a queue alone up to a sixth of its length


@dataclass(frozen=True)
class Flow:
    """What arrived: for each of `sent` packets that did, when the kernel got it (ns), by its
    number.
    """

    sent: int
    frame_bytes: int
    arrivals: dict[int, int]

    @property
    def lost(self) -> int:
        """Packets that did not arrive."""
        return self.sent - len(self.arrivals)

    @property
    def span_ns(self) -> int:
        """From the first arrival to the last."""
        times = self.arrivals.values()
        return max(times, default=0) - min(times, default=0)

    @property
    def rate_bps(self) -> float | None:
        """Rate on the wire: the bits sent after the packets of the first arrival, by the time that
        they took.

        Packets that were lost on the way count, because they took up the transmitter as well.
        """
        if self.span_ns <= 0:
            return None
        first = min(self.arrivals.values())
        begin = max(number for number, time_ns in self.arrivals.items() if time_ns == first)
        return (max(self.arrivals) - begin) * self.frame_bytes * 8 * 1e9 / self.span_ns


def send(
    network: BuiltNetwork,
    link: WanLink,
    way: Direction,
    *,
    packets: int,
    payload: int,
    least_pause_ns: int,
) -> Flow:
    """Send `packets` datagrams of `payload` bytes over one direction of a WAN link.

    They fill half of the bottleneck's queue at once, then follow at its rate in portions of half
    the queue, so that it never runs empty or over. Where a portion takes less than
    `least_pause_ns`, which a sleep cannot keep to, a single burst of at most the whole queue is
    sent.
    """
    plan = network.plan
    back = next(d for d in link.directions if d is not way)
    together = max(1, min(plan.tcp.packets_per_skb, LARGEST_DATAGRAM // payload))
    frame = payload + HEADERS + ETHERNET
    share = 2 if way.bottleneck.discipline == "drop-tail" else MANAGED_SHARE
    portion = max(1, way.bottleneck.queue_packets // plan.tcp.packets_per_skb // share) * together
    pause_ns = portion * frame * 8 * 10**9 // way.bottleneck.rate_bps
    if pause_ns < least_pause_ns:
        packets = portion = min(packets, 2 * portion)
    with (
        _socket(network.pid(plan.datacenter(way.source).router)) as sender,
        _socket(network.pid(plan.datacenter(way.target).router)) as receiver,
    ):
        receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
        receiver.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        receiver.bind((str(back.address.ip), PORT))
        sender.bind((str(way.address.ip), 0))
        sender.connect((str(back.address.ip), PORT))
        sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, payload)
        _send_portions(sender, packets, payload, portion, together, pause_ns)
        rest = way.fibre.delay_ns + 4 * way.fibre.jitter_ns + 2 * pause_ns + 10**8
        return Flow(packets, frame, _receive(receiver, packets, timeout_s=rest / 1e9))


def _socket(pid: int) -> socket.socket:
    with inside_netns(pid):
        return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def _send_portions(
    sender: socket.socket, packets: int, payload: int, portion: int, together: int, pause_ns: int
) -> None:
    exact_timers()
    filling = bytes(payload - 4)
    begin, number, portions = time.monotonic_ns(), 0, 0
    while number < packets:
        end = min(packets, number + portion)
        while number < end:
            last = min(end, number + together)
            sender.send(b"".join(struct.pack("!I", n) + filling for n in range(number, last)))
            number = last
        wait_ns = begin + portions * pause_ns - time.monotonic_ns()
        portions += 1
        if number < packets and wait_ns > 0:
            time.sleep(wait_ns / 1e9)


def _receive(receiver: socket.socket, packets: int, *, timeout_s: float) -> dict[int, int]:
    """The packets that have come, and those that come until none has for `timeout_s`."""
    receiver.settimeout(timeout_s)
    arrivals: dict[int, int] = {}
    while len(arrivals) < packets:
        try:
            data, control, _flags, _sender = receiver.recvmsg(4, 64)
        except TimeoutError:
            break
        seconds, nanoseconds = struct.unpack("qq", control[0][2])
        arrivals.setdefault(int.from_bytes(data, "big"), seconds * 10**9 + nanoseconds)
    return arrivals
