"""What a run will do, in base units: bit/s, ns, bytes, probabilities from 0 to 1. Saved as
plan.json.

`testbed.plan.resolve` makes a `Plan` from what the user wrote; everything after it reads only the
plan. All models are frozen; `Plan.model_dump_json` and `Plan.model_validate_json` are exact
inverses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

FORMAT = 3  # of a run folder: plan.json, summary.json, status.json, the records below raw/
CAPTURE_BUFFER_BYTES = 16 * 2**20  # of the guest's memory, for each interface that is captured

Isolation = Literal["container", "process"]
Clock = Literal["virtual", "real"]
Where = Literal["guest", "here"]
Capture = Literal["none", "wan", "all"]
Discipline = Literal["drop-tail", "red", "fq_codel"]
Extreme = Callable[[Iterable[int]], int]  # min or max
Ecmp = Literal["hosts", "flows"]  # what chooses among equal paths: both addresses, or the ports too


class Frozen(BaseModel):
    """Base of all plan models: immutable, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Bottleneck(Frozen):
    """The transmitter of a link direction: serialises at `rate_bps`, holds at most `queue_packets`
    of MTU size.

    The discipline decides which packet is dropped, or with `ecn` marked, as the queue grows.
    """

    rate_bps: int = Field(gt=0)
    queue_packets: int = Field(gt=0)
    discipline: Discipline = "drop-tail"
    ecn: bool = False


class Loss(Frozen):
    """Packet loss of a fibre. `independent`: probability `p`. `gilbert-elliott`: p (good to bad), r
    (bad to good), h (1 - loss in the bad state), k1 (loss in the good state), each a probability,
    as in tc-netem(8)."""

    model: Literal["independent", "gilbert-elliott"] = "independent"
    p: float = Field(0.0, ge=0, le=1)
    r: float = Field(1.0, ge=0, le=1)
    one_minus_h: float = Field(1.0, ge=0, le=1)
    one_minus_k: float = Field(0.0, ge=0, le=1)

    @property
    def mean(self) -> float:
        """Part of the packets that is lost in the long run; bursts: the state is bad for p / (p +
        r) of them.
        """
        if self.model == "independent":
            return self.p
        bad = self.p / (self.p + self.r) if self.p else 0.0
        return bad * self.one_minus_h + (1 - bad) * self.one_minus_k


class Fibre(Frozen):
    """The medium of a link direction: delay and impairments; never drops for want of space."""

    delay_ns: int = Field(ge=0)
    jitter_ns: int = Field(0, ge=0)
    distribution: str = "uniform"  # uniform, normal, pareto, paretonormal, or the path of a table
    reorder: bool = False
    loss: Loss = Loss()
    duplicate: float = Field(0.0, ge=0, le=1)
    corrupt: float = Field(0.0, ge=0, le=1)
    cut: bool = False  # nothing that is sent into it arrives
    seed: int = Field(ge=0, lt=2**64)


class Host(Frozen):
    """A machine of a datacenter. `name` is shown to people; `node` (at most 8 characters) names
    kernel objects.
    """

    name: str
    node: str
    dc: str
    switch: str  # the node it is plugged into: the datacenter's switch, or a leaf
    address: IPv4Interface
    mac: str
    nic_up: Bottleneck  # host to switch, at the host's own interface, as its NIC's transmit queue
    nic_down: Bottleneck  # switch to host, at the switch port
    nic_delay_ns: int = Field(ge=0)  # one way, added to what the host sends
    nic_seed: int = Field(ge=0)
    silent: bool = False  # nothing that it sends, or that is sent to it, arrives


class Segment(Frozen):
    """Hosts that share a switch and a subnet. The gateway is the border router, or the leaf switch
    itself.
    """

    switch: str
    gateway: IPv4Interface
    gateway_mac: str


class FabricEnd(Frozen):
    """One end of a cable between two switches, or a switch and the border router, with the port's
    own queue.
    """

    node: str
    interface: str
    address: IPv4Interface
    mac: str


