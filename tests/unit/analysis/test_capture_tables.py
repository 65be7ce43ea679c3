"""Tables of a run's captures: delays from matching packets, places, operations, what is missing."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scapy.packet import Packet

from testbed.analysis.capture_tables import BIN_NS
from testbed.analysis.summarize import collect
from testbed.plan.captures import capture_points
from testbed.plan.model import Capture, Network, Plan, Rank
from testbed.runfolder import schemas
from testbed.runfolder.folder import RunDir
from testbed.runfolder.problems import ProblemCode
from testbed.runfolder.records import Operation, append
from tests.support.synthetic import make_network, make_plan, three_dcs, two_dcs, write_run
from tests.support.traces import EAST, MS, START_NS, WEST, Stamped, segment, write_packets

WAITED = [0.5, 2.5, 4.5, 1.0]  # ms in the bottleneck, of each packet
FIBRE = 10.0
SENT = [100.0, 100.0, 100.0, 245.0]  # ms: when each joins the queue
PAGE = [
    "link",
    "from_dc",
    "to_dc",
    "src_host",
    "dst_host",
    "src_rank",
    "dst_rank",
    "src_port",
    "dst_port",
    "packets",
    "payload_bytes",
    "retransmissions",
    "out_of_order",
    "rtt_min_ns",
    "rtt_median_ns",
    "rtt_p95_ns",
    "delay_min_ns",
    "delay_median_ns",
    "delay_p95_ns",
    "throughput_bps",
    "idle_share",
    "window_limited_share",
    "network_limited_share",
]


def packet(plan: Plan, number: int, ttl: int) -> Packet:
    found = segment(
        (EAST, WEST),
        plan.network.wan[0].forward.mac,
        size=1000,
        ip_id=number + 1,
        seq=1 + 1000 * number,
        flags="A",
    )
    found.ttl = ttl
    return found


def acknowledgement(plan: Plan, number: int) -> Packet:
    return segment(
        (WEST, EAST),
        plan.network.wan[0].backward.mac,
        ports=(5000, 40000),
        ip_id=50 + number,
        seq=1,
        ack=1001 + 1000 * number,
        flags="A",
    )


def write_captures(
    run: RunDir, plan: Plan, *, dropped: Collection[int] = (), lost: Collection[int] = ()
) -> None:
    """Write captures of four packets from east to west, and of their acknowledgements.

    Of each packet: when it comes to the router of east, leaves it, and arrives at that of west.
    """
    joined: list[Stamped] = []
    left: list[Stamped] = []
    arrived: list[Stamped] = []
    answers: list[Stamped] = []
    for number, (at, wait) in enumerate(zip(SENT, WAITED, strict=True)):
        entry = packet(plan, number, 64)
        entry.src = plan.network.hosts[0].mac
        joined.append((at, entry))
        if number in dropped:
            continue
        left.append((at + wait, packet(plan, number, 63)))
        if number in lost:
            continue
        arrived.append((at + wait + FIBRE, packet(plan, number, 63)))
        answers.append((at + wait + 2 * FIBRE, acknowledgement(plan, number)))
    earlier = [(ms - FIBRE, answer) for ms, answer in answers]
    write_packets(run.capture("lan", "east"), joined)
    write_packets(run.capture("lan", "west"), [])
    write_packets(run.capture("east-west", "east"), in_order(left + answers))
    write_packets(run.capture("east-west", "west"), in_order(arrived + earlier))


def in_order(packets: list[Stamped]) -> list[Stamped]:
    return sorted(packets, key=lambda stamped: stamped[0])


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    plan = make_plan(two_dcs())
    run = write_run(tmp_path / "run", plan)
    write_captures(run, plan)
    return run


def tables(run: RunDir) -> tuple[pl.DataFrame, ...]:
    collect(run)
    return tuple(pl.read_parquet(path) for path in (run.flows, run.throughput, run.flow_ops))


def forward(run: RunDir) -> dict[str, Any]:
    return tables(run)[0].filter(from_dc="east").row(0, named=True)


def test_the_tables_have_their_schemas(run: RunDir) -> None:
    assert [dict(table.schema) for table in tables(run)] == [
        schemas.FLOWS,
        schemas.THROUGHPUT,
        schemas.FLOW_OPS,
    ]
    assert set(PAGE) <= set(schemas.FLOWS)


def test_a_flow_has_its_place(run: RunDir) -> None:
    row = forward(run)
    place = {
        "link": "east-west",
        "from_dc": "east",
        "to_dc": "west",
        "src_host": "east-0",
        "dst_host": "west-0",
        "src_rank": 0,
        "dst_rank": 1,
        "src_address": EAST,
        "dst_address": WEST,
        "src_port": 40000,
        "dst_port": 5000,
    }
    assert place.items() <= row.items()
    back = tables(run)[0].filter(from_dc="west").row(0, named=True)
    assert (back["src_host"], back["dst_rank"], back["payload_bytes"]) == ("west-0", 0, 0)


def test_delays_come_from_the_same_packet_at_both_ends(run: RunDir) -> None:
    row = forward(run)
    delays = np.array(WAITED) + FIBRE
    for name, values in (
        ("delay", delays),
        ("queueing", delays - delays.min()),
        ("bottleneck", np.array(WAITED)),
    ):
        assert row[f"{name}_median_ns"] == np.median(values) * MS
        assert row[f"{name}_p95_ns"] == round(np.quantile(values, 0.95) * MS)
    assert row["delay_min_ns"] == 10.5 * MS
    assert (row["dropped"], row["lost"]) == (0, 0)
    assert row["rtt_median_ns"] == 2 * FIBRE * MS


def test_packets_that_the_queue_or_the_fibre_lost(run: RunDir) -> None:
    plan = run.read_plan()
    write_captures(run, plan, dropped=[1], lost=[2])
    row = forward(run)
    assert (row["records"], row["dropped"], row["lost"]) == (3, 1, 1)
    assert row["delay_p95_ns"] < 11 * MS
    assert row["unseen_bytes"] == 1000


def test_without_the_far_end_losses_and_delays_are_not_known(run: RunDir) -> None:
    run.capture("east-west", "west").unlink()
    row = forward(run)
    assert (row["delay_min_ns"], row["lost"], row["dropped"]) == (None, None, None)
    assert row["bottleneck_min_ns"] == 0.5 * MS


def test_throughput_over_time(run: RunDir) -> None:
    table = tables(run)[1].filter(flow=forward(run)["flow"])
    assert table.rows() == [
        (forward(run)["flow"], START_NS + at * MS, BIN_NS, packets, size, size + 54 * packets)
        for at, packets, size in ((100, 3, 3000), (240, 1, 1000))
    ]


def test_bytes_belong_to_operations(run: RunDir) -> None:
    """Those of write_run begin each 100 ms; the second, at 100 ms, ends at 151 ms on rank 1."""
    table = tables(run)[2].filter(flow=forward(run)["flow"])
    key = ["op", "bytes", "iteration", "phase", "records", "payload_bytes"]
    assert table.select(key).rows() == [
        ("all_reduce", 4096, 1, "measure", 3, 3000),
        ("all_reduce", 4096, 2, "measure", 1, 1000),
    ]


def test_bytes_between_operations_belong_to_none(run: RunDir) -> None:
    plan = run.read_plan()
    after_the_operation = 180.0
    write_packets(run.capture("east-west", "east"), [(after_the_operation, packet(plan, 0, 63))])
    table = tables(run)[2]
    assert table.select("op", "payload_bytes").rows() == [(None, 1000)]


def test_an_operation_within_another_one_takes_its_packets(run: RunDir) -> None:
    """Both hosts have a long one from 95 to 300 ms; short ones end sooner and leave the rest."""
    for rank in (0, 1):
        operation = Operation(
            op="all_gather",
            bytes=8,
            group_size=2,
            iteration=0,
            phase="measure",
            dtype="float32",
            start_ns=START_NS + 95 * MS,
            end_ns=START_NS + 300 * MS,
            wrong=0,
        )
        append(run.rank_ops(rank), operation)
    plan = run.read_plan()
    write_packets(
        run.capture("east-west", "east"),
        [(ms, packet(plan, i, 63)) for i, ms in enumerate((120.0, 180.0))],
    )
    assert tables(run)[2].select("op", "payload_bytes").rows() == [
        ("all_reduce", 1000),
        ("all_gather", 1000),
    ]


def test_cuts_drops_and_damage_are_said(run: RunDir) -> None:
    path = run.capture("east-west", "east")
    path.write_bytes(path.read_bytes()[:-5])
    for what, at, captured, dropped in (("east-west", "west", 15, 0), ("lan", "east", 4, 3)):
        said = f"{captured} packets captured\n{dropped} packets dropped by kernel\n"
        run.capture(what, at).with_suffix(".log").write_text(said)
    summary = collect(run)
    assert [problem.message for problem in summary.problems] == [
        "captures/east-west@east.pcapng is truncated: its figures cover only the readable part",
        "captures/east-west@west.pcapng was cut: 7 packets exceeded its limit "
        "(raise --capture-limit)",
        "captures/lan@east.pcapng lacks 3 packets, dropped because the kernel's buffer was full",
    ]
    assert {problem.code for problem in summary.problems} == {ProblemCode.CAPTURE}
    rows = summary.captures
    assert [(row.removed_records, row.dropped, row.truncated) for row in rows] == [
        (0, 0, True),
        (7, 0, False),
        (0, 3, False),
        (0, 0, False),
    ]


def test_hosts_with_several_ranks_leave_the_rank_open(tmp_path: Path) -> None:
    plan = make_plan(two_dcs())
    ranks = tuple(
        Rank(rank=n, local_rank=n % 2, host=plan.network.hosts[n // 2].name) for n in range(4)
    )
    plan = plan.model_copy(update={"workers": plan.workers.model_copy(update={"ranks": ranks})})
    run = write_run(tmp_path / "run", plan)
    write_captures(run, plan)
    row = forward(run)
    assert (row["src_host"], row["src_rank"]) == ("east-0", None)


def test_every_interface_that_is_captured() -> None:
    def names(network: Network, capture: Capture) -> list[tuple[str, str, str]]:
        points = capture_points(network, capture)
        return [(point.kind, point.what, point.at) for point in points]

    network = two_dcs()
    wan = [
        ("wan", "east-west", "east"),
        ("wan", "east-west", "west"),
        ("lan", "lan", "east"),
        ("lan", "lan", "west"),
    ]
    assert names(network, "none") == []
    assert names(network, "wan") == wan
    assert names(network, "all") == [*wan, ("nic", "nic", "east-0"), ("nic", "nic", "west-0")]
    assert len(names(three_dcs(), "wan")) == 3 * 2 + 3
    assert names(make_network({"east": 2}, {}), "all") == [
        ("nic", "nic", "east-0"),
        ("nic", "nic", "east-1"),
    ]


def test_hosts_of_one_datacenter(tmp_path: Path) -> None:
    """With captures at the hosts, flows inside a datacenter are seen too."""
    plan = make_plan(make_network({"east": 2}, {}), capture="all")
    run = write_run(tmp_path / "run", plan)
    a, b = plan.network.hosts
    ends = (str(a.address.ip), str(b.address.ip))
    there = [(1.0, segment(ends, a.mac, size=500, ip_id=1, seq=1, flags="A"))]
    write_packets(run.capture("nic", a.name), there)
    write_packets(run.capture("nic", b.name), [(1.25, there[0][1])])
    (row,) = tables(run)[0].rows(named=True)
    place = {
        "link": "nic",
        "from_dc": "east",
        "to_dc": "east",
        "src_host": a.name,
        "dst_host": b.name,
    }
    assert place.items() <= row.items()
    assert (row["delay_min_ns"], row["lost"]) == (MS // 4, 0)
