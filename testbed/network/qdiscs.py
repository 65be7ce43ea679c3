"""Emulate links with queueing disciplines: plan -> qdiscs, applied through netlink and read back.

    router a                        wan (the outside plant)                       router b
    ┌──────────────┐               ┌──────────────────────────┐               ┌──────────────┐
    │ d0r-w0       │───────────────│ w0a ─── redirected ─ w0b │───────────────│ d1r-w0       │
    │ BOTTLENECK ► │               │                  FIBRE ► │               │              │
    │              │               │ ◄ FIBRE                  │               │ ◄ BOTTLENECK │
    └──────────────┘               └──────────────────────────┘               └──────────────┘

The bottleneck is netem with a rate and a finite limit: netem serialises packet after packet and
drops packets that arrive at a full queue. The fibre is netem with delay, jitter and loss, and a
limit that is never reached. Both qdiscs are on routers and on the node ``wan``, never on the
sending host, so that TCP learns of a drop as on a real path.

A host's NIC is netem on the host's interface (rate, ``nic.delay``) and on the switch port towards
the host (rate). A cable of a leaf-spine fabric is netem at both ends of the cable (rate, queue,
delay).

With a managed queue (``discipline``), the bottleneck is a token bucket that contains RED or
fq_codel, and the fibre serialises once more at the same rate (`testbed.network.aqm` explains why).

When the rate of a bottleneck changes, the guest's kernel sends what is queued at the new rate
(`testbed/guest/kernel_source`). Other kernels compute the departure of each packet as it arrives.
There, the drop-tail bottleneck of a link that changes during the run is a token bucket that
contains a plain queue.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from testbed.core.errors import RunError
from testbed.network import aqm, netem
from testbed.network.aqm import ManagedQueue
from testbed.network.netem import Netem, probability_u32
from testbed.network.rtnetlink import Rtnetlink
from testbed.plan.model import (
    HOST_INTERFACE,
    Bottleneck,
    Direction,
    FabricCable,
    Fibre,
    Host,
    Network,
    WanLink,
)

OUTSIDE_PLANT = "wan"  # the node that carries all WAN links
ETHERNET_BYTES = 14
ROOT_HANDLE = 0x10000
UNLIMITED = 2**31 - 1  # packets: memory runs out before this limit
STALLED = 2**64 - 1  # byte/s: the guest's netem and tbf send nothing
# A token bucket holds a frame, and what comes while a timer is late, which would be lost: two steps
# of the guest's clock, or the latency of a machine's timers.
TIMER_NS, MACHINE_TIMER_NS = 512, 200_000
SLOWEST = 1  # byte/s: nearly a stall, for kernels that cannot stall
GUEST_MARK = Path("/sys/module/sch_netem/parameters/exact")  # only in the guest's kernel
TABLE_UNIT = 8192  # NETEM_DIST_SCALE
# byte/s: netem keeps packets in order only with a rate; this rate adds less than 0.2 ns to each.
IN_ORDER_RATE = 50 * 10**12
DISTRIBUTIONS = (Path("/usr/lib/tc"), Path("/usr/lib/x86_64-linux-gnu/tc"), Path("/usr/share/tc"))
CERTAIN = probability_u32(1)


@dataclass(frozen=True)
class ShapedPort:
    """An interface of a node, and its root qdisc, which shapes outgoing packets."""

    node: str
    interface: str
    qdisc: Netem | ManagedQueue


def wan_interface(router: str, index: int) -> str:
    """Return the name of a border router's interface on WAN link `index`."""
    return f"{router}-w{index}"


def lan_interface(router: str) -> str:
    """Return the name of a border router's interface towards its datacenter's only switch."""
    return f"{router}-lan"


def plant_interface(index: int, end: str) -> str:
    """Return the name of the outside plant's interface on a WAN link.

    Args:
        index: index of the link.
        end: `a`, towards the source of the link's forward direction, or `b`.
    """
    return f"w{index}{end}"


def uplink_interface(switch: str) -> str:
    """Return the name of the port of a datacenter's only switch towards the border router."""
    return f"{switch}-up"


def switch_interface(host: Host) -> str:
    """Return the name of the switch port towards `host`."""
    return f"{host.node}-sw"


def is_bridged(interface: str) -> bool:
    """Return whether a switch's interface, to a host or to the border router, is on the bridge."""
    return interface.endswith(("-sw", "-up"))


def kernel_is_exact() -> bool:
    """Return whether this kernel's qdiscs serve at the present rate, and can stall."""
    return GUEST_MARK.exists()


