"""Nodes, addresses, routes and link parameters of a topology.

Datacenter d has 10.d.0.0/16: its host h is 10.d.(h // 250).(h % 250 + 1), its router 10.d.255.254.
With leaves, leaf l has 10.d.(4 l).0/22, and cables inside the datacenter have addresses from
100.64.0.0 + 16384 d. WAN link k has 172.16.0.0 + 4 k as a /30. Kernel objects are named by numbers:
host ``d0h1``, router ``d0r``, switch ``d0s``, leaf ``d0l0``, spine ``d0p0``.
"""

from __future__ import annotations

from decimal import Decimal
from functools import partial
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from itertools import product

from testbed.plan import fabric, model
from testbed.plan.events import resolve_changes
from testbed.plan.routing import best_routes
from testbed.plan.seeds import mac, port, queue_packets, stable_seed
from testbed.spec.topology import MAX_TCP_BUFFER, Datacenter, Topology
from testbed.spec.wan import GilbertElliott, Link, LinkDirection, QueueLength

ETHERNET_BYTES = 14
NIC_TRANSMIT_PACKETS = 1_000_000  # of the sender's own NIC, which never drops
WAN_QUEUE = QueueLength(Decimal(1), "bdp")
LEAST_WAN_PACKETS = 64  # of a WAN queue that was not written
OFFLOAD_BYTES = 64 * 1024  # what a host with segmentation offload hands over at once
LEAST_QUEUED = 16  # of these, with offload, a WAN queue holds
LEAST_TCP_BUFFER = 16 * 2**20


def resolve_network(topology: Topology, seed: int = 0) -> model.Network:
    """Nodes, addresses, routes and link parameters of `topology`."""
    sites, frame, links = topology.sites, topology.mtu + ETHERNET_BYTES, topology.links
    index = {name: number for number, name in enumerate(sites)}
    hosts = tuple(
        host
        for name, site in sites.items()
        for host in _hosts(index[name], name, site, frame, seed)
    )
    wan = tuple(_wan_link(number, link, frame, seed) for number, link in enumerate(links))
    weights = {
        (way.source, way.target): way.weight
        for link in links
        for way in (link.forward, link.backward)
    }
    route = partial(
        best_routes,
        names=list(sites),
        routing=topology.routing,
        multipath=topology.multipath,
        weights=weights,
    )
    routes = route(wan)
    numbers = {link.key: number for number, link in enumerate(links)}
    changes = resolve_changes(
        topology,
        hosts,
        wan,
        routes,
        route,
        lambda link, time: _wan_link(numbers[link.key], link, frame, seed, time),
    )
    buffer = topology.tcp.buffer
    tcp = model.Tcp(
        congestion_control=topology.tcp.congestion_control,
        ecn=topology.tcp.congestion_control == "dctcp"
        or any(way.bottleneck.ecn for link in wan for way in link.directions),
        buffer_bytes=buffer if isinstance(buffer, int) else LEAST_TCP_BUFFER,
        slow_start_after_idle=topology.tcp.slow_start_after_idle,
        packets_per_skb=_packets_per_skb(topology.tcp.offload, topology.mtu, wan, changes),
    )
    network = model.Network(
        name=topology.name,
        mtu=topology.mtu,
        datacenters=tuple(
            _datacenter(index[name], name, site, hosts, frame, seed) for name, site in sites.items()
        ),
        hosts=hosts,
        wan=wan,
        routes=routes,
        ecmp=topology.ecmp,
        tcp=tcp,
        changes=changes,
    )
    if buffer == "auto":
        automatic = tcp.model_copy(update={"buffer_bytes": auto_tcp_buffer(network)})
        network = network.model_copy(update={"tcp": automatic})
    return network


