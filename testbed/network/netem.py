"""The queueing discipline netem: its parameters, and their encoding in rtnetlink's messages.

struct tc_netem_qopt and its attributes are those of linux/pkt_sched.h.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from testbed.network.rtnetlink import attribute, attributes

KIND = "netem"
MAX_U32 = 2**32 - 1
TCA_NETEM_DELAY_DIST, TCA_NETEM_CORRUPT, TCA_NETEM_LOSS, TCA_NETEM_RATE = 2, 4, 5, 6
TCA_NETEM_RATE64, TCA_NETEM_LATENCY64, TCA_NETEM_JITTER64, TCA_NETEM_PRNG_SEED = 8, 10, 11, 14
NETEM_LOSS_GE = 2
OPTIONS = struct.Struct("=6I")  # latency, limit, loss, gap, duplicate, jitter: times in ticks
RATE = struct.Struct("=IiIi")  # rate, overheads of packets and cells
CORRUPTION = struct.Struct("=2I")  # probability, correlation


@dataclass(frozen=True)
class Netem:
    """Parameters of one netem qdisc as the kernel keeps them.

    Attributes:
        limit: packets.
        rate_bytes: byte/s, of 64 bits; 0: no limit.
        latency: in ns.
        jitter: in ns.
        loss: probability as a fraction of 2^32 - 1, as of `duplicate` and `corrupt`.
        gilbert_elliott: p, r, 1 - h and 1 - k of bursty losses, as such fractions.
        seed: of random numbers; None: the kernel draws it.
        distribution: numbers of the distribution of delays; the kernel does not report them.
    """

    limit: int
    rate_bytes: int = 0
    latency: int = 0
    jitter: int = 0
    loss: int = 0
    gilbert_elliott: tuple[int, int, int, int] | None = None
    duplicate: int = 0
    corrupt: int = 0
    seed: int | None = None
    distribution: tuple[int, ...] | None = None


def probability_u32(p: float) -> int:
    """Return a probability in netem's fixed point, as a fraction of 2^32 - 1."""
    return round(p * MAX_U32)


def encode_options(netem: Netem) -> bytes:
    """Return the options of a message that installs or changes a netem.

    When a qdisc changes, the kernel keeps the value of every omitted attribute, so the rate and the
    corruption are always sent.
    """
    options = OPTIONS.pack(0, netem.limit, netem.loss, 0, netem.duplicate, 0)
    rate = netem.rate_bytes
    options += attribute(TCA_NETEM_RATE, RATE.pack(min(rate, MAX_U32), 0, 0, 0))
    if rate > MAX_U32:
        options += attribute(TCA_NETEM_RATE64, struct.pack("=Q", rate))

    options += attribute(TCA_NETEM_LATENCY64, struct.pack("=q", netem.latency))
    options += attribute(TCA_NETEM_JITTER64, struct.pack("=q", netem.jitter))
    options += attribute(TCA_NETEM_CORRUPT, CORRUPTION.pack(netem.corrupt, 0))

    if netem.gilbert_elliott:
        chain = struct.pack("=4I", *netem.gilbert_elliott)
        options += attribute(TCA_NETEM_LOSS, attribute(NETEM_LOSS_GE, chain))

    table = netem.distribution
    if table:
        options += attribute(TCA_NETEM_DELAY_DIST, struct.pack(f"={len(table)}h", *table))

    if netem.seed is not None:
        options += attribute(TCA_NETEM_PRNG_SEED, struct.pack("=Q", netem.seed))
    return options


def decode_options(options: bytes) -> dict[str, Any]:
    """Return the values of `Netem`'s fields, except the distribution, from the kernel's options."""
    _latency, limit, loss, _gap, duplicate, _jitter = OPTIONS.unpack_from(options)
    values = attributes(options[OPTIONS.size :])
    return {
        "limit": limit,
        "rate_bytes": _rate(values),
        "latency": _number("=q", values.get(TCA_NETEM_LATENCY64)),
        "jitter": _number("=q", values.get(TCA_NETEM_JITTER64)),
        "loss": loss,
        "gilbert_elliott": _chain(values.get(TCA_NETEM_LOSS)),
        "duplicate": duplicate,
        "corrupt": _number("=I", values.get(TCA_NETEM_CORRUPT)) or 0,
        "seed": _number("=Q", values.get(TCA_NETEM_PRNG_SEED)),
    }


def _number(layout: str, data: bytes | None) -> int | None:
    """Return the first number of an attribute; None without the attribute."""
    if data is None:
        return None
    (number,) = struct.unpack_from(layout, data)
    return int(number)


def _rate(values: dict[int, bytes]) -> int:
    large_rate = _number("=Q", values.get(TCA_NETEM_RATE64))
    return large_rate or _number("=I", values.get(TCA_NETEM_RATE)) or 0


def _chain(model: bytes | None) -> tuple[int, ...] | None:
    if model is None:
        return None
    chain = attributes(model).get(NETEM_LOSS_GE)
    return None if chain is None else struct.unpack_from("=4I", chain)
