"""Netlink in the namespace of a node, and a complete netem plugin for pyroute2.

pyroute2 0.9 supports only netem's oldest parameters: 32-bit rates, delays in ticks of 64 ns, no
seed. `NetemPlugin` replaces pyroute2's netem plugin and adds the attributes of linux/pkt_sched.h
that the links need: nanoseconds, 64-bit rates, seeds, loss models and delay distributions.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink import nla
from pyroute2.netlink.rtnl import TC_H_ROOT

from testbed.core import linux
from testbed.core.compat.pyroute2_plugins import register_plugins
from testbed.plan.model import Network

NUD_PERMANENT = 0x80  # linux/neighbour.h
MAX_U32 = 2**32 - 1
INGRESS_HANDLE = 0xFFFF0000
ETH_P_ALL = 3
# Missing in some kernels: the seed before Linux 6.11, and IPv6 in kernels built without it.
OPTIONAL_SYSCTLS = ("net/ipv4/fib_multipath_hash_seed", "net/ipv6/conf/all/disable_ipv6")


@contextmanager
def inside_netns(pid: int) -> Iterator[None]:
    """Move this thread into the network namespace of process `pid` within the block."""
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        other = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
        try:
            linux.setns(other, linux.CLONE_NEWNET)
        finally:
            os.close(other)
        try:
            yield
        finally:
            linux.setns(own, linux.CLONE_NEWNET)
    finally:
        os.close(own)


@contextmanager
def netlink(pid: int) -> Iterator[IPRoute]:
    """Open a netlink connection to the network namespace of process `pid`."""
    with inside_netns(pid):
        connection = IPRoute()
    try:
        yield connection
    finally:
        connection.close()


def enter_node(pid: int, hostname: str) -> None:
    """Move this process permanently into the network, mounts and root of process `pid`.

    Args:
        pid: a process in the namespaces of a node.
        hostname: host name that the calling process sees; the process must have one thread.
    """
    root = os.open(f"/proc/{pid}/root", os.O_RDONLY)
    for kind in ("net", "mnt"):
        namespace = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY)
        linux.setns(namespace)
        os.close(namespace)
    # Entering a mount namespace changes the root to the namespace's root.
    os.fchdir(root)
    os.chroot(".")
    os.close(root)
    linux.unshare(linux.CLONE_NEWUTS)
    socket.sethostname(hostname)


def write_sysctls(pid: int, values: Mapping[str, object]) -> None:
    """Set sysctls (names with slashes) in the network namespace of process `pid`."""
    with inside_netns(pid):
        for name, value in values.items():
            path = Path("/proc/sys", name)
            if name not in OPTIONAL_SYSCTLS or path.exists():
                path.write_text(str(value))


def interface_index(connection: IPRoute, interface: str) -> int:
    """Return the index of the interface named `interface`."""
    return int(connection.link_lookup(ifname=interface)[0])


def bring_up(connection: IPRoute, interface: str, plan: Network, address: IPv4Interface) -> int:
    """Bring an interface up and set its address, the plan's MTU and segmentation offload.

    Args:
        connection: netlink connection to the interface's namespace.
        interface: name of the interface.
        plan: the network, for MTU and offload.
        address: address of the interface, with the prefix length of its subnet.

    Returns:
        The index of the interface.
    """
    index = interface_index(connection, interface)
    connection.link(
        "set",
        index=index,
        mtu=plan.mtu,
        gso_max_segs=plan.tcp.packets_per_skb,
        state="up",
    )
    connection.addr(
        "add",
        index=index,
        address=str(address.ip),
        prefixlen=address.network.prefixlen,
    )
    return index


def neighbour(connection: IPRoute, index: int, address: IPv4Interface, mac: str) -> None:
    """Add a permanent neighbour entry, so that no measured packet waits for ARP.

    Args:
        connection: netlink connection to the interface's namespace.
        index: index of the interface.
        address: IP address of the neighbour.
        mac: hardware address of the neighbour.
    """
    connection.neigh(
        "add",
        dst=str(address.ip),
        lladdr=mac,
        ifindex=index,
        state=NUD_PERMANENT,
    )


def set_route(connection: IPRoute, destination: IPv4Network, via: Sequence[IPv4Address]) -> None:
    """Add or replace the route to a subnet.

    Args:
        connection: netlink connection to the node's namespace.
        destination: the subnet.
        via: next hops; several next hops share the traffic.
    """
    if len(via) == 1:
        connection.route("replace", dst=str(destination), gateway=str(via[0]))
        return

    next_hops = [{"gateway": str(address)} for address in via]
    connection.route("replace", dst=str(destination), multipath=next_hops)


def redirect_ingress(
    connection: IPRoute, index: int, far_index: int, *, copy: bool = False
) -> None:
    """Send the frames that an interface receives out of another interface.

    Args:
        connection: netlink connection to the interfaces' namespace.
        index: index of the interface that receives.
        far_index: index of the interface that sends.
        copy: whether the frames leave the sender's socket, whose TCP otherwise notices how long
            they wait.
    """
    connection.tc("add", kind="ingress", index=index, handle=INGRESS_HANDLE)
    redirection = {
        "kind": "mirred",
        "direction": "egress",
        "action": "redirect",
        "ifindex": far_index,
        "copy": copy,
    }
    actions: list[dict[str, object]] = [redirection]
    if copy:
        actions.append({"kind": "police"})  # drops the frame itself

    connection.tc(
        "add-filter",
        kind="matchall",
        index=index,
        parent=INGRESS_HANDLE,
        prio=1,
        protocol=ETH_P_ALL,
        action=actions,
    )


def probability_u32(p: float) -> int:
    """Return a probability in netem's fixed point, as a fraction of 2^32 - 1."""
    return round(p * MAX_U32)


