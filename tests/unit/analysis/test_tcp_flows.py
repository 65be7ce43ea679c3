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
        "spurious_retransmissions": 0,
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


def fin(byte: int, ip_id: int) -> Packet:
    return data(byte, 0, ip_id, "FA")


def later(packets: Sequence[Stamped], ms: float, shift: int) -> list[Stamped]:
    """The packets `ms` later, with the sender's numbers changed by `shift`."""
    moved = []
    for at_ms, packet in packets:
        copy = packet.copy()
        if copy.src == NEAR:
            copy.seq = (copy.seq + shift) % 2**32
        else:
            copy.ack = (copy.ack + shift) % 2**32
        del copy["TCP"].chksum
        moved.append((ms + at_ms, copy))
    return moved


def thousand(number: int, at_ms: float, ip_id: int | None = None) -> Stamped:
    """The segment with this number, of 1000 bytes; without `ip_id`, as first sent."""
    return at_ms, data(1 + 1000 * number, 1000, 3 + number if ip_id is None else ip_id)


SYN_PACKET, ANSWER, THIRD = (packet for _, packet in handshake())
ENDED = [
    *handshake(),
    thousand(0, 21),
    (41, ack(1001)),
    (42, fin(1001, 5)),
    (62, ack(1002)),
]
# A SYN whose answer comes late, so that it is sent again.
SLOW_START = [(0, SYN_PACKET), (1000, SYN_PACKET), (1020, ANSWER), (1020.1, THIRD)]
# Packets of a connection; then, for each flow of the sender: retransmissions, spurious ones, late.
CASES: dict[str, tuple[list[Stamped], list[tuple[int, int, int]]]] = {
    "a late packet": (
        [thousand(0, 21), thousand(2, 21.1), thousand(1, 21.2), thousand(3, 21.3)],
        [(0, 0, 1)],
    ),
    "three late packets": (
        [
            thousand(0, 21),
            thousand(4, 21.1),
            thousand(1, 21.2),
            thousand(2, 21.3),
            thousand(3, 21.4),
            (45, ack(5001)),
        ],
        [(0, 0, 3)],
    ),
    "late by half of a round trip": (
        [thousand(0, 21), thousand(2, 21.1), thousand(1, 31), thousand(3, 31.1)],
        [(0, 0, 1)],
    ),
    "fast retransmission": (
        [
            thousand(0, 21),
            thousand(2, 21.1),
            thousand(3, 21.2),
            *[(41 + number, ack(1001)) for number in range(4)],
            thousand(1, 45, 20),
            (65, ack(4001)),
        ],
        [(1, 0, 0)],
    ),
    "timeout": ([thousand(0, 21), thousand(1, 21.1), thousand(0, 260, 20)], [(1, 0, 0)]),
    "two timeouts": (
        [thousand(0, 21), thousand(0, 260, 20), thousand(0, 700, 21), (720, ack(1001))],
        [(2, 0, 0)],
    ),
    "spurious": (
        [
            thousand(0, 21),
            (41, ack(1001)),
            thousand(0, 250, 20),
            (270, ack(1001)),
            thousand(1, 271, 21),
            (291, ack(2001)),
        ],
        [(1, 1, 0)],
    ),
    "spurious, of a middle segment": (
        [
            thousand(0, 21),
            thousand(1, 21.1),
            thousand(2, 21.2),
            (41, ack(3001)),
            thousand(1, 42, 20),
        ],
        [(1, 1, 0)],
    ),
    "half of it was acknowledged": (
        [
            thousand(0, 21),
            thousand(1, 21.1),
            (41, ack(1001)),
            (250, data(1, 2000, 20)),
            (270, ack(2001)),
        ],
        [(1, 0, 0)],
    ),
    "old and new bytes": (
        [thousand(0, 21), (41, ack(1001)), (250, data(501, 1000, 20)), (270, ack(1501))],
        [(1, 0, 0)],
    ),
    "keep-alives": (
        [
            thousand(0, 21),
            (41, ack(1001)),
            (1041, probe(1001)),
            (1061, ack(1001)),
            (2041, data(1000, 1, 40)),
            (2061, ack(1001)),
        ],
        [(0, 0, 0)],
    ),
    "probes of a closed window": (
        [
            thousand(0, 21),
            (41, ack(1001, window=0)),
            (241, data(1001, 1, 30)),
            (261, ack(1001, window=0)),
            (641, data(1001, 1, 31)),
            (661, ack(1001, window=0)),
            (841, ack(1001)),
            (842, data(1001, 1000, 32)),
            (862, ack(2001)),
        ],
        [(0, 0, 0)],
    ),
    "the end again": (
        [thousand(0, 21), (41, ack(1001)), (42, fin(1001, 5)), (250, fin(1001, 6))],
        [(1, 0, 0)],
    ),
    "the beginning again": (SLOW_START, [(1, 0, 0)]),
    "ports used twice": (ENDED + later(ENDED, 300, 123_456), [(0, 0, 0)] * 2),
    "ports used three times": (
        ENDED + later(ENDED, 300, 123_456) + later(ENDED, 600, 55),
        [(0, 0, 0)] * 3,
    ),
    "ports used twice, the second beginning again": (
        ENDED + later(SLOW_START, 300, 123_456),
        [(0, 0, 0), (1, 0, 0)],
    ),
    "ports used twice, with a spurious retransmission": (
        ENDED + later([*ENDED, thousand(0, 63, 20)], 300, 2**31 + 5),
        [(0, 0, 0), (1, 1, 0)],
    ),
}


