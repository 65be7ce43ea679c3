"""What the kernel says of this process's TCP connections before and after an operation.

The figures are those of ``getsockopt(TCP_INFO)``, which reads no clock and thus takes no virtual
time.
"""

from __future__ import annotations

import ctypes
import math
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from testbed.runfolder.records import TcpUse

MOST_OPERATIONS = 2000  # watched in each process; every operation costs wall time
ESTABLISHED = 1  # include/net/tcp_states.h
INFINITE_THRESHOLD = 0x7FFFFFFF  # of slow start: no loss and no pause yet (net/tcp.h)
UNKNOWN_RTT = 0xFFFFFFFF
# struct tcp_info of linux/tcp.h, up to tcpi_bytes_retrans
INFO = struct.Struct("=B7x24I4Q6I4Q2I2Q")
# tcpi_total_retrans, tcpi_notsent_bytes, tcpi_bytes_sent with tcpi_bytes_retrans
SENDING = (slice(100, 104), slice(144, 148), slice(200, 216))
ADDRESS_BYTES = 28  # struct sockaddr_in6

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Connection:
    """The state of a connection; times in us, the windows in segments.

    Attributes:
        sent: bytes given to the kernel so far, sent or not.
        idle_us: time since the last data were sent.
        threshold: the window at which slow start ends; None: not yet known.
    """

    sent: int
    rtt_us: int
    timeout_us: int
    idle_us: int
    segment_bytes: int
    window: int
    threshold: int | None
    retransmissions: int
    busy_us: int
    receiver_us: int
    buffer_us: int


Snapshot = dict[int, bytes]  # struct tcp_info by file descriptor


class TcpWatch:
    """Watcher of all TCP connections of this process; None in place of figures after `limit`."""

    def __init__(self, limit: int = MOST_OPERATIONS) -> None:
        self._left = limit
        self._sockets: list[int] = []
        self._peers: dict[int, str] = {}

    def look_for_connections(self) -> None:
        """Find the connections that were opened since the last call."""
        self._sockets = []
        self._peers = {}
        for entry in Path("/proc/self/fd").iterdir():
            descriptor = int(entry.name)
            peer = _peer(descriptor)
            if peer is not None:
                self._sockets.append(descriptor)
                self._peers[descriptor] = peer

    def snapshot(self) -> Snapshot | None:
        """Return the state of each connection by its file descriptor, before an operation."""
        if self._left <= 0:
            return None

        self._left -= 1
        return dict(self._states())

    def use_since(self, before: Snapshot | None) -> TcpUse | None:
        """Return the use of the connection that waited most for its window, after an operation.

        Args:
            before: the states before the operation; None: not watched.

        Returns:
            The figures, or None if nothing was sent or the operation was not watched.
        """
        if before is None:
            return None

        most: TcpUse | None = None
        retransmissions = 0
        for descriptor, state in self._states():
            earlier = before.get(descriptor)
            if earlier is None or not _has_sent(earlier, state):
                continue

            use = _use(self._peers[descriptor], _connection(earlier), _connection(state))
            retransmissions += use.retransmissions
            if use.bytes > 0 and (most is None or _round_trips_us(use) > _round_trips_us(most)):
                most = use

        if most is None:
            return None

        return most.model_copy(update={"retransmissions": retransmissions})

    def _states(self) -> Iterator[tuple[int, bytes]]:
        reader = _InfoReader()
        for descriptor in self._sockets:
            state = reader.read(descriptor)
            if state is not None:
                yield descriptor, state


def _use(peer: str, before: Connection, after: Connection) -> TcpUse:
    return TcpUse(
        peer=peer,
        bytes=after.sent - before.sent,
        rtt_us=after.rtt_us,
        segment_bytes=after.segment_bytes,
        window_before=before.window,
        window_after=after.window,
        threshold=before.threshold,
        idle_us=before.idle_us,
        timeout_us=before.timeout_us,
        receiver_us=after.receiver_us - before.receiver_us,
        buffer_us=after.buffer_us - before.buffer_us,
        busy_us=after.busy_us - before.busy_us,
        retransmissions=after.retransmissions - before.retransmissions,
        ever_retransmitted=after.retransmissions > 0,
    )


def _round_trips_us(use: TcpUse) -> float:
    """Return about how long a growing window takes to send the bytes: ranks the connections."""
    segments = use.bytes / max(1, use.segment_bytes)
    window = max(1, min(use.window_before, use.window_after))
    return use.rtt_us * math.log2(1 + segments / window)


def _has_sent(before: bytes, after: bytes) -> bool:
    """Return whether a connection has sent something, again or for the first time."""
    return any(before[place] != after[place] for place in SENDING)


class _InfoReader:
    """Reader of struct tcp_info; each thread needs a separate one.

    Each rank reads the structure of its connections to all other ranks twice in each operation.
    """

    def __init__(self) -> None:
        self._buffer = ctypes.create_string_buffer(INFO.size)
        self._length = ctypes.c_uint32()
        self._places = (self._buffer, ctypes.byref(self._length))

    def read(self, descriptor: int) -> bytes | None:
        """Return the structure of an established TCP connection; None for anything else."""
        self._length.value = INFO.size
        status = _libc.getsockopt(descriptor, socket.IPPROTO_TCP, socket.TCP_INFO, *self._places)
        if status != 0 or self._length.value < INFO.size:
            return None

        state = self._buffer.raw
        return state if state[0] == ESTABLISHED else None


def _connection(state: bytes) -> Connection:
    """Return what struct tcp_info says."""
    values = INFO.unpack(state)
    words, more = values[1:25], values[29:]
    least_rtt_us = more[3]
    threshold = words[17]
    return Connection(
        sent=more[12] - more[13] + more[2],
        rtt_us=words[15] if least_rtt_us in (0, UNKNOWN_RTT) else least_rtt_us,
        timeout_us=words[0],
        idle_us=1000 * words[9],
        segment_bytes=words[2],
        window=words[18],
        threshold=None if threshold >= INFINITE_THRESHOLD else threshold,
        retransmissions=words[23],
        busy_us=more[7],
        receiver_us=more[8],
        buffer_us=more[9],
    )


def _peer(descriptor: int) -> str | None:
    """Return the IPv4 address at the other end of a TCP connection to another host, or None."""
    if _InfoReader().read(descriptor) is None:
        return None

    buffer = ctypes.create_string_buffer(ADDRESS_BYTES)
    length = ctypes.c_uint32(ADDRESS_BYTES)
    if _libc.getpeername(descriptor, buffer, ctypes.byref(length)) != 0:
        return None

    (family,) = struct.unpack_from("=H", buffer.raw)
    at = 4 if family == socket.AF_INET else 20  # the last bytes of an IPv4 address in IPv6
    address = socket.inet_ntoa(buffer.raw[at : at + 4])
    return None if address.startswith("127.") else address
