"""Figures of flows, worked out by hand, and against tshark."""

import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from scapy.packet import Packet

from testbed.analysis.packets import read_trace
from testbed.analysis.tcp_flows import Row, flow_row, flows
from tests.support.traces import (
    EAST,
    FAR,
    MS,
    NEAR,
    START_NS,
    WEST,
    Stamped,
    segment,
    write_packets,
)

ISN, PEER = 2**32 - 1500, 77  # the third data packet's numbers wrap
SCALE = 8
Need = Callable[[object, str], None]


def data(byte: int, size: int, ip_id: int, flags: str = "A") -> Packet:
    """Make a packet with data from byte `byte` of the stream on, whose first data byte is 1."""
    return segment(
        (EAST, WEST),
        NEAR,
        size=size,
        ip_id=ip_id,
        seq=ISN + byte,
        ack=PEER + 1,
        flags=flags,
        window=500,
    )


def ack(byte: int, window: int = 20) -> Packet:
    return segment(
        (WEST, EAST),
        FAR,
        ip_id=9,
        ports=(5000, 40000),
        seq=PEER + 1,
        ack=ISN + byte,
        flags="A",
        window=window,
    )


def handshake() -> list[Stamped]:
    scale = [("WScale", SCALE)]
    syn = segment((EAST, WEST), NEAR, ip_id=1, seq=ISN, flags="S", window=64240, options=scale)
    answer = segment(
        (WEST, EAST),
        FAR,
        ports=(5000, 40000),
        seq=PEER,
        ack=ISN + 1,
        flags="SA",
        window=65535,
        options=scale,
    )
    return [(0, syn), (20, answer), (20.1, data(1, 0, 2))]


CONNECTION = [
    *handshake(),
    (21, data(1, 1000, 3)),
    (21.1, data(1001, 1000, 4)),
    (21.2, data(3001, 1000, 6)),  # overtook the next
    (21.3, data(2001, 1000, 5)),
    (21.4, data(4001, 1000, 7)),  # is lost behind the capture
    (21.5, data(5001, 1000, 8)),
    (41, ack(1001)),
    (41.2, ack(2001)),
    (41.5, ack(4001, window=10)),
    (42, ack(4001, window=10)),
    (62, data(4001, 1000, 9)),  # again
    (82.5, ack(6001)),
    (182.5, data(6001, 100, 10, "PA")),
    (203.5, ack(6101)),
]


def rows(tmp_path: Path, packets: Sequence[Stamped], mac: str = NEAR, mtu: int = 1500) -> list[Row]:
    write_packets(tmp_path / "x.pcap", packets)
    return [flow_row(flow, mtu) for flow in flows(read_trace(tmp_path / "x.pcap"), mac)]


def test_a_connection_with_loss_reordering_and_numbers_that_wrap(tmp_path: Path) -> None:
    (row,) = rows(tmp_path, CONNECTION)
    payload, duration_ms = 7100, 203.5
    in_flight = (  # bytes x ms: the SYN is 1 byte for 20 ms, and so on
        1 * 20
        + 1000 * 0.1
        + 2000 * 0.1
        + 4000 * 0.2
        + 5000 * 0.1
        + 6000 * 19.5
        + 5000 * 0.2
        + 4000 * 0.3
        + 2000 * 41
        + 100 * 21
    )
    window_ms = 0.2 + 41  # 5000 in flight of 5120, and then 2000 of 2560: less than 1000 are left
    assert row == {
        "records": 10,
        "packets": 10,
        "payload_bytes": payload,
        "wire_bytes": 10 * 54 + 4 + payload,  # the option of the SYN takes 4 bytes
        "retransmissions": 1,
        "retransmitted_bytes": 1000,
        "out_of_order": 1,
        "unseen_bytes": 0,
        "first_ns": START_NS,
        "last_ns": START_NS + 1825 * MS // 10,
        "throughput_bps": pytest.approx(payload * 8 / 0.1825),
        # 20, 20, 20.1, 20.3, 21 ms; the acknowledgement of 6001 covers what was sent twice
        "rtt_samples": 5,
        "rtt_min_ns": 20 * MS,
        "rtt_median_ns": 20.1 * MS,
        "rtt_p95_ns": pytest.approx(20.86 * MS, abs=1),
        "in_flight_max_bytes": 6000,
        "in_flight_mean_bytes": pytest.approx(in_flight / duration_ms),
        "window_min_bytes": 10 << SCALE,
        "window_max_bytes": 20 << SCALE,
        "duration_ns": duration_ms * MS,
        "idle_share": pytest.approx((1 + 100) / duration_ms),
        "window_limited_share": pytest.approx(window_ms / duration_ms),
        "network_limited_share": pytest.approx(1 - (101 + window_ms) / duration_ms),
    }


