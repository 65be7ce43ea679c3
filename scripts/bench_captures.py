"""Times the analysis of packet captures: a WAN link with a million packets at each end, on one CPU.

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

from testbed.analysis.capture_tables import read_captures  # noqa: E402
from testbed.measure.capture import finish  # noqa: E402
from testbed.plan.captures import capture_points  # noqa: E402
from testbed.plan.model import Plan  # noqa: E402
from testbed.plan.resolve import resolve  # noqa: E402
from testbed.runfolder.folder import RunDir  # noqa: E402
from testbed.spec.options import RunOptions  # noqa: E402
from testbed.spec.topology import Topology  # noqa: E402
from testbed.spec.workload import load_workload  # noqa: E402

FLOWS, PAYLOAD, LOSS = 8, 1448, 0.001
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


@dataclass(frozen=True)
class Traffic:
    """Data packets and their acknowledgements, as records, and whether each arrived."""

    data: np.ndarray
    acks: np.ndarray
    arrived: np.ndarray


def traffic(plan: Plan, packets: int) -> Traffic:
    """Half of `packets` carry data, in several flows by turns; one of a thousand is lost and sent
    again at once.
    """
    number = packets // 2
    a, b = (int(plan.network.datacenters[i].subnet.network_address) + 10 for i in (0, 1))
    data = np.zeros(number, RECORD)
    flow, place = np.arange(number) % FLOWS, np.arange(number) // FLOWS
    arrived = np.random.default_rng(1).random(number) >= LOSS
    arrived[-FLOWS:] = True
    again = np.zeros(number, bool)
    again[FLOWS:] = ~arrived[:-FLOWS]
    steps = np.zeros(number, np.int64)
    for one in range(FLOWS):
        mine = flow == one
        steps[mine] = np.cumsum(~again[mine]) - 1
    data["wire"], data["kept"], data["length"] = PAYLOAD + 66, 66, PAYLOAD + 52
    data["version"], data["protocol"], data["type"], data["offset"], data["flags"] = (
        0x45,
        6,
        0x0800,
        0x80,
        16,
    )
    data["source"], data["target"], data["source_port"], data["target_port"] = (
        a,
        b,
        40000 + flow,
        5000,
    )
    data["id"], data["seq"], data["window"] = place % 2**16, steps * PAYLOAD % 2**32, 500
    acks = data.copy()
    acks["wire"], acks["length"] = 66, 52
    acks["source"], acks["target"], acks["source_port"], acks["target_port"] = (
        b,
        a,
        5000,
        40000 + flow,
    )
    acks["seq"], acks["ack"] = 1, (steps + 1) * PAYLOAD % 2**32
    return Traffic(data, acks[arrived], arrived)


def stamped(records: np.ndarray, times: np.ndarray, mac: str) -> np.ndarray:
    """`records` sent by the interface with address `mac` at `times`, ns from the start."""
    found = records.copy()
    found["seconds"], found["nanoseconds"] = np.divmod(START_NS + times, 10**9)
    found["from"] = np.frombuffer(bytes.fromhex(mac.replace(":", "")), np.uint8)
    return found


def write(run: RunDir, plan: Plan, made: Traffic) -> None:
    """The captures of the link and of its routers."""
    (link,) = plan.network.wan
    entered = np.arange(len(made.data)) * PAUSE_NS
    left = entered + QUEUE_NS
    answered = (left + DELAY_NS)[made.arrived]
    there, back = link.forward.mac, link.backward.mac
    seen = {
        ("lan", link.forward.source): [stamped(made.data, entered, plan.network.hosts[0].mac)],
        ("lan", link.forward.target): [],
        (link.key, link.forward.source): [
            stamped(made.data, left, there),
            stamped(made.acks, answered + DELAY_NS, back),
        ],
        (link.key, link.forward.target): [
            stamped(made.data[made.arrived], answered, there),
            stamped(made.acks, answered, back),
        ],
    }
    for point in capture_points(plan.network, "wan"):
        path = run.capture(point.what, point.at)
        parts = np.concatenate([np.zeros(0, RECORD), *seen[point.what, point.at]]).astype(
            RECORD
        )  # big-endian again
        order = np.argsort(
            parts["seconds"].astype(np.int64) * 10**9 + parts["nanoseconds"], kind="stable"
        )
        path.with_suffix(".pcap0").write_bytes(FILE_HEADER + parts[order].tobytes())
        path.with_suffix(".log").write_text("listening on port, \n")
        finish(path, point.mac, plan.capturing)


def main(packets: int) -> None:
    """Make the captures, read them, and print what that takes."""
    import polars as pl  # noqa: PLC0415

    from testbed.analysis.summarize import OPS_SCHEMA  # noqa: PLC0415

    plan = resolve(
        Topology.load("two-sites", []),
        load_workload("collectives", []),
        RunOptions(capture="wan"),
        machine_memory_bytes=2**40,
    )
    with tempfile.TemporaryDirectory(prefix="testbed-bench-") as scratch:
        run = RunDir.create(Path(scratch, "run"))
        pid = os.fork()  # what makes the captures takes memory that is not to be counted
        if pid == 0:
            write(run, plan, traffic(plan, packets))
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        begin, computed = time.monotonic(), time.process_time()
        captured = read_captures(run, plan, pl.DataFrame(schema=OPS_SCHEMA))
        seconds, computed = time.monotonic() - begin, time.process_time() - computed
    assert not captured.problems, captured.problems
    records = {point["capture"]: point["records"] for point in captured.points}
    again, lost = captured.flows["retransmissions"].sum(), captured.flows["lost"].sum()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"records: {', '.join(f'{name} {number}' for name, number in records.items())}")
    print(f"flows {captured.flows.height}, retransmissions {again}, lost {lost}")
    each = computed / sum(records.values()) * 1e6
    print(
        f"{seconds:.1f} s, {computed:.1f} s of them on the CPU: {each:.1f} s per million records",
        end=" ",
    )
    print(f"(goal {GOAL_S} s); peak memory {peak} MiB")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
