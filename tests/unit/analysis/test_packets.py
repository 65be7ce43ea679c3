"""Totals of captures, whole and damaged."""

from pathlib import Path

import pytest
from scapy.all import PcapNgWriter
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet
from scapy.utils import RawPcapWriter

from testbed.analysis.packets import Totals, Trace, read_trace, totals
from tests.support.synthetic import START_NS, write_pcap

A, B = "02:00:00:00:00:0a", "02:00:00:00:00:0b"


def sent_by(trace: Trace, mac: str, mtu: int = 65535) -> Totals:
    return totals(trace.sent_by(mac), mtu)


PACKETS = [(A, 1500, START_NS), (B, 52, START_NS + 7), (A, 1000, START_NS + 9)]


def test_totals_per_direction_use_lengths_on_the_wire(tmp_path: Path) -> None:
    write_pcap(tmp_path / "x.pcap", PACKETS)
    capture = read_trace(tmp_path / "x.pcap")
    assert not capture.truncated
    assert sent_by(capture, A.upper()) == Totals(2, 2528, 2500, START_NS, START_NS + 9)
    assert sent_by(capture, B) == Totals(1, 66, 52, START_NS + 7, START_NS + 7)
    assert sent_by(capture, "02:00:00:00:00:ff") == Totals()


@pytest.mark.parametrize("lost", [1, 33, 34, 49])
def test_a_file_cut_in_a_record_gives_the_whole_records(tmp_path: Path, lost: int) -> None:
    path = tmp_path / "x.pcap"
    write_pcap(path, PACKETS)
    path.write_bytes(path.read_bytes()[:-lost])
    capture = read_trace(path)
    assert capture.truncated
    assert (sent_by(capture, A).packets, sent_by(capture, B).packets) == (1, 1)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xd4", b"\x4d\x3c\xb2\xa1\x02", b"no capture, but long enough to have a header"],
)
def test_what_is_no_capture_is_empty_and_truncated(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.pcap"
    path.write_bytes(content)
    capture = read_trace(path)
    assert capture.truncated
    assert not len(capture.packets)


def write_packet(path: Path, packet: Packet, *, snap_bytes: int) -> None:
    with RawPcapWriter(str(path), linktype=1, nano=True, snaplen=snap_bytes) as writer:
        frame = bytes(packet)
        writer.write_header(None)
        writer.write_packet(
            frame[:snap_bytes], sec=1, usec=0, caplen=snap_bytes, wirelen=len(frame)
        )


@pytest.mark.parametrize(("mtu", "packets"), [(1500, 46), (9000, 8), (65535, 1)])
def test_an_offloaded_record_counts_as_its_packets_with_headers_of_their_own(
    tmp_path: Path, mtu: int, packets: int
) -> None:
    headers, payload = 20 + 32, 65535 - 52  # TCP with timestamps; the largest IPv4 packet
    options = [("NOP", None), ("NOP", None), ("Timestamp", (1, 2))]
    packet = (
        Ether(src=A, dst=B)
        / IP(src="10.0.0.1", dst="10.1.0.1")
        / TCP(options=options)
        / bytes(payload)
    )
    write_packet(tmp_path / "x.pcap", packet, snap_bytes=96)
    capture = read_trace(tmp_path / "x.pcap")
    assert not capture.truncated
    assert packets == -(-payload // (mtu - headers))
    ip_bytes = payload + packets * headers
    total = sent_by(capture, A, mtu)
    assert (total.packets, total.wire_bytes, total.ip_bytes) == (
        packets,
        ip_bytes + packets * 14,
        ip_bytes,
    )


def test_a_full_packet_and_a_long_datagram_are_one_packet(tmp_path: Path) -> None:
    ip = Ether(src=A, dst=B) / IP(src="10.0.0.1", dst="10.1.0.1")
    for packet in (ip / TCP() / bytes(1460), ip / UDP() / bytes(3000)):
        write_packet(tmp_path / "x.pcap", packet, snap_bytes=96)
        total = sent_by(read_trace(tmp_path / "x.pcap"), A, 1500)
        assert (total.packets, total.wire_bytes) == (1, len(packet))


def test_a_capture_without_packets_is_whole(tmp_path: Path) -> None:
    write_pcap(tmp_path / "x.pcap", [])
    assert not read_trace(tmp_path / "x.pcap").truncated


def test_microsecond_captures(tmp_path: Path) -> None:
    write_pcap(tmp_path / "x.pcap", [(A, 52, 3_000_000_005)], magic=0xA1B2C3D4)
    assert sent_by(read_trace(tmp_path / "x.pcap"), A).first_ns == 3_000_005_000


def test_pcapng(tmp_path: Path) -> None:
    path = tmp_path / "x.pcapng"
    packet = Ether(src=A, dst=B) / IP(src="10.1.0.10", dst="10.2.0.10") / UDP() / bytes(72)
    with PcapNgWriter(str(path)) as writer:
        for _ in range(3):
            writer.write(packet)
    capture = read_trace(path)
    assert not capture.truncated
    assert (
        sent_by(capture, A).packets,
        sent_by(capture, A).wire_bytes,
        sent_by(capture, A).ip_bytes,
    ) == (3, 342, 300)
    path.write_bytes(path.read_bytes()[:-10])
    cut = read_trace(path)
    assert cut.truncated
    assert sent_by(cut, A).packets == 2
