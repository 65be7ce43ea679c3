"""From what was written to what will be done: `resolve` makes the `Plan` of a run, and refuses what cannot run.

Datacenter d has 10.d.0.0/16: its host h is 10.d.(h // 250).(h % 250 + 1), its router 10.d.255.254. WAN link k has
172.16.0.0 + 4 k as a /30. Kernel objects are named by numbers: host ``d0h1``, router ``d0r``, switch ``d0s``.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from decimal import ROUND_CEILING, Decimal
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from itertools import product
from pathlib import Path

import networkx as nx

from testbed import plan
from testbed.errors import InputError, Place
from testbed.plan import Capture, Clock, Isolation, Plan, Where
from testbed.spec.link import GilbertElliott, Link, LinkDirection, QueueLength
from testbed.spec.topology import MAX_TCP_BUFFER, Datacenter, Topology
from testbed.spec.workload import Workload
from testbed.units import format_size

MIB, GIB = 2**20, 2**30
ETHERNET_BYTES = 14
NIC_TRANSMIT_PACKETS = 1_000_000  # of the sender's own NIC, which never drops
NIC_PORT_QUEUE = QueueLength(Decimal(16 * MIB), "bytes")
WAN_QUEUE = QueueLength(Decimal(1), "bdp")
LEAST_WAN_PACKETS = 64  # of a WAN queue that was not written
OFFLOAD_BYTES = 64 * 1024  # what a host with segmentation offload hands over at once
LEAST_TCP_BUFFER = 16 * MIB
LEAST_HOST_MEMORY = GIB
GUEST_BASE_MEMORY = GIB
DOCKER_MEMORY = GIB
RANK_MEMORY: dict[Isolation, int] = {"container": 400 * MIB, "process": 250 * MIB}
TENSORS_PER_RANK = 4
LEAST_TIMEOUT_S = 60
GLOO_BYTES_PER_RTT = 2 * MIB


def resolve(
    topology: Topology,
    workload: Workload,
    *,
    seed: int = 0,
    clock: Clock = "virtual",
    where: Where = "guest",
    isolation: Isolation = "container",
    capture: Capture = "wan",
    image: Path | None = None,
    host_memory_bytes: int | None = None,
    host_cpus: float = 1.0,
    machine_memory_bytes: int | None = None,
) -> Plan:
    """The plan of running `workload` on `topology`.

    Args:
        topology: what is built.
        workload: what runs on it.
        seed: of the run; the seeds of all random elements derive from it.
        clock: of the guest; here it is always real.
        where: in a guest, or here in this kernel.
        isolation: of the hosts.
        capture: which links are captured.
        image: tar of a container image; None: this machine's own userland.
        host_memory_bytes: limit of one host; None: what its ranks need, at least 1 GiB.
        host_cpus: limit of one host.
        machine_memory_bytes: what this machine has; None: ask it.

    Raises:
        InputError: the image cannot be used, the options contradict each other, or the memory does not suffice.
    """
    _check_options(clock, where, isolation, image)
    network = resolve_network(topology, seed)
    ranks = _ranks(network, workload.ranks_per_host)
    tensor = workload.largest_tensor_bytes(len(ranks))
    rank_bytes = RANK_MEMORY[isolation] + TENSORS_PER_RANK * tensor
    host_bytes = workload.ranks_per_host * rank_bytes
    base = GUEST_BASE_MEMORY + (DOCKER_MEMORY if isolation == "container" else 0)
    machine = machine_memory_bytes or machine_memory()
    _check_memory(len(network.hosts), host_bytes, base, machine)
    workers = plan.Workers(
        workload=workload.workload,
        settings=workload.settings(len(ranks)),
        ranks=ranks,
        isolation=isolation,
        image=None if image is None else str(image.resolve()),
        memory_bytes=host_memory_bytes or max(LEAST_HOST_MEMORY, host_bytes),
        cpus=host_cpus,
        timeout_s=timeout_s(network, tensor, len(ranks)),
        environment={"OMP_NUM_THREADS": "1"},
    )
    return Plan(
        network=network,
        workers=workers,
        clock=clock,
        where=where,
        capture=capture,
        seed=seed,
        guest_memory_bytes=base + len(network.hosts) * host_bytes,
    )


def _packets_per_skb(offload: str, mtu: int, wan: tuple[plan.WanLink, ...]) -> int:
    """64 KiB worth where no packet meets a fate of its own, else 1: impairments are per packet."""
    if offload == "auto":
        directions = [direction for link in wan for direction in link.directions]
        offload = "off" if any(_per_packet(direction) for direction in directions) else "on"
    return max(1, OFFLOAD_BYTES // mtu) if offload == "on" else 1


def _per_packet(direction: plan.Direction) -> bool:
    fibre = direction.fibre
    return bool(fibre.loss.p or fibre.loss.one_minus_k or fibre.jitter_ns or fibre.duplicate or fibre.corrupt)


def resolve_network(topology: Topology, seed: int = 0) -> plan.Network:
    """Nodes, addresses, routes and link parameters of `topology`."""
    sites, frame, links = topology.sites, topology.mtu + ETHERNET_BYTES, topology.links
    index = {name: number for number, name in enumerate(sites)}
    hosts = tuple(host for name, site in sites.items() for host in _hosts(index[name], name, site, frame, seed))
    wan = tuple(_wan_link(number, link, frame, seed) for number, link in enumerate(links))
    routes = shortest_routes(wan, list(sites), fewest_links=topology.routing == "hops")
    buffer = topology.tcp.buffer
    tcp = plan.Tcp(
        congestion_control=topology.tcp.congestion_control,
        buffer_bytes=buffer if isinstance(buffer, int) else LEAST_TCP_BUFFER,
        packets_per_skb=_packets_per_skb(topology.tcp.offload, topology.mtu, wan),
    )
    network = plan.Network(
        name=topology.name,
        mtu=topology.mtu,
        datacenters=tuple(_datacenter(index[name], name, site, hosts) for name, site in sites.items()),
        hosts=hosts,
        wan=wan,
        routes=routes,
        tcp=tcp,
    )
    if buffer == "auto":
        automatic = tcp.model_copy(update={"buffer_bytes": auto_tcp_buffer(network)})
        network = network.model_copy(update={"tcp": automatic})
    return network


def shortest_routes(wan: tuple[plan.WanLink, ...], names: list[str], *, fewest_links: bool) -> tuple[plan.Route, ...]:
    """The next hop from every datacenter to every other one along the path of least one-way delay.

    Paths of equal delay: the one of fewest links, then the next hop that is first in `names`. With `fewest_links`,
    the number of links counts first and the delay second.
    """
    longest = 1 + sum(way.fibre.delay_ns for link in wan for way in link.directions)
    graph: nx.DiGraph[str] = nx.DiGraph()
    for link in wan:
        for way, back in (link.directions, link.directions[::-1]):
            delay = way.fibre.delay_ns
            weight = delay + longest if fewest_links else delay * (len(names) + 1) + 1
            graph.add_edge(way.source, way.target, weight=weight, link=link.key, via=back.address.ip)
    routes = []
    for destination in names if wan else []:
        distance = nx.single_source_dijkstra_path_length(graph.reverse(copy=False), destination)
        for source in names:
            if source == destination:
                continue
            edges = graph[source]
            best = min((edges[hop]["weight"] + distance[hop], names.index(hop), hop) for hop in edges)
            edge = edges[best[2]]
            routes.append(plan.Route(dc=source, destination=destination, link=edge["link"], via=edge["via"]))
    return tuple(routes)


def auto_tcp_buffer(network: plan.Network) -> int:
    """Bytes: 4 x the largest product of RTT and least rate over all pairs of hosts, from 16 MiB to 1 GiB."""
    largest = 0
    first = {dc.name: network.host(dc.hosts[0]) for dc in network.datacenters}
    for a, b in product(first.values(), first.values()):
        rates = [a.nic_up.rate_bps, b.nic_down.rate_bps, *(w.bottleneck.rate_bps for w in network.path(a.dc, b.dc))]
        largest = max(largest, min(rates) * _rtt_ns(network, a, b))
    return min(MAX_TCP_BUFFER, max(LEAST_TCP_BUFFER, 4 * largest // (8 * 10**9)))


def timeout_s(network: plan.Network, tensor_bytes: int, ranks: int) -> int:
    """Seconds after which an operation counts as hung: generous for the slowest path of `network`.

    The largest of 60 s, 1000 RTTs, and 20 times an estimate of a ring all-reduce of `tensor_bytes`: twice the tensor
    through the slowest bottleneck, two RTTs per rank, and one RTT per 2 MiB, gloo's window.
    """
    first = [network.host(dc.hosts[0]) for dc in network.datacenters]
    rtt = max(_rtt_ns(network, a, b) for a, b in product(first, first)) / 1e9
    bottlenecks = [host.nic_up for host in network.hosts] + [w.bottleneck for k in network.wan for w in k.directions]
    slowest = min(bottleneck.rate_bps for bottleneck in bottlenecks)
    volume = 2 * tensor_bytes
    operation = volume * 8 / slowest + (2 * ranks + volume / GLOO_BYTES_PER_RTT) * rtt
    return int(max(LEAST_TIMEOUT_S, 1000 * rtt, 20 * operation))


def machine_memory() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def stable_seed(seed: int, name: str) -> int:
    """The seed, below 2^64, of the random element `name` in a run with `seed`."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big")


