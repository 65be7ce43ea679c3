"""Totals of captures, whole and damaged."""

import pytest
from scapy.all import PcapNgWriter  # type: ignore[attr-defined]
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from synthetic import START_NS, write_pcap

from testbed.measure.packets import Totals, read_totals

A, B = "02:00:00:00:00:0a", "02:00:00:00:00:0b"
PACKETS = [(A, 1500, START_NS), (B, 52, START_NS + 7), (A, 1000, START_NS + 9)]


def test_totals_per_direction_use_lengths_on_the_wire(tmp_path):
    write_pcap(tmp_path / "x.pcap", PACKETS)
    capture = read_totals(tmp_path / "x.pcap")
    assert not capture.truncated
    assert capture.sent_by(A.upper()) == Totals(2, 2528, 2500, START_NS, START_NS + 9)
    assert capture.sent_by(B) == Totals(1, 66, 52, START_NS + 7, START_NS + 7)
    assert capture.sent_by("02:00:00:00:00:ff") == Totals()


@pytest.mark.parametrize("lost", [1, 33, 34, 49])
def test_a_file_cut_in_a_record_gives_the_whole_records(tmp_path, lost):
    path = tmp_path / "x.pcap"
    write_pcap(path, PACKETS)
    path.write_bytes(path.read_bytes()[:-lost])
    capture = read_totals(path)
    assert capture.truncated
    assert (capture.sent_by(A).packets, capture.sent_by(B).packets) == (1, 1)


@pytest.mark.parametrize(
    "content", [b"", b"\xd4", b"\x4d\x3c\xb2\xa1\x02", b"no capture, but long enough to have a header"]
)
def test_what_is_no_capture_is_empty_and_truncated(tmp_path, content):
    path = tmp_path / "x.pcap"
    path.write_bytes(content)
    capture = read_totals(path)
    assert capture.truncated
    assert not capture.by_source


def test_a_capture_without_packets_is_whole(tmp_path):
    write_pcap(tmp_path / "x.pcap", [])
    assert not read_totals(tmp_path / "x.pcap").truncated


def test_microsecond_captures(tmp_path):
    write_pcap(tmp_path / "x.pcap", [(A, 52, 3_000_000_005)], magic=0xA1B2C3D4)
    assert read_totals(tmp_path / "x.pcap").sent_by(A).first_ns == 3_000_005_000


def test_pcapng(tmp_path):
    path = tmp_path / "x.pcapng"
    packet = Ether(src=A, dst=B) / IP(src="10.1.0.10", dst="10.2.0.10") / UDP() / bytes(72)
    with PcapNgWriter(str(path)) as writer:
        for _ in range(3):
            writer.write(packet)
    capture = read_totals(path)
    assert not capture.truncated
    assert (capture.sent_by(A).packets, capture.sent_by(A).wire_bytes, capture.sent_by(A).ip_bytes) == (3, 342, 300)
    path.write_bytes(path.read_bytes()[:-10])
    cut = read_totals(path)
    assert cut.truncated
    assert cut.sent_by(A).packets == 2
