"""From what tcpdump writes to pcapng files."""

import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scapy.utils import RawPcapNgReader, RawPcapNgWriter, RawPcapWriter

from testbed.analysis.packets import mac_number, read_trace
from testbed.core.errors import InputError
from testbed.measure.capture import check_filter, counted, finish, log_of
from testbed.measure.pcapng import CapturedInterface, write_pcapng
from testbed.plan.model import Capturing
from tests.support.traces import (
    EAST,
    FAR,
    NEAR,
    START_NS,
    WEST,
    Stamped,
    segment,
    write_packets,
)

SECOND = START_NS // 10**9
PORT = CapturedInterface("r1-w0", NEAR, 128, "tcp")
NEAR_BYTES = bytes.fromhex(NEAR.replace(":", ""))
Need = Callable[[object, str], None]


def exchange(number: int, size: int = 1000) -> list[Stamped]:
    """Make `number` packets forth, and as many back."""
    packets: list[Stamped] = []
    for index in range(number):
        forth = segment((EAST, WEST), NEAR, size=size, ip_id=index, seq=index * size)
        back = segment((WEST, EAST), FAR, ip_id=index, ack=index * size, flags="A")
        packets += [(index, forth), (index + 0.5, back)]
    return packets


def test_the_records_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Although many of them lie across the end of what is read at a time."""
    monkeypatch.setattr("testbed.measure.pcapng.READ", 1000)
    write_packets(tmp_path / "x.pcap", exchange(20))
    write_pcapng(tmp_path / "x.pcapng", [tmp_path / "x.pcap"], PORT)
    classic, written = read_trace(tmp_path / "x.pcap"), read_trace(tmp_path / "x.pcapng")
    assert not written.truncated
    assert len(written.packets) == 40
    assert np.array_equal(classic.packets, written.packets)


@dataclass(frozen=True)
class Captured:
    """A random frame, of which a part may have been captured."""

    time_ns: int
    frame: bytes
    extra_bytes: int  # on the wire, but not captured
    comment: str | None = None

    @property
    def wire_bytes(self) -> int:
        return len(self.frame) + self.extra_bytes


class Commented(bytes):
    """A frame as scapy's writer takes it, with attributes."""

    comments: list[str]
    direction: int

    @classmethod
    def of(cls, packet: Captured) -> "Commented":
        frame = cls(packet.frame)
        frame.comments = [] if packet.comment is None else [packet.comment]
        frame.direction = 2 if packet.frame[6:12] == NEAR_BYTES else 1
        return frame


FRAMES = st.builds(
    lambda mac, payload: bytes(6) + bytes.fromhex(mac.replace(":", "")) + payload,
    mac=st.sampled_from([NEAR, FAR]),
    payload=st.binary(min_size=2, max_size=90),
)
SHORT_FRAMES = st.binary(max_size=11)
COMMENTS = st.none() | st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1)


def captures(most_ns: int, comments: st.SearchStrategy[str | None]) -> st.SearchStrategy[Captured]:
    return st.builds(
        Captured,
        time_ns=st.integers(0, most_ns),
        frame=FRAMES | SHORT_FRAMES,
        extra_bytes=st.integers(0, 60_000),
        comment=comments,
    )


