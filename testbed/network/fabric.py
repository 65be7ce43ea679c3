"""Leaf-spine fabrics: leaves are bridges that route, spines are routers, and cables have addresses
of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from testbed.network.netlink import neighbour, netlink, set_route, up, write_sysctls
from testbed.plan.model import Datacenter, Network


class Standing(Protocol):
    """A network whose nodes and links are there."""

    plan: Network

    def pid(self, node: str) -> int:
        """A process in the network namespace of `node`."""


def configure(network: Standing, dc: Datacenter, sysctls: Mapping[str, object]) -> None:
    """Give the leaves, spines and the border router of `dc` their addresses, neighbours and
    routes.
    """
    plan, fabric = network.plan, dc.fabric
    assert fabric is not None
    for segment in dc.segments:
        write_sysctls(network.pid(segment.switch), sysctls)
        with netlink(network.pid(segment.switch)) as connection:
            bridge = connection.link_lookup(ifname="br0")[0]
            connection.link("set", index=bridge, address=segment.gateway_mac)
            up(connection, "br0", plan, segment.gateway)
            for host in plan.hosts:
                if host.switch == segment.switch:
                    neighbour(connection, bridge, host.address, host.mac)
    for spine in fabric.spines:
        write_sysctls(network.pid(spine), sysctls)
    nodes = {segment.switch for segment in dc.segments} | {*fabric.spines, dc.router}
    for node in sorted(nodes):
        with netlink(network.pid(node)) as connection:
            for cable in fabric.cables:
                for mine, other in (cable.ends, cable.ends[::-1]):
                    if mine.node == node:
                        index = up(connection, mine.interface, plan, mine.address)
                        neighbour(connection, index, other.address, other.mac)
            for route in fabric.routes:
                if route.node == node:
                    set_route(connection, route.destination, route.via)
