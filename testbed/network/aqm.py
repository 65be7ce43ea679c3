"""Managed queues (RED, fq_codel) for pyroute2: a token bucket serialises, and the queue inside it
drops or marks.

    tbf 1:  rate of the link, a bucket of one frame
     └── red or fq_codel 2:  as long as the link's queue

A token bucket lets the first packet of a burst go at once where a transmitter would need the time
to serialise it. The fibre that follows has the same rate, and so adds just this time (see
`testbed.network.qdiscs`).

pyroute2 0.9 has no RED, and rates of 32 bits in its tbf; its fq_codel announces a change of names.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink import nla
from pyroute2.netlink.rtnl import TC_H_ROOT
from pyroute2.netlink.rtnl.tcmsg import plugins

ROOT_HANDLE, ROOT_CLASS, CHILD_HANDLE = 0x10000, 0x10001, 0x20000
MAX_U32 = 2**32 - 1
ETHERNET = 1  # TC_LINKLAYER_ETHERNET
TC_RED_ECN = 1
RED_PROBABILITY = (
    0.1  # at the upper threshold: Floyd, "RED: Discussions of Setting Parameters", 1997
)
STAB_CELLS, STAB_LARGEST = 256, 31
CODEL_TARGET, CODEL_INTERVAL_US = (
    0.05,
    100_000,
)  # RFC 8289: the target is 5 % of the interval, which is the worst RTT


@dataclass(frozen=True)
class Red:
    """Random early detection. Lengths in bytes; `weight_log`, `slope_log`, `cell_log` as in
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
    """Fair queues with CoDel each. `limit` in packets, times in us."""

    limit: int
    target: int
    interval: int
    quantum: int
    ecn: bool


@dataclass(frozen=True)
class Managed:
    """A rate in byte/s, a bucket in bytes, and the queue behind it."""

    rate_bytes: int
    burst: int
    queue: Red | FqCodel


