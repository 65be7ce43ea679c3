"""The writer of captures: what tcpdump says through a pipe becomes pcapng files of a limited size."""

import json
import os
import shutil
import struct
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest
from traces import EAST, FAR, NEAR, START_NS, WEST, segment, write_packets

from testbed.measure import pcapng
from testbed.measure.capture import check_filter, dropped
from testbed.measure.packets import read_trace
from testbed.measure.pcapng import Capture, Point, files_of
from testbed.rundir import read_records

MIB = 2**20


def point(tmp_path, *, descriptor=0, limit_bytes=16 * MIB, expression=""):
    return Point(
        descriptor, str(tmp_path / "a-b@a.pcapng"), "r1-w0", NEAR, 128, limit_bytes, expression, str(tmp_path / "cuts")
    )


def stream(tmp_path, packets):
    write_packets(tmp_path / "x.pcap", packets)
    return (tmp_path / "x.pcap").read_bytes()


def exchange(number, size=1000):
    """`number` packets forth, and as many back."""
    forth = [(i, segment((EAST, WEST), NEAR, size=size, ip_id=i % 2**16, seq=i * size)) for i in range(number)]
    back = [(i + 0.5, segment((WEST, EAST), FAR, ip_id=i % 2**16, ack=i * size, flags="A")) for i in range(number)]
    return sorted(forth + back, key=lambda stamped: stamped[0])


@pytest.mark.parametrize("piece", [1, 7, 100, 10**6])
def test_a_stream_in_pieces_gives_the_same_records(tmp_path, piece):
    data = stream(tmp_path, exchange(20))
    capture = Capture(point(tmp_path))
    for at in range(0, len(data), piece):
        capture.write(data[at : at + piece])
    capture.close()
    classic, written = read_trace([tmp_path / "x.pcap"]), read_trace([tmp_path / "a-b@a.pcapng"])
    assert not written.truncated
    assert len(written.packets) == 40
    assert np.array_equal(classic.packets, written.packets)


def test_wireshark_reads_interface_direction_and_time(tmp_path, need):
    need(shutil.which("tshark"), "tshark")
    capture = Capture(point(tmp_path, expression="tcp"))
    capture.write(stream(tmp_path, exchange(1)))
    capture.close()
    fields = ["frame.interface_name", "frame.packet_flags_direction", "frame.time_epoch", "frame.len", "frame.cap_len"]
    words = ["tshark", "-r", tmp_path / "a-b@a.pcapng", "-T", "fields", *(w for f in fields for w in ("-e", f))]
    lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    seconds = START_NS // 10**9
    assert [line.split("\t") for line in lines] == [
        ["r1-w0", "0x00000002", f"{seconds}.000000000", "1054", "128"],
        ["r1-w0", "0x00000001", f"{seconds}.000500000", "54", "54"],
    ]


def test_beyond_the_limit_the_first_and_the_newest_files_stay(tmp_path):
    number, second = 16_000, START_NS // 10**9
    frame = bytes(segment((EAST, WEST), NEAR, size=1000))[:128]
    records = (struct.pack("<IIII", second, i, len(frame), 1054) + frame for i in range(number))
    data = stream(tmp_path, []) + b"".join(records)
    capture = Capture(point(tmp_path, limit_bytes=MIB))
    for at in range(0, len(data), 65536):
        capture.write(data[at : at + 65536])
    capture.close()
    files = files_of(tmp_path / "a-b@a.pcapng")
    assert 1 < len(files) <= pcapng.FILES
    assert sum(file.stat().st_size for file in files) <= MIB + 4 * 200
    trace = read_trace(files)
    assert not trace.truncated
    cuts = read_records(tmp_path / "cuts")
    assert {cut["capture"] for cut in cuts} == {"a-b@a.pcapng"}
    assert len(trace.packets) + sum(cut["records"] for cut in cuts) == number
    numbers = trace.packets["time_ns"] - START_NS
    assert (numbers[0], numbers[-1]) == (0, number - 1)
    first = len(read_trace(files[:1]).packets)
    assert (cuts[0]["first_ns"], cuts[-1]["last_ns"]) == (START_NS + first, START_NS + numbers[first] - 1)


def test_the_program_writes_until_the_streams_end(tmp_path):
    read, write = os.pipe()
    words = [sys.executable, "-I", "-S", pcapng.__file__, json.dumps([asdict(point(tmp_path, descriptor=read))])]
    with subprocess.Popen(words, pass_fds=[read]) as program:
        os.close(read)
        with os.fdopen(write, "wb") as out:
            out.write(stream(tmp_path, exchange(100)))
    assert program.returncode == 0
    assert len(read_trace([tmp_path / "a-b@a.pcapng"]).packets) == 200


def test_a_killed_writer_leaves_whole_records(tmp_path):
    capture = Capture(point(tmp_path))
    capture.write(stream(tmp_path, exchange(10))[:-30])
    trace = read_trace([tmp_path / "a-b@a.pcapng"])
    assert (len(trace.packets), trace.truncated) == (19, False)
    capture.close()


def test_a_stream_without_nanoseconds_is_refused(tmp_path):
    capture = Capture(point(tmp_path))
    with pytest.raises(ValueError, match="r1-w0"):
        capture.write(struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 128, 1))
    capture.close()


@pytest.mark.parametrize(
    ("said", "packets"),
    [("5 packets captured\n12 packets dropped by kernel\n", 12), ("1 packet dropped by kernel", 1), ("", None)],
)
def test_what_tcpdump_dropped(tmp_path, said, packets):
    (tmp_path / "log").write_text(said)
    assert dropped(tmp_path / "log") == packets


def test_filters_that_tcpdump_knows(need):
    need(shutil.which("tcpdump"), "tcpdump")
    for expression in ("", "tcp port 29500", "host 10.0.0.1 and not udp"):
        check_filter(expression)
