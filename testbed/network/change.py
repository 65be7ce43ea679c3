"""Change the links of a network that stands. The packets on them stay on their way, as they were sent."""

from __future__ import annotations

from dataclasses import replace

from testbed.network import shape
from testbed.network.build import BuiltNetwork
from testbed.network.managed import Managed
from testbed.network.netlink import netlink
from testbed.network.shape import Netem
from testbed.plan import Network

# netem keeps a table of the jitter's distribution for good: this one is what it does without, in its units of
# spread / 8192.
UNIFORM = tuple(range(-8192, 8192, 16))


def change_network(network: BuiltNetwork, wanted: Network) -> None:
    """Give every shaped port of `network` the parameters of `wanted`, which has the same nodes and links.

    A shorter delay lets later packets overtake those on their way.

    Raises:
        RunError: the kernel keeps another value than was asked for; ports before that one are changed.
    """
    before = {(port.node, port.interface): port for port in shape.ports(network.plan)}
    for port in shape.ports(wanted):
        old = before[port.node, port.interface]
        if port == old:
            continue
        with netlink(network.pid(port.node)) as connection:
            shape.apply(connection, replace(port, qdisc=_over(old.qdisc, port.qdisc)))
            shape.read_back(connection, port)
    if wanted.tcp.packets_per_skb != network.plan.tcp.packets_per_skb:
        _set_offload(network, wanted.tcp.packets_per_skb)
    network.plan = wanted


def _over(old: Netem | Managed, new: Netem | Managed) -> Netem | Managed:
    """What has to be sent so that `old` becomes `new`."""
    if isinstance(old, Netem) and isinstance(new, Netem) and old.distribution and new.jitter and not new.distribution:
        return replace(new, distribution=UNIFORM)
    return new


def _set_offload(network: BuiltNetwork, packets: int) -> None:
    """On hosts and border routers; what a socket still hands over as one is then taken apart behind its NIC's queue."""
    plan = network.plan
    for node in [*(host.node for host in plan.hosts), *(dc.router for dc in plan.datacenters)]:
        with netlink(network.pid(node)) as connection:
            for name in network.mininet[node].nameToIntf:
                index = connection.link_lookup(ifname=name)[0]
                connection.link("set", index=index, gso_max_segs=packets)
