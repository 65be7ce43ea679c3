"""Sample the counters of WAN ports during a run.

A sample is one dump of the queueing disciplines of each router, decoded here by hand: pyroute2
needs about a millisecond of CPU time per dump, too much for a sample every 20 ms of emulated time.

Messages are those of rtnetlink(7) and linux/rtnetlink.h, attributes those of linux/gen_stats.h.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

RTM_GETQDISC, NLM_F_REQUEST_DUMP, NLMSG_DONE = 38, 0x301, 3
TC_H_ROOT = 0xFFFFFFFF
TCA_STATS2, TCA_STATS_BASIC, TCA_STATS_QUEUE = 7, 1, 3
MESSAGE_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence number, port
QDISC_HEADER = struct.Struct("=BBHiIII")  # tcmsg: family, padding (2), interface, handle, parent
ATTRIBUTE_HEADER = struct.Struct("=HH")  # length including this header, type
NESTED_AND_ORDER = 0xC000  # bits of an attribute's type
BUFFER_BYTES = 1 << 16
FIRST_INTERVAL_S = 0.02
SAMPLES_PER_INTERVAL = 500  # then the interval doubles, which limits the samples of a long run


@dataclass(frozen=True)
class SampledPort:
    """A WAN port to sample.

    Attributes:
        connection: netlink socket in the network namespace of the port's router.
        interface_index: index of the port's interface in that namespace.
        source: the datacenter that sends.
        target: the datacenter that receives.
        link: key of the WAN link.
    """

    connection: socket.socket
    interface_index: int
    source: str
    target: str
    link: str


@dataclass(frozen=True)
class Counters:
    """Counters of a root qdisc since the qdisc was made, and the present backlog."""

    bytes: int
    packets: int
    drops: int
    backlog_bytes: int


class CounterReader:
    """Reader of qdisc counters that reuses one buffer for all answers; each thread needs its own.

    A new buffer for each answer would cost 16 page faults.
    """

    def __init__(self) -> None:
        self._buffer = bytearray(BUFFER_BYTES)

    def read(self, connection: socket.socket) -> dict[int, Counters]:
        """Return the counters of the root qdisc of each interface.

        Args:
            connection: netlink socket in the namespace of the interfaces.

        Returns:
            The counters by interface index.
        """
        length = MESSAGE_HEADER.size + QDISC_HEADER.size
        header = MESSAGE_HEADER.pack(length, RTM_GETQDISC, NLM_F_REQUEST_DUMP, 1, 0)
        any_qdisc = QDISC_HEADER.pack(0, 0, 0, 0, 0, 0, 0)
        connection.send(header + any_qdisc)
        counters: dict[int, Counters] = {}
        data = memoryview(self._buffer)
        while True:
            received = connection.recv_into(data)
            position = 0
            while position < received:
                length, kind = struct.unpack_from("=IH", data, position)
                if kind == NLMSG_DONE:
                    return counters

                body = position + MESSAGE_HEADER.size
                interface_index, _handle, parent = struct.unpack_from("=iII", data, body + 4)
                if parent == TC_H_ROOT:
                    attributes = body + QDISC_HEADER.size
                    counters[interface_index] = _decode(data, attributes, position + length)

                position += _aligned(length)


def read_counters(connection: socket.socket) -> dict[int, Counters]:
    """Return the counters of root qdiscs by interface index; see `CounterReader.read`."""
    return CounterReader().read(connection)


def _aligned(length: int) -> int:
    """Return `length` rounded up to netlink's alignment."""
    return (length + 3) & ~3


def _attributes(data: memoryview, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield type, begin and end of the payload of each attribute between two positions."""
    position = begin
    while position + ATTRIBUTE_HEADER.size <= end:
        length, kind = ATTRIBUTE_HEADER.unpack_from(data, position)
        yield kind & ~NESTED_AND_ORDER, position + ATTRIBUTE_HEADER.size, position + length
        position += max(ATTRIBUTE_HEADER.size, _aligned(length))


def _decode(data: memoryview, begin: int, end: int) -> Counters:
    """Return the counters of a qdisc, decoded from its attributes."""
    sent_bytes = packets = drops = backlog_bytes = 0
    for kind, stats_begin, stats_end in _attributes(data, begin, end):
        if kind != TCA_STATS2:
            continue

        for stats_kind, payload, _end in _attributes(data, stats_begin, stats_end):
            if stats_kind == TCA_STATS_BASIC:
                sent_bytes, packets = struct.unpack_from("=QI", data, payload)
            elif stats_kind == TCA_STATS_QUEUE:
                _length, backlog_bytes, drops = struct.unpack_from("=III", data, payload)

    return Counters(sent_bytes, packets, drops, backlog_bytes)


@contextmanager
def sampling(ports: Sequence[SampledPort], path: Path) -> Iterator[None]:
    """Sample within the block: at the start, then at intervals, and at the end.

    Args:
        ports: ports to sample; no other code uses their sockets within the block.
        path: the file to which records are appended (`testbed.runfolder.records.LinkSample`).
    """
    if not ports:
        yield
        return

    stop = threading.Event()
    sampler = threading.Thread(
        target=_sample_until, args=(ports, path, stop), name="link-counters", daemon=True
    )
    sampler.start()
    try:
        yield
    finally:
        stop.set()
        sampler.join()


def _sample_until(ports: Sequence[SampledPort], path: Path, stop: threading.Event) -> None:
    reader = CounterReader()
    interval_s, samples = FIRST_INTERVAL_S, 0
    with path.open("a") as out:
        while True:
            is_last = stop.is_set()
            out.writelines(_sample(ports, reader))
            out.flush()
            if is_last:
                return

            samples += 1
            if samples % SAMPLES_PER_INTERVAL == 0:
                interval_s *= 2

            stop.wait(interval_s)


def _sample(ports: Sequence[SampledPort], reader: CounterReader) -> Iterator[str]:
    """Yield the lines of one sample, with the fields of `testbed.runfolder.records.LinkSample`."""
    time_ns = time.time_ns()
    by_router: dict[socket.socket, dict[int, Counters]] = {}
    for port in ports:
        router = port.connection
        if router not in by_router:
            by_router[router] = reader.read(router)

        counters = by_router[router][port.interface_index]
        sample = {
            "time_ns": time_ns,
            "source": port.source,
            "target": port.target,
            "link": port.link,
            **vars(counters),
        }
        yield json.dumps(sample) + "\n"