def connection(name: str) -> list[Stamped]:
    """The packets of a case, with a handshake and a separate port."""
    packets, _expected = CASES[name]
    if packets[0][1]["TCP"].flags != "S":
        packets = [*handshake(), *packets]
    port = 20_000 + list(CASES).index(name)
    renamed = []
    for ms, packet in packets:
        copy = packet.copy()
        if copy.src == NEAR:
            copy["TCP"].sport = port
        else:
            copy["TCP"].dport = port
        del copy["TCP"].chksum
        renamed.append((ms, copy))
    return renamed


def counts(row: Row) -> tuple[object, object, object]:
    return row["retransmissions"], row["spurious_retransmissions"], row["out_of_order"]


@pytest.mark.parametrize("name", CASES)
def test_kinds_of_packets(tmp_path: Path, name: str) -> None:
    found = rows(tmp_path, connection(name))
    assert [counts(row) for row in found] == CASES[name][1]
    assert [row["unseen_bytes"] for row in found] == [0] * len(found)


def test_kinds_of_packets_as_in_tshark(tmp_path: Path, need: Need) -> None:
    """All cases in one capture; tshark numbers the connections, reused ports included."""
    need(shutil.which("tshark"), "tshark")
    packets: list[Stamped] = []
    for number, name in enumerate(CASES):
        packets += [(10_000 * number + ms, packet) for ms, packet in connection(name)]
    found = rows(tmp_path, packets)

    kinds = ("retransmission", "spurious_retransmission", "out_of_order")
    of_tshark: dict[str, list[int]] = {}
    for line in tshark(tmp_path / "x.pcap", ["eth.src", "tcp.stream", *analyses(kinds)]):
        mac, stream, *marks = line
        if mac == NEAR:
            sums = of_tshark.setdefault(stream, [0, 0, 0])
            for position, mark in enumerate(marks):
                sums[position] += mark != ""
    assert list(of_tshark.values()) == [list(counts(row)) for row in found]


def test_ports_reused_from_the_other_end(tmp_path: Path) -> None:
    """The receiver of the first connection opens the second one, with the same ports."""
    back = segment((WEST, EAST), FAR, ports=(5000, 40000), seq=9000, flags="S", window=64240)
    answer = segment((EAST, WEST), NEAR, seq=ISN + 70_000, ack=9001, flags="SA", window=64240)
    found = rows(tmp_path, [*ENDED, (300, back), (320, answer)])
    assert [row["records"] for row in found] == [4, 1]


def test_both_ends_open_at_once(tmp_path: Path) -> None:
    """RFC 9293, figure 7: two SYNs, and two answers with the same numbers: one connection."""
    theirs = segment((WEST, EAST), FAR, ports=(5000, 40000), seq=PEER, flags="S", window=64240)
    ours = segment((EAST, WEST), NEAR, seq=ISN, ack=PEER + 1, flags="SA", window=64240)
    found = rows(
        tmp_path, [(0, SYN_PACKET), (1, theirs), (10, ours), (20, ANSWER), thousand(0, 21)]
    )
    assert [row["records"] for row in found] == [3]


def analyses(kinds: Sequence[str]) -> list[str]:
    return [f"tcp.analysis.{kind}" for kind in kinds]


def tshark(path: Path, fields: Sequence[str]) -> list[list[str]]:
    """The values of fields of each packet of a capture."""
    command: list[str | Path] = ["tshark", "-r", path, "-T", "fields"]
    for field in fields:
        command += ["-e", field]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [line.split("\t") for line in output.splitlines()]


def test_tshark_agrees(tmp_path: Path, need: Need) -> None:
    need(shutil.which("tshark"), "tshark")
    (row,) = rows(tmp_path, CONNECTION)
    fields = [*analyses(["retransmission", "out_of_order", "ack_rtt"]), "tcp.len"]
    lines = tshark(tmp_path / "x.pcap", fields)
    again, late, trips, sizes = zip(*lines, strict=True)
    assert sum(map(int, sizes)) == row["payload_bytes"]
    assert sum(map(bool, again)) == row["retransmissions"]
    assert sum(map(bool, late)) == row["out_of_order"]
    trips_ns = [float(trip) * 1e9 for trip in trips[3:] if trip]
    assert min(trips_ns) == pytest.approx(row["rtt_min_ns"])
