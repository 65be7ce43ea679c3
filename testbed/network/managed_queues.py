"""Install managed queues (RED, fq_codel) with pyroute2, and read them back.

pyroute2 0.9 has no RED, its tbf is limited to 32-bit rates, and its fq_codel warns about renamed
parameters. Its import takes 0.1 s in a guest, so only networks with such queues import this module.
"""

from __future__ import annotations

from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink import nla
from pyroute2.netlink.rtnl import TC_H_ROOT

from testbed.core.compat.pyroute2_plugins import register_plugins
from testbed.network.aqm import (
    CODEL_FIELDS,
    RED_FIELDS,
    RED_PROBABILITY,
    Fifo,
    FqCodel,
    ManagedQueue,
    Red,
)

ROOT_HANDLE, ROOT_CLASS, CHILD_HANDLE = 0x10000, 0x10001, 0x20000
MAX_U32 = 2**32 - 1
ETHERNET = 1  # TC_LINKLAYER_ETHERNET
KINDS = {Red: "red", FqCodel: "fq_codel", Fifo: "pfifo"}


def apply(connection: IPRoute, index: int, managed: ManagedQueue) -> None:
    """Install or change the qdiscs of an interface.

    Args:
        connection: to the kernel, in the interface's network namespace.
        index: index of the interface.
        managed: the queue and the rate at which it sends.
    """
    connection.tc(
        "replace",
        kind="tbf",
        index=index,
        handle=ROOT_HANDLE,
        rate_bytes=managed.rate_bytes,
        burst=managed.burst,
    )
    connection.tc(
        "replace",
        kind=KINDS[type(managed.queue)],
        index=index,
        parent=ROOT_CLASS,
        handle=CHILD_HANDLE,
        queue=managed.queue,
    )


def read(connection: IPRoute, index: int) -> dict[str, Any]:
    """Return the kernel's values for an interface, keyed as `expected`; empty without qdiscs."""
    kept: dict[str, Any] = {}
    for qdisc in connection.get_qdiscs(index=index):
        kind = qdisc.get_attr("TCA_KIND")
        options = qdisc.get_attr("TCA_OPTIONS")

        if kind == "tbf":
            kept["rate_bytes"] = _read_rate(options)
        elif kind == "red":
            parameters = options.get_attr("TCA_RED_PARMS")
            kept["queue"] = {name: parameters[name] for name in RED_FIELDS}
        elif kind == "fq_codel":
            kept["queue"] = _read_codel(options)
        elif kind == "pfifo":
            kept["queue"] = {"limit": options["limit"]}
    return kept


def _read_codel(options: Any) -> dict[str, Any]:
    return {name: options.get_attr(_codel_attribute(name)) for name in CODEL_FIELDS}


def _read_rate(options: Any) -> Any:
    large_rate = options.get_attr("TCA_TBF_RATE64")
    if large_rate:
        return large_rate
    return options.get_attr("TCA_TBF_PARMS")["rate"]


def _codel_attribute(field: str) -> str:
    return f"TCA_FQ_CODEL_{field.upper()}"


class TbfPlugin:
    """Plugin for ``tc(..., kind="tbf", rate_bytes=, burst=)``; its queue is another qdisc."""

    parent = TC_H_ROOT

    @staticmethod
    def get_parameters(parameters: dict[str, Any]) -> dict[str, Any]:
        """Return the netlink message of one qdisc (struct tc_tbf_qopt and its attributes)."""
        rate = parameters["rate_bytes"]
        rate_fields = {"linklayer": ETHERNET, "rate": min(rate, MAX_U32), "peak": bytes(12)}
        attributes: list[list[Any]] = [
            ["TCA_TBF_PARMS", rate_fields],
            ["TCA_TBF_BURST", parameters["burst"]],
        ]
        if rate > MAX_U32:
            attributes.append(["TCA_TBF_RATE64", rate])
        return {"attrs": attributes}

    class options(nla):  # pyroute2 looks this name up
        """Netlink attributes of tbf."""

        nla_map = (
            ("TCA_TBF_UNSPEC", "none"),
            ("TCA_TBF_PARMS", "parms"),
            ("TCA_TBF_RTAB", "hex"),
            ("TCA_TBF_PTAB", "hex"),
            ("TCA_TBF_RATE64", "uint64"),
            ("TCA_TBF_PRATE64", "uint64"),
            ("TCA_TBF_BURST", "uint32"),
            ("TCA_TBF_PBURST", "uint32"),
            ("TCA_TBF_PAD", "hex"),
        )

        class parms(nla):
            """struct tc_tbf_qopt: two tc_ratespec, limit, buffer, mtu."""

            fields = (
                ("cell_log", "B"),
                ("linklayer", "B"),
                ("overhead", "H"),
                ("cell_align", "h"),
                ("mpu", "H"),
                ("rate", "I"),
                ("peak", "12s"),
                ("limit", "I"),
                ("buffer", "I"),
                ("mtu", "I"),
            )


