"""How a link is emulated: plan -> queueing disciplines, applied through netlink and read back.

    router a                        wan (the outside plant)                       router b
    ┌──────────────┐               ┌──────────────────────────┐               ┌──────────────┐
    │ d0r-w0       │───────────────│ w0a ─── redirected ─ w0b │───────────────│ d1r-w0       │
    │ BOTTLENECK ► │               │                  FIBRE ► │               │              │
    │              │               │ ◄ FIBRE                  │               │ ◄ BOTTLENECK │
    └──────────────┘               └──────────────────────────┘               └──────────────┘

The bottleneck is netem with a rate and a finite limit: it serialises packet after packet and drops
what finds the queue full. The fibre is netem with delay, jitter and loss, and a limit that is never
reached. They sit on routers and on the node ``wan``, never on the sending host, so that TCP learns
of a drop as it would on a real path.

A host's NIC is netem on the host's own interface (rate, ``nic.delay``) and on the switch port
towards it (rate). A cable of a leaf-spine fabric is netem at both of its ends (rate, queue, delay).

Where the queue is managed (``discipline``), the bottleneck is a token bucket with RED or fq_codel
in it, and the fibre serialises once more at the same rate (`testbed.network.aqm` says why).
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute

from testbed.core.errors import RunError
from testbed.network import aqm
from testbed.network.aqm import Managed
from testbed.network.netlink import probability_u32
from testbed.plan.model import Bottleneck, Direction, Host, Network, WanLink

ETHERNET_BYTES = 14
UNLIMITED = 2**31 - 1  # packets: a limit that memory reaches first
TABLE_UNIT = 8192  # NETEM_DIST_SCALE
IN_ORDER_RATE = (
    50 * 10**12
)  # byte/s: with any rate netem keeps the order of packets, at this one it adds < 0.2 ns
DISTRIBUTIONS = (Path("/usr/lib/tc"), Path("/usr/lib/x86_64-linux-gnu/tc"), Path("/usr/share/tc"))


@dataclass(frozen=True)
class Netem:
    """Parameters of one netem qdisc as the kernel keeps them. Fields as in
    `testbed.network.netlink.NetemPlugin`.
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
    distribution: tuple[int, ...] | None = None  # the kernel does not tell it back


@dataclass(frozen=True)
class Port:
    """An interface of a node and what is at its root, for what the node sends there."""

    node: str
    interface: str
    qdisc: Netem | Managed


def wan_interface(router: str, index: int) -> str:
    """Name of a border router's interface on WAN link `index`."""
    return f"{router}-w{index}"


def lan_interface(router: str) -> str:
    """Name of a border router's interface towards its datacenter's only switch."""
    return f"{router}-lan"


def plant_interface(index: int, end: str) -> str:
    """Name of the outside plant's interface on WAN link `index` towards its end `a` (forward's
    source) or `b`.
    """
    return f"w{index}{end}"


def switch_interface(host: Host) -> str:
    """Name of the switch port towards `host`."""
    return f"{host.node}-sw"


def is_bridged(interface: str) -> bool:
    """Whether a switch's interface is a port of its bridge: those towards hosts and the border
    router are.
    """
    return interface.endswith(("-sw", "-up"))


def host_interface(host: Host) -> str:
    """Name of the host's only interface."""
    return f"{host.node}-eth0"


def ports(network: Network) -> list[Port]:
    """Every shaped port of the network."""
    found = []
    for host in network.hosts:
        loss = probability_u32(host.silent)
        up = replace(
            _bottleneck(host.nic_up, latency=host.nic_delay_ns, seed=host.nic_seed), loss=loss
        )
        found.append(Port(host.node, host_interface(host), up))
        found.append(
            Port(
                host.switch, switch_interface(host), replace(_bottleneck(host.nic_down), loss=loss)
            )
        )
    for cable in (cable for dc in network.datacenters if dc.fabric for cable in dc.fabric.cables):
        transmitter = _bottleneck(
            cable.port,
            latency=cable.delay_ns,
            seed=cable.seed,
            packets_per_skb=network.tcp.packets_per_skb,
        )
        found += [Port(end.node, end.interface, transmitter) for end in cable.ends]
    for link in network.wan:
        for direction, far_end in ((link.forward, "b"), (link.backward, "a")):
            router = network.datacenter(direction.source).router
            found.append(
                Port(
                    router,
                    wan_interface(router, link.index),
                    _wan_transmitter(network, link, direction),
                )
            )
            found.append(Port("wan", plant_interface(link.index, far_end), _fibre(direction)))
    return found


