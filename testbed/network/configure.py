"""Set addresses, routes, neighbours, sysctls and qdiscs of a network's nodes, role by role.

The roles are host, border router, switch, the inside of a leaf-spine fabric, and the outside plant,
which is the node that carries all WAN links.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network

from testbed.core.errors import RunError
from testbed.network import fabric, qdiscs
from testbed.network.built import BuiltNetwork
from testbed.network.netns import write_sysctls
from testbed.network.ports import bring_up
from testbed.network.qdiscs import OUTSIDE_PLANT, ShapedPort
from testbed.network.rtnetlink import Rtnetlink, netlink
from testbed.plan.model import (
    HOST_INTERFACE,
    CpuTime,
    Datacenter,
    Direction,
    Host,
    Network,
    Route,
    Segment,
    Tcp,
    WanLink,
)

NO_CPU_TIME = (
    "this kernel cannot model the CPU of hosts\n"
    "  remove cpu from the topology, or use a guest kernel of Linux 6.12 (testbed guest build)"
)
# In bytes: the first two fields of tcp_rmem and tcp_wmem, as Linux sets them by default.
TCP_RMEM_MIN_DEFAULT = "4096 131072"
TCP_WMEM_MIN_DEFAULT = "4096 16384"
EVERYWHERE = IPv4Network("0.0.0.0/0")


def configure(network: BuiltNetwork) -> None:
    """Configure and shape every node of a network whose nodes and links exist.

    Raises:
        RunError: the kernel keeps a different value.
    """
    plan = network.plan
    ports = qdiscs.ports_by_node(plan)
    hosts_by_switch = _hosts_by_switch(plan)
    routes_by_router = _routes_by_router(plan)

    for host in plan.hosts_here:
        segment_hosts = hosts_by_switch[host.switch]
        configure_host(network, host, segment_hosts, ports[host.node])

    for dc in plan.datacenters_here:
        configure_router(network, dc, hosts_by_switch, routes_by_router.get(dc.name, []))
        for segment in dc.segments:
            configure_switch(network, segment, hosts_by_switch[segment.switch])

        if dc.fabric is not None:
            fabric.configure(network, dc, hosts_by_switch, router_sysctls(plan, dc))

        for node in _nodes(dc):
            with netlink(network.pid(node)) as connection:
                qdiscs.shape(connection, ports.get(node, []))

    if plan.wan:
        configure_outside_plant(network, ports[OUTSIDE_PLANT])


def _hosts_by_switch(plan: Network) -> dict[str, list[Host]]:
    """Return the hosts on each switch or leaf, by the switch's name."""
    by_switch: dict[str, list[Host]] = {}
    for host in plan.hosts:
        neighbours = by_switch.setdefault(host.switch, [])
        neighbours.append(host)
    return by_switch


def _routes_by_router(plan: Network) -> dict[str, list[Route]]:
    """Return the routes of each border router, by the name of its datacenter."""
    by_router: dict[str, list[Route]] = {}
    for route in plan.routes:
        routes = by_router.setdefault(route.dc, [])
        routes.append(route)
    return by_router


def _nodes(dc: Datacenter) -> list[str]:
    """Return the nodes of a datacenter other than its hosts."""
    nodes = [dc.router]
    for segment in dc.segments:
        nodes.append(segment.switch)
    if dc.fabric is not None:
        nodes.extend(dc.fabric.spines)
    return nodes


def configure_host(
    network: BuiltNetwork, host: Host, segment_hosts: Sequence[Host], ports: Sequence[ShapedPort]
) -> None:
    """Configure and shape a host.

    Args:
        network: the built network.
        host: a host of the network.
        segment_hosts: the hosts on the same switch.
        ports: the host's shaped ports.
    """
    plan = network.plan
    with netlink(network.pid(host.node)) as connection:
        connection.set_link(connection.index_of("lo"), up=True)

        index = bring_up(connection, HOST_INTERFACE, plan, host.address)
        for other in segment_hosts:
            if other is not host:
                connection.add_neighbour(index, other.address, other.mac)

        segment = plan.datacenter(host.dc).segment(host.switch)
        connection.add_neighbour(index, segment.gateway, segment.gateway_mac)
        connection.set_route(EVERYWHERE, [segment.gateway.ip])
        qdiscs.shape(connection, ports)

    write_sysctls(network.pid(host.node), tcp_sysctls(host.tcp or plan.tcp))
    if host.cpu is not None:
        configure_cpu(network.pid(host.node), host.cpu)


def tcp_sysctls(tcp: Tcp) -> dict[str, object]:
    """Return the sysctls of a host with these TCP settings."""
    send_buffer_bytes = tcp.send_buffer_bytes or tcp.buffer_bytes
    return {
        "net/ipv4/tcp_congestion_control": tcp.congestion_control,
        "net/ipv4/tcp_rmem": f"{TCP_RMEM_MIN_DEFAULT} {tcp.buffer_bytes}",
        "net/ipv4/tcp_wmem": f"{TCP_WMEM_MIN_DEFAULT} {send_buffer_bytes}",
        "net/ipv4/tcp_ecn": int(tcp.ecn),
        "net/ipv4/tcp_slow_start_after_idle": int(tcp.slow_start_after_idle),
        "net/ipv4/tcp_no_metrics_save": 1,
        "net/ipv4/ip_unprivileged_port_start": 0,  # ranks have no rights; as in Docker's networks
        # Otherwise these follow the memory of the kernel that all hosts share.
        "net/ipv4/tcp_max_tw_buckets": 262_144,
        "net/ipv4/tcp_max_syn_backlog": 4096,
    }