def ports(network: Network) -> list[ShapedPort]:
    """Return every shaped port that is built here: first hosts, then fabrics, then WAN links."""
    shaped: list[ShapedPort] = []
    for host in network.hosts_here:
        shaped.extend(_nic_ports(host))

    for dc in network.datacenters_here:
        if dc.fabric is not None:
            for cable in dc.fabric.cables:
                shaped.extend(_cable_ports(network, cable))

    exact = kernel_is_exact()
    changing = _changing_links(network)
    for link in network.wan:
        is_steady = link.key not in changing
        for direction in network.directions_here(link):
            shaper = DirectionShaper(network, link, direction, exact, is_steady)
            shaped.extend(shaper.ports())
    return shaped


def _changing_links(network: Network) -> set[str]:
    """Return the keys of the WAN links that change during the run."""
    changing: set[str] = set()
    for change in network.changes:
        changing.update(link.key for link in change.links)
    return changing


def ports_by_node(network: Network) -> dict[str, list[ShapedPort]]:
    """Return every shaped port of the network, by its node."""
    by_node: dict[str, list[ShapedPort]] = {}
    for port in ports(network):
        node_ports = by_node.setdefault(port.node, [])
        node_ports.append(port)
    return by_node


def _nic_ports(host: Host) -> Iterator[ShapedPort]:
    """Yield a host's interface and the switch port towards the host."""
    sending = _bottleneck(host.nic_up, latency=host.nic_delay_ns, seed=host.nic_seed)
    sending = replace(sending, jitter=host.nic_jitter_ns)
    receiving = _bottleneck(host.nic_down)
    if host.silent:
        sending = replace(sending, loss=CERTAIN)
        receiving = replace(receiving, loss=CERTAIN)

    yield ShapedPort(host.node, HOST_INTERFACE, sending)
    yield ShapedPort(host.switch, switch_interface(host), receiving)


def _cable_ports(network: Network, cable: FabricCable) -> Iterator[ShapedPort]:
    """Yield both ends of a cable of a fabric."""
    transmitter = _bottleneck(
        cable.port,
        latency=cable.delay_ns,
        seed=cable.seed,
        packets_per_skb=network.tcp.packets_per_skb,
    )
    for end in cable.ends:
        yield ShapedPort(end.node, end.interface, transmitter)