def queue_packets(queue: QueueLength, rate: int, rtt_ns: int, frame: int) -> int:
    """Frames of `frame` bytes that hold `queue`, rounded up, at least 1. `rate` in bit/s; `rtt_ns` is that of a bdp."""
    if queue.unit == "packets":
        size = queue.amount * frame
    elif queue.unit == "bytes":
        size = queue.amount
    else:
        time_ns = queue.amount * rtt_ns if queue.unit == "bdp" else queue.amount
        size = time_ns * rate / (8 * 10**9)
    return max(1, int((size / frame).to_integral_value(ROUND_CEILING)))


def _check_options(clock: Clock, where: Where, isolation: Isolation, image: Path | None) -> None:
    if where == "here" and clock == "virtual":
        raise InputError(
            "this kernel's clock cannot be virtual", place=Place("--clock"), remedy="use --clock real or --where guest"
        )
    if image is None:
        return
    place = Place("--image")
    if isolation != "container":
        raise InputError("an image needs containers", place=place, remedy="use --isolation container")
    try:
        if not tarfile.is_tarfile(image):
            raise InputError(
                f"{image} is not a tar file", place=place, remedy="make one with docker save --output image.tar NAME"
            )
    except OSError as error:
        raise InputError(f"the image {image} cannot be read: {error.strerror}", place=place) from error


