"""Build the network of a plan: Mininet makes nodes and links, netlink configures and shapes them.

Mininet's prompt and `node.cmd` work. The testbed does not use Mininet's shaped links (unshaped
above 1 Gbit/s), its changes to the machine's sysctls, or its machine-wide cleanup.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from mininet.log import setLogLevel
from mininet.net import Mininet

from testbed.core.errors import RunError
from testbed.network import qdiscs
from testbed.network.built import BuiltNetwork
from testbed.network.configure import configure
from testbed.network.mininet_nodes import Bridge, Interface, QuietNode, VethLink
from testbed.network.netns import write_sysctls
from testbed.network.rtnetlink import netlink
from testbed.plan.model import (
    HOST_INTERFACE,
    Datacenter,
    FabricCable,
    GuestSite,
    Host,
    Network,
    WanLink,
    site_device,
)

__all__ = ["BuiltNetwork", "build_network"]

# A kernel thread reports the carrier of new interfaces up to a second late; the kernel discards
# earlier packets without counting them.
LINKWATCH_S = 1.0
# IPv6 would send packets that the plan does not contain.
NODE_SYSCTLS: dict[str, object] = {"net/ipv6/conf/all/disable_ipv6": 1}
# A switch does not look into packets; each look would cost CPU time.
SWITCH_SYSCTLS: dict[str, object] = {
    "net/bridge/bridge-nf-call-iptables": 0,
    "net/bridge/bridge-nf-call-ip6tables": 0,
    "net/bridge/bridge-nf-call-arptables": 0,
}


@contextmanager
def build_network(
    plan: Network, namespaces: Mapping[str, int] | None = None
) -> Iterator[BuiltNetwork]:
    """Build and shape the network of `plan`, check every qdisc, and remove all after the block.

    Args:
        plan: the network to build.
        namespaces: for hosts that already have a network namespace, a process in that namespace.

    Raises:
        RunError: a node, link or qdisc cannot be made, or the kernel keeps a different value.
    """
    setLogLevel("error")
    Mininet.inited = True  # Mininet.init() would change the machine's sysctls
    net = Mininet(controller=None, link=VethLink, intf=Interface, build=False)
    try:
        _add_nodes(net, plan, namespaces or {})
        for node in [*net.switches, *net.hosts]:
            write_sysctls(node.pid, NODE_SYSCTLS)
        for switch in net.switches:
            write_sysctls(switch.pid, SWITCH_SYSCTLS)
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

    A container's network namespace outlives its node, and the kernel removes other namespaces only
    some time after their last process ends, so links would outlive their nodes. A container of the
    user's image ends with its ranks; the kernel then removes the link some time later.
    """
    for link in net.links:
        with suppress(OSError, RunError), netlink(link.intf2.node.pid) as connection:
            connection.remove_link(link.intf2.name)
    for node in [*net.switches, *net.hosts]:
        node.terminate()


def _add_nodes(net: Mininet, plan: Network, namespaces: Mapping[str, int]) -> None:
    """Add all nodes; `namespaces` maps a host's name to a process in the host's namespace."""
    for dc in plan.datacenters_here:
        net.addHost(dc.router, cls=QuietNode, ip=None)
        for segment in dc.segments:
            net.addSwitch(segment.switch, cls=Bridge, inNamespace=True, dpid="1")
        if dc.fabric is not None:
            for spine in dc.fabric.spines:
                net.addHost(spine, cls=QuietNode, ip=None)

    for host in plan.hosts_here:
        netns_pid = namespaces.get(host.name)
        net.addHost(host.node, cls=QuietNode, ip=None, netns_pid=netns_pid)

    if plan.wan:
        net.addHost(qdiscs.OUTSIDE_PLANT, cls=QuietNode, ip=None)


def _add_links(net: Mininet, plan: Network) -> None:
    for dc in plan.datacenters_here:
        if dc.fabric is None:
            _link_router_to_switch(net, dc)
    for host in plan.hosts_here:
        _link_host_to_switch(net, host)
    for dc in plan.datacenters_here:
        if dc.fabric is not None:
            for cable in dc.fabric.cables:
                _link_ends_of_cable(net, cable)
    for link in plan.wan_here:
        _link_routers_to_outside_plant(net, plan, link)
    if plan.site is not None:
        _link_outside_plant_to_guests(net, plan, plan.site)


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
        intfName1=HOST_INTERFACE,
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
        if not plan.is_here(direction.source):
            continue
        router = plan.router(direction.source)
        net.addLink(
            router,
            qdiscs.OUTSIDE_PLANT,
            intfName1=qdiscs.wan_interface(router, link.index),
            intfName2=qdiscs.plant_interface(link.index, end),
            addr1=direction.mac,
        )


def _link_outside_plant_to_guests(net: Mininet, plan: Network, site: GuestSite) -> None:
    """Make the kernel's devices for the far ends of WAN links interfaces of the outside plant."""
    links = {link.key: link for link in plan.wan}
    plant = net[qdiscs.OUTSIDE_PLANT]
    with netlink(os.getpid()) as connection:
        for crossing in site.crossings:
            far_end = "b" if crossing.ends[0] == site.number else "a"
            name = qdiscs.plant_interface(links[crossing.link].index, far_end)
            index = connection.index_of(site_device(crossing.device))
            connection.move_link(index, name, plant.pid)
