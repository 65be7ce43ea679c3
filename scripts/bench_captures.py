"""Time the analysis of packet captures of a WAN link: a million packets per end, one CPU.

usage: scripts/bench_captures.py [PACKETS]
"""

import os
import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

os.environ["POLARS_MAX_THREADS"] = "1"
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np  # noqa: E402
import polars as pl  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from testbed.analysis.capture_tables import read_captures  # noqa: E402
from testbed.measure.capture import finish  # noqa: E402
from testbed.plan.captures import CapturePoint, capture_points  # noqa: E402
from testbed.plan.model import Plan  # noqa: E402
from testbed.plan.resolve import resolve  # noqa: E402
from testbed.runfolder import schemas  # noqa: E402
from testbed.runfolder.folder import RunDir  # noqa: E402
from testbed.spec.options import RunOptions  # noqa: E402
from testbed.spec.topology import Topology  # noqa: E402
from testbed.spec.workload import load_workload  # noqa: E402

FLOWS, PAYLOAD, LOSS = 8, 1448, 0.001
HEADERS = 66  # bytes of a frame without data
PAUSE_NS, DELAY_NS, QUEUE_NS = 12_000, 10_000_000, 50_000
START_NS = 1_735_689_600 * 10**9
FILE_HEADER = bytes.fromhex("4d3cb2a1 02000400 00000000 00000000 80000000 01000000")
GOAL_S = 20
RECORD = np.dtype(
    [
        ("seconds", "<u4"),
        ("nanoseconds", "<u4"),
        ("kept", "<u4"),
        ("wire", "<u4"),
        ("to", "u1", 6),
        ("from", "u1", 6),
        ("type", ">u2"),
        ("version", "u1"),
        ("service", "u1"),
        ("length", ">u2"),
        ("id", ">u2"),
        ("fragment", ">u2"),
        ("ttl", "u1"),
        ("protocol", "u1"),
        ("checksum", ">u2"),
        ("source", ">u4"),
        ("target", ">u4"),
        ("source_port", ">u2"),
        ("target_port", ">u2"),
        ("seq", ">u4"),
        ("ack", ">u4"),
        ("offset", "u1"),
        ("flags", "u1"),
        ("window", ">u2"),
        ("rest", ">u4"),
        ("options", "u1", 12),
    ]
)


Records = NDArray[np.void]  # of RECORD


@dataclass(frozen=True)
class Traffic:
    """Packets sent over the link.

    Attributes:
        data: One record (`RECORD`) per data packet, in sending order.
        acks: One record per data packet that arrived: its acknowledgement.
        arrived: Bool, one per data packet.
    """

    data: Records
    acks: Records
    arrived: NDArray[np.bool_]


def make_traffic(plan: Plan, packets: int) -> Traffic:
    """Return interleaved data packets of several flows, and their acknowledgements.

    One data packet in a thousand is lost and immediately sent again.

    Args:
        plan: Plan with two datacenters; the packets go from the first to the second.
        packets: Number of packets, half of them with data.
    """
    count = packets // 2
    flow, place = np.arange(count) % FLOWS, np.arange(count) // FLOWS
    arrived = np.random.default_rng(1).random(count) >= LOSS
    arrived[-FLOWS:] = True
    is_retransmission = np.zeros(count, bool)
    is_retransmission[FLOWS:] = ~arrived[:-FLOWS]
    segment = np.zeros(count, np.int64)  # number of the packet's data in its flow
    for number in range(FLOWS):
        of_flow = flow == number
        segment[of_flow] = np.cumsum(~is_retransmission[of_flow]) - 1
    sender, receiver = (int(dc.subnet.network_address) + 10 for dc in plan.network.datacenters)
    data = np.zeros(count, RECORD)
    data["kept"] = HEADERS
    data["type"] = 0x0800  # IPv4
    data["version"] = 0x45
    data["protocol"] = 6  # TCP
    data["offset"] = 0x80
    data["flags"] = 16  # ACK
    data["window"] = 500
    data["id"] = place % 2**16
    acks = data.copy()
    data["wire"], data["length"] = PAYLOAD + HEADERS, PAYLOAD + HEADERS - 14
    data["source"], data["source_port"] = sender, 40000 + flow
    data["target"], data["target_port"] = receiver, 5000
    data["seq"] = segment * PAYLOAD % 2**32
    acks["wire"], acks["length"] = HEADERS, HEADERS - 14
    acks["source"], acks["source_port"] = receiver, 5000
    acks["target"], acks["target_port"] = sender, 40000 + flow
    acks["seq"] = 1
    acks["ack"] = (segment + 1) * PAYLOAD % 2**32
    return Traffic(data, acks[arrived], arrived)


