"""The inside of a datacenter: one switch, or leaves and spines with their addresses, cables and
routes.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from testbed.plan.model import FabricCable, FabricEnd, FabricRoute, Segment
from testbed.plan.model import LeafSpine as Fabric
from testbed.plan.seeds import mac, port, stable_seed
from testbed.spec.topology import Datacenter, LeafSpine

CABLES = IPv4Address("100.64.0.0")
CABLE_ADDRESSES = 2**14  # of a datacenter: 63 x 64 + 64 cables have two each
EVERYTHING = IPv4Network("0.0.0.0/0")


def places(d: int, site: Datacenter) -> list[tuple[str, IPv4Interface]]:
    """The switch and the address of each host of datacenter `d`."""
    if not isinstance(site.fabric, LeafSpine):
        return [(f"d{d}s", _address(d, 0, h, 16)) for h in range(site.hosts)]
    found = []
    for h in range(site.hosts):
        leaf = h * site.fabric.leaves // site.hosts
        first = -(-leaf * site.hosts // site.fabric.leaves)
        found.append((f"d{d}l{leaf}", _address(d, 4 * leaf, h - first, 22)))
    return found


def _address(d: int, third: int, h: int, prefix: int) -> IPv4Interface:
    return IPv4Interface(f"10.{d}.{third + h // 250}.{h % 250 + 1}/{prefix}")


def segments(d: int, site: Datacenter) -> tuple[Segment, ...]:
    """The subnets of datacenter `d`: one, or one for each leaf."""
    if not isinstance(site.fabric, LeafSpine):
        return (
            Segment(
                switch=f"d{d}s",
                gateway=IPv4Interface(f"10.{d}.255.254/16"),
                gateway_mac=mac(1, d, 0),
            ),
        )
    return tuple(
        Segment(
            switch=f"d{d}l{leaf}",
            gateway=IPv4Interface(f"10.{d}.{4 * leaf + 3}.254/22"),
            gateway_mac=mac(1, d, leaf),
        )
        for leaf in range(site.fabric.leaves)
    )


def leaf_spine(d: int, name: str, site: Datacenter, frame: int, seed: int) -> Fabric | None:
    """The fabric of datacenter `d`; None for a single switch.

    With H hosts of rate R on L leaves, S spines and an oversubscription O, a cable between leaf and
    spine has ceil(H / L) R / (O S), and one between spine and border router L times that. `frame`
    in bytes.
    """
    fabric = site.fabric
    if not isinstance(fabric, LeafSpine):
        return None
    leaves = [segment.switch for segment in segments(d, site)]
    spines = [f"d{d}p{number}" for number in range(fabric.spines)]
    router = f"d{d}r"
    uplink = int(
        -(-site.hosts // fabric.leaves) * site.nic.rate / (fabric.oversubscription * fabric.spines)
    )
    pairs = [(leaf, spine, uplink) for leaf in leaves for spine in spines]
    pairs += [(spine, router, fabric.leaves * uplink) for spine in spines]
    cables = tuple(
        FabricCable(
            ends=(_end(d, number, 0, lower, upper), _end(d, number, 1, upper, lower)),
            port=port(rate, fabric.queue, frame),
            delay_ns=fabric.delay,
            seed=stable_seed(seed, f"{name}/{lower}-{upper}"),
        )
        for number, (lower, upper, rate) in enumerate(pairs)
    )
    return Fabric(
        spines=tuple(spines),
        cables=cables,
        routes=_routes(d, site, cables, router),
    )


def _end(d: int, number: int, side: int, node: str, other: str) -> FabricEnd:
    return FabricEnd(
        node=node,
        interface=f"{node}-{other[len(f'd{d}') :]}",
        address=IPv4Interface((CABLES + d * CABLE_ADDRESSES + 2 * number + side, 31)),
        mac=mac(3, d, 2 * number + side),
    )


def _routes(
    d: int, site: Datacenter, cables: tuple[FabricCable, ...], router: str
) -> tuple[FabricRoute, ...]:
    """Leaves send what is not theirs to any spine, spines to the right leaf or the router, the
    router to any spine.
    """
    up: dict[str, list[IPv4Address]] = {}
    down: dict[tuple[str, str], IPv4Address] = {}
    for cable in cables:
        lower, upper = cable.ends
        up.setdefault(lower.node, []).append(upper.address.ip)
        down[upper.node, lower.node] = lower.address.ip
    subnets = {segment.switch: segment.gateway.network for segment in segments(d, site)}
    spines = [lower for upper, lower in down if upper == router]
    routes = [
        FabricRoute(node=node, destination=EVERYTHING, via=tuple(via)) for node, via in up.items()
    ]
    for leaf, subnet in subnets.items():
        routes += [
            FabricRoute(node=spine, destination=subnet, via=(down[spine, leaf],))
            for spine in spines
        ]
        routes.append(
            FabricRoute(
                node=router, destination=subnet, via=tuple(down[router, spine] for spine in spines)
            )
        )
    return tuple(routes)