def _wan_transmitter(network: Network, link: WanLink, direction: Direction) -> Netem | Managed:
    bottleneck = direction.bottleneck
    if bottleneck.discipline == "drop-tail":
        return _bottleneck(bottleneck, packets_per_skb=network.tcp.packets_per_skb)
    rate, frame, ecn = bottleneck.rate_bps // 8, network.mtu + ETHERNET_BYTES, bottleneck.ecn
    if bottleneck.discipline == "red":
        return Managed(rate, frame, aqm.red(bottleneck.queue_packets * frame, rate, frame, ecn=ecn))
    rtt = sum(way.fibre.delay_ns for way in link.directions)
    return Managed(rate, frame, aqm.fq_codel(bottleneck.queue_packets, rtt, frame, ecn=ecn))


def _bottleneck(
    bottleneck: Bottleneck, *, latency: int = 0, seed: int | None = None, packets_per_skb: int = 1
) -> Netem:
    # netem's limit counts skbs. With offload it is reached early rather than late, and the run is
    # marked if it is.
    limit = max(1, bottleneck.queue_packets // packets_per_skb)
    return Netem(limit=limit, rate_bytes=bottleneck.rate_bps // 8, latency=latency, seed=seed)


def _fibre_rate(direction: Direction) -> int:
    """byte/s at which the fibre serialises; 0: not at all, and so packets may overtake each
    other.
    """
    jitters = direction.fibre.jitter_ns > 0
    if jitters and direction.fibre.reorder:
        return 0
    if direction.bottleneck.discipline != "drop-tail":
        return direction.bottleneck.rate_bps // 8
    return IN_ORDER_RATE if jitters else 0


def _fibre(direction: Direction) -> Netem:
    fibre, loss = direction.fibre, direction.fibre.loss
    burst = loss.model == "gilbert-elliott"
    chain = tuple(
        probability_u32(value) for value in (loss.p, loss.r, loss.one_minus_h, loss.one_minus_k)
    )
    table = _distribution(fibre.distribution) if fibre.jitter_ns else None
    latency, jitter = _scaled(fibre.delay_ns, fibre.jitter_ns, table)
    return Netem(
        limit=UNLIMITED,
        rate_bytes=_fibre_rate(direction),
        latency=latency,
        jitter=jitter,
        loss=probability_u32(1 if fibre.cut else 0 if burst else loss.p),
        gilbert_elliott=(chain[0], chain[1], chain[2], chain[3])
        if burst and not fibre.cut
        else None,
        duplicate=probability_u32(fibre.duplicate),
        corrupt=probability_u32(fibre.corrupt),
        seed=fibre.seed,
        distribution=table,
    )


def _scaled(mean: int, deviation: int, table: tuple[int, ...] | None) -> tuple[int, int]:
    """netem's latency and jitter in ns for delays with this mean and deviation.

    netem adds jitter x number / 8192 to the latency. The numbers of iproute2's tables are not
    centred, and as they end at 4 deviations their own deviation is not 1 (pareto: 0.83).
    """
    if table is None:
        return mean, deviation
    centre, spread = statistics.fmean(table) / TABLE_UNIT, statistics.pstdev(table) / TABLE_UNIT
    jitter = round(deviation / spread)
    return max(0, round(mean - jitter * centre)), jitter


def _distribution(name: str) -> tuple[int, ...] | None:
    """A table of iproute2 (normal, pareto, ...) or of a file, as netem's fixed-point numbers; None
    for uniform.
    """
    if name == "uniform":
        return None
    places = [Path(name), *(folder / f"{name}.dist" for folder in DISTRIBUTIONS)]
    for place in places:
        if place.is_file():
            lines = (line.split("#")[0] for line in place.read_text().splitlines())
            return tuple(int(number) for line in lines for number in line.split())
    raise RunError(
        f"no table for the delay distribution {name!r}: looked for {', '.join(map(str, places))}"
    )


def loses(port: Port) -> bool:
    """Whether the qdisc of `port` drops packets at random."""
    return isinstance(port.qdisc, Netem) and bool(
        port.qdisc.loss or port.qdisc.gilbert_elliott or port.qdisc.corrupt
    )


def apply(connection: IPRoute, port: Port) -> None:
    """Install or change the qdisc of `port`. A change of its values keeps the packets that are in
    it.
    """
    index = connection.link_lookup(ifname=port.interface)[0]
    if isinstance(port.qdisc, Managed):
        aqm.apply(connection, index, port.qdisc)
        return
    values: dict[str, Any] = {
        field.name: getattr(port.qdisc, field.name) for field in fields(Netem)
    }
    connection.tc("replace", kind="netem", index=index, handle=0x10000, **values)


def read_back(connection: IPRoute, port: Port) -> None:
    """Compare the kernel's qdisc with the plan's.

    Raises:
        RunError: they differ, or there is none.
    """
    index = connection.link_lookup(ifname=port.interface)[0]
    if isinstance(port.qdisc, Managed):
        wanted, kept = aqm.expected(port.qdisc), aqm.read(connection, index)
        if kept != wanted:
            raise RunError(
                f"{port.node}: the kernel keeps the queue of {port.interface} as {kept}, not {wanted}"
            )
        return
    found = next(
        (q for q in connection.get_qdiscs(index=index) if q.get_attr("TCA_KIND") == "netem"), None
    )
    if found is None:
        raise RunError(
            f"{port.node}: {port.interface} has no netem qdisc although it was installed"
        )
    options = found.get_attr("TCA_OPTIONS")
    for name, value in _parameters(options).items():
        wanted = getattr(port.qdisc, name)
        unseeded = name == "seed" and (
            wanted is None or value is None
        )  # netem has seeds since Linux 6.6
        if value != wanted and not unseeded:
            raise RunError(
                f"{port.node}: the kernel keeps netem {name} of {port.interface} as {value}, not {wanted}"
            )


def _parameters(options: Any) -> dict[str, Any]:
    rate = (
        options.get_attr("TCA_NETEM_RATE64")
        or (options.get_attr("TCA_NETEM_RATE") or {"rate": 0})["rate"]
    )
    model = options.get_attr("TCA_NETEM_LOSS")
    chain = model.get_attr("NETEM_LOSS_GE") if model else None
    corrupt = options.get_attr("TCA_NETEM_CORRUPT")
    return {
        "limit": options["limit"],
        "rate_bytes": rate,
        "latency": options.get_attr("TCA_NETEM_LATENCY64"),
        "jitter": options.get_attr("TCA_NETEM_JITTER64"),
        "loss": options["loss"],
        "gilbert_elliott": (chain["p"], chain["r"], chain["h"], chain["k1"]) if chain else None,
        "duplicate": options["duplicate"],
        "corrupt": corrupt["prob_corrupt"] if corrupt else 0,
        "seed": options.get_attr("TCA_NETEM_PRNG_SEED"),
    }


@dataclass(frozen=True)
class WanPort:
    """The port of a border router that sends into one direction of a WAN link: where it is counted
    and captured.
    """

    link: str
    direction: Direction
    router: str
    interface: str


def wan_ports(network: Network) -> list[WanPort]:
    """Both ports of every WAN link."""
    found = []
    for link in network.wan:
        for direction in link.directions:
            router = network.datacenter(direction.source).router
            found.append(WanPort(link.key, direction, router, wan_interface(router, link.index)))
    return found
