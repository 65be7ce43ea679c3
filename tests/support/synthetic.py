"""Hand-written plans and run folders for the tests."""

import struct
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Interface, IPv4Network
from itertools import combinations
from pathlib import Path
from typing import Any

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
from testbed.runfolder import records
from testbed.runfolder.folder import RunDir
from testbed.runfolder.records import (
    LinkSample,
    Operation,
    RoundTripRow,
    StageBegan,
    StageEnded,
    TrainingStep,
    append,
)
from testbed.runfolder.status import Status, write_status
from testbed.sweep.folder import SweepDir
from testbed.sweep.index import SweepIndex
from testbed.sweep.point_record import PointRecord

GBIT = 1_000_000_000
MS = 1_000_000
START_NS = 1_700_000_000 * GBIT
Frame = tuple[str, int, int]  # source MAC, IP bytes, time in ns


def port(rate_bps: int) -> Bottleneck:
    return Bottleneck(rate_bps=rate_bps, queue_packets=1000)


def direction(
    ends: tuple[str, str], index: int, side: int, rate_bps: int, delay_ns: int
) -> Direction:
    """Make one direction of link number `index`; `side` is 1 or 2."""
    source, target = ends
    return Direction(
        source=source,
        target=target,
        address=IPv4Interface(f"10.255.{index}.{side}/30"),
        mac=f"02:ff:00:00:{index:02x}:{side:02x}",
        bottleneck=port(rate_bps),
        fibre=Fibre(delay_ns=delay_ns, seed=index * 2 + side),
    )


def make_network(
    hosts: Mapping[str, int],
    wan: Mapping[tuple[str, str], tuple[int, int, int]],
    *,
    nic_bps: int = 100 * GBIT,
    nic_delay_ns: int = 0,
) -> Network:
    """Make a full mesh or a single link.

    Args:
        hosts: how many of each datacenter.
        wan: of each pair (a, b) of datacenters: bit/s from a to b, bit/s from b to a, delay in ns.
        nic_bps: rate of every host's interface.
        nic_delay_ns: its one-way delay.
    """
    numbers = {dc: index + 1 for index, dc in enumerate(hosts)}
    links: list[WanLink] = []
    for index, (ends, (rate_bps, back_bps, delay_ns)) in enumerate(wan.items()):
        forward = direction(ends, index, 1, rate_bps, delay_ns)
        backward = direction(ends[::-1], index, 2, back_bps, delay_ns)
        key = "-".join(ends)
        links.append(WanLink(key=key, index=index, forward=forward, backward=backward))
    machines: list[Host] = []
    centers: list[Datacenter] = []
    for dc, number in numbers.items():
        of_dc = [_host(dc, number, index, nic_bps, nic_delay_ns) for index in range(hosts[dc])]
        machines += of_dc
        centers.append(_datacenter(dc, number, tuple(host.name for host in of_dc)))
    routes: list[Route] = []
    for link in links:
        routes += [_route(link, link.forward, link.backward)]
        routes += [_route(link, link.backward, link.forward)]
    return Network(
        name="hand-made",
        mtu=1500,
        datacenters=tuple(centers),
        hosts=tuple(machines),
        wan=tuple(links),
        routes=tuple(routes),
        tcp=Tcp(buffer_bytes=1 << 26),
    )


def _host(dc: str, number: int, index: int, nic_bps: int, nic_delay_ns: int) -> Host:
    return Host(
        name=f"{dc}-{index}",
        node=f"h{number}-{index}",
        dc=dc,
        switch=f"s{number}",
        address=IPv4Interface(f"10.{number}.0.{index + 10}/16"),
        mac=f"02:00:00:00:{number:02x}:{index:02x}",
        nic_up=port(nic_bps),
        nic_down=port(nic_bps),
        nic_delay_ns=nic_delay_ns,
        nic_seed=1,
    )


def _datacenter(dc: str, number: int, hosts: tuple[str, ...]) -> Datacenter:
    segment = Segment(
        switch=f"s{number}",
        gateway=IPv4Interface(f"10.{number}.0.1/16"),
        gateway_mac=f"02:01:00:00:00:{number:02x}",
    )
    return Datacenter(
        name=dc,
        subnet=IPv4Network(f"10.{number}.0.0/16"),
        router=f"r{number}",
        segments=(segment,),
        hosts=hosts,
    )


