from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address
from itertools import chain, combinations, product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from testbed.workloads.collectives.settings import Collectives

from testbed.plan.budget import windows_bytes
from testbed.plan.model import Direction, FabricCable, Hop, Network
from testbed.plan.resolve import resolve, resolve_network
from testbed.plan.seeds import queue_packets, stable_seed
from testbed.spec.options import RunOptions
from testbed.spec.overrides import parse_overrides
from testbed.spec.presets import TOPOLOGIES
from testbed.spec.topology import Topology
from testbed.spec.wan import parse_queue

MIB = 2**20


def network(
    datacenters: Mapping[str, Any], wan: Sequence[Mapping[str, Any]] = (), **keys: object
) -> Network:
    written = {"datacenters": datacenters, "wan": list(wan), **keys}
    return resolve_network(Topology.model_validate(written))


def targets(path: Iterable[Direction]) -> list[str]:
    """The datacenters that a path leads to."""
    return [direction.target for direction in path]


def link(a: str, b: str, delay: object = "1 ms", **settings: object) -> dict[str, Any]:
    return {"between": [a, b], "rate": "1 Gbit/s", "delay": delay, **settings}


def test_addresses_and_names() -> None:
    plan = network(
        {"iowa": {"hosts": 300}, "ohio": {"hosts": 2}, "texas": {}},
        [link("iowa", "ohio"), link("ohio", "texas")],
    )
    assert str(plan.host("iowa-h0").address) == "10.0.0.1/16"
    assert str(plan.host("iowa-h249").address) == "10.0.0.250/16"
    assert str(plan.host("iowa-h250").address) == "10.0.1.1/16"
    assert str(plan.host("ohio-h1").address) == "10.1.0.2/16"
    assert plan.host("ohio-h1").node == "d1h1"
    ohio = plan.datacenter("ohio")
    (segment,) = ohio.segments
    assert (ohio.router, segment.switch, str(segment.gateway), str(ohio.subnet)) == (
        "d1r",
        "d1s",
        "10.1.255.254/16",
        "10.1.0.0/16",
    )
    second = plan.wan[1]
    assert (second.key, second.index) == ("ohio-texas", 1)
    assert (str(second.forward.address), str(second.backward.address)) == (
        "172.16.0.5/30",
        "172.16.0.6/30",
    )


def test_addresses_are_unique() -> None:
    plan = resolve_network(Topology.load("microsoft-openai-five"))
    directions = list(chain.from_iterable(wan.directions for wan in plan.wan))
    segments = [dc.segments[0] for dc in plan.datacenters]
    macs = [host.mac for host in plan.hosts]
    macs += [segment.gateway_mac for segment in segments]
    macs += [direction.mac for direction in directions]
    assert len(set(macs)) == len(macs) == 10 + 5 + 20
    assert all(mac.startswith("02:") and len(mac) == 17 for mac in macs)
    ips = [host.address.ip for host in plan.hosts]
    ips += [segment.gateway.ip for segment in segments]
    ips += [direction.address.ip for direction in directions]
    assert len(set(ips)) == len(ips)
    assert all(len(host.node) <= 8 for host in plan.hosts)


def test_link() -> None:
    plan = network(
        {"a": {}, "b": {}},
        [
            link(
                "a",
                "b",
                "8.2 ms",
                jitter="0.1 ms",
                loss={"a->b": "1 %", "b->a": {"p": "1 %", "r": "10 %"}},
            )
        ],
    )
    forward, backward = plan.wan[0].directions
    assert (forward.source, forward.target) == ("a", "b")
    assert forward.bottleneck.rate_bps == 10**9
    assert (forward.fibre.delay_ns, forward.fibre.jitter_ns) == (8_200_000, 100_000)
    assert (forward.fibre.loss.model, forward.fibre.loss.p) == ("independent", 0.01)
    assert backward.fibre.loss.model == "gilbert-elliott"
    assert (backward.fibre.loss.p, backward.fibre.loss.r) == (0.01, 0.1)
    assert (backward.fibre.loss.one_minus_h, backward.fibre.loss.one_minus_k) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("queue", "packets"),
    [
        ("1 bdp", 1652),  # 1 Gbit/s x 20 ms = 2.5 MB in frames of 1514 B
        ("0.5 bdp", 826),
        ("100 packets", 100),
        ("1 MiB", 693),
        ("10 ms", 826),
        ("1 B", 1),
        ("0.5 packets", 1),
    ],
)
def test_queues(queue: str, packets: int) -> None:
    assert queue_packets(parse_queue(queue), 10**9, 20_000_000, 1514) == packets


