"""Limit the rate of each connection of a host outside of the host, as the hypervisors of clouds do.

    host                     switch
    ┌──────┐               ┌─────────────────────────────────────────┐
    │ eth0 │───────────────│ d0h0-sw ─ redirected ─► d0h0-fr          │
    │      │               │   ▲                     FQ, rate of      │
    └──────┘               │   │                     each connection ─┼─► as if from d0h0-sw
                           └───┼─────────────────────────────────────┘
                             to the host, unlimited

The switch's port redirects what comes from the host to an ifb device. There the qdisc fq sends the
packets of each connection (addresses, ports, protocol) at most at the rate; the ifb device gives
them back to the port. The host's TCP learns of the limit by the delay in the queue: the packets
have left its socket, for which fq would otherwise pace.
"""

from __future__ import annotations

from typing import Any

from pyroute2.netlink import nla
from pyroute2.netlink.rtnl import TC_H_ROOT

from testbed.core.compat.pyroute2_plugins import register_plugins
from testbed.core.errors import RunError
from testbed.network.rtnetlink import Rtnetlink
from testbed.plan.model import Host

ROOT_HANDLE = 0x10000
BYTE_BITS = 8
QUEUE_PACKETS = 1_000_000  # the buffers of TCP end first
SEVERAL_CONNECTIONS = 2**24 - 1  # mask of a connection's hash
FIELDS = ("flow_max_rate", "plimit", "flow_plimit", "orphan_mask")


def limiter_interface(host: Host) -> str:
    """Return the name of the ifb device that limits the connections of `host`."""
    return f"{host.node}-fr"


def limit_connections(connection: Rtnetlink, host: Host, port: str, mtu: int) -> None:
    """Limit each connection that a host sends to the host's `flow_rate_bps`.

    Args:
        connection: connection to the namespace of the host's switch.
        host: a host with a limit.
        port: the switch's port to the host.
        mtu: largest IP packet.

    Raises:
        RunError: the kernel keeps a different limit.
    """
    assert host.flow_rate_bps is not None
    name = limiter_interface(host)
    connection.add_ifb(name)
    connection.send()
    index = connection.index_of(name)
    connection.set_link(index, mtu=mtu, up=True)

    wanted = {
        "flow_max_rate": max(1, round(host.flow_rate_bps / BYTE_BITS)),
        "plimit": QUEUE_PACKETS,
        "flow_plimit": QUEUE_PACKETS,
        "orphan_mask": SEVERAL_CONNECTIONS,
    }
    connection.pyroute2().tc("add", kind="fq", index=index, handle=ROOT_HANDLE, values=wanted)
    connection.redirect_ingress(connection.index_of(port), index, copy=True)

    kept = _read(connection, index)
    if kept != wanted:
        raise RunError(f"the kernel keeps the limit of {host.name}'s connections as {kept}")


def _read(connection: Rtnetlink, index: int) -> dict[str, Any]:
    for qdisc in connection.pyroute2().get_qdiscs(index=index):
        if qdisc.get_attr("TCA_KIND") == "fq":
            options = qdisc.get_attr("TCA_OPTIONS")
            return {name: options.get_attr(_attribute(name)) for name in FIELDS}
    return {}


def _attribute(field: str) -> str:
    return f"TCA_FQ_{field.upper()}"


class FqPlugin:
    """Plugin for ``tc(..., kind="fq", values=)`` with values for `FIELDS`; rates in byte/s."""

    parent = TC_H_ROOT

    @staticmethod
    def get_parameters(parameters: dict[str, Any]) -> dict[str, Any]:
        """Return the netlink message of one qdisc; its timer is exact."""
        attributes: list[list[Any]] = []
        for name, value in parameters["values"].items():
            attributes.append([_attribute(name), value])
        attributes.append(["TCA_FQ_TIMER_SLACK", 0])
        return {"attrs": attributes}

    class options(nla):  # pyroute2 looks this name up
        """Netlink attributes of fq (linux/pkt_sched.h)."""

        nla_map = (
            ("TCA_FQ_UNSPEC", "none"),
            ("TCA_FQ_PLIMIT", "uint32"),
            ("TCA_FQ_FLOW_PLIMIT", "uint32"),
            ("TCA_FQ_QUANTUM", "uint32"),
            ("TCA_FQ_INITIAL_QUANTUM", "uint32"),
            ("TCA_FQ_RATE_ENABLE", "uint32"),
            ("TCA_FQ_FLOW_DEFAULT_RATE", "uint32"),
            ("TCA_FQ_FLOW_MAX_RATE", "uint32"),
            ("TCA_FQ_BUCKETS_LOG", "uint32"),
            ("TCA_FQ_FLOW_REFILL_DELAY", "uint32"),
            ("TCA_FQ_ORPHAN_MASK", "uint32"),
            ("TCA_FQ_LOW_RATE_THRESHOLD", "uint32"),
            ("TCA_FQ_CE_THRESHOLD", "uint32"),
            ("TCA_FQ_TIMER_SLACK", "uint32"),
            ("TCA_FQ_HORIZON", "uint32"),
            ("TCA_FQ_HORIZON_DROP", "uint8"),
            ("TCA_FQ_PRIOMAP", "hex"),
            ("TCA_FQ_WEIGHTS", "hex"),
        )


register_plugins(fq=FqPlugin)