def _packets_per_skb(
    offload: str, mtu: int, wan: tuple[model.WanLink, ...], changes: tuple[model.Change, ...]
) -> int:
    """64 KiB worth where no packet ever meets a fate of its own, else 1: impairments are per
    packet.

    So are drops, and transfers beside the job fill queues. It is less than 64 KiB where a WAN queue
    is so short that it would hold but a few of them: it counts each as if it were full.
    """
    links = (*wan, *(link for change in changes for link in change.links))
    directions = [direction for link in links for direction in link.directions]
    singly = any(change.transfers for change in changes) or any(
        _per_packet(direction) for direction in directions
    )
    if offload == "off" or (offload == "auto" and singly):
        return 1
    most = OFFLOAD_BYTES // mtu
    if offload == "auto":
        most = min(
            [
                most,
                *(direction.bottleneck.queue_packets // LEAST_QUEUED for direction in directions),
            ]
        )
    return max(1, most)


def _per_packet(direction: model.Direction) -> bool:
    fibre = direction.fibre
    managed = direction.bottleneck.discipline != "drop-tail"
    lossy = fibre.loss.p or fibre.loss.one_minus_k
    return bool(managed or lossy or fibre.jitter_ns or fibre.duplicate or fibre.corrupt)


def auto_tcp_buffer(network: model.Network) -> int:
    """Bytes: 4 x the largest product of RTT and least rate over all pairs of hosts, from 16 MiB to
    1 GiB.

    Where links change, of their largest rates and delays.
    """
    largest = 0
    first = {dc.name: network.host(dc.hosts[0]) for dc in network.datacenters}
    for state in network.extremes(rate=max, delay=max):
        for a, b in product(first.values(), first.values()):
            rates = [
                a.nic_up.rate_bps,
                b.nic_down.rate_bps,
                *(w.bottleneck.rate_bps for w in state.path(a.dc, b.dc)),
            ]
            largest = max(largest, min(rates) * rtt_ns(state, a, b))
    return min(MAX_TCP_BUFFER, max(LEAST_TCP_BUFFER, 4 * largest // (8 * 10**9)))


def rtt_ns(network: model.Network, a: model.Host, b: model.Host) -> int:
    """Between two hosts with the NICs of `a` and `b`, which may be the same."""
    fibres = [way.fibre.delay_ns for way in (*network.path(a.dc, b.dc), *network.path(b.dc, a.dc))]
    cables = 2 * sum(cable.delay_ns for cable in network.fabric_cables(a.name, b.name))
    return a.nic_delay_ns + b.nic_delay_ns + cables + sum(fibres)


def _hosts(d: int, name: str, site: Datacenter, frame: int, seed: int) -> list[model.Host]:
    nic = site.nic
    return [
        model.Host(
            name=f"{name}-h{h}",
            node=f"d{d}h{h}",
            dc=name,
            switch=switch,
            address=address,
            mac=mac(0, d, h),
            nic_up=model.Bottleneck(rate_bps=nic.rate, queue_packets=NIC_TRANSMIT_PACKETS),
            nic_down=port(nic.receive_rate or nic.rate, nic.queue, frame),
            nic_delay_ns=nic.delay,
            nic_seed=stable_seed(seed, f"{name}-h{h}"),
        )
        for h, (switch, address) in enumerate(fabric.places(d, site))
    ]


def _datacenter(
    d: int, name: str, site: Datacenter, hosts: tuple[model.Host, ...], frame: int, seed: int
) -> model.Datacenter:
    return model.Datacenter(
        name=name,
        location=site.location,
        subnet=IPv4Network(f"10.{d}.0.0/16"),
        router=f"d{d}r",
        hash_seed=1 + stable_seed(seed, f"{name}/ecmp") % (2**32 - 1),
        segments=fabric.segments(d, site),
        fabric=fabric.leaf_spine(d, name, site, frame, seed),
        hosts=tuple(host.name for host in hosts if host.dc == name),
    )


def _wan_link(k: int, link: Link, frame: int, seed: int, time_ns: int = 0) -> model.WanLink:
    """Link number `k`; one that is changed at `time_ns` gets seeds of its own then."""
    change = f"@{time_ns}" if time_ns else ""
    rtt = link.forward.delay + link.backward.delay
    first = IPv4Address("172.16.0.0") + 4 * k
    forward, backward = (
        model.Direction(
            source=way.source,
            target=way.target,
            address=IPv4Interface((first + 1 + end, 30)),
            mac=mac(2, k, end),
            bottleneck=_bottleneck(way, rtt, frame),
            fibre=_fibre(way, stable_seed(seed, way.name + change)),
        )
        for end, way in enumerate((link.forward, link.backward))
    )
    return model.WanLink(
        key=link.key, index=k, forward=forward, backward=backward, conduit=link.conduit
    )


def _bottleneck(way: LinkDirection, rtt: int, frame: int) -> model.Bottleneck:
    packets = queue_packets(way.queue or WAN_QUEUE, way.rate, rtt, frame)
    return model.Bottleneck(
        rate_bps=way.rate,
        queue_packets=packets if way.queue else max(LEAST_WAN_PACKETS, packets),
        discipline=way.discipline,
        ecn=way.ecn,
    )


def _fibre(way: LinkDirection, seed: int) -> model.Fibre:
    loss = (
        model.Loss(p=way.loss)
        if not isinstance(way.loss, GilbertElliott)
        else model.Loss(
            model="gilbert-elliott",
            p=way.loss.p,
            r=way.loss.r,
            one_minus_h=way.loss.loss_in_bad,
            one_minus_k=way.loss.loss_in_good,
        )
    )
    return model.Fibre(
        delay_ns=way.delay,
        jitter_ns=way.jitter,
        distribution=way.distribution,
        reorder=way.reorder,
        loss=loss,
        duplicate=way.duplicate,
        corrupt=way.corrupt,
        seed=seed,
    )
