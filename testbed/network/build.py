"""Build the network of a plan: Mininet makes nodes and links, netlink gives them addresses, routes
and shape.

Mininet's prompt and `node.cmd` work. Of Mininet are not used: its shaped links (unshaped above 1
Gbit/s), its changes of the machine's sysctls, and its machine-wide cleanup.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from mininet.log import setLogLevel
from mininet.net import Mininet
from pyroute2 import IPRoute, NetlinkError

from testbed.core.errors import RunError
from testbed.network import fabric, qdiscs
from testbed.network.mininet_nodes import Bridge, Interface, QuietNode, VethLink
from testbed.network.netlink import neighbour, netlink, set_route, up, write_sysctls
from testbed.plan.model import Datacenter, Host, Network, WanLink

TCP_MIN_DEFAULT = (
    "4096 131072"  # bytes: the first two fields of tcp_rmem and tcp_wmem; Linux's own defaults
)
# A kernel thread tells interfaces that their carrier is there, at most a second later; what they
# are to send before goes nowhere, and nothing counts it.
LINKWATCH_S = 1.0


class BuiltNetwork:
    """A network that stands. Nodes are found by their short names; `pid(node)` leads to its
    namespace.
    """

    def __init__(self, plan: Network, mininet: Mininet) -> None:
        self.plan = plan
        self.mininet = mininet

    def pid(self, node: str) -> int:
        """A process in the network namespace of `node`."""
        return int(self.mininet[node].pid)


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
            write_sysctls(
                node.pid, {"net/ipv6/conf/all/disable_ipv6": 1}
            )  # it would send packets of its own
        network = BuiltNetwork(plan, net)
        _add_links(net, plan)
        for switch in net.switches:
            switch.start([])
        net.built = True
        _configure(network)
        time.sleep(LINKWATCH_S)
        yield network
    except OSError as error:
        raise RunError(f"building the network failed: {error}") from error
    finally:
        _remove(net)


def _remove(net: Mininet) -> None:
    """Links first: namespaces of containers outlive their node, and the others go later than their
    last process.

    A container of the user's image ends with its ranks; then the kernel removes the link, at a time
    of its own.
    """
    for link in net.links:
        with netlink(link.intf2.node.pid) as connection, suppress(NetlinkError):
            connection.link("del", ifname=link.intf2.name)
    for node in [*net.switches, *net.hosts]:
        node.terminate()


def _add_nodes(net: Mininet, plan: Network, namespaces: Mapping[str, int]) -> None:
    for dc in plan.datacenters:
        net.addHost(dc.router, cls=QuietNode, ip=None)
        for segment in dc.segments:
            net.addSwitch(segment.switch, cls=Bridge, inNamespace=True, dpid="1")
        for spine in dc.fabric.spines if dc.fabric else ():
            net.addHost(spine, cls=QuietNode, ip=None)
    for host in plan.hosts:
        net.addHost(host.node, cls=QuietNode, ip=None, netns_pid=namespaces.get(host.name))
    if plan.wan:
        net.addHost("wan", cls=QuietNode, ip=None)


def _add_links(net: Mininet, plan: Network) -> None:
    for dc in plan.datacenters:
        if dc.fabric is None:
            (segment,) = dc.segments
            net.addLink(
                dc.router,
                segment.switch,
                intfName1=qdiscs.lan_interface(dc.router),
                intfName2=f"{segment.switch}-up",
                addr1=segment.gateway_mac,
            )
    for host in plan.hosts:
        net.addLink(
            host.node,
            host.switch,
            intfName1=qdiscs.host_interface(host),
            intfName2=qdiscs.switch_interface(host),
            addr1=host.mac,
        )
    for a, b in (cable.ends for dc in plan.datacenters if dc.fabric for cable in dc.fabric.cables):
        net.addLink(
            a.node, b.node, intfName1=a.interface, intfName2=b.interface, addr1=a.mac, addr2=b.mac
        )
    for link in plan.wan:
        for direction, end in ((link.forward, "a"), (link.backward, "b")):
            router = plan.datacenter(direction.source).router
            net.addLink(
                router,
                "wan",
                intfName1=qdiscs.wan_interface(router, link.index),
                intfName2=qdiscs.plant_interface(link.index, end),
                addr1=direction.mac,
            )


def _configure(network: BuiltNetwork) -> None:
    plan = network.plan
    shaped: dict[str, list[qdiscs.Port]] = {}
    for port in qdiscs.ports(plan):
        shaped.setdefault(port.node, []).append(port)
    for host in plan.hosts:
        with netlink(network.pid(host.node)) as connection:
            _configure_host(connection, plan, host)
            _shape(connection, shaped[host.node])
        write_sysctls(network.pid(host.node), _tcp_sysctls(plan))
    for dc in plan.datacenters:
        write_sysctls(network.pid(dc.router), _router_sysctls(plan, dc))
        with netlink(network.pid(dc.router)) as connection:
            _configure_router(connection, plan, dc)
        for segment in dc.segments:
            with netlink(network.pid(segment.switch)) as connection:
                for name in network.mininet[segment.switch].nameToIntf:
                    connection.link(
                        "set", index=connection.link_lookup(ifname=name)[0], mtu=plan.mtu
                    )
        if dc.fabric is not None:
            fabric.configure(network, dc, _router_sysctls(plan, dc))
        nodes = (
            dc.router,
            *(segment.switch for segment in dc.segments),
            *(dc.fabric.spines if dc.fabric else ()),
        )
        for node in nodes:
            with netlink(network.pid(node)) as connection:
                _shape(connection, shaped.get(node, []))
    if plan.wan:
        with netlink(network.pid("wan")) as connection:
            for link in plan.wan:
                _cross_connect(connection, plan, link)
            _shape(connection, shaped["wan"])


def _shape(connection: IPRoute, wanted: list[qdiscs.Port]) -> None:
    for port in wanted:
        qdiscs.apply(connection, port)
    for port in wanted:
        qdiscs.read_back(connection, port)


def _tcp_sysctls(plan: Network) -> dict[str, object]:
    return {
        "net/ipv4/tcp_congestion_control": plan.tcp.congestion_control,
        "net/ipv4/tcp_rmem": f"{TCP_MIN_DEFAULT} {plan.tcp.buffer_bytes}",
        "net/ipv4/tcp_wmem": f"4096 16384 {plan.tcp.buffer_bytes}",
        "net/ipv4/tcp_ecn": int(plan.tcp.ecn),
        "net/ipv4/tcp_slow_start_after_idle": int(plan.tcp.slow_start_after_idle),
        "net/ipv4/tcp_no_metrics_save": 1,
    }


def _router_sysctls(plan: Network, dc: Datacenter) -> dict[str, object]:
    return {
        "net/ipv4/ip_forward": 1,
        "net/ipv4/fib_multipath_hash_policy": 1 if plan.ecmp == "flows" else 0,
        "net/ipv4/fib_multipath_hash_seed": dc.hash_seed,
    }


def _hosts_at(plan: Network, switch: str) -> list[Host]:
    return [host for host in plan.hosts if host.switch == switch]


def _configure_host(connection: IPRoute, plan: Network, host: Host) -> None:
    connection.link("set", index=connection.link_lookup(ifname="lo")[0], state="up")
    index = up(connection, qdiscs.host_interface(host), plan, host.address)
    for other in _hosts_at(plan, host.switch):
        if other is not host:
            neighbour(connection, index, other.address, other.mac)
    segment = plan.datacenter(host.dc).segment(host.switch)
    neighbour(connection, index, segment.gateway, segment.gateway_mac)
    connection.route("add", dst="default", gateway=str(segment.gateway.ip))


def _configure_router(connection: IPRoute, plan: Network, dc: Datacenter) -> None:
    if dc.fabric is None:
        (segment,) = dc.segments
        lan = up(connection, qdiscs.lan_interface(dc.router), plan, segment.gateway)
        for host in _hosts_at(plan, segment.switch):
            neighbour(connection, lan, host.address, host.mac)
    for link in plan.wan:
        for mine, other in (link.directions, link.directions[::-1]):
            if mine.source == dc.name:
                index = up(
                    connection, qdiscs.wan_interface(dc.router, link.index), plan, mine.address
                )
                neighbour(connection, index, other.address, other.mac)
    for route in plan.routes:
        if route.dc == dc.name:
            subnet = plan.datacenter(route.destination).subnet
            set_route(connection, subnet, [hop.via for hop in route.hops])


def _cross_connect(connection: IPRoute, plan: Network, link: WanLink) -> None:
    """What enters the outside plant at one end of `link` leaves at the other."""
    ends = [
        int(connection.link_lookup(ifname=qdiscs.plant_interface(link.index, end))[0])
        for end in "ab"
    ]
    for index, other in (ends, ends[::-1]):
        connection.link("set", index=index, mtu=plan.mtu, state="up")
        connection.tc("add", kind="ingress", index=index, handle=0xFFFF0000)
        action = {"kind": "mirred", "direction": "egress", "action": "redirect", "ifindex": other}
        connection.tc(
            "add-filter",
            kind="matchall",
            index=index,
            parent=0xFFFF0000,
            prio=1,
            protocol=3,
            action=action,
        )