def _check_memory(hosts: int, host_bytes: int, base: int, machine: int) -> None:
    needed = base + hosts * host_bytes
    if needed <= machine:
        return
    fit = max(0, machine - base) // host_bytes
    raise InputError(
        f"{hosts} hosts need {format_size(needed, 3)} of memory and this machine has {format_size(machine, 3)}",
        remedy=f"{fit} hosts would fit; --isolation process and smaller tensors need less",
    )


def _ranks(network: plan.Network, per_host: int) -> tuple[plan.Rank, ...]:
    places = [(host.name, local) for host in network.hosts for local in range(per_host)]
    return tuple(plan.Rank(rank=rank, local_rank=local, host=host) for rank, (host, local) in enumerate(places))


def _rtt_ns(network: plan.Network, a: plan.Host, b: plan.Host) -> int:
    """Between two hosts with the NICs of `a` and `b`, which may be the same."""
    fibres = [way.fibre.delay_ns for way in (*network.path(a.dc, b.dc), *network.path(b.dc, a.dc))]
    return a.nic_delay_ns + b.nic_delay_ns + sum(fibres)


def _mac(kind: int, major: int, minor: int) -> str:
    """A locally administered address. Kinds: 0 hosts, 1 routers on their subnet, 2 routers on WAN links."""
    return ":".join(f"{byte:02x}" for byte in (2, kind, *divmod(major, 256), *divmod(minor, 256)))


def _hosts(d: int, name: str, site: Datacenter, frame: int, seed: int) -> list[plan.Host]:
    nic = site.nic
    port = queue_packets(nic.queue or NIC_PORT_QUEUE, nic.rate, 0, frame)
    return [
        plan.Host(
            name=f"{name}-h{h}",
            node=f"d{d}h{h}",
            dc=name,
            address=IPv4Interface(f"10.{d}.{h // 250}.{h % 250 + 1}/16"),
            mac=_mac(0, d, h),
            nic_up=plan.Bottleneck(rate_bps=nic.rate, queue_packets=NIC_TRANSMIT_PACKETS),
            nic_down=plan.Bottleneck(rate_bps=nic.rate, queue_packets=port),
            nic_delay_ns=nic.delay,
            nic_seed=stable_seed(seed, f"{name}-h{h}"),
        )
        for h in range(site.hosts)
    ]


def _datacenter(d: int, name: str, site: Datacenter, hosts: tuple[plan.Host, ...]) -> plan.Datacenter:
    return plan.Datacenter(
        name=name,
        location=site.location,
        subnet=IPv4Network(f"10.{d}.0.0/16"),
        router=f"d{d}r",
        switch=f"d{d}s",
        gateway=IPv4Interface(f"10.{d}.255.254/16"),
        gateway_mac=_mac(1, d, 0),
        hosts=tuple(host.name for host in hosts if host.dc == name),
    )


def _wan_link(k: int, link: Link, frame: int, seed: int) -> plan.WanLink:
    rtt = link.forward.delay + link.backward.delay
    first = IPv4Address("172.16.0.0") + 4 * k
    forward, backward = (
        plan.Direction(
            source=way.source,
            target=way.target,
            address=IPv4Interface((first + 1 + end, 30)),
            mac=_mac(2, k, end),
            bottleneck=_bottleneck(way, rtt, frame),
            fibre=_fibre(way, seed),
        )
        for end, way in enumerate((link.forward, link.backward))
    )
    return plan.WanLink(key=link.key, index=k, forward=forward, backward=backward)


def _bottleneck(way: LinkDirection, rtt: int, frame: int) -> plan.Bottleneck:
    packets = queue_packets(way.queue or WAN_QUEUE, way.rate, rtt, frame)
    return plan.Bottleneck(
        rate_bps=way.rate,
        queue_packets=packets if way.queue else max(LEAST_WAN_PACKETS, packets),
    )


def _fibre(way: LinkDirection, seed: int) -> plan.Fibre:
    loss = (
        plan.Loss(p=way.loss)
        if not isinstance(way.loss, GilbertElliott)
        else plan.Loss(
            model="gilbert-elliott",
            p=way.loss.p,
            r=way.loss.r,
            one_minus_h=way.loss.loss_in_bad,
            one_minus_k=way.loss.loss_in_good,
        )
    )
    return plan.Fibre(
        delay_ns=way.delay,
        jitter_ns=way.jitter,
        distribution=way.distribution,
        reorder=way.reorder,
        loss=loss,
        duplicate=way.duplicate,
        corrupt=way.corrupt,
        seed=stable_seed(seed, way.name),
    )
