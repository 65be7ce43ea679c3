"""Hand-written plans and run folders for the tests."""

import json
import struct
from itertools import combinations
from pathlib import Path

import polars as pl

from testbed.analysis.summarize import collect
from testbed.plan.captures import capture_points
from testbed.plan.model import (
    Bottleneck,
    Datacenter,
    Direction,
    Fibre,
    Hop,
    Host,
    Network,
    Plan,
    Rank,
    Route,
    Segment,
    Tcp,
    WanLink,
    Workers,
)
from testbed.runfolder.folder import RunDir, append_record
from testbed.sweep.folder import SweepDir
from testbed.sweep.index import SweepIndex
from testbed.sweep.point_record import PointRecord

GBIT = 1_000_000_000
MS = 1_000_000
START_NS = 1_700_000_000 * GBIT


def port(rate_bps):
    return Bottleneck(rate_bps=rate_bps, queue_packets=1000)


def direction(ends, index, side, rate_bps, delay_ns):
    source, target = ends
    return Direction(
        source=source,
        target=target,
        address=f"10.255.{index}.{side}/30",
        mac=f"02:ff:00:00:{index:02x}:{side:02x}",
        bottleneck=port(rate_bps),
        fibre=Fibre(delay_ns=delay_ns, seed=index * 2 + side),
    )


def make_network(hosts, wan, *, nic_bps=100 * GBIT, nic_delay_ns=0):
    """`hosts` of each DC, and `wan`: {(a, b): (rate a to b, rate b to a, delay ns)}, full mesh or a
    single link.
    """
    numbers = {dc: i + 1 for i, dc in enumerate(hosts)}
    links = []
    for index, ((a, b), (rate, back, delay)) in enumerate(wan.items()):
        forward, backward = (
            direction((a, b), index, 1, rate, delay),
            direction((b, a), index, 2, back, delay),
        )
        links.append(WanLink(key=f"{a}-{b}", index=index, forward=forward, backward=backward))
    machines = [
        Host(
            name=f"{dc}-{i}",
            node=f"h{number}-{i}",
            dc=dc,
            switch=f"s{number}",
            address=f"10.{number}.0.{i + 10}/16",
            mac=f"02:00:00:00:{number:02x}:{i:02x}",
            nic_up=port(nic_bps),
            nic_down=port(nic_bps),
            nic_delay_ns=nic_delay_ns,
            nic_seed=1,
        )
        for dc, number in numbers.items()
        for i in range(hosts[dc])
    ]
    centers = [
        Datacenter(
            name=dc,
            subnet=f"10.{number}.0.0/16",
            router=f"r{number}",
            segments=(
                Segment(
                    switch=f"s{number}",
                    gateway=f"10.{number}.0.1/16",
                    gateway_mac=f"02:01:00:00:00:{number:02x}",
                ),
            ),
            hosts=tuple(m.name for m in machines if m.dc == dc),
        )
        for dc, number in numbers.items()
    ]
    routes = [
        Route(
            dc=way.source, destination=way.target, hops=(Hop(link=link.key, via=other.address.ip),)
        )
        for link in links
        for way, other in (link.directions, link.directions[::-1])
    ]
    return Network(
        name="hand-made",
        mtu=1500,
        datacenters=centers,
        hosts=machines,
        wan=links,
        routes=routes,
        tcp=Tcp(buffer_bytes=1 << 26),
    )


def mesh(dcs, rate_bps, delay_ns):
    return dict.fromkeys(combinations(dcs, 2), (rate_bps, rate_bps, delay_ns))


def one_rank_per_host(network):
    return tuple(Rank(rank=i, local_rank=0, host=host.name) for i, host in enumerate(network.hosts))


def make_plan(network, **changes):
    workers = Workers(
        workload="collectives",
        settings={"ops": ["all_reduce", "broadcast"], "sizes": [4096, 1 << 20]},
        ranks=one_rank_per_host(network),
        isolation="process",
        memory_bytes=1 << 30,
        cpus=1,
        timeout_s=60,
    )
    values = {
        "network": network,
        "workers": workers,
        "clock": "virtual",
        "where": "guest",
        "capture": "wan",
        "seed": 1,
        "guest_memory_bytes": 1 << 31,
        "versions": {"testbed": "0.1", "torch": "2.6.0"},
    }
    return Plan(**(values | changes))


