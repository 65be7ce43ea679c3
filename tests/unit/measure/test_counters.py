"""Reading the counters of queueing disciplines, from answers as the kernel gives them."""

import json
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import cast

from testbed.measure.counters import (
    NLMSG_DONE,
    RTM_GETQDISC,
    TC_H_ROOT,
    TCA_STATS2,
    TCA_STATS_BASIC,
    TCA_STATS_QUEUE,
    CounterReader,
    Counters,
    SampledPort,
    read_counters,
    sampling,
)
from testbed.runfolder import records
from testbed.runfolder.records import LinkSample

KIND = 1  # an attribute that is skipped: the name of the discipline


def attribute(kind: int, payload: bytes) -> bytes:
    padding = bytes(-len(payload) % 4)
    return struct.pack("=HH", 4 + len(payload), kind) + payload + padding


def message(interface: int, counters: Counters, parent: int = TC_H_ROOT) -> bytes:
    basic = struct.pack("=QI4x", counters.bytes, counters.packets)
    queue = struct.pack("=IIIII", 7, counters.backlog_bytes, counters.drops, 0, 0)
    stats = attribute(TCA_STATS_BASIC, basic) + attribute(TCA_STATS_QUEUE, queue)
    body = struct.pack("=BBHiIII", 0, 0, 0, interface, 0x10000, parent, 0)
    body += attribute(KIND, b"netem\0") + attribute(TCA_STATS2, stats)
    return struct.pack("=IHHII", 16 + len(body), RTM_GETQDISC, 0, 1, 0) + body


DONE = struct.pack("=IHHIIi", 20, NLMSG_DONE, 0, 1, 0, 0)


class FakeConnection:
    """Answers a request with datagrams; calls a function after each of them has arrived."""

    def __init__(
        self, *datagrams: bytes, after_arrival: Callable[[], object] = lambda: None
    ) -> None:
        self._datagrams = datagrams
        self._after_arrival = after_arrival
        self._left: list[bytes] = []

    def send(self, request: bytes) -> None:
        length, kind = struct.unpack_from("=IH", request)
        assert (length, kind) == (len(request), RTM_GETQDISC)
        self._left = list(self._datagrams)

    def recv_into(self, buffer: memoryview) -> int:
        datagram = self._left.pop(0)
        buffer[: len(datagram)] = datagram
        self._after_arrival()
        return len(datagram)


def as_socket(connection: FakeConnection) -> socket.socket:
    return cast(socket.socket, connection)


FIRST = Counters(bytes=2**40 + 1, packets=1000, drops=3, backlog_bytes=4500)
SECOND = Counters(bytes=7, packets=1, drops=0, backlog_bytes=0)


def test_counters_of_root_disciplines() -> None:
    datagrams = (message(5, FIRST) + message(5, SECOND, parent=0x10001), message(9, SECOND), DONE)
    connection = FakeConnection(*datagrams)
    assert read_counters(as_socket(connection)) == {5: FIRST, 9: SECOND}
    assert read_counters(as_socket(connection)) == {5: FIRST, 9: SECOND}


def test_a_reader_keeps_its_answer_while_another_one_reads() -> None:
    """On the real clock, one thread samples while another one reads the drops of fibres."""
    other = FakeConnection(message(1, SECOND) + message(2, SECOND) + DONE)
    connection = FakeConnection(
        message(1, FIRST) + message(2, FIRST) + DONE,
        after_arrival=lambda: CounterReader().read(as_socket(other)),
    )
    assert CounterReader().read(as_socket(connection)) == {1: FIRST, 2: FIRST}


def test_sampling_appends_records(tmp_path: Path) -> None:
    connection = as_socket(FakeConnection(message(1, FIRST) + message(2, SECOND) + DONE))
    ports = [
        SampledPort(connection, 1, "east", "west", "east-west"),
        SampledPort(connection, 2, "west", "east", "east-west"),
    ]
    path = tmp_path / "links.jsonl"
    with sampling(ports, path):
        pass
    samples, problems = records.read(path, LinkSample)
    assert problems == []
    assert len(samples) >= 2
    last = [sample.model_dump() for sample in samples[-2:]]
    assert json.loads(path.read_text().splitlines()[-1]) == last[1]
    assert last[0]["time_ns"] == last[1]["time_ns"]
    assert [(row["source"], row["target"]) for row in last] == [("east", "west"), ("west", "east")]
    assert (last[0]["bytes"], last[0]["drops"], last[0]["backlog_bytes"]) == (2**40 + 1, 3, 4500)


def test_nothing_to_sample(tmp_path: Path) -> None:
    with sampling([], tmp_path / "links.jsonl"):
        pass
    assert not (tmp_path / "links.jsonl").exists()