def red(limit: int, rate_bytes: int, frame: int, *, ecn: bool) -> Red:
    """RED for a queue of `limit` bytes and frames of `frame` bytes at `rate_bytes` byte/s.

    The upper threshold is half of the limit and thrice the lower one; the average follows bursts of
    (2 minimum + maximum) / 3 (tc-red(8)). `idle_shifts` halves the average while the queue is idle:
    the kernel shifts it right by the entry of the idle time in us, shifted by `cell_log`.
    """
    minimum, maximum = max(frame, limit // 6), max(3 * frame, limit // 2)
    burst = max(1, (2 * minimum + maximum) // (3 * frame))
    excess = burst + 1 - minimum / frame
    weight_log = next(
        (log for log in range(1, 32) if excess <= (1 - (1 - 2.0**-log) ** burst) * 2**log),
        STAB_LARGEST,
    )
    slope_log = max(0, math.floor(math.log2((maximum - minimum) / RED_PROBABILITY)))
    halvings_per_us = -math.log2(1 - 2.0**-weight_log) * rate_bytes / frame / 1e6
    longest_us = STAB_LARGEST / halvings_per_us
    cell_log = max(0, math.ceil(math.log2(max(1.0, longest_us / STAB_CELLS))))
    shifts = [
        min(STAB_LARGEST, int((cell << cell_log) * halvings_per_us)) for cell in range(STAB_CELLS)
    ]
    shifts[-1] = STAB_LARGEST
    return Red(
        limit,
        minimum,
        maximum,
        weight_log,
        min(slope_log, 31),
        min(cell_log, 31),
        ecn,
        bytes(shifts),
    )


def fq_codel(limit: int, rtt_ns: int, frame: int, *, ecn: bool) -> FqCodel:
    """fq_codel for a queue of `limit` packets on a path with `rtt_ns`."""
    interval = max(CODEL_INTERVAL_US, rtt_ns // 1000)
    return FqCodel(limit, int(CODEL_TARGET * interval), interval, frame, ecn)


def apply(connection: IPRoute, index: int, managed: Managed) -> None:
    """Install or change the qdiscs of interface `index`."""
    connection.tc(
        "replace",
        kind="tbf",
        index=index,
        handle=ROOT_HANDLE,
        rate_bytes=managed.rate_bytes,
        burst=managed.burst,
    )
    kind = "red" if isinstance(managed.queue, Red) else "fq_codel"
    connection.tc(
        "replace",
        kind=kind,
        index=index,
        parent=ROOT_CLASS,
        handle=CHILD_HANDLE,
        queue=managed.queue,
    )


def read(connection: IPRoute, index: int) -> dict[str, Any]:
    """What the kernel keeps, by the names of `expected`; without the qdiscs, an empty dict."""
    found: dict[str, Any] = {}
    for qdisc in connection.get_qdiscs(index=index):
        kind, options = qdisc.get_attr("TCA_KIND"), qdisc.get_attr("TCA_OPTIONS")
        if kind == "tbf":
            parameters = options.get_attr("TCA_TBF_PARMS")
            found["rate_bytes"] = options.get_attr("TCA_TBF_RATE64") or parameters["rate"]
        elif kind == "red":
            found["queue"] = {name: options.get_attr("TCA_RED_PARMS")[name] for name in _RED_FIELDS}
        elif kind == "fq_codel":
            found["queue"] = {
                name: options.get_attr(f"TCA_FQ_CODEL_{name.upper()}") for name in _CODEL_FIELDS
            }
    return found


def expected(managed: Managed) -> dict[str, Any]:
    """What `read` must find. The kernel keeps CoDel's times in units of 1.024 us."""
    queue = managed.queue
    names = _RED_FIELDS if isinstance(queue, Red) else _CODEL_FIELDS
    values = {name: int(getattr(queue, name)) for name in names}
    if isinstance(queue, FqCodel):
        values |= {name: _codel_time(values[name]) for name in ("target", "interval")}
    return {"rate_bytes": managed.rate_bytes, "queue": values}


def _codel_time(time_us: int) -> int:
    ticks = time_us * 1000 >> 10  # CODEL_SHIFT
    return (ticks << 10) // 1000


_RED_FIELDS = ("limit", "minimum", "maximum", "weight_log", "slope_log", "cell_log", "ecn")
_CODEL_FIELDS = ("limit", "target", "interval", "quantum", "ecn")


class TbfPlugin:
    """``tc(..., kind="tbf", rate_bytes=, burst=)``: its queue is another qdisc."""

    parent = TC_H_ROOT

    @staticmethod
    def get_parameters(given: dict[str, Any]) -> dict[str, Any]:
        """The message of one qdisc (struct tc_tbf_qopt and its attributes)."""
        rate = {"linklayer": ETHERNET, "rate": min(given["rate_bytes"], MAX_U32), "peak": bytes(12)}
        attributes: list[list[Any]] = [
            ["TCA_TBF_PARMS", rate],
            ["TCA_TBF_BURST", given["burst"]],
        ]
        if given["rate_bytes"] > MAX_U32:
            attributes.append(["TCA_TBF_RATE64", given["rate_bytes"]])
        return {"attrs": attributes}

    class options(nla):  # pyroute2 looks this name up
        """Attributes of tbf."""

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
    """``tc(..., kind="red", queue=Red(...))``."""

    parent = TC_H_ROOT

    @staticmethod
    def get_parameters(given: dict[str, Any]) -> dict[str, Any]:
        """The message of one qdisc (struct tc_red_qopt and its attributes)."""
        queue: Red = given["queue"]
        return {
            "attrs": [
                ["TCA_RED_PARMS", {name: int(getattr(queue, name)) for name in _RED_FIELDS}],
                ["TCA_RED_STAB", queue.idle_shifts],
                ["TCA_RED_MAX_P", int(RED_PROBABILITY * 2**32)],
            ]
        }

    class options(nla):
        """Attributes of red."""

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
            """struct tc_red_qopt; of its flags only TC_RED_ECN (1) is used."""

            fields = (
                ("limit", "I"),
                ("minimum", "I"),
                ("maximum", "I"),
                ("weight_log", "B"),
                ("slope_log", "B"),
                ("cell_log", "B"),
                ("ecn", "B"),
            )


class FqCodelPlugin:
    """``tc(..., kind="fq_codel", queue=FqCodel(...))``."""

    parent = TC_H_ROOT

    @staticmethod
    def get_parameters(given: dict[str, Any]) -> dict[str, Any]:
        """The message of one qdisc."""
        queue: FqCodel = given["queue"]
        return {
            "attrs": [
                [f"TCA_FQ_CODEL_{name.upper()}", int(getattr(queue, name))]
                for name in _CODEL_FIELDS
            ]
        }

    class options(nla):
        """Attributes of fq_codel."""

        nla_map = tuple(
            (f"TCA_FQ_CODEL_{name}", kind)
            for name, kind in (
                ("UNSPEC", "none"),
                ("TARGET", "uint32"),
                ("LIMIT", "uint32"),
                ("INTERVAL", "uint32"),
                ("ECN", "uint32"),
                ("FLOWS", "uint32"),
                ("QUANTUM", "uint32"),
                ("CE_THRESHOLD", "uint32"),
                ("DROP_BATCH_SIZE", "uint32"),
                ("MEMORY_LIMIT", "uint32"),
            )
        )


plugins.update(tbf=TbfPlugin, red=RedPlugin, fq_codel=FqCodelPlugin)
