"""Bring up the interfaces of nodes."""

from __future__ import annotations

from ipaddress import IPv4Interface

from testbed.network.rtnetlink import Rtnetlink
from testbed.plan.model import Network


def bring_up(connection: Rtnetlink, interface: str, plan: Network, address: IPv4Interface) -> int:
    """Bring an interface up and set its address, the plan's MTU and segmentation offload.

    Args:
        connection: connection to the interface's namespace.
        interface: name of the interface.
        plan: the network, for MTU and offload.
        address: address of the interface, with the prefix length of its subnet.

    Returns:
        The index of the interface.
    """
    index = connection.index_of(interface)
    packets = plan.tcp.packets_per_skb
    connection.set_link(index, mtu=plan.mtu, packets_per_skb=packets, up=True)
    connection.add_address(index, address)
    return index