def test_default_queue() -> None:
    plan = network({"a": {}, "b": {}, "c": {}}, [link("a", "b", "10 ms"), link("b", "c", "1 us")])
    assert [wan.forward.bottleneck.queue_packets for wan in plan.wan] == [1652, 64]
    written = network({"a": {}, "b": {}}, [link("a", "b", "1 us", queue="1 bdp")])
    assert written.wan[0].forward.bottleneck.queue_packets == 1


def test_nic() -> None:
    host = network({"a": {}}).hosts[0]
    assert (host.nic_up.rate_bps, host.nic_down.rate_bps, host.nic_delay_ns) == (
        25 * 10**9,
        25 * 10**9,
        5000,
    )
    assert host.nic_up.queue_packets == 1_000_000
    assert host.nic_down.queue_packets == -(-16 * MIB // 1514)
    uneven = network({"a": {"nic": {"rate": "1 Gbit/s", "receive_rate": "10 Gbit/s"}}}).hosts[0]
    assert (uneven.nic_up.rate_bps, uneven.nic_down.rate_bps) == (10**9, 10**10)
    jumbo = network({"a": {"nic": {"rate": "1 Gbit/s", "queue": "1 ms"}}}, mtu=9000).hosts[0]
    assert jumbo.nic_down.queue_packets == -(-125_000 // 9014)


def test_routes_by_delay() -> None:
    wan = [link("a", "b", "1 ms"), link("b", "c", "1 ms"), link("a", "c", "5 ms")]
    plan = network({"a": {}, "b": {}, "c": {}}, wan)
    assert targets(plan.path("a", "c")) == ["b", "c"]
    route = next(route for route in plan.routes if (route.dc, route.destination) == ("a", "c"))
    assert route.hops == (Hop(link="a-b", via=IPv4Address("172.16.0.2")),)
    back = next(route for route in plan.routes if (route.dc, route.destination) == ("c", "a"))
    assert back.hops == (Hop(link="b-c", via=IPv4Address("172.16.0.5")),)
    assert plan.one_way_delay_ns("a-h0", "c-h0") == 2_005_000
    direct = network({"a": {}, "b": {}, "c": {}}, wan, routing="hops")
    assert targets(direct.path("a", "c")) == ["c"]


def test_equal_paths() -> None:
    square = [link("a", "b"), link("a", "c"), link("b", "d"), link("c", "d")]
    plan = network({"a": {}, "c": {}, "b": {}, "d": {}}, square)
    assert targets(plan.path("a", "d")) == ["c", "d"]
    straight = network(
        {"a": {}, "b": {}, "c": {}}, [link("a", "b"), link("b", "c"), link("a", "c", "2 ms")]
    )
    assert targets(straight.path("a", "c")) == ["c"]


def test_asymmetric_delays() -> None:
    wan = [link("a", "b"), link("b", "c"), link("a", "c", {"a->c": "9 ms", "c->a": "1 ms"})]
    plan = network({"a": {}, "b": {}, "c": {}}, wan)
    assert targets(plan.path("a", "c")) == ["b", "c"]
    assert targets(plan.path("c", "a")) == ["a"]


def test_seeds() -> None:
    assert stable_seed(7, "iowa->ohio") == 6711848737784200166
    topology = Topology.load("microsoft-openai-five")
    seeds: list[list[int]] = []
    for seed in (1, 1, 2):
        of_plan: list[int] = []
        for wan in resolve_network(topology, seed).wan:
            of_plan += [direction.fibre.seed for direction in wan.directions]
        seeds.append(of_plan)
    assert seeds[0] == seeds[1]
    assert not set(seeds[0]) & set(seeds[2])
    assert len(set(seeds[0])) == 20


def test_tcp_buffer() -> None:
    assert network({"a": {}}).tcp.buffer_bytes == 16 * MIB
    wide = network({"a": {}, "b": {}}, [link("a", "b", "50 ms", rate="10 Gbit/s")])
    assert wide.tcp.buffer_bytes == 4 * 100_010_000 * 10**10 // (8 * 10**9)
    huge = network({"a": {}, "b": {}}, [link("a", "b", "300 ms", rate="100 Gbit/s")])
    assert huge.tcp.buffer_bytes == 2**30
    assert network({"a": {}}, tcp={"buffer": "1 MiB"}).tcp.buffer_bytes == MIB


@pytest.mark.parametrize("rate", ["1 Mbit/s", "100 Mbit/s", "10 Gbit/s", "400 Gbit/s"])
@pytest.mark.parametrize("queue", ["8 packets", "1 bdp", "1 GiB"])
def test_offload_is_off_by_default(rate: str, queue: str) -> None:
    """The default plan is that of `off`, to every qdisc, and so are the figures of its run."""

    def resolved(**keys: object) -> Network:
        wan = [link("a", "b", rate=rate, queue=queue)]
        return network({"a": {}, "b": {}}, wan, **keys)

    assert resolved() == resolved(tcp={"offload": "auto"}) == resolved(tcp={"offload": "off"})
    assert resolved().tcp.packets_per_skb == 1
    assert resolved(tcp={"offload": "on"}).tcp.packets_per_skb == 43


@pytest.mark.parametrize("name", [preset.name for preset in TOPOLOGIES.presets()])
def test_offload_of_presets(name: str) -> None:
    off = parse_overrides(["tcp.offload=off"], ["topology"])["topology"]
    assert resolve_network(Topology.load(name)) == resolve_network(Topology.load(name, off))


def test_offload_of_small_packets() -> None:
    """At most 64 packets at once, although 64 KiB hold 113 of these."""
    on = {"offload": "on"}
    assert network({"a": {}}, mtu=576, tcp=on).tcp.packets_per_skb == 64


def test_workers() -> None:
    workload = Collectives.model_validate({"ranks_per_host": 2, "sizes": ["1 GiB"]})
    plan = resolve(
        Topology.load("two-sites"),
        workload,
        RunOptions(seed=3, isolation="process"),
        machine_memory_bytes=2**40,
    )
    ranks = [(rank.rank, rank.local_rank, rank.host) for rank in plan.workers.ranks]
    assert ranks[:3] == [(0, 0, "iowa-h0"), (1, 1, "iowa-h0"), (2, 0, "iowa-h1")]
    assert len(ranks) == 8
    assert plan.workers.settings["sizes"] == [2**30]
    # The limit of a host is twice the estimate for its two ranks.
    rank_bytes = 16 * MIB + workload.rank_tensors_bytes(8)
    assert plan.workers.memory_bytes == 2 * 2 * rank_bytes
    packet_bytes = windows_bytes(plan.network)
    assert plan.guest_memory_bytes == 2**30 + 8 * rank_bytes + packet_bytes
    assert plan.workers.environment == {"OMP_NUM_THREADS": "1"}
    assert (plan.seed, plan.workers.cpus, plan.clock) == (3, 1.0, "virtual")


def test_image_is_recorded(tmp_path: Path) -> None:
    import tarfile

    image = tmp_path / "image.tar"
    with tarfile.open(image, "w"):
        pass
    plan, without = (
        resolve(Topology.load("two-sites"), Collectives(), options, machine_memory_bytes=2**40)
        for options in (RunOptions(image=image), RunOptions())
    )
    assert plan.workers.image == str(image.resolve())
    # In four containers 150 MiB, instead of 20 MiB, and two copies of the image.
    more_bytes = plan.guest_memory_bytes - without.guest_memory_bytes
    assert more_bytes == 4 * (150 - 20) * MIB + 2 * image.stat().st_size


def test_routes_by_weight() -> None:
    wan = [link("a", "b", weight=5), link("b", "c", weight=5), link("a", "c", "50 ms", weight=9)]
    plan = network({"a": {}, "b": {}, "c": {}}, wan, routing="weight")
    assert targets(plan.path("a", "c")) == ["c"]
    one_way = [link("a", "b"), link("b", "c"), link("a", "c", weight={"a->c": 3, "c->a": 1})]
    plan = network({"a": {}, "b": {}, "c": {}}, one_way, routing="weight")
    assert targets(plan.path("a", "c")) == ["b", "c"]
    assert targets(plan.path("c", "a")) == ["a"]


def test_multipath() -> None:
    square = [
        link("a", "b"),
        link("a", "c"),
        link("b", "d"),
        link("c", "d"),
        link("a", "d", "2.1 ms"),
    ]
    sites: dict[str, Any] = {"a": {}, "b": {}, "c": {}, "d": {}}
    paths = network(sites, square, multipath=True).paths("a", "d")
    assert [targets(path) for path in paths] == [["b", "d"], ["c", "d"]]
    assert targets(network(sites, square).path("a", "d")) == ["b", "d"]
    # by links, delays do not matter any more
    uneven = [link("a", "b"), link("a", "c", "9 ms"), link("b", "d"), link("c", "d")]
    assert len(list(network(sites, uneven, multipath=True, routing="hops").paths("a", "d"))) == 2
    assert len(list(network(sites, uneven, multipath=True).paths("a", "d"))) == 1


@settings(max_examples=40, deadline=None)
@given(
    delays=st.lists(st.integers(0, 3), min_size=10, max_size=10),
    routing=st.sampled_from(["delay", "hops", "weight"]),
    multipath=st.booleans(),
)
def test_routes_end(delays: list[int], routing: str, multipath: bool) -> None:
    """A path of a mesh of five has one to four links; with a circle, `paths` would not end."""
    names = "abcde"
    pairs = list(combinations(names, 2))
    wan = [
        link(a, b, f"{delay} ms", weight=1 + delay)
        for (a, b), delay in zip(pairs, delays, strict=True)
    ]
    plan = network({key: {} for key in names}, wan, routing=routing, multipath=multipath)
    for a, b in pairs:
        assert all(1 <= len(path) <= 4 for path in plan.paths(a, b))
        assert plan.path(a, b)[-1].target == b


CLOS = {
    "hosts": 10,
    "nic": {"rate": "10 Gbit/s"},
    "fabric": {"leaves": 3, "spines": 2, "oversubscription": 2},
}


def ends_of(cable: FabricCable) -> tuple[str, str]:
    """The nodes at both ends."""
    lower, upper = cable.ends
    return lower.node, upper.node


def test_leaf_spine() -> None:
    plan = network({"a": CLOS, "b": {}}, [link("a", "b")])
    site = plan.datacenter("a")
    assert site.fabric is not None
    plugged = Counter(host.switch for host in plan.hosts)
    assert [plugged[segment.switch] for segment in site.segments] == [4, 3, 3]
    # 4 hosts x 10 Gbit/s / (2 x 2 spines), and the border router at three leaves' rate
    rates = {ends_of(cable): cable.port.rate_bps for cable in site.fabric.cables}
    assert rates == {
        ("d0l0", "d0p0"): 10**10,
        ("d0l0", "d0p1"): 10**10,
        ("d0l1", "d0p0"): 10**10,
        ("d0l1", "d0p1"): 10**10,
        ("d0l2", "d0p0"): 10**10,
        ("d0l2", "d0p1"): 10**10,
        ("d0p0", "d0r"): 3 * 10**10,
        ("d0p1", "d0r"): 3 * 10**10,
    }
    first, last = plan.host("a-h0"), plan.host("a-h9")
    assert (first.switch, str(first.address)) == ("d0l0", "10.0.0.1/22")
    assert (last.switch, str(last.address)) == ("d0l2", "10.0.8.3/22")
    assert len(plan.fabric_cables("a-h0", "a-h1")) == 0
    crossed = [ends_of(cable) for cable in plan.fabric_cables("a-h0", "a-h9")]
    assert crossed == [("d0l0", "d0p0"), ("d0l2", "d0p0")]
    assert len(plan.fabric_cables("a-h0", "b-h0")) == len(plan.fabric_cables("b-h0", "a-h0")) == 2


def test_leaves_are_alike() -> None:
    """4 hosts on 3 leaves: two on the first, whose 2 x 10 Gbit/s every leaf's two uplinks have."""
    site = {**CLOS, "hosts": 4, "fabric": {"leaves": 3, "spines": 2}}
    plan = network({"a": site, "b": {}}, [link("a", "b")])
    plugged = Counter(host.switch for host in plan.hosts)
    assert plugged == {"d0l0": 2, "d0l1": 1, "d0l2": 1, "d1s": 1}
    fabric = plan.datacenter("a").fabric
    assert fabric is not None
    rates = {ends_of(cable): cable.port.rate_bps for cable in fabric.cables}
    for leaf, spine in product(range(3), range(2)):
        assert rates[f"d0l{leaf}", f"d0p{spine}"] == 10**10
    assert {rates[f"d0p{spine}", "d0r"] for spine in range(2)} == {3 * 10**10}


def test_fabric_addresses_are_unique() -> None:
    plan = network(
        {"a": {**CLOS, "hosts": 999, "fabric": {"leaves": 63, "spines": 64}}, "b": CLOS},
        [link("a", "b")],
    )
    ends = list(chain.from_iterable(cable.ends for cable in plan.all_fabric_cables()))
    segments = list(chain.from_iterable(dc.segments for dc in plan.datacenters))
    macs = [host.mac for host in plan.hosts] + [end.mac for end in ends]
    macs += [segment.gateway_mac for segment in segments]
    assert len(set(macs)) == len(macs)
    ips = [host.address.ip for host in plan.hosts] + [end.address.ip for end in ends]
    ips += [segment.gateway.ip for segment in segments]
    assert len(set(ips)) == len(ips)
    for host in plan.hosts:
        segment = plan.datacenter(host.dc).segment(host.switch)
        assert host.address.ip in segment.gateway.network
    assert max(len(end.interface) for end in ends) <= 15
    assert len({end.interface + end.node for end in ends}) == len(ends)


def test_ecn() -> None:
    plain = network({"a": {}, "b": {}}, [link("a", "b", queue="16 MiB")])
    assert not plain.tcp.ecn
    marking = network({"a": {}, "b": {}}, [link("a", "b", discipline="red", ecn=True)])
    assert marking.tcp.ecn
    assert marking.wan[0].forward.bottleneck.discipline == "red"
    assert network(
        {"a": {}, "b": {}}, [link("a", "b")], tcp={"congestion_control": "dctcp"}
    ).tcp.ecn


def test_conduit() -> None:
    plan = network(
        {"a": {}, "b": {}, "c": {}},
        [link("a", "b", shares="fibre-1"), link("b", "c", shares="fibre-1")],
    )
    assert [wan.conduit for wan in plan.wan] == ["fibre-1", "fibre-1"]