class FabricCable(Frozen):
    """A cable of a leaf-spine fabric: the same both ways."""

    ends: tuple[FabricEnd, FabricEnd]
    port: Bottleneck
    delay_ns: int = Field(ge=0)  # one way
    seed: int = Field(ge=0)


class FabricRoute(Frozen):
    """On `node`: packets for `destination` go to one of `via`, chosen by a hash of their flow."""

    node: str
    destination: IPv4Network
    via: tuple[IPv4Address, ...]


class LeafSpine(Frozen):
    """Leaf switches (`Datacenter.segments`), spine switches, the cables between them, and the
    routes of all.
    """

    spines: tuple[str, ...]
    cables: tuple[FabricCable, ...]
    routes: tuple[FabricRoute, ...]


class Datacenter(Frozen):
    """Hosts behind one switch or a leaf-spine fabric, and one border router (`router` node)."""

    name: str
    location: tuple[float, float] | None = None  # degrees north, degrees east
    subnet: IPv4Network
    router: str
    hash_seed: int = Field(
        1, ge=1, lt=2**32
    )  # of the hash by which its routers and leaves choose among equal paths
    segments: tuple[Segment, ...]  # one for a single switch, one per leaf
    fabric: LeafSpine | None = None  # None: the only segment's switch hangs on the border router
    hosts: tuple[str, ...]

    @property
    def router_address(self) -> IPv4Interface:
        """The border router's address inside the datacenter; of several the first."""
        if self.fabric is None:
            return self.segments[0].gateway
        ends = (end for cable in self.fabric.cables for end in cable.ends)
        return next(end.address for end in ends if end.node == self.router)

    def segment(self, switch: str) -> Segment:
        """The segment whose switch is `switch`."""
        return next(segment for segment in self.segments if segment.switch == switch)


class Direction(Frozen):
    """One direction of a WAN link: bottleneck at the sending router's port, then the fibre."""

    source: str  # DC names
    target: str
    address: IPv4Interface  # of the sending router on this link
    mac: str
    bottleneck: Bottleneck
    fibre: Fibre


class WanLink(Frozen):
    """A link between two border routers. `key` is its two ends as written, e.g. ``iowa-ohio``."""

    key: str
    index: int
    forward: Direction
    backward: Direction
    conduit: str | None = None  # links that share one fail together

    @property
    def directions(self) -> tuple[Direction, Direction]:
        """Forward, then backward."""
        return self.forward, self.backward


class Hop(Frozen):
    """A next hop of a border router: out on WAN link `link`, to the router with the address
    `via`.
    """

    link: str
    via: IPv4Address


class Route(Frozen):
    """On the router of `dc`: packets for `destination`'s subnet take one of `hops`, chosen by a
    hash of their flow.
    """

    dc: str
    destination: str
    hops: tuple[Hop, ...] = Field(min_length=1)


class Transfer(Frozen):
    """Bytes that host `source` sends to host `target` beside the job, at most at `pace_bps`."""

    source: str
    target: str
    bytes: int = Field(gt=0)
    connections: int = Field(gt=0)
    pace_bps: int | None = Field(None, gt=0)


class Change(Frozen):
    """From `at_ns` after rank 0's first step or operation on: links, routes and hosts that differ
    from those before.
    """

    at_ns: int = Field(ge=0)
    what: tuple[str, ...] = Field(min_length=1)  # for people, each a clause: "iowa-ohio is down"
    links: tuple[WanLink, ...] = ()
    routes: tuple[Route, ...] = ()
    hosts: tuple[Host, ...] = ()
    killed: tuple[str, ...] = ()  # hosts whose ranks are killed
    started: tuple[str, ...] = ()  # hosts whose ranks start again
    transfers: tuple[Transfer, ...] = ()  # that begin


