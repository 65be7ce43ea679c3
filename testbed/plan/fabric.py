"""Resolve the inside of a datacenter: one switch, or leaves and spines, with addresses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import NamedTuple

from testbed.plan.model import FabricCable, FabricEnd, FabricRoute, LeafSpine as Fabric, Segment
from testbed.plan.seeds import mac, port, stable_seed
from testbed.spec.topology import Datacenter, LeafSpine

CABLES = IPv4Address("100.64.0.0")
CABLE_ADDRESSES = 2**14  # per datacenter: 63 x 64 + 64 cables with two addresses each
EVERYTHING = IPv4Network("0.0.0.0/0")
HOSTS_PER_BLOCK = 250  # hosts whose addresses differ in the last octet only
LEAF_BLOCKS = 4  # number of such blocks in the subnet of a leaf


class Attachment(NamedTuple):
    """Attachment point of a host, and the host's address there."""

    switch: str
    address: IPv4Interface


def attachments(dc_number: int, site: Datacenter) -> list[Attachment]:
    """Return the attachments of all hosts of a datacenter, in the order of the hosts.

    Args:
        dc_number: index of the datacenter in the topology.
        site: the datacenter in the topology.
    """
    if not isinstance(site.fabric, LeafSpine):
        return _switch_attachments(dc_number, site.hosts)

    leaves = site.fabric.leaves
    leaf_attachments: list[Attachment] = []
    for host_number in range(site.hosts):
        leaf = host_number * leaves // site.hosts
        first_of_leaf = -(-leaf * site.hosts // leaves)
        number_on_leaf = host_number - first_of_leaf
        address = _address(dc_number, LEAF_BLOCKS * leaf, number_on_leaf, 22)
        leaf_attachments.append(Attachment(f"d{dc_number}l{leaf}", address))
    return leaf_attachments


def _switch_attachments(dc_number: int, hosts: int) -> list[Attachment]:
    """Return the attachments of all hosts of a datacenter with a single switch."""
    switch = f"d{dc_number}s"
    switch_attachments: list[Attachment] = []
    for host_number in range(hosts):
        address = _address(dc_number, 0, host_number, 16)
        switch_attachments.append(Attachment(switch, address))
    return switch_attachments


def _address(dc_number: int, first_block: int, host_number: int, prefix: int) -> IPv4Interface:
    block, place = divmod(host_number, HOSTS_PER_BLOCK)
    third = first_block + block
    fourth = 1 + place
    return IPv4Interface(f"10.{dc_number}.{third}.{fourth}/{prefix}")


def segments(dc_number: int, site: Datacenter) -> tuple[Segment, ...]:
    """Return the subnets of a datacenter: one, or one per leaf.

    Args:
        dc_number: number of the datacenter, the second number of its addresses.
        site: the datacenter.
    """
    if not isinstance(site.fabric, LeafSpine):
        segment = Segment(
            switch=f"d{dc_number}s",
            gateway=IPv4Interface(f"10.{dc_number}.255.254/16"),
            gateway_mac=mac(1, dc_number, 0),
        )
        return (segment,)
    return tuple(_leaf_segment(dc_number, leaf) for leaf in range(site.fabric.leaves))


def _leaf_segment(dc_number: int, leaf: int) -> Segment:
    last_block = LEAF_BLOCKS * leaf + LEAF_BLOCKS - 1
    return Segment(
        switch=f"d{dc_number}l{leaf}",
        gateway=IPv4Interface(f"10.{dc_number}.{last_block}.254/22"),
        gateway_mac=mac(1, dc_number, leaf),
    )


def leaf_spine(dc_number: int, name: str, site: Datacenter, frame: int, seed: int) -> Fabric | None:
    """Return the fabric of a datacenter; None for a single switch.

    With H hosts of rate R on L leaves, S spines and an oversubscription O, a cable between leaf and
    spine has rate ceil(H / L) R / (O S), and a cable between spine and border router has L times
    that rate.

    Args:
        dc_number: index of the datacenter in the topology.
        name: name of the datacenter, from which seeds are derived.
        site: the datacenter in the topology.
        frame: bytes of a full frame.
        seed: seed of the run.
    """
    fabric = site.fabric
    if not isinstance(fabric, LeafSpine):
        return None

    leaves = [segment.switch for segment in segments(dc_number, site)]
    spines = [f"d{dc_number}p{number}" for number in range(fabric.spines)]
    router = f"d{dc_number}r"
    uplink_bps = _uplink_bps(site, fabric)

    cables: list[FabricCable] = []

    def add_cable(lower: str, upper: str, rate_bps: int) -> None:
        number = len(cables)
        cable = FabricCable(
            ends=(
                _end(dc_number, number, 0, node=lower, far_node=upper),
                _end(dc_number, number, 1, node=upper, far_node=lower),
            ),
            port=port(rate_bps, fabric.queue, frame),
            delay_ns=fabric.delay,
            seed=stable_seed(seed, f"{name}/{lower}-{upper}"),
        )
        cables.append(cable)

    for leaf in leaves:
        for spine in spines:
            add_cable(leaf, spine, uplink_bps)
    for spine in spines:
        add_cable(spine, router, fabric.leaves * uplink_bps)

    routes = tuple(_routes(segments(dc_number, site), spines, cables, router))
    return Fabric(spines=tuple(spines), cables=tuple(cables), routes=routes)


def _uplink_bps(site: Datacenter, fabric: LeafSpine) -> int:
    """Return the rate in bit/s of a cable between a leaf and a spine."""
    hosts_per_leaf = -(-site.hosts // fabric.leaves)
    downlinks_bps = hosts_per_leaf * site.nic.rate
    return max(1, int(downlinks_bps / (fabric.oversubscription * fabric.spines)))


def _end(dc_number: int, cable_number: int, side: int, *, node: str, far_node: str) -> FabricEnd:
    """Return end `side` (0 or 1) of a cable; the names of both nodes form the interface's name."""
    number = 2 * cable_number + side
    far_suffix = far_node.removeprefix(f"d{dc_number}")
    address = CABLES + dc_number * CABLE_ADDRESSES + number
    return FabricEnd(
        node=node,
        interface=f"{node}-{far_suffix}",
        address=IPv4Interface((address, 31)),
        mac=mac(3, dc_number, number),
    )


def _routes(
    leaf_segments: Sequence[Segment],
    spines: Sequence[str],
    cables: Sequence[FabricCable],
    router: str,
) -> Iterator[FabricRoute]:
    """Yield the routes inside a leaf-spine fabric.

    Leaves send packets for other subnets to any spine, spines send to the destination's leaf or to
    the border router, and the router sends to any spine.
    """
    upwards: dict[str, list[IPv4Address]] = {}
    downwards: dict[tuple[str, str], IPv4Address] = {}

    for cable in cables:
        lower, upper = cable.ends
        upwards.setdefault(lower.node, []).append(upper.address.ip)
        downwards[upper.node, lower.node] = lower.address.ip

    for node, via in upwards.items():
        yield FabricRoute(
            node=node,
            destination=EVERYTHING,
            via=tuple(via),
        )
    for segment in leaf_segments:
        yield from _routes_down(segment, spines, downwards, router)


def _routes_down(
    segment: Segment,
    spines: Sequence[str],
    downwards: Mapping[tuple[str, str], IPv4Address],
    router: str,
) -> Iterator[FabricRoute]:
    """Yield the routes of all spines, then of the border router, to the hosts of a leaf."""
    subnet = segment.gateway.network
    for spine in spines:
        leaf_address = downwards[spine, segment.switch]
        yield FabricRoute(
            node=spine,
            destination=subnet,
            via=(leaf_address,),
        )

    spine_addresses = [downwards[router, spine] for spine in spines]
    yield FabricRoute(
        node=router,
        destination=subnet,
        via=tuple(spine_addresses),
    )
