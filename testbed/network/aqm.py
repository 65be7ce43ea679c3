"""Managed queues (RED, fq_codel) for pyroute2: a token bucket whose queue drops or marks packets.

    tbf 1:  rate of the link, a bucket of one frame, and some for late timers
     └── red, fq_codel or pfifo 2:  as long as the link's queue

A token bucket releases the first packet of a burst immediately, where a transmitter would first
spend time to serialise the packet. The fibre behind the bucket has the same rate and so adds
exactly that time (see `testbed.network.qdiscs`).

A drop-tail queue (pfifo) is behind a token bucket where the kernel's netem would send what it has
queued at the rate of the time when each packet arrived.

pyroute2 0.9 has no RED, its tbf is limited to 32-bit rates, and its fq_codel warns about renamed
parameters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink import nla
from pyroute2.netlink.rtnl import TC_H_ROOT

from testbed.core.compat.pyroute2_plugins import register_plugins

ROOT_HANDLE, ROOT_CLASS, CHILD_HANDLE = 0x10000, 0x10001, 0x20000
MAX_U32 = 2**32 - 1
ETHERNET = 1  # TC_LINKLAYER_ETHERNET
TC_RED_ECN = 1
# Probability at the upper threshold: Floyd, "RED: Discussions of Setting Parameters", 1997.
RED_PROBABILITY = 0.1
STAB_CELLS = 256
MOST_RED_BITS = 31  # of the upper threshold times the inverse of the weight (red_check_params)
LARGEST_SHIFT = 31
# RFC 8289: the target is 5 % of the interval, and the interval is the worst-case RTT.
CODEL_TARGET = 0.05
CODEL_INTERVAL_US = 100_000
RED_FIELDS = ("limit", "minimum", "maximum", "weight_log", "slope_log", "cell_log", "ecn")
CODEL_FIELDS = ("limit", "target", "interval", "quantum", "ecn")


@dataclass(frozen=True)
class Red:
    """Parameters of random early detection (RED).

    Lengths are in bytes; `weight_log`, `slope_log` and `cell_log` are the fields of struct
    tc_red_qopt.
    """

    limit: int
    minimum: int
    maximum: int
    weight_log: int
    slope_log: int
    cell_log: int
    ecn: bool
    idle_shifts: bytes


@dataclass(frozen=True)
class FqCodel:
    """Parameters of fq_codel, which runs CoDel on each flow: `limit` in packets, times in us."""

    limit: int
    target: int
    interval: int
    quantum: int
    ecn: bool


@dataclass(frozen=True)
class Fifo:
    """A drop-tail queue: `limit` in packets."""

    limit: int


@dataclass(frozen=True)
class ManagedQueue:
    """A token bucket and the queue behind the bucket: rate in byte/s, bucket size in bytes."""

    rate_bytes: int
    burst: int
    queue: Red | FqCodel | Fifo


KINDS = {Red: "red", FqCodel: "fq_codel", Fifo: "pfifo"}


def red(limit: int, rate_bytes: int, frame: int, *, ecn: bool) -> Red:
    """Return the parameters of RED for a queue.

    The upper threshold is half of the limit and three times the lower threshold; the average
    follows bursts of (2 minimum + maximum) / 3 (tc-red(8)). `idle_shifts` halves the average while
    the queue is idle: the kernel indexes `idle_shifts` by the idle time in us, shifted right by
    `cell_log`, and shifts the average right by that entry.

    Args:
        limit: length of the queue in bytes.
        rate_bytes: rate of the link in byte/s.
        frame: length of a full frame in bytes.
        ecn: whether to mark packets instead of dropping them.
    """
    minimum = max(frame, limit // 6)
    maximum = max(3 * frame, limit // 2)
    weight_log = _red_weight_log(minimum, maximum, frame)
    weight_log = min(weight_log, MOST_RED_BITS - maximum.bit_length())

    slope = (maximum - minimum) / RED_PROBABILITY
    slope_log = max(0, math.floor(math.log2(slope)))

    halvings_per_us = -math.log2(1 - 2.0**-weight_log) * rate_bytes / frame / 1e6
    longest_us = LARGEST_SHIFT / halvings_per_us
    longest_cell_us = max(1.0, longest_us / STAB_CELLS)
    cell_log = max(0, math.ceil(math.log2(longest_cell_us)))

    return Red(
        limit=limit,
        minimum=minimum,
        maximum=maximum,
        weight_log=weight_log,
        slope_log=min(slope_log, LARGEST_SHIFT),
        cell_log=min(cell_log, LARGEST_SHIFT),
        ecn=ecn,
        idle_shifts=_idle_shifts(cell_log, halvings_per_us),
    )


def _red_weight_log(minimum: int, maximum: int, frame: int) -> int:
    """Return the logarithm of the smallest weight whose average follows bursts (tc-red(8))."""
    burst = max(1, (2 * minimum + maximum) // (3 * frame))
    excess = burst + 1 - minimum / frame

    for weight_log in range(1, 32):
        weight = 2.0**-weight_log
        followed = (1 - (1 - weight) ** burst) * 2**weight_log
        if excess <= followed:
            return weight_log
    return LARGEST_SHIFT


def _idle_shifts(cell_log: int, halvings_per_us: float) -> bytes:
    """Return the right shift of RED's average for each cell of 2^`cell_log` us of idle time."""
    shifts: list[int] = []
    for cell in range(STAB_CELLS):
        idle_us = cell << cell_log
        shifts.append(min(LARGEST_SHIFT, int(idle_us * halvings_per_us)))
    shifts[-1] = LARGEST_SHIFT
    return bytes(shifts)


def fq_codel(limit: int, rtt_ns: int, frame: int, *, ecn: bool) -> FqCodel:
    """Return the parameters of fq_codel for a queue.

    Args:
        limit: length of the queue in packets.
        rtt_ns: RTT of the path in ns.
        frame: length of a full frame in bytes.
        ecn: whether to mark packets instead of dropping them.
    """
    interval = max(CODEL_INTERVAL_US, rtt_ns // 1000)
    target = int(CODEL_TARGET * interval)
    return FqCodel(
        limit=limit,
        target=target,
        interval=interval,
        quantum=frame,
        ecn=ecn,
    )


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


def expected(managed: ManagedQueue) -> dict[str, Any]:
    """Return the values that `read` must return: `rate_bytes`, and `queue` with its parameters.

    The kernel keeps CoDel's times in units of 1.024 us.
    """
    queue = managed.queue
    if isinstance(queue, Fifo):
        values = {"limit": queue.limit}
    elif isinstance(queue, Red):
        values = {name: int(getattr(queue, name)) for name in RED_FIELDS}
    else:
        values = {name: int(getattr(queue, name)) for name in CODEL_FIELDS}
        values["target"] = _codel_time(queue.target)
        values["interval"] = _codel_time(queue.interval)
    return {"rate_bytes": managed.rate_bytes, "queue": values}


def _codel_time(time_us: int) -> int:
    ticks = time_us * 1000 >> 10  # CODEL_SHIFT
    return (ticks << 10) // 1000


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