class Tcp(Frozen):
    """TCP settings of every host. Buffers are the maxima of tcp_rmem and tcp_wmem.

    `packets_per_skb`: how many packets the stack may hand over as one (segmentation offload); 1:
    none.
    """

    congestion_control: str = "cubic"
    ecn: bool = False  # whether connections ask for congestion marks
    buffer_bytes: int = Field(gt=0)
    slow_start_after_idle: bool = True
    packets_per_skb: int = Field(1, ge=1, le=64)


class Network(Frozen):
    """Everything that is built: nodes, links, addresses, routes, qdisc parameters."""

    name: str
    mtu: int = Field(ge=576, le=9000)
    datacenters: tuple[Datacenter, ...]
    hosts: tuple[Host, ...]
    wan: tuple[WanLink, ...]
    routes: tuple[Route, ...]
    ecmp: Ecmp = "hosts"
    tcp: Tcp
    changes: tuple[Change, ...] = ()  # while a run goes on, in the order of their times

    def states(self) -> Iterator[Network]:
        """The network as it is built, then as it is after each of its changes."""
        state = self
        yield state
        for change in self.changes:
            state = state.after(change)
            yield state

    def after(self, change: Change) -> Network:
        """This network with what `change` changes; what it leaves alone are the same objects."""
        links = {link.key: link for link in change.links}
        routes = {(route.dc, route.destination): route for route in change.routes}
        hosts = {host.name: host for host in change.hosts}
        update: dict[str, Any] = {}
        if links:
            update["wan"] = tuple(links.get(link.key, link) for link in self.wan)
        if routes:
            update["routes"] = tuple(
                routes.get((route.dc, route.destination), route) for route in self.routes
            )
        if hosts:
            update["hosts"] = tuple(hosts.get(host.name, host) for host in self.hosts)
        return self.model_copy(update=update)

    def extremes(self, *, rate: Extreme, delay: Extreme) -> Iterator[Network]:
        """A network for each set of routes that holds at some time, with every WAN direction's
        extreme of all times.

        Args:
            rate: `min` or `max`, of the bottlenecks' rates.
            delay: the same of the fibres' delays.
        """
        states = list(self.states())
        ways: dict[tuple[str, str], list[Direction]] = {}
        for link in (*self.wan, *(link for change in self.changes for link in change.links)):
            for way in link.directions:
                ways.setdefault((link.key, way.source), []).append(way)

        def extreme(link: WanLink, way: Direction) -> Direction:
            rate_bps = rate(one.bottleneck.rate_bps for one in ways[link.key, way.source])
            delay_ns = delay(one.fibre.delay_ns for one in ways[link.key, way.source])
            bottleneck = way.bottleneck.model_copy(update={"rate_bps": rate_bps})
            fibre = way.fibre.model_copy(update={"delay_ns": delay_ns})
            return way.model_copy(update={"bottleneck": bottleneck, "fibre": fibre})

        pairs = [
            (link, extreme(link, link.forward), extreme(link, link.backward)) for link in self.wan
        ]
        wan = tuple(
            link.model_copy(update={"forward": there, "backward": back})
            for link, there, back in pairs
        )
        different = {
            id(state.routes): state.routes for state in states
        }  # comparing them takes long
        for routes in dict.fromkeys(different.values()):
            yield self.model_copy(update={"wan": wan, "routes": routes, "changes": ()})

    def host(self, name: str) -> Host:
        """The host called `name`, e.g. ``iowa-h0``."""
        return next(host for host in self.hosts if host.name == name)

    def datacenter(self, name: str) -> Datacenter:
        """The datacenter called `name`."""
        return next(dc for dc in self.datacenters if dc.name == name)

    def path(self, source_dc: str, target_dc: str) -> tuple[Direction, ...]:
        """The WAN link directions that packets between two datacenters cross, in order; of several
        ways the first.
        """
        return next(self.paths(source_dc, target_dc))

    def paths(self, source_dc: str, target_dc: str) -> Iterator[tuple[Direction, ...]]:
        """Every path that packets from `source_dc` to `target_dc` may take; none without routes and
        links for it.
        """
        if source_dc == target_dc:
            yield ()
            return
        ways = {(link.key, way.source): way for link in self.wan for way in link.directions}
        routes = (
            route
            for route in self.routes
            if (route.dc, route.destination) == (source_dc, target_dc)
        )
        for hop in next((route.hops for route in routes), ()):
            if step := ways.get((hop.link, source_dc)):
                for rest in self.paths(step.target, target_dc):
                    yield (step, *rest)

    def fabric_cables(self, source: str, target: str) -> tuple[FabricCable, ...]:
        """The cables of leaf-spine fabrics that packets from host `source` to host `target` cross,
        in order.

        Packets may take another spine; its cables are alike.
        """
        a, b = self.host(source), self.host(target)
        if a.switch == b.switch:
            return ()
        far = self.datacenter(b.dc).router
        if a.dc == b.dc:
            return self._cables(a.dc, a.switch, b.switch)
        there = self._cables(a.dc, a.switch, self.datacenter(a.dc).router)
        return (*there, *self._cables(b.dc, far, b.switch))

    def _cables(self, dc: str, *nodes: str) -> tuple[FabricCable, ...]:
        fabric = self.datacenter(dc).fabric
        if fabric is None:
            return ()
        ways = [frozenset((node, fabric.spines[0])) for node in nodes]
        by_ends = {frozenset(end.node for end in cable.ends): cable for cable in fabric.cables}
        return tuple(by_ends[way] for way in ways)

    def one_way_delay_ns(self, source: str, target: str) -> int:
        """Propagation from host `source` to host `target`: its NIC's delay, cables and fibres on
        the path.
        """
        a, b = self.host(source), self.host(target)
        if source == target:
            return 0
        inside = sum(cable.delay_ns for cable in self.fabric_cables(source, target))
        return a.nic_delay_ns + inside + sum(step.fibre.delay_ns for step in self.path(a.dc, b.dc))