@dataclass(frozen=True)
class DirectionShaper:
    """What shapes one direction of a WAN link.

    Attributes:
        network: the network.
        link: a WAN link of the network.
        direction: a direction of the link.
        exact: whether the kernel's qdiscs serve at the present rate, and can stall.
        is_steady: whether the link never changes.
    """

    network: Network
    link: WanLink
    direction: Direction
    exact: bool
    is_steady: bool

    def ports(self) -> Iterator[ShapedPort]:
        """Yield the bottleneck on the border router and the fibre on the outside plant's port."""
        router = self.network.router(self.direction.source)
        index = self.link.index
        interface = wan_interface(router, index)
        transmitter = self._managed_queue() if self._has_bucket else self._drop_tail()
        yield ShapedPort(router, interface, transmitter)

        far_end = "b" if self.direction is self.link.forward else "a"
        interface = plant_interface(index, far_end)
        yield ShapedPort(OUTSIDE_PLANT, interface, self._fibre())

    @property
    def _has_bucket(self) -> bool:
        """Whether the bottleneck is a token bucket, and the fibre serialises once more."""
        if self.direction.bottleneck.discipline != "drop-tail":
            return True
        return not (self.exact or self.is_steady)

    def _drop_tail(self) -> Netem:
        packets_per_skb = self.network.tcp.packets_per_skb
        return _bottleneck(self.direction.bottleneck, packets_per_skb=packets_per_skb)

    def _managed_queue(self) -> ManagedQueue:
        bottleneck = self.direction.bottleneck
        rate_bytes = _rate_bytes(bottleneck.rate_bps)
        if rate_bytes == STALLED and not self.exact:
            rate_bytes = SLOWEST

        frame = self.network.mtu + ETHERNET_BYTES
        timer_ns = TIMER_NS if self.exact else MACHINE_TIMER_NS
        burst = frame
        if bottleneck.rate_bps:
            burst += -(-rate_bytes * timer_ns // 10**9)
        return ManagedQueue(rate_bytes, burst, self._queue(frame))

    def _queue(self, frame: int) -> aqm.Red | aqm.FqCodel | aqm.Fifo:
        """Return the queue behind the token bucket; `frame` is the bytes of a full frame."""
        bottleneck = self.direction.bottleneck
        packets = bottleneck.queue_packets
        if bottleneck.discipline == "drop-tail":
            return aqm.Fifo(packets)

        if bottleneck.discipline == "red":
            rate_bytes = max(SLOWEST, bottleneck.rate_bps // 8)
            return aqm.red(packets * frame, rate_bytes, frame, ecn=bottleneck.ecn)

        rtt_ns = self.link.forward.fibre.delay_ns + self.link.backward.fibre.delay_ns
        return aqm.fq_codel(packets, rtt_ns, frame, ecn=bottleneck.ecn)

    def _fibre(self) -> Netem:
        fibre = self.direction.fibre
        table = _distribution_table(fibre.distribution) if fibre.jitter_ns else None
        latency, jitter = _latency_and_jitter(fibre.delay_ns, fibre.jitter_ns, table)
        return Netem(
            limit=UNLIMITED,
            rate_bytes=self._fibre_rate(),
            latency=latency,
            jitter=jitter,
            loss=_independent_loss(fibre),
            gilbert_elliott=_gilbert_elliott(fibre),
            duplicate=probability_u32(fibre.duplicate),
            corrupt=probability_u32(fibre.corrupt),
            seed=fibre.seed,
            distribution=table,
        )

    def _fibre_rate(self) -> int:
        """Return the fibre's rate in byte/s; 0: no serialisation, so that packets can overtake."""
        fibre = self.direction.fibre
        if fibre.jitter_ns and fibre.reorder:
            return 0
        if self._has_bucket:
            rate_bytes = _rate_bytes(self.direction.bottleneck.rate_bps)
            is_unknown = rate_bytes == STALLED and not self.exact
            return IN_ORDER_RATE if is_unknown else rate_bytes
        if fibre.jitter_ns:
            return IN_ORDER_RATE
        return 0


def _bottleneck(
    bottleneck: Bottleneck, *, latency: int = 0, seed: int | None = None, packets_per_skb: int = 1
) -> Netem:
    """Return a drop-tail queue; `latency` is the delay in ns of the transmitter's cable."""
    # netem's limit counts skbs. With offload, the limit is reached early rather than late, and a
    # run that reaches the limit is marked.
    limit = max(1, bottleneck.queue_packets // packets_per_skb)
    rate_bytes = _rate_bytes(bottleneck.rate_bps)
    return Netem(limit=limit, rate_bytes=rate_bytes, latency=latency, seed=seed)


def _rate_bytes(rate_bps: int) -> int:
    """Return a rate in byte/s, `STALLED` for 0; netem and tbf take 0 for no limit."""
    return max(1, rate_bps // 8) if rate_bps else STALLED


def _independent_loss(fibre: Fibre) -> int:
    if fibre.cut:
        return CERTAIN
    if fibre.loss.model == "gilbert-elliott":
        return 0
    return probability_u32(fibre.loss.p)


def _gilbert_elliott(fibre: Fibre) -> tuple[int, int, int, int] | None:
    """Return netem's p, r, 1 - h and 1 - k for bursty losses."""
    loss = fibre.loss
    if fibre.cut or loss.model != "gilbert-elliott":
        return None
    return (
        probability_u32(loss.p),
        probability_u32(loss.r),
        probability_u32(loss.one_minus_h),
        probability_u32(loss.one_minus_k),
    )


def _latency_and_jitter(
    mean_ns: int, deviation_ns: int, table: tuple[int, ...] | None
) -> tuple[int, int]:
    """Return netem's latency and jitter in ns for delays with a given mean and deviation.

    netem adds jitter x number / 8192 to the latency. The numbers of iproute2's tables are not
    centred, and because the tables end at 4 deviations, their standard deviation is not 1 (pareto:
    0.83).

    Args:
        mean_ns: mean of the delays in ns.
        deviation_ns: standard deviation of the delays in ns; without a table, the largest
            deviation.
        table: numbers of the delay distribution; None: uniform.
    """
    if table is None:
        return mean_ns, deviation_ns

    centre = statistics.fmean(table) / TABLE_UNIT
    spread = statistics.pstdev(table) / TABLE_UNIT

    jitter = round(deviation_ns / spread)
    latency = max(0, round(mean_ns - jitter * centre))
    return latency, jitter


def _distribution_table(name: str) -> tuple[int, ...] | None:
    """Return the table of a delay distribution as netem's fixed-point numbers; None for uniform.

    Args:
        name: name of an iproute2 table (normal, pareto, ...), or the path of a file.

    Raises:
        RunError: the table does not exist.
    """
    if name == "uniform":
        return None

    candidates = [Path(name)]
    for folder in DISTRIBUTIONS:
        candidates.append(folder / f"{name}.dist")

    for path in candidates:
        if path.is_file():
            return _read_table(path)
    searched = ", ".join(str(path) for path in candidates)
    raise RunError(f"no table for the delay distribution {name!r}; searched: {searched}")


def _read_table(path: Path) -> tuple[int, ...]:
    """Return the numbers of a table file, in which comments begin with #."""
    numbers: list[int] = []
    for line in path.read_text().splitlines():
        content, _, _comment = line.partition("#")
        numbers.extend(int(number) for number in content.split())
    return tuple(numbers)


def loses(port: ShapedPort) -> bool:
    """Return whether the qdisc of `port` drops packets at random."""
    qdisc = port.qdisc
    if not isinstance(qdisc, Netem):
        return False
    return bool(qdisc.loss or qdisc.gilbert_elliott or qdisc.corrupt)


def shape(connection: Rtnetlink, node_ports: Sequence[ShapedPort]) -> None:
    """Install the qdiscs of a node's ports and compare the kernel's values with the plan's.

    Args:
        connection: connection to the node's namespace.
        node_ports: shaped ports of the node.

    Raises:
        RunError: the kernel keeps a different value.
    """
    for port in node_ports:
        apply(connection, port)
    read_back(connection, node_ports)


def apply(connection: Rtnetlink, port: ShapedPort) -> None:
    """Install or change the qdisc of `port`; queued packets stay when the qdisc's values change."""
    index = connection.index_of(port.interface)
    if isinstance(port.qdisc, ManagedQueue):
        from testbed.network import managed_queues  # noqa: PLC0415 (pyroute2)

        managed_queues.apply(connection.pyroute2(), index, port.qdisc)
    else:
        connection.set_qdisc(index, ROOT_HANDLE, netem.KIND, netem.encode_options(port.qdisc))


def read_back(connection: Rtnetlink, node_ports: Sequence[ShapedPort]) -> None:
    """Compare the kernel's qdiscs with the plan's.

    Raises:
        RunError: two qdiscs differ, or a port has no qdisc.
    """
    options: dict[int, bytes] = {}  # of netems, by interface
    for qdisc in connection.qdiscs():
        if qdisc.kind == netem.KIND:
            options[qdisc.interface] = qdisc.options

    for port in node_ports:
        index = connection.index_of(port.interface)
        if isinstance(port.qdisc, ManagedQueue):
            _check_managed_queue(connection, index, port, port.qdisc)
        else:
            _check_netem(options.get(index), port, port.qdisc)


def _check_managed_queue(
    connection: Rtnetlink, index: int, port: ShapedPort, wanted_queue: ManagedQueue
) -> None:
    from testbed.network import managed_queues  # noqa: PLC0415 (pyroute2)

    wanted = aqm.expected(wanted_queue)
    kept = managed_queues.read(connection.pyroute2(), index)
    if kept != wanted:
        raise RunError(
            f"{port.node}: the kernel keeps the queue of {port.interface} as {kept}, not {wanted}"
        )


def _check_netem(options: bytes | None, port: ShapedPort, wanted_netem: Netem) -> None:
    """Compare the encoded options of a netem with the plan's; None: there is no netem."""
    if options is None:
        text = f"{port.node}: {port.interface} has no netem qdisc although it was installed"
        raise RunError(text)

    for name, kept in netem.decode_options(options).items():
        wanted = getattr(wanted_netem, name)
        if name == "seed" and (wanted is None or kept is None):
            continue  # netem has seeds since Linux 6.6
        if kept != wanted:
            text = f"the kernel keeps netem {name} of {port.interface} as {kept}, not {wanted}"
            raise RunError(f"{port.node}: {text}")


@dataclass(frozen=True)
class WanPort:
    """A border router's port into one direction of a WAN link, for counters and captures."""

    link: str
    direction: Direction
    router: str
    interface: str


def wan_ports(network: Network) -> list[WanPort]:
    """Return the ports of the WAN links that are built here."""
    wan_ports: list[WanPort] = []
    for link in network.wan:
        for direction in network.directions_here(link):
            router = network.router(direction.source)
            interface = wan_interface(router, link.index)
            wan_ports.append(WanPort(link.key, direction, router, interface))
    return wan_ports
