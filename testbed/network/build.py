"""Build the network of a plan: Mininet makes nodes and links, netlink configures and shapes them.

Mininet's prompt and `node.cmd` work. Of Mininet are not used: its shaped links (unshaped above 1
Gbit/s), its changes of the machine's sysctls, and its machine-wide cleanup.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from mininet.log import setLogLevel
from mininet.net import Mininet
from pyroute2 import NetlinkError

from testbed.core.errors import RunError
from testbed.network import qdiscs
from testbed.network.built import BuiltNetwork
from testbed.network.configure import configure
from testbed.network.mininet_nodes import Bridge, Interface, QuietNode, VethLink
from testbed.network.netlink import netlink, write_sysctls
from testbed.plan.model import Datacenter, FabricCable, Host, Network, WanLink

__all__ = ["BuiltNetwork", "build_network"]

# A kernel thread tells interfaces that their carrier is there, at most a second later; what they
# are to send before goes nowhere, and nothing counts it.
LINKWATCH_S = 1.0
# IPv6 would send packets that no plan knows of.
NODE_SYSCTLS: dict[str, object] = {"net/ipv6/conf/all/disable_ipv6": 1}


@contextmanager
def build_network(
    plan: Network, namespaces: Mapping[str, int] | None = None
) -> Iterator[BuiltNetwork]:
    """Build `plan`, shape it and read every qdisc back; remove all of it at the end.

    Args:
        plan: what to build.
        namespaces: for hosts whose network namespace exists already, a process in it.

    Raises:
        RunError: something could not be made, or the kernel keeps another value than was asked for.
    """
    setLogLevel("error")
    Mininet.inited = True  # Mininet.init() would change sysctls of the machine
    net = Mininet(controller=None, link=VethLink, intf=Interface, build=False)
    try:
        _add_nodes(net, plan, namespaces or {})
        for node in [*net.switches, *net.hosts]:
            write_sysctls(node.pid, NODE_SYSCTLS)
        network = BuiltNetwork(plan, net)
        _add_links(net, plan)
        for switch in net.switches:
            switch.start([])
        net.built = True
        configure(network)
        time.sleep(LINKWATCH_S)
        yield network
    except OSError as error:
        raise RunError(f"cannot build the network: {error}") from error
    finally:
        _remove(net)


def _remove(net: Mininet) -> None:
    """Remove links, then nodes.

    The network namespace of a container outlives its node, and other namespaces go later than their
    last process: links would outlive them. A container of the user's image ends with its ranks;
    then the kernel removes the link, sooner or later.
    """
    for link in net.links:
        with netlink(link.intf2.node.pid) as connection, suppress(NetlinkError):
            connection.link("del", ifname=link.intf2.name)
    for node in [*net.switches, *net.hosts]:
        node.terminate()


def _add_nodes(net: Mininet, plan: Network, namespaces: Mapping[str, int]) -> None:
    """Add all nodes; `namespaces` are processes in the namespaces of hosts, by name of the host."""
    for dc in plan.datacenters:
        net.addHost(dc.router, cls=QuietNode, ip=None)
        for segment in dc.segments:
            net.addSwitch(segment.switch, cls=Bridge, inNamespace=True, dpid="1")
        if dc.fabric is not None:
            for spine in dc.fabric.spines:
                net.addHost(spine, cls=QuietNode, ip=None)

    for host in plan.hosts:
        netns_pid = namespaces.get(host.name)
        net.addHost(host.node, cls=QuietNode, ip=None, netns_pid=netns_pid)

    if plan.wan:
        net.addHost(qdiscs.OUTSIDE_PLANT, cls=QuietNode, ip=None)


def _add_links(net: Mininet, plan: Network) -> None:
    for dc in plan.datacenters:
        if dc.fabric is None:
            _link_router_to_switch(net, dc)
    for host in plan.hosts:
        _link_host_to_switch(net, host)
    for cable in plan.all_fabric_cables():
        _link_ends_of_cable(net, cable)
    for link in plan.wan:
        _link_routers_to_outside_plant(net, plan, link)


def _link_router_to_switch(net: Mininet, dc: Datacenter) -> None:
    (segment,) = dc.segments
    net.addLink(
        dc.router,
        segment.switch,
        intfName1=qdiscs.lan_interface(dc.router),
        intfName2=qdiscs.uplink_interface(segment.switch),
        addr1=segment.gateway_mac,
    )


def _link_host_to_switch(net: Mininet, host: Host) -> None:
    net.addLink(
        host.node,
        host.switch,
        intfName1=qdiscs.host_interface(host),
        intfName2=qdiscs.switch_interface(host),
        addr1=host.mac,
    )


def _link_ends_of_cable(net: Mininet, cable: FabricCable) -> None:
    lower, upper = cable.ends
    net.addLink(
        lower.node,
        upper.node,
        intfName1=lower.interface,
        intfName2=upper.interface,
        addr1=lower.mac,
        addr2=upper.mac,
    )


def _link_routers_to_outside_plant(net: Mininet, plan: Network, link: WanLink) -> None:
    for direction, end in ((link.forward, "a"), (link.backward, "b")):
        router = plan.router(direction.source)
        net.addLink(
            router,
            qdiscs.OUTSIDE_PLANT,
            intfName1=qdiscs.wan_interface(router, link.index),
            intfName2=qdiscs.plant_interface(link.index, end),
            addr1=direction.mac,
        )