class NetemPlugin:
    """Plugin for ``tc(..., kind="netem")``.

    Parameters: limit (packets), rate_bytes (byte/s), latency and jitter (ns), loss (u32),
    gilbert_elliott (p, r, 1-h, 1-k as u32), duplicate and corrupt (u32), distribution (int16
    numbers), seed.
    """

    parent = TC_H_ROOT

    @staticmethod
    def get_parameters(parameters: dict[str, Any]) -> dict[str, Any]:
        """Return the netlink message of one qdisc (struct tc_netem_qopt and its attributes)."""
        return {
            "delay": 0,
            "jitter": 0,
            "gap": 0,
            "limit": parameters["limit"],
            "loss": parameters.get("loss", 0),
            "duplicate": parameters.get("duplicate", 0),
            "attrs": _netem_attributes(parameters),
        }

    class options(nla):  # pyroute2 looks this name up
        """struct tc_netem_qopt."""

        fields = (
            ("delay", "I"),
            ("limit", "I"),
            ("loss", "I"),
            ("gap", "I"),
            ("duplicate", "I"),
            ("jitter", "I"),
        )
        nla_map = (
            ("TCA_NETEM_UNSPEC", "none"),
            ("TCA_NETEM_CORR", "hex"),
            ("TCA_NETEM_DELAY_DIST", "cdata"),
            ("TCA_NETEM_REORDER", "hex"),
            ("TCA_NETEM_CORRUPT", "corrupt"),
            ("TCA_NETEM_LOSS", "loss_model"),
            ("TCA_NETEM_RATE", "rate"),
            ("TCA_NETEM_ECN", "uint32"),
            ("TCA_NETEM_RATE64", "uint64"),
            ("TCA_NETEM_PAD", "hex"),
            ("TCA_NETEM_LATENCY64", "int64"),
            ("TCA_NETEM_JITTER64", "int64"),
            ("TCA_NETEM_SLOT", "hex"),
            ("TCA_NETEM_SLOT_DIST", "hex"),
            ("TCA_NETEM_PRNG_SEED", "uint64"),
        )

        class corrupt(nla):
            """struct tc_netem_corrupt."""

            fields = (("prob_corrupt", "I"), ("corr_corrupt", "I"))

        class rate(nla):
            """struct tc_netem_rate."""

            fields = (
                ("rate", "I"),
                ("packet_overhead", "i"),
                ("cell_size", "I"),
                ("cell_overhead", "i"),
            )

        class loss_model(nla):
            """Loss models."""

            nla_map = (
                ("NETEM_LOSS_UNSPEC", "none"),
                ("NETEM_LOSS_GI", "hex"),
                ("NETEM_LOSS_GE", "gilbert_elliott"),
            )

            class gilbert_elliott(nla):
                """struct tc_netem_gemodel."""

                fields = (("p", "I"), ("r", "I"), ("h", "I"), ("k1", "I"))


def _netem_attributes(parameters: dict[str, Any]) -> list[list[Any]]:
    """Return names and values of the attributes that follow struct tc_netem_qopt.

    When a qdisc changes, the kernel keeps the value of every omitted attribute, so the rate and the
    corruption are always sent.
    """
    rate = parameters.get("rate_bytes", 0)  # "rate" is an attribute of any qdisc (TCA_RATE)
    rate_fields = {
        "rate": min(rate, MAX_U32),
        "packet_overhead": 0,
        "cell_size": 0,
        "cell_overhead": 0,
    }
    attributes: list[list[Any]] = [["TCA_NETEM_RATE", rate_fields]]
    if rate > MAX_U32:
        attributes.append(["TCA_NETEM_RATE64", rate])

    attributes.append(["TCA_NETEM_LATENCY64", parameters.get("latency", 0)])
    attributes.append(["TCA_NETEM_JITTER64", parameters.get("jitter", 0)])

    corrupt_fields = {"prob_corrupt": parameters.get("corrupt", 0), "corr_corrupt": 0}
    attributes.append(["TCA_NETEM_CORRUPT", corrupt_fields])

    chain = parameters.get("gilbert_elliott")
    if chain:
        chain_fields = dict(zip(("p", "r", "h", "k1"), chain, strict=True))
        attributes.append(["TCA_NETEM_LOSS", {"attrs": [["NETEM_LOSS_GE", chain_fields]]}])

    table = parameters.get("distribution")
    if table:
        attributes.append(["TCA_NETEM_DELAY_DIST", struct.pack(f"{len(table)}h", *table)])

    seed = parameters.get("seed")
    if seed is not None:
        attributes.append(["TCA_NETEM_PRNG_SEED", seed])
    return attributes


register_plugins(netem=NetemPlugin)