class RedPlugin:
    """Plugin for ``tc(..., kind="red", queue=Red(...))``."""

    parent = TC_H_ROOT

    @staticmethod
    def get_parameters(parameters: dict[str, Any]) -> dict[str, Any]:
        """Return the netlink message of one qdisc (struct tc_red_qopt and its attributes)."""
        queue: Red = parameters["queue"]
        red_fields = {name: int(getattr(queue, name)) for name in RED_FIELDS}
        return {
            "attrs": [
                ["TCA_RED_PARMS", red_fields],
                ["TCA_RED_STAB", queue.idle_shifts],
                ["TCA_RED_MAX_P", int(RED_PROBABILITY * 2**32)],
            ]
        }

    class options(nla):
        """Netlink attributes of red."""

        nla_map = (
            ("TCA_RED_UNSPEC", "none"),
            ("TCA_RED_PARMS", "parms"),
            ("TCA_RED_STAB", "cdata"),
            ("TCA_RED_MAX_P", "uint32"),
            ("TCA_RED_FLAGS", "hex"),
            ("TCA_RED_EARLY_DROP_BLOCK", "uint32"),
            ("TCA_RED_MARK_BLOCK", "uint32"),
        )

        class parms(nla):
            """struct tc_red_qopt; TC_RED_ECN (1) is the only flag used."""

            fields = (
                ("limit", "I"),
                ("minimum", "I"),
                ("maximum", "I"),
                ("weight_log", "B"),
                ("slope_log", "B"),
                ("cell_log", "B"),
                ("ecn", "B"),
            )


class FifoPlugin:
    """Plugin for ``tc(..., kind="pfifo", queue=Fifo(...))``."""

    parent = TC_H_ROOT

    @staticmethod
    def get_parameters(parameters: dict[str, Any]) -> dict[str, Any]:
        """Return the netlink message of one qdisc (struct tc_fifo_qopt)."""
        queue: Fifo = parameters["queue"]
        return {"limit": queue.limit}

    class options(nla):
        """struct tc_fifo_qopt."""

        fields = (("limit", "I"),)


class FqCodelPlugin:
    """Plugin for ``tc(..., kind="fq_codel", queue=FqCodel(...))``."""

    parent = TC_H_ROOT

    @staticmethod
    def get_parameters(parameters: dict[str, Any]) -> dict[str, Any]:
        """Return the netlink message of one qdisc."""
        queue: FqCodel = parameters["queue"]
        attributes: list[list[Any]] = []
        for name in CODEL_FIELDS:
            attributes.append([_codel_attribute(name), int(getattr(queue, name))])
        return {"attrs": attributes}

    class options(nla):
        """Netlink attributes of fq_codel."""

        nla_map = (
            ("TCA_FQ_CODEL_UNSPEC", "none"),
            ("TCA_FQ_CODEL_TARGET", "uint32"),
            ("TCA_FQ_CODEL_LIMIT", "uint32"),
            ("TCA_FQ_CODEL_INTERVAL", "uint32"),
            ("TCA_FQ_CODEL_ECN", "uint32"),
            ("TCA_FQ_CODEL_FLOWS", "uint32"),
            ("TCA_FQ_CODEL_QUANTUM", "uint32"),
            ("TCA_FQ_CODEL_CE_THRESHOLD", "uint32"),
            ("TCA_FQ_CODEL_DROP_BATCH_SIZE", "uint32"),
            ("TCA_FQ_CODEL_MEMORY_LIMIT", "uint32"),
        )


register_plugins(tbf=TbfPlugin, red=RedPlugin, fq_codel=FqCodelPlugin, pfifo=FifoPlugin)