class Rank(Frozen):
    """One worker process."""

    rank: int
    local_rank: int
    host: str


class Workers(Frozen):
    """What runs on the network. `settings` is the workload's own, validated by its spec model."""

    workload: str
    settings: dict[str, Any]
    ranks: tuple[Rank, ...]
    isolation: Isolation
    image: str | None = None  # path of an image tar; None: the userland of the machine, read-only
    memory_bytes: int = Field(gt=0)  # limit of one host
    cpus: float = Field(gt=0)  # limit of one host
    master_port: int = 29500
    timeout_s: int = Field(gt=0)  # of the process group, in the guest's time
    environment: dict[str, str] = {}
    readable: tuple[
        str, ...
    ] = ()  # folders that hosts see besides the testbed and what is installed
    once_per_host: bool = (
        False  # a host's first rank is a program that starts the host's ranks itself
    )

    @property
    def processes(self) -> tuple[Rank, ...]:
        """The ranks that the testbed itself starts."""
        return tuple(rank for rank in self.ranks if rank.local_rank == 0 or not self.once_per_host)


class Capturing(Frozen):
    """What is kept of the packets at each captured interface."""

    filter: str = ""  # as for tcpdump; empty: every packet
    snap_bytes: int = Field(
        128, ge=54, le=262_144
    )  # of each packet: 54 to 134 are Ethernet, IPv4 and TCP headers
    limit_bytes: int = Field(256 * 10**6, ge=4 * 10**6)  # of what tcpdump keeps of one interface


class Plan(Frozen):
    """A run, complete."""

    format: int = FORMAT
    network: Network
    workers: Workers
    clock: Clock
    where: Where
    capture: Capture
    capturing: Capturing = Capturing()
    seed: int
    guest_memory_bytes: int = Field(gt=0)
    versions: dict[str, str] = {}  # of this project, torch, the kernel, ...: filled when known