@given(st.lists(captures((2**32 - 1) * 10**9, st.none()), max_size=20))
@settings(max_examples=60, deadline=None)
def test_scapy_reads_what_is_written(packets: list[Captured]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        classic, path = Path(folder, "x.pcap"), Path(folder, "x.pcapng")
        with RawPcapWriter(str(classic), linktype=1, nano=True) as writer:
            writer.write_header(None)
            for packet in packets:
                seconds, nanoseconds = divmod(packet.time_ns, 10**9)
                writer.write_packet(
                    packet.frame, sec=seconds, usec=nanoseconds, wirelen=packet.wire_bytes
                )
        write_pcapng(path, [classic], PORT)
        with RawPcapNgReader(str(path)) as reader:
            read: list[tuple[bytes, Any]] = list(reader)
        trace = read_trace(path)
    times_ns = [meta.tshigh << 32 | meta.tslow for _frame, meta in read]
    assert [frame for frame, _meta in read] == [packet.frame for packet in packets]
    assert times_ns == [packet.time_ns for packet in packets]
    assert [meta.wirelen for _frame, meta in read] == [packet.wire_bytes for packet in packets]
    assert {meta.ifname for _frame, meta in read} <= {b"r1-w0"}
    outbound = [packet.frame[6:12] == NEAR_BYTES for packet in packets]
    assert [meta.direction == 2 for _frame, meta in read] == outbound
    assert not trace.truncated
    assert trace.packets["time_ns"].tolist() == times_ns
    assert trace.packets["wire_bytes"].tolist() == [packet.wire_bytes for packet in packets]


@given(st.lists(captures(2**62, COMMENTS), max_size=20))
@settings(max_examples=60, deadline=None)
def test_what_scapy_writes_is_read(packets: list[Captured]) -> None:
    """Its timestamps are microseconds; comments and directions of packets are skipped."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.pcapng")
        with RawPcapNgWriter(str(path)) as writer:
            writer.linktype = 1
            for packet in packets:
                seconds = packet.time_ns / 10**9
                frame = Commented.of(packet)
                writer.write_header(frame)
                writer.write_packet(frame, sec=seconds, wirelen=packet.wire_bytes)
        trace = read_trace(path)
    assert not trace.truncated
    assert trace.packets["wire_bytes"].tolist() == [packet.wire_bytes for packet in packets]
    macs = [int.from_bytes(packet.frame[6:12].ljust(6, b"\0")) for packet in packets]
    assert trace.packets["mac"].tolist() == macs
    assert len(trace.sent_by(NEAR)) == macs.count(mac_number(NEAR))
    times_us = [int(packet.time_ns / 10**9 * 10**6) for packet in packets]
    assert (trace.packets["time_ns"] // 1000).tolist() == times_us


def test_wireshark_reads_interface_direction_and_time(tmp_path: Path, need: Need) -> None:
    need(shutil.which("tshark"), "tshark")
    write_packets(tmp_path / "x.pcap", exchange(1))
    write_pcapng(tmp_path / "x.pcapng", [tmp_path / "x.pcap"], PORT)
    command: list[str | Path] = ["tshark", "-r", tmp_path / "x.pcapng", "-T", "fields"]
    for field in (
        "frame.interface_name",
        "frame.packet_flags_direction",
        "frame.time_epoch",
        "frame.len",
        "frame.cap_len",
    ):
        command += ["-e", field]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert [line.split("\t") for line in output.splitlines()] == [
        ["r1-w0", "0x00000002", f"{SECOND}.000000000", "1054", "128"],
        ["r1-w0", "0x00000001", f"{SECOND}.000500000", "54", "54"],
    ]


def test_files_filled_in_turn_are_put_in_order(tmp_path: Path) -> None:
    """tcpdump has come back to the first file, which has the newest packets; the last is empty."""
    path = tmp_path / "a-b@a.pcapng"
    packets = exchange(6)
    for digit, part in ((0, packets[8:]), (1, packets[:4]), (2, packets[4:8]), (3, [])):
        write_packets(tmp_path / f"a-b@a.pcap{digit}", part)
    log_of(path).write_text(
        "tcpdump: listening on r1-w0, link-type EN10MB\n"
        "20 packets captured\n3 packets dropped by kernel"
    )
    finish(path, NEAR, Capturing())
    trace = read_trace(path)
    times_ns = trace.packets["time_ns"] - START_NS
    assert times_ns.tolist() == [500_000 * number for number in range(12)]
    assert not trace.truncated
    assert counted(path) == (20, 3)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a-b@a.log", "a-b@a.pcapng"]
    finish(path, NEAR, Capturing())
    assert len(read_trace(path).packets) == 12


@pytest.mark.parametrize("lost", [1, 30, 60])
def test_a_cut_capture_stays_cut(tmp_path: Path, lost: int) -> None:
    write_packets(tmp_path / "x.pcap", exchange(10))
    (tmp_path / "x.pcap").write_bytes((tmp_path / "x.pcap").read_bytes()[:-lost])
    write_pcapng(tmp_path / "x.pcapng", [tmp_path / "x.pcap"], PORT)
    trace = read_trace(tmp_path / "x.pcapng")
    assert (len(trace.packets), trace.truncated) == (19, True)


def test_a_capture_without_nanoseconds_gives_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.pcap").write_bytes(struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 128, 1))
    write_pcapng(tmp_path / "x.pcapng", [tmp_path / "x.pcap"], PORT)
    assert read_trace(tmp_path / "x.pcapng").truncated


@pytest.mark.parametrize(
    ("said", "numbers"),
    [
        (
            "5 packets captured\n7 packets received by filter\n12 packets dropped by kernel\n",
            (5, 12),
        ),
        ("1 packet captured\n1 packet dropped by kernel", (1, 1)),
        ("tcpdump: listening on r1-w0", None),
    ],
)
def test_what_tcpdump_counted(tmp_path: Path, said: str, numbers: tuple[int, int] | None) -> None:
    path = tmp_path / "x.pcapng"
    assert counted(path) is None
    log_of(path).write_text(said)
    assert counted(path) == numbers


def test_filters_that_tcpdump_knows(need: Need) -> None:
    need(shutil.which("tcpdump"), "tcpdump")
    for expression in ("", "tcp port 29500", "host 10.0.0.1 and not udp"):
        check_filter(expression)
        with pytest.raises(InputError, match="is not a valid filter"):
            check_filter(f"{expression} and")
