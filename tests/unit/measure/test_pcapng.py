"""From what tcpdump writes to pcapng files."""

import shutil
import struct
import subprocess

import numpy as np
import pytest

from testbed.analysis.packets import read_trace
from testbed.measure.capture import check_filter, counted, finish, log_of
from testbed.measure.pcapng import Interface, write_pcapng
from testbed.plan.model import Capturing
from tests.support.traces import EAST, FAR, NEAR, START_NS, WEST, segment, write_packets

SECOND = START_NS // 10**9
PORT = Interface("r1-w0", NEAR, 128, "tcp")


def exchange(number, size=1000):
    """`number` packets forth, and as many back."""
    forth = [
        (i, segment((EAST, WEST), NEAR, size=size, ip_id=i, seq=i * size)) for i in range(number)
    ]
    back = [
        (i + 0.5, segment((WEST, EAST), FAR, ip_id=i, ack=i * size, flags="A"))
        for i in range(number)
    ]
    return sorted(forth + back, key=lambda stamped: stamped[0])


def test_the_records_are_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "testbed.measure.pcapng.READ", 1000
    )  # many records lie across the end of what is read
    write_packets(tmp_path / "x.pcap", exchange(20))
    write_pcapng(tmp_path / "x.pcapng", [tmp_path / "x.pcap"], PORT)
    classic, written = read_trace(tmp_path / "x.pcap"), read_trace(tmp_path / "x.pcapng")
    assert not written.truncated
    assert len(written.packets) == 40
    assert np.array_equal(classic.packets, written.packets)


def test_wireshark_reads_interface_direction_and_time(tmp_path, need):
    need(shutil.which("tshark"), "tshark")
    write_packets(tmp_path / "x.pcap", exchange(1))
    write_pcapng(tmp_path / "x.pcapng", [tmp_path / "x.pcap"], PORT)
    fields = [
        "frame.interface_name",
        "frame.packet_flags_direction",
        "frame.time_epoch",
        "frame.len",
        "frame.cap_len",
    ]
    words = [
        "tshark",
        "-r",
        tmp_path / "x.pcapng",
        "-T",
        "fields",
        *(w for f in fields for w in ("-e", f)),
    ]
    lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split("\t") for line in lines] == [
        ["r1-w0", "0x00000002", f"{SECOND}.000000000", "1054", "128"],
        ["r1-w0", "0x00000001", f"{SECOND}.000500000", "54", "54"],
    ]


def test_files_filled_in_turn_are_put_in_order(tmp_path):
    """tcpdump has come back to the first file: it holds the newest packets. The last has not been
    filled yet.
    """
    path = tmp_path / "a-b@a.pcapng"
    packets = exchange(6)
    for digit, part in ((0, packets[8:]), (1, packets[:4]), (2, packets[4:8]), (3, [])):
        write_packets(tmp_path / f"a-b@a.pcap{digit}", part)
    log_of(path).write_text(
        "tcpdump: listening on r1-w0, link-type EN10MB\n20 packets captured\n3 packets dropped by kernel"
    )
    finish(path, NEAR, Capturing())
    trace = read_trace(path)
    assert [int(t) for t in trace.packets["time_ns"] - START_NS] == [500_000 * i for i in range(12)]
    assert not trace.truncated
    assert counted(path) == (20, 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a-b@a.log", "a-b@a.pcapng"]
    finish(path, NEAR, Capturing())
    assert len(read_trace(path).packets) == 12


@pytest.mark.parametrize("lost", [1, 30, 60])
def test_a_cut_capture_stays_cut(tmp_path, lost):
    write_packets(tmp_path / "x.pcap", exchange(10))
    (tmp_path / "x.pcap").write_bytes((tmp_path / "x.pcap").read_bytes()[:-lost])
    write_pcapng(tmp_path / "x.pcapng", [tmp_path / "x.pcap"], PORT)
    trace = read_trace(tmp_path / "x.pcapng")
    assert (len(trace.packets), trace.truncated) == (19, True)


def test_a_capture_without_nanoseconds_gives_nothing(tmp_path):
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
def test_what_tcpdump_counted(tmp_path, said, numbers):
    path = tmp_path / "x.pcapng"
    assert counted(path) is None
    log_of(path).write_text(said)
    assert counted(path) == numbers


def test_filters_that_tcpdump_knows(need):
    need(shutil.which("tcpdump"), "tcpdump")
    for expression in ("", "tcp port 29500", "host 10.0.0.1 and not udp"):
        check_filter(expression)