def _route(link: WanLink, outward: Direction, other: Direction) -> Route:
    hop = Hop(link=link.key, via=other.address.ip)
    return Route(dc=outward.source, destination=outward.target, hops=(hop,))


def mesh(
    dcs: Sequence[str], rate_bps: int, delay_ns: int
) -> dict[tuple[str, str], tuple[int, int, int]]:
    return dict.fromkeys(combinations(dcs, 2), (rate_bps, rate_bps, delay_ns))


def one_rank_per_host(network: Network) -> tuple[Rank, ...]:
    return tuple(Rank(rank=i, local_rank=0, host=host.name) for i, host in enumerate(network.hosts))


def make_plan(network: Network, **changes: Any) -> Plan:
    workers = Workers(
        workload="collectives",
        settings={"ops": ["all_reduce", "broadcast"], "sizes": [4096, 1 << 20]},
        ranks=one_rank_per_host(network),
        isolation="process",
        memory_bytes=1 << 30,
        cpus=1,
        timeout_s=60,
    )
    values: dict[str, Any] = {
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


def two_dcs(**options: int) -> Network:
    """One host each in `east` and `west`, 1 Gbit/s, 10 ms one way."""
    return make_network(
        {"east": 1, "west": 1}, {("east", "west"): (GBIT, GBIT, 10 * MS)}, **options
    )


def three_dcs(hosts: int = 2) -> Network:
    """Full mesh at 1 Gbit/s, 10 ms one way."""
    names = ["east", "north", "west"]
    return make_network(dict.fromkeys(names, hosts), mesh(names, GBIT, 10 * MS))


def write_pcap(path: Path, packets: Iterable[Frame], *, magic: int = 0xA1B23C4D) -> None:
    """Write a classic capture that keeps the first 34 bytes of each packet."""
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
    """Write a complete run: per op and size a warm-up and iterations of 50, 60, 70 ms (rank 0)."""
    run = RunDir.create(path)
    run.plan.write_text(plan.model_dump_json())
    run.spec.write_text("# topology\nname: hand-made\n---\n# workload\nworkload: collectives\n")
    write_ops(run, plan)
    write_links(run, plan)
    write_round_trips(run, plan)
    for number, stage in enumerate(["network", "workers", "ops"]):
        begin_ns = START_NS + number * GBIT
        wall_s = number * 2.0
        append(run.events, StageBegan(stage=stage, time_ns=begin_ns, wall_s=wall_s))
        end_ns = begin_ns + GBIT // 4
        append(run.events, StageEnded(stage=stage, time_ns=end_ns, wall_s=wall_s + 1.5))
    status = Status(state="completed", exit_status=0, wall_seconds=9.5, emulated_seconds=2.5)
    write_status(run.status, status)
    return run


def write_round_trips(run: RunDir, plan: Plan) -> None:
    """Write raw/fidelity.json: every link has nearly the RTT that is planned."""
    rows: list[RoundTripRow] = []
    for link in plan.network.wan:
        row = RoundTripRow(
            source=link.forward.source,
            target=link.forward.target,
            rtt_ms_expected=20.0,
            rtt_ms_measured=20.004,
            ok=True,
        )
        rows.append(row)
    records.write_round_trips(run.fidelity, rows)


def write_training_run(path: Path, plan: Plan, steps: int = 6, *, late_ms: float = 0.0) -> RunDir:
    """Write a complete run of training, whose first step is the warm-up.

    A step takes 100 ms, of which 60 are computed, and has an all-reduce in its last 50 ms. The loss
    falls from 5 by 0.5 each step.

    Args:
        path: the new folder.
        plan: whose workload becomes `train`.
        steps: how many.
        late_ms: by how much the computation of each step takes longer than modelled.
    """
    settings = {"method": "ddp", "warmup": 1}
    workers = plan.workers.model_copy(update={"workload": "train", "settings": settings})
    plan = plan.model_copy(update={"workers": workers})
    run = write_run(path, plan)
    for rank in plan.workers.ranks:
        run.rank_ops(rank.rank).write_text("")
        for step in range(steps):
            start_ns = START_NS + step * 100 * MS
            record = TrainingStep(
                step=step,
                start_ns=start_ns,
                end_ns=start_ns + 100 * MS,
                compute_ns=60 * MS,
                late_ns=round(late_ms * MS),
                loss=5 - step / 2,
                tokens=512,
            )
            append(run.rank_train(rank.rank), record)
            operation = Operation(
                op="all_reduce",
                bytes=1 << 20,
                group_size=len(plan.workers.ranks),
                iteration=step,
                phase="train",
                dtype="float32",
                start_ns=start_ns + 50 * MS,
                end_ns=start_ns + 100 * MS,
            )
            append(run.rank_ops(rank.rank), operation)
    return run


def write_flows(run: RunDir) -> None:
    """flows.parquet with one connection each way over the first link of the plan."""
    link = run.read_plan().network.wan[0]
    rows: list[dict[str, object]] = [
        {
            "link": link.key,
            "from_dc": direction.source,
            "to_dc": direction.target,
            "src_host": f"{direction.source}-0",
            "dst_host": f"{direction.target}-0",
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
        for number, direction in enumerate(link.directions)
    ]
    pl.DataFrame(rows).write_parquet(run.flows)


def write_ops(run: RunDir, plan: Plan) -> None:
    """Write the operations of every rank: see `write_run`."""
    start_ns = START_NS
    for op in ("all_reduce", "broadcast"):
        for size in (4096, 1 << 20):
            for iteration, ms in enumerate((90, 50, 60, 70)):
                for rank in plan.workers.ranks:
                    root_is_done = op == "broadcast" and rank.rank == 0
                    duration_ms = 1 if root_is_done else ms + rank.rank
                    operation = Operation(
                        op=op,
                        bytes=size,
                        group_size=len(plan.workers.ranks),
                        iteration=iteration,
                        phase="warmup" if iteration == 0 else "measure",
                        dtype="float32",
                        start_ns=start_ns,
                        end_ns=start_ns + duration_ms * MS,
                        wrong=0,
                    )
                    append(run.rank_ops(rank.rank), operation)
                start_ns += 100 * MS


def write_links(run: RunDir, plan: Plan) -> None:
    """Write 1.6 s of samples, 10 MB each way, and captures.

    These have 10 frames of 1514 bytes forward and 5 of 66 backward.
    """
    for link in plan.network.wan:
        for number in range(17):
            for direction in link.directions:
                sample = LinkSample(
                    time_ns=START_NS + number * 100 * MS,
                    source=direction.source,
                    target=direction.target,
                    link=link.key,
                    bytes=1000 + number * 625_000,
                    packets=number * 400,
                    drops=number // 8,
                    backlog_bytes=number * 10,
                )
                append(run.link_samples, sample)
    links = {link.key: link for link in plan.network.wan}
    for point in capture_points(plan.network, plan.capture):
        frames: list[Frame] = []
        if point.kind == "wan":
            link = links[point.what]
            frames += [(link.forward.mac, 1500, START_NS + number) for number in range(10)]
            frames += [(link.backward.mac, 52, START_NS + 100 + number) for number in range(5)]
        write_pcap(run.capture(point.what, point.at), frames)


def write_sweep(path: Path, plots: Sequence[dict[str, Any]] = ()) -> SweepDir:
    """Write two complete points, a failed one, and one that was never run."""
    folder = SweepDir.create(path)
    points: list[dict[str, Any]] = []
    states = [("1 ms", "completed"), ("20 ms", "completed"), ("1 s", "failed"), ("2 s", "")]
    for number, (delay, state) in enumerate(states):
        name, identity = f"p{number}", f"id{number}"
        values = {"delay": delay, "algorithm": "gloo", "loss": "0.1 %", "sizes": [4096]}
        points.append(
            {"name": name, "identity": identity, "values": values, "repeat": 0, "seed": 0}
        )
        if not state:
            continue
        run = write_run(folder.running / f"{name}.{identity}", make_plan(two_dcs()))
        collect(run)
        if state == "completed":
            run.report.write_text("<!doctype html>")
        record = PointRecord(
            identity=identity,
            name=name,
            state=state,
            reason="it broke" if state == "failed" else "",
            wall_seconds=3.0,
        )
        folder.settle(run.path, record)
    axes = ["delay", "algorithm", "loss", "sizes"]
    index = {"name": "mine", "axes": axes, "points": points, "plots": plots}
    folder.write_index(SweepIndex.model_validate(index))
    return folder
