"""Resolve the nodes, addresses, routes and link parameters of a topology.

Datacenter d has 10.d.0.0/16: its host h is 10.d.(h // 250).(h % 250 + 1), its router 10.d.255.254.
With leaves, leaf l has 10.d.(4 l).0/22, and cables inside the datacenter have addresses from
100.64.0.0 + 16384 d. WAN link k has 172.16.0.0 + 4 k as a /30. Kernel objects are named by numbers:
host ``d0h1``, router ``d0r``, switch ``d0s``, leaf ``d0l0``, spine ``d0p0``. In its namespace a
host's interface is ``eth0``, as in most containers and virtual machines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from functools import partial
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from testbed.plan import fabric, model
from testbed.plan.events import resolve_changes
from testbed.plan.routing import best_routes
from testbed.plan.seeds import mac, port, queue_packets, stable_seed
from testbed.plan.tcp import LEAST_TCP_BUFFER, auto_tcp_buffer, packets_per_burst, resolve_tcp
from testbed.spec.topology import Cpu, Datacenter, Topology
from testbed.spec.wan import GilbertElliott, Link, LinkDirection, QueueLength

ETHERNET_BYTES = 14
PS_PER_S = 10**12
NIC_TRANSMIT_PACKETS = 1_000_000  # queue of the sender's NIC, which never drops
WAN_QUEUE = QueueLength(Decimal(1), "bdp")
WAN_ADDRESSES = IPv4Address("172.16.0.0")
LEAST_WAN_PACKETS = 64  # minimum default length of a WAN queue
ECMP_SEEDS = 2**32 - 1


def resolve_network(topology: Topology, seed: int = 0) -> model.Network:
    """Return the resolved network of `topology`, with random seeds derived from `seed`."""
    frame = topology.mtu + ETHERNET_BYTES
    links = topology.links
    sites = topology.sites

    wan = tuple(_wan_link(number, link, frame, seed) for number, link in enumerate(links))
    marking = any(_has_marks(link) for link in wan)
    packets = packets_per_burst(topology.tcp.offload, topology.mtu)

    tcp_of = partial(resolve_tcp, packet_bytes=topology.mtu, packets_per_skb=packets, ecn=marking)

    hosts: list[model.Host] = []
    datacenters: list[model.Datacenter] = []
    for dc_number, (name, site) in enumerate(sites.items()):
        own_hosts = list(_hosts(dc_number, name, site, frame, seed))
        hosts.extend(own_hosts)
        datacenters.append(_datacenter(dc_number, name, site, own_hosts, frame, seed))

    find_routes = partial(
        best_routes,
        names=list(sites),
        routing=topology.routing,
        multipath=topology.multipath,
        weights=_weights(links),
    )
    routes = find_routes(wan)

    link_numbers = {link.key: number for number, link in enumerate(links)}
    changes = resolve_changes(
        topology,
        tuple(hosts),
        wan,
        routes,
        find_routes,
        lambda link, at_ns: _wan_link(link_numbers[link.key], link, frame, seed, at_ns),
    )

    network = model.Network(
        name=topology.name,
        mtu=topology.mtu,
        datacenters=tuple(datacenters),
        hosts=tuple(hosts),
        wan=wan,
        routes=routes,
        ecmp=topology.ecmp,
        tcp=model.Tcp(buffer_bytes=LEAST_TCP_BUFFER),
        changes=changes,
    )

    # The size of automatic buffers follows from the rest of the network.
    return _with_tcp(network, topology, partial(tcp_of, auto_bytes=auto_tcp_buffer(network)))


def _with_tcp(
    network: model.Network, topology: Topology, tcp_of: Callable[..., model.Tcp]
) -> model.Network:
    """Return the network with the TCP settings of the topology and of single datacenters.

    Args:
        network: the network.
        topology: the topology.
        tcp_of: function from settings to the plan's settings.
    """
    sites = topology.sites
    hosts: list[model.Host] = []
    for host in network.hosts:
        settings = sites[host.dc].tcp
        own = None if settings is None else tcp_of(settings)
        hosts.append(host.model_copy(update={"tcp": own}))

    return network.model_copy(update={"tcp": tcp_of(topology.tcp), "hosts": tuple(hosts)})


def _has_marks(link: model.WanLink) -> bool:
    return any(direction.bottleneck.ecn for direction in link.directions)


def _weights(links: Iterable[Link]) -> dict[tuple[str, str], int]:
    """Return the routing weight of each link direction, by source and target."""
    weights: dict[tuple[str, str], int] = {}
    for link in links:
        forward = link.forward
        weights[forward.source, forward.target] = forward.weight

        backward = link.backward
        weights[backward.source, backward.target] = backward.weight
    return weights


def _hosts(
    dc_number: int, dc_name: str, site: Datacenter, frame: int, seed: int
) -> Iterator[model.Host]:
    """Yield the hosts of a datacenter; `frame` is the size of a full frame in bytes."""
    nic = site.nic
    for host_number, attachment in enumerate(fabric.attachments(dc_number, site)):
        name = f"{dc_name}-h{host_number}"
        yield model.Host(
            name=name,
            node=f"d{dc_number}h{host_number}",
            dc=dc_name,
            switch=attachment.switch,
            address=attachment.address,
            mac=mac(0, dc_number, host_number),
            nic_up=model.Bottleneck(rate_bps=nic.rate, queue_packets=NIC_TRANSMIT_PACKETS),
            nic_down=port(nic.receive_rate or nic.rate, nic.queue, frame),
            nic_delay_ns=nic.delay,
            nic_jitter_ns=nic.jitter,
            nic_seed=stable_seed(seed, name),
            flow_rate_bps=nic.flow_rate,
            cpu=_cpu(site.cpu),
        )


def _cpu(cpu: Cpu | None) -> model.CpuTime | None:
    if cpu is None:
        return None
    byte_ps = 0 if cpu.copy_rate is None else round(8 * PS_PER_S / cpu.copy_rate)
    return model.CpuTime(call_ns=cpu.call_time, byte_ps=byte_ps)


def _datacenter(
    dc_number: int,
    name: str,
    site: Datacenter,
    hosts: Sequence[model.Host],
    frame: int,
    seed: int,
) -> model.Datacenter:
    """Return a datacenter with these hosts; `frame` is the bytes of a full frame."""
    return model.Datacenter(
        name=name,
        location=site.location,
        subnet=IPv4Network(f"10.{dc_number}.0.0/16"),
        router=f"d{dc_number}r",
        hash_seed=1 + stable_seed(seed, f"{name}/ecmp") % ECMP_SEEDS,
        segments=fabric.segments(dc_number, site),
        fabric=fabric.leaf_spine(dc_number, name, site, frame, seed),
        hosts=tuple(host.name for host in hosts),
    )


def _wan_link(number: int, link: Link, frame: int, seed: int, at_ns: int = 0) -> model.WanLink:
    """Return WAN link `number` in its state from `at_ns` on; a changed link gets new seeds.

    Args:
        number: index of the link in the topology.
        link: the link in the topology.
        frame: bytes of a full frame.
        seed: seed of the run.
        at_ns: time of the change; 0: the initial state.
    """
    seed_suffix = f"@{at_ns}" if at_ns else ""
    rtt = link.forward.delay + link.backward.delay
    first_address = WAN_ADDRESSES + 4 * number + 1

    def resolve_direction(written: LinkDirection, end: int) -> model.Direction:
        fibre_seed = stable_seed(seed, written.name + seed_suffix)
        return model.Direction(
            source=written.source,
            target=written.target,
            address=IPv4Interface((first_address + end, 30)),
            mac=mac(2, number, end),
            bottleneck=_bottleneck(written, rtt, frame),
            fibre=_fibre(written, fibre_seed),
        )

    return model.WanLink(
        key=link.key,
        index=number,
        forward=resolve_direction(link.forward, 0),
        backward=resolve_direction(link.backward, 1),
        conduit=link.conduit,
    )


def _bottleneck(written: LinkDirection, rtt_ns: int, frame: int) -> model.Bottleneck:
    if written.queue is None:
        packets = queue_packets(WAN_QUEUE, written.rate, rtt_ns, frame)
        packets = max(LEAST_WAN_PACKETS, packets)
    else:
        packets = queue_packets(written.queue, written.rate, rtt_ns, frame)
    return model.Bottleneck(
        rate_bps=written.rate,
        queue_packets=packets,
        discipline=written.discipline,
        ecn=written.ecn,
    )


def _fibre(written: LinkDirection, seed: int) -> model.Fibre:
    return model.Fibre(
        delay_ns=written.delay,
        jitter_ns=written.jitter,
        distribution=written.distribution,
        reorder=written.reorder,
        loss=_loss(written.loss),
        duplicate=written.duplicate,
        corrupt=written.corrupt,
        seed=seed,
    )


def _loss(written: float | GilbertElliott) -> model.Loss:
    if not isinstance(written, GilbertElliott):
        return model.Loss(p=written)
    return model.Loss(
        model="gilbert-elliott",
        p=written.p,
        r=written.r,
        one_minus_h=written.loss_in_bad,
        one_minus_k=written.loss_in_good,
    )