def probe(byte: int) -> Packet:
    """Make a window probe or a keep-alive: no data, and the number of the last byte again."""
    return data(byte - 1, 0, 30)


SENT = [*handshake(), (21, data(1, 1000, 3)), (41, ack(1001, window=0))]


@pytest.mark.parametrize(
    ("packets", "limited_ms", "idle_ms"),
    [
        # closed from 41 to 641 ms, with two probes; the window is 5120 bytes wide afterwards
        (
            [
                (241, probe(1001)),
                (261, ack(1001, window=0)),
                (441, probe(1001)),
                (461, ack(1001, window=0)),
                (641, ack(1001)),
                (642, data(1001, 1000, 4)),
                (662, ack(2001)),
            ],
            600,
            1,
        ),
        # opens before a probe, and data follow
        ([(141, ack(1001)), (142, data(1001, 1000, 4)), (162, ack(2001))], 100, 1),
        # keep-alives of an open window: nothing to send
        (
            [
                (42, ack(1001)),
                (1042, probe(1001)),
                (1062, ack(1001)),
                (2042, probe(1001)),
                (2062, ack(1001)),
            ],
            0,
            2021,
        ),
        # the reader never reads, and the writer has nothing more
        ([(541, ack(1001, window=0))], 0, 500),
    ],
)
def test_a_closed_window_holds_a_sender_that_has_data(
    tmp_path: Path, packets: Sequence[Stamped], limited_ms: float, idle_ms: float
) -> None:
    """Before that the SYN is in flight for 20 ms, nothing for 1 ms, 1000 bytes for 20 ms."""
    (row,) = rows(tmp_path, [*SENT, *packets])
    duration_ms = packets[-1][0]
    assert row["window_limited_share"] == pytest.approx(limited_ms / duration_ms, abs=1e-3)
    assert row["idle_share"] == pytest.approx((1 + idle_ms) / duration_ms, abs=1e-3)
    assert row["retransmissions"] == 0
    assert row["out_of_order"] == 0


def test_the_other_direction(tmp_path: Path) -> None:
    (row,) = rows(tmp_path, CONNECTION, mac=FAR)
    assert (row["records"], row["payload_bytes"], row["retransmissions"], row["out_of_order"]) == (
        7,
        0,
        0,
        0,
    )
    assert row["rtt_min_ns"] == 0.1 * MS  # from the SYN's answer to its acknowledgement


@pytest.mark.parametrize(("ip_id", "again", "late"), [(5, 0, 1), (7, 1, 0), (4, 1, 0)])
def test_what_fills_a_hole_was_late_or_is_a_copy(
    tmp_path: Path, ip_id: int, again: int, late: int
) -> None:
    """Its IP identification says whether it was sent where the hole is."""
    packets = [(21, data(1, 1000, 4)), (21.1, data(2001, 1000, 6)), (41, data(1001, 1000, ip_id))]
    (row,) = rows(tmp_path, [*handshake(), *packets])
    assert (row["retransmissions"], row["out_of_order"], row["unseen_bytes"]) == (again, late, 0)