def two_dcs(**options):
    """One host each in `east` and `west`, 1 Gbit/s, 10 ms one way."""
    return make_network(
        {"east": 1, "west": 1}, {("east", "west"): (GBIT, GBIT, 10 * MS)}, **options
    )


def three_dcs(hosts=2):
    """Full mesh at 1 Gbit/s, 10 ms one way."""
    names = ["east", "north", "west"]
    return make_network(dict.fromkeys(names, hosts), mesh(names, GBIT, 10 * MS))


def write_pcap(path, packets, *, magic=0xA1B23C4D):
    """`packets`: (source MAC, IP bytes, time in ns); only the first 34 bytes of each are kept."""
    with path.open("wb") as file:
        file.write(struct.pack("<IHHIIII", magic, 2, 4, 0, 0, 34, 1))
        for mac, ip_bytes, time_ns in packets:
            ether = bytes(6) + bytes.fromhex(mac.replace(":", "")) + b"\x08\x00"
            data = ether + struct.pack(">BBH", 0x45, 0, ip_bytes) + bytes(16)
            file.write(
                struct.pack("<IIII", time_ns // GBIT, time_ns % GBIT, len(data), ip_bytes + 14)
                + data
            )


def write_run(path: Path, plan: Plan) -> RunDir:
    """A complete run: for each op and size one warm-up and three iterations of 50, 60 and 70 ms
    (rank 0).
    """
    run = RunDir.create(path)
    run.plan.write_text(plan.model_dump_json())
    run.spec.write_text("# topology\nname: hand-made\n---\n# workload\nworkload: collectives\n")
    write_ops(run, plan)
    write_links(run, plan)
    pairs = [(link.forward.source, link.forward.target) for link in plan.network.wan]
    row = {"rtt_ms_expected": 20.0, "rtt_ms_measured": 20.004, "ok": True}
    run.fidelity.write_text(json.dumps([{"from": a, "to": b, **row} for a, b in pairs]))
    for i, stage in enumerate(["network", "workers", "ops"]):
        for state, wall, time in (
            ("begin", i * 2.0, i * 1.0),
            ("end", i * 2.0 + 1.5, i * 1.0 + 0.25),
        ):
            append_record(
                run.events,
                {
                    "stage": stage,
                    "state": state,
                    "time_ns": START_NS + int(time * GBIT),
                    "wall_s": wall,
                },
            )
    status = {
        "state": "completed",
        "exit_status": 0,
        "reason": "",
        "faithful": True,
        "warnings": [],
    }
    run.write_json(run.status, status | {"wall_seconds": 9.5, "emulated_seconds": 2.5})
    return run


def write_training_run(path: Path, plan: Plan, steps=6) -> RunDir:
    """A complete run of training: steps of 100 ms, 60 of them computed, and an all-reduce in the
    last 50 of each.

    The first step is the warm-up. The loss falls from 5 by 0.5 each step.
    """
    workers = plan.workers.model_copy(
        update={"workload": "train", "settings": {"method": "ddp", "warmup": 1}}
    )
    plan = plan.model_copy(update={"workers": workers})
    run = write_run(path, plan)
    for rank in plan.workers.ranks:
        run.rank_ops(rank.rank).write_text("")
        for step in range(steps):
            start = START_NS + step * 100 * MS
            row = {
                "step": step,
                "start_ns": start,
                "end_ns": start + 100 * MS,
                "compute_ns": 60 * MS,
                "late_ns": 0,
            }
            append_record(run.rank_train(rank.rank), row | {"loss": 5 - step / 2, "tokens": 512})
            record = {
                "op": "all_reduce",
                "bytes": 1 << 20,
                "group_size": len(plan.workers.ranks),
                "iteration": step,
                "phase": "train",
                "dtype": "float32",
                "start_ns": start + 50 * MS,
                "end_ns": start + 100 * MS,
                "wrong": -1,
            }
            append_record(run.rank_ops(rank.rank), record)
    return run


def write_flows(run: RunDir) -> None:
    """flows.parquet with one connection each way over the first link of the plan."""
    link = run.read_plan().network.wan[0]
    rows = [
        {
            "link": link.key,
            "from_dc": way.source,
            "to_dc": way.target,
            "src_host": f"{way.source}-0",
            "dst_host": f"{way.target}-0",
            "src_rank": number,
            "dst_rank": 1 - number,
            "src_port": 40000 + number,
            "dst_port": 29500,
            "packets": 100 * (number + 1),
            "payload_bytes": (2 - number) << 20,
            "retransmissions": 3,
            "out_of_order": 0,
            "rtt_min_ns": 20 * MS,
            "rtt_median_ns": 21 * MS,
            "rtt_p95_ns": 25 * MS,
            "delay_min_ns": 10 * MS,
            "delay_median_ns": 11 * MS,
            "delay_p95_ns": 12 * MS,
            "throughput_bps": 1e8,
            "idle_share": 0.25,
            "window_limited_share": 0.7,
            "network_limited_share": 0.05,
        }
        for number, way in enumerate(link.directions)
    ]
    pl.DataFrame(rows).write_parquet(run.flows)


def write_ops(run, plan):
    now = START_NS
    for op in ("all_reduce", "broadcast"):
        for size in (4096, 1 << 20):
            for iteration, (phase, ms) in enumerate(
                [("warmup", 90), ("measure", 50), ("measure", 60), ("measure", 70)]
            ):
                for rank in plan.workers.ranks:
                    root_done = op == "broadcast" and rank.rank == 0
                    end = now + (MS if root_done else (ms + rank.rank) * MS)
                    record = {
                        "op": op,
                        "bytes": size,
                        "group_size": len(plan.workers.ranks),
                        "iteration": iteration,
                        "phase": phase,
                        "dtype": "float32",
                        "start_ns": now,
                        "end_ns": end,
                        "wrong": 0,
                    }
                    append_record(run.rank_ops(rank.rank), record)
                now += 100 * MS


def write_links(run, plan):
    """1.6 s of samples: 10 MB each way, and captures of 10 frames of 1514 bytes forward, 5 of 66
    backward.
    """
    for link in plan.network.wan:
        for i in range(17):
            for way in link.directions:
                row = {
                    "time_ns": START_NS + i * 100 * MS,
                    "source": way.source,
                    "target": way.target,
                    "link": link.key,
                    "bytes": 1000 + i * 625_000,
                    "packets": i * 400,
                    "drops": i // 8,
                    "backlog_bytes": i * 10,
                }
                append_record(run.link_samples, row)
    links = {link.key: link for link in plan.network.wan}
    for point in capture_points(plan.network, plan.capture):
        frames = []
        if point.kind == "wan":
            frames += [(links[point.what].forward.mac, 1500, START_NS + i) for i in range(10)]
            frames += [(links[point.what].backward.mac, 52, START_NS + 100 + i) for i in range(5)]
        write_pcap(run.capture(point.what, point.at), frames)


def write_sweep(path, plots=()):
    """Two complete points, a failed one, and one that was never run."""
    folder = SweepDir.create(path)
    points = []
    for number, (delay, state) in enumerate(
        [("1 ms", "completed"), ("20 ms", "completed"), ("1 s", "failed"), ("2 s", "")]
    ):
        identity = f"id{number}"
        values = {"delay": delay, "algorithm": "gloo", "loss": "0.1 %", "sizes": [4096]}
        points.append(
            {"name": f"p{number}", "identity": identity, "values": values, "repeat": 0, "seed": 0}
        )
        if state:
            run = write_run(folder.running / f"p{number}.{identity}", make_plan(two_dcs()))
            collect(run)
            if state == "completed":
                run.report.write_text("<!doctype html>")
            record = PointRecord(
                identity=identity,
                name=f"p{number}",
                state=state,
                reason="it broke" if state == "failed" else "",
                wall_seconds=3.0,
            )
            folder.settle(run.path, record)
    axes = ["delay", "algorithm", "loss", "sizes"]
    index = {"name": "mine", "axes": axes, "points": points, "plots": plots}
    folder.write_index(SweepIndex.model_validate(index))
    return folder
