"""Configure leaf-spine fabrics: leaves are bridges that route, spines are routers.

Cables have IP addresses at both ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from testbed.network.built import BuiltNetwork
from testbed.network.mininet_nodes import BRIDGE
from testbed.network.netns import write_sysctls
from testbed.network.ports import bring_up
from testbed.network.rtnetlink import netlink
from testbed.plan.model import Datacenter, FabricEnd, FabricRoute, Host, LeafSpine, Segment

Cables = list[tuple[FabricEnd, FabricEnd]]  # the near and the far end of each cable of a node


def configure(
    network: BuiltNetwork,
    dc: Datacenter,
    hosts_by_switch: Mapping[str, Sequence[Host]],
    sysctls: Mapping[str, object],
) -> None:
    """Set addresses, neighbours and routes of the leaves, spines and border router of `dc`.

    Args:
        network: the built network.
        dc: a datacenter with a fabric.
        hosts_by_switch: the hosts of each leaf.
        sysctls: sysctls of leaves and spines, with slashes in their names.
    """
    assert dc.fabric is not None
    spines = dc.fabric.spines
    leaves = [segment.switch for segment in dc.segments]

    for segment in dc.segments:
        leaf_hosts = hosts_by_switch.get(segment.switch, [])
        write_sysctls(network.pid(segment.switch), sysctls)
        _configure_bridge(network, segment, leaf_hosts)

    for spine in spines:
        write_sysctls(network.pid(spine), sysctls)

    cables = _cables_by_node(dc.fabric)
    routes = _routes_by_node(dc.fabric)
    for node in sorted([*leaves, *spines, dc.router]):
        node_cables = cables.get(node, [])
        node_routes = routes.get(node, [])
        _configure_cables(network, node, node_cables, node_routes)


def _configure_bridge(network: BuiltNetwork, leaf: Segment, hosts: Sequence[Host]) -> None:
    """Make a leaf's bridge the gateway of the leaf's hosts."""
    pid = network.pid(leaf.switch)
    with netlink(pid) as connection:
        bridge = connection.index_of(BRIDGE)
        connection.set_link(bridge, mac=leaf.gateway_mac)
        bring_up(connection, BRIDGE, network.plan, leaf.gateway)

        for host in hosts:
            connection.add_neighbour(bridge, host.address, host.mac)


def _configure_cables(
    network: BuiltNetwork, node: str, cables: Cables, routes: Sequence[FabricRoute]
) -> None:
    """Bring up the cables of `node` and set the node's routes over the cables."""
    plan = network.plan
    with netlink(network.pid(node)) as connection:
        for near_end, far_end in cables:
            index = bring_up(connection, near_end.interface, plan, near_end.address)
            connection.add_neighbour(index, far_end.address, far_end.mac)

        for route in routes:
            connection.set_route(route.destination, route.via)


def _cables_by_node(fabric: LeafSpine) -> dict[str, Cables]:
    cables: dict[str, Cables] = {}
    for cable in fabric.cables:
        lower, upper = cable.ends
        lower_cables = cables.setdefault(lower.node, [])
        lower_cables.append((lower, upper))

        upper_cables = cables.setdefault(upper.node, [])
        upper_cables.append((upper, lower))
    return cables


def _routes_by_node(fabric: LeafSpine) -> dict[str, list[FabricRoute]]:
    routes: dict[str, list[FabricRoute]] = {}
    for route in fabric.routes:
        node_routes = routes.setdefault(route.node, [])
        node_routes.append(route)
    return routes