@pytest.mark.parametrize(("ms", "again", "late"), [(23, 0, 1), (41, 1, 0)])
def test_without_ip_identifications_the_time_tells(
    tmp_path: Path, ms: int, again: int, late: int
) -> None:
    packets = [(21, data(1, 1000, 0)), (21.1, data(2001, 1000, 0)), (ms, data(1001, 1000, 0))]
    (row,) = rows(tmp_path, [*handshake(), *packets])
    assert (row["retransmissions"], row["out_of_order"]) == (again, late)


def test_bytes_that_were_never_seen(tmp_path: Path) -> None:
    (row,) = rows(
        tmp_path,
        [
            *handshake(),
            (21, data(1001, 1000, 4)),
            (22, data(1501, 1000, 9)),
            (23, data(301, 400, 10)),
        ],
    )
    assert (row["unseen_bytes"], row["retransmissions"]) == (600, 2)


def test_a_super_packet_is_the_packets_that_are_sent(tmp_path: Path) -> None:
    (row,) = rows(tmp_path, [*handshake(), (21, data(1, 14600, 3))])
    assert (row["records"], row["packets"], row["payload_bytes"]) == (3, 12, 14600)
    assert row["wire_bytes"] == 12 * 54 + 4 + 14600


def test_without_the_handshake_the_window_is_not_known(tmp_path: Path) -> None:
    (row,) = rows(tmp_path, CONNECTION[3:])
    assert (row["window_max_bytes"], row["window_limited_share"], row["network_limited_share"]) == (
        None,
        None,
        None,
    )
    assert row["idle_share"] == pytest.approx(100 / 182.5)
    assert (row["retransmissions"], row["out_of_order"], row["rtt_min_ns"]) == (1, 1, 20 * MS)


def test_without_acknowledgements_only_what_was_sent_is_known(tmp_path: Path) -> None:
    (row,) = rows(tmp_path, [(ms, packet) for ms, packet in CONNECTION if packet.src == NEAR])
    assert (row["records"], row["retransmissions"], row["rtt_samples"]) == (10, 1, 0)
    assert (row["rtt_median_ns"], row["idle_share"], row["in_flight_max_bytes"]) == (
        None,
        None,
        None,
    )


def test_the_same_ports_again_are_another_flow(tmp_path: Path) -> None:
    later = [(300 + ms, packet.copy()) for ms, packet in CONNECTION]
    for _, packet in later:
        if packet.src == NEAR:
            packet.seq = (packet.seq + 123_456) % 2**32
        else:
            packet.ack = (packet.ack + 123_456) % 2**32
        del packet["TCP"].chksum
    first, second = rows(tmp_path, CONNECTION + later)
    assert first["first_ns"] == START_NS
    assert second["first_ns"] == START_NS + 300 * MS
    differ = {"first_ns", "last_ns"}
    assert {k: v for k, v in first.items() if k not in differ} == {
        k: v for k, v in second.items() if k not in differ
    }


def test_tshark_agrees(tmp_path: Path, need: Need) -> None:
    need(shutil.which("tshark"), "tshark")
    (row,) = rows(tmp_path, CONNECTION)
    fields = [
        "tcp.analysis.retransmission",
        "tcp.analysis.out_of_order",
        "tcp.analysis.ack_rtt",
        "tcp.len",
    ]
    command: list[str | Path] = ["tshark", "-r", tmp_path / "x.pcap", "-T", "fields"]
    for field in fields:
        command += ["-e", field]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = [line.split("\t") for line in output.splitlines()]
    again, late, trips, sizes = zip(*lines, strict=True)
    assert sum(map(int, sizes)) == row["payload_bytes"]
    assert sum(map(bool, again)) == row["retransmissions"]
    assert sum(map(bool, late)) == row["out_of_order"]
    trips_ns = [float(trip) * 1e9 for trip in trips[3:] if trip]
    assert min(trips_ns) == pytest.approx(row["rtt_min_ns"])
