"""Samples of the counters of WAN ports while a run goes on.

A sample is one dump of queueing disciplines per router, decoded here by hand: pyroute2 needs about
a millisecond of CPU for each, which a sample every 20 ms of emulated time cannot afford.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

RTM_GETQDISC, NLM_F_REQUEST_DUMP, NLMSG_DONE = 38, 0x301, 3
TC_H_ROOT = 0xFFFFFFFF
TCA_STATS2, TCA_STATS_BASIC, TCA_STATS_QUEUE = 7, 1, 3
FIRST_INTERVAL_S = 0.02
SAMPLES_PER_INTERVAL = 500  # after so many samples the interval doubles: a long run stays small


@dataclass(frozen=True)
class Port:
    """A WAN port to sample: a netlink socket in its router's namespace, its interface, and its name
    in the records.
    """

    connection: socket.socket
    interface_index: int
    source: str
    target: str
    link: str


@dataclass(frozen=True)
class Counters:
    """Of a root queueing discipline, since it was made; the backlog is the present one."""

    bytes: int
    packets: int
    drops: int
    backlog_bytes: int


_buffer = bytearray(1 << 16)


def read_counters(connection: socket.socket) -> dict[int, Counters]:
    """Counters of the root queueing discipline of each interface index in the socket's
    namespace.
    """
    request = struct.pack("=IHHII", 36, RTM_GETQDISC, NLM_F_REQUEST_DUMP, 1, 0) + struct.pack(
        "=BBHiIII", *[0] * 7
    )
    connection.send(request)
    found: dict[int, Counters] = {}
    data = memoryview(_buffer)  # a new buffer for each answer would cost 16 page faults
    while True:
        received = connection.recv_into(data)
        offset = 0
        while offset < received:
            length, kind = struct.unpack_from("=IH", data, offset)
            if kind == NLMSG_DONE:
                return found
            index, _handle, parent = struct.unpack_from("=iII", data, offset + 20)
            if parent == TC_H_ROOT:
                found[index] = _decode(data, offset + 36, offset + length)
            offset += (length + 3) & ~3


def _attributes(data: memoryview, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Type and offset of the payload of each attribute."""
    while start + 4 <= end:
        length, kind = struct.unpack_from("=HH", data, start)
        yield kind & 0x3FFF, start + 4
        start += max(4, (length + 3) & ~3)


def _decode(data: memoryview, start: int, end: int) -> Counters:
    sent = packets = drops = backlog = 0
    for kind, at in _attributes(data, start, end):
        if kind == TCA_STATS2:
            (length,) = struct.unpack_from("=H", data, at - 4)
            for inner, payload in _attributes(data, at, at - 4 + length):
                if inner == TCA_STATS_BASIC:
                    sent, packets = struct.unpack_from("=QI", data, payload)
                elif inner == TCA_STATS_QUEUE:
                    _length, backlog, drops = struct.unpack_from("=III", data, payload)
    return Counters(sent, packets, drops, backlog)


@contextmanager
def sampling(ports: Sequence[Port], path: Path) -> Iterator[None]:
    """Append samples of `ports` to `path` within the block: one at once, then ever so often, one at
    the end.
    """
    stop = threading.Event()
    thread = threading.Thread(
        target=_sample_until, args=(ports, path, stop), name="link-counters", daemon=True
    )
    if not ports:
        yield
        return
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _sample_until(ports: Sequence[Port], path: Path, stop: threading.Event) -> None:
    interval, samples = FIRST_INTERVAL_S, 0
    with path.open("a") as out:
        while True:
            last = stop.is_set()
            _sample(ports, out.write)
            out.flush()
            if last:
                return
            samples += 1
            if samples % SAMPLES_PER_INTERVAL == 0:
                interval *= 2
            stop.wait(interval)


def _sample(ports: Sequence[Port], write: Callable[[str], object]) -> None:
    time_ns = time.time_ns()
    read: dict[socket.socket, dict[int, Counters]] = {}
    for port in ports:
        if port.connection not in read:
            read[port.connection] = read_counters(port.connection)
        counters = read[port.connection][port.interface_index]
        record = {
            "time_ns": time_ns,
            "source": port.source,
            "target": port.target,
            "link": port.link,
        }
        write(json.dumps({**record, **counters.__dict__}) + "\n")