def stamp(records: Records, times_ns: NDArray[np.int64], mac: str) -> Records:
    """Return records sent by the interface with address `mac` at times relative to the start.

    Args:
        records: Packets to copy.
        times_ns: Sending times in ns, one per record.
        mac: MAC address of the interface.
    """
    stamped = records.copy()
    stamped["seconds"], stamped["nanoseconds"] = np.divmod(START_NS + times_ns, 10**9)
    stamped["from"] = np.frombuffer(bytes.fromhex(mac.replace(":", "")), np.uint8)
    return stamped


def write_captures(run: RunDir, plan: Plan, traffic: Traffic) -> None:
    """Write the captures of the link and of its routers."""
    (link,) = plan.network.wan
    near, far = link.forward, link.backward
    entered_ns = np.arange(len(traffic.data)) * PAUSE_NS
    left_ns = entered_ns + QUEUE_NS
    answered_ns = (left_ns + DELAY_NS)[traffic.arrived]
    data_near = stamp(traffic.data, left_ns, near.mac)
    acks_near = stamp(traffic.acks, answered_ns + DELAY_NS, far.mac)
    data_far = stamp(traffic.data[traffic.arrived], answered_ns, near.mac)
    acks_far = stamp(traffic.acks, answered_ns, far.mac)
    captured = {
        ("lan", near.source): [stamp(traffic.data, entered_ns, plan.network.hosts[0].mac)],
        ("lan", far.source): [],
        (link.key, near.source): [data_near, acks_near],
        (link.key, far.source): [data_far, acks_far],
    }
    for point in capture_points(plan.network, "wan"):
        write_capture(run, point, plan, captured[point.what, point.at])


def write_capture(run: RunDir, point: CapturePoint, plan: Plan, parts: list[Records]) -> None:
    """Write the records of `parts` in time order, in the format of tcpdump.

    Args:
        run: Run folder of the capture.
        point: The interface that the capture belongs to.
        plan: Plan of the run.
        parts: Records with time stamps, in any order.
    """
    joined = np.concatenate([np.zeros(0, RECORD), *parts])
    records = joined.astype(RECORD)  # np.concatenate converts all numbers to little-endian
    times_ns = records["seconds"].astype(np.int64) * 10**9 + records["nanoseconds"]
    in_order = records[np.argsort(times_ns, kind="stable")]
    path = run.capture(point.what, point.at)
    path.with_suffix(".pcap0").write_bytes(FILE_HEADER + in_order.tobytes())
    path.with_suffix(".log").write_text("listening on port, \n")
    finish(path, point.mac, plan.capturing)


def write_in_a_child(run: RunDir, plan: Plan, packets: int) -> None:
    """Write the captures in a child process, whose memory is not counted."""
    pid = os.fork()
    if pid == 0:
        write_captures(run, plan, make_traffic(plan, packets))
        os._exit(0)
    _pid, status = os.waitpid(pid, 0)
    if status:
        sys.exit("the captures could not be made")


def main(packets: int) -> None:
    """Make captures, read them, and print the time and memory of the reading."""
    plan = resolve(
        Topology.load("two-sites", []),
        load_workload("collectives", []),
        RunOptions(capture="wan"),
        machine_memory_bytes=2**40,
    )
    with tempfile.TemporaryDirectory(prefix="testbed-bench-") as scratch:
        run = RunDir.create(Path(scratch, "run"))
        write_in_a_child(run, plan, packets)
        folder = Path(scratch, "packets")
        folder.mkdir()
        no_operations = pl.DataFrame(schema=dict(schemas.OPS))
        began, began_cpu = time.monotonic(), time.process_time()
        captured = read_captures(run, plan, no_operations, folder)
        seconds, cpu_seconds = time.monotonic() - began, time.process_time() - began_cpu
    if captured.problems:
        sys.exit("\n".join(problem.message for problem in captured.problems))
    counts = ", ".join(f"{row.capture} {row.records}" for row in captured.points)
    records = sum(row.records for row in captured.points)
    retransmissions = captured.flows["retransmissions"].sum()
    lost = captured.flows["lost"].sum()
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"records: {counts}")
    print(f"flows {captured.flows.height}, retransmissions {retransmissions}, lost {lost}")
    print(
        f"{seconds:.1f} s, {cpu_seconds:.1f} s of them on the CPU: "
        f"{cpu_seconds / records * 1e6:.1f} s per million records (goal {GOAL_S} s); "
        f"peak memory {peak_mib} MiB"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