def configure_cpu(pid: int, cpu: CpuTime) -> None:
    """Set the CPU time of calls in the network namespace of process `pid`.

    Raises:
        RunError: the kernel cannot model it.
    """
    sysctls = {"net/ipv4/tcp_call_time": cpu.call_ns, "net/ipv4/tcp_byte_time": cpu.byte_ps}
    try:
        write_sysctls(pid, sysctls)
    except FileNotFoundError:
        raise RunError(NO_CPU_TIME) from None


def configure_router(
    network: BuiltNetwork,
    dc: Datacenter,
    hosts_by_switch: Mapping[str, Sequence[Host]],
    routes: Sequence[Route],
) -> None:
    """Configure the border router of `dc`, except its cables to the spines of a fabric.

    Args:
        network: the built network.
        dc: the router's datacenter.
        hosts_by_switch: the hosts on each switch or leaf.
        routes: the router's routes to other datacenters.
    """
    plan = network.plan
    write_sysctls(network.pid(dc.router), router_sysctls(plan, dc))
    with netlink(network.pid(dc.router)) as connection:
        if dc.fabric is None:
            (segment,) = dc.segments
            segment_hosts = hosts_by_switch[segment.switch]
            _configure_lan_port(connection, plan, dc, segment, segment_hosts)

        for link in plan.wan:
            for direction in link.directions:
                if direction.source == dc.name:
                    _configure_wan_port(connection, plan, link, direction)

        for route in routes:
            subnet = plan.datacenter(route.destination).subnet
            connection.set_route(subnet, [hop.via for hop in route.hops])


def router_sysctls(plan: Network, dc: Datacenter) -> dict[str, object]:
    """Return the sysctls of a datacenter's border router, leaves and spines."""
    return {
        "net/ipv4/ip_forward": 1,
        "net/ipv4/fib_multipath_hash_policy": 1 if plan.ecmp == "flows" else 0,
        "net/ipv4/fib_multipath_hash_seed": dc.hash_seed,
    }


def _configure_lan_port(
    connection: Rtnetlink,
    plan: Network,
    dc: Datacenter,
    segment: Segment,
    segment_hosts: Sequence[Host],
) -> None:
    """Configure a border router's port towards its datacenter's only switch."""
    interface = qdiscs.lan_interface(dc.router)
    index = bring_up(connection, interface, plan, segment.gateway)
    for host in segment_hosts:
        connection.add_neighbour(index, host.address, host.mac)


def _configure_wan_port(
    connection: Rtnetlink, plan: Network, link: WanLink, direction: Direction
) -> None:
    """Configure the border router's port that sends into `direction` of a WAN link."""
    router = plan.router(direction.source)
    interface = qdiscs.wan_interface(router, link.index)
    index = bring_up(connection, interface, plan, direction.address)

    opposite = link.opposite(direction)
    connection.add_neighbour(index, opposite.address, opposite.mac)


def configure_switch(
    network: BuiltNetwork, segment: Segment, segment_hosts: Sequence[Host]
) -> None:
    """Set the MTU on all interfaces of a switch or leaf, and limit its hosts' connections.

    Args:
        network: the built network.
        segment: the subnet of the switch or leaf.
        segment_hosts: the hosts on the switch or leaf.
    """
    switch = network.mininet[segment.switch]
    mtu = network.plan.mtu
    with netlink(network.pid(segment.switch)) as connection:
        for name in switch.nameToIntf:
            connection.set_link(connection.index_of(name), mtu=mtu)

        for host in segment_hosts:
            if host.flow_rate_bps is not None:
                from testbed.network.flow_limit import limit_connections  # noqa: PLC0415 (pyroute2)

                port = qdiscs.switch_interface(host)
                limit_connections(connection, host, port, mtu)


def configure_outside_plant(network: BuiltNetwork, ports: Sequence[ShapedPort]) -> None:
    """Connect both ends of every WAN link inside the outside plant, and shape the fibres."""
    with netlink(network.pid(OUTSIDE_PLANT)) as connection:
        for link in network.plan.wan_here:
            _cross_connect(connection, network.plan, link)
        qdiscs.shape(connection, ports)


def _cross_connect(connection: Rtnetlink, plan: Network, link: WanLink) -> None:
    """Redirect frames that enter the outside plant at one end of `link` to the other end."""
    ends: list[int] = []
    for end in ("a", "b"):
        ends.append(connection.index_of(qdiscs.plant_interface(link.index, end)))
    for index, far_index in (ends, ends[::-1]):
        connection.set_link(index, mtu=plan.mtu, up=True)
        connection.redirect_ingress(index, far_index)
