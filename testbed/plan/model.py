"""The plan of a run in base units: bit/s, ns, bytes, probabilities from 0 to 1. Saved as plan.json.

`testbed.plan.resolve` makes a `Plan` from what the user wrote; all later stages read only the plan.
All models are frozen; `Plan.model_dump_json` and `Plan.model_validate_json` are exact inverses.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from functools import cached_property
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from operator import attrgetter
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field

FORMAT = 3  # of a run folder: plan.json, summary.json, status.json, the records below raw/
MOST_PACKETS_PER_SKB = 64
HOST_INTERFACE = "eth0"  # a host's interface to the emulated network, inside the host
CAPTURE_BUFFER_BYTES = 16 * 2**20  # of the guest's memory, for each interface that is captured

T = TypeVar("T")
Isolation = Literal["container", "process"]
Clock = Literal["virtual", "real"]
Where = Literal["guest", "here"]
Capture = Literal["none", "wan", "all"]
Discipline = Literal["drop-tail", "red", "fq_codel"]
Extreme = Callable[[Iterable[int]], int]  # min or max
Ecmp = Literal["hosts", "flows"]  # what chooses among equal paths: both addresses, or the ports too


class Frozen(BaseModel):
    """Base of all plan models: immutable, no unknown fields."""

    model_config = ConfigDict(defer_build=True, frozen=True, extra="forbid")


class Bottleneck(Frozen):
    """The transmitter of a link direction, which serialises packets and queues them.

    Serialises at `rate_bps` and holds at most `queue_packets` packets of MTU size. The discipline
    decides which packet is dropped, or with `ecn` marked, as the queue grows.

    Attributes:
        rate_bps: Bit/s of Ethernet frames; 0: a stall, in which all packets wait.
        queue_packets: Most packets in the queue, of MTU size.
        discipline: Which packet is dropped or marked as the queue grows.
        ecn: Whether packets are marked rather than dropped.
    """

    rate_bps: int = Field(ge=0)
    queue_packets: int = Field(gt=0)
    discipline: Discipline = "drop-tail"
    ecn: bool = False


class Loss(Frozen):
    """Packet loss of a fibre.

    `independent`: probability `p` of each packet. `gilbert-elliott`: probabilities per packet as in
    tc-netem(8): `p` of going from the good state to the bad one, `r` of going back, and losses of
    `one_minus_h` in the bad state and `one_minus_k` in the good one.

    Attributes:
        model: Independent, or in bursts after Gilbert and Elliott.
        p: Probability of losing a packet; in bursts: of going from the good to the bad state.
        r: Probability of going back to the good state.
        one_minus_h: Probability of losing a packet in the bad state.
        one_minus_k: Probability of losing a packet in the good state.
    """

    model: Literal["independent", "gilbert-elliott"] = "independent"
    p: float = Field(0.0, ge=0, le=1)
    r: float = Field(1.0, ge=0, le=1)
    one_minus_h: float = Field(1.0, ge=0, le=1)
    one_minus_k: float = Field(0.0, ge=0, le=1)

    @property
    def mean(self) -> float:
        """Part of the packets that is lost in the long run."""
        if self.model == "independent":
            return self.p
        bad = 0.0  # part of the packets that meet the bad state
        if self.p:
            bad = self.p / (self.p + self.r)
        return bad * self.one_minus_h + (1 - bad) * self.one_minus_k


# By how many times the jitter a delay may be less than its mean: netem's tables end at 4 standard
# deviations, and those of Pareto's distributions are scaled to a deviation of 1.
LEAST_DEVIATIONS = {"uniform": 1, "normal": 5, "pareto": 5, "paretonormal": 5}


class Fibre(Frozen):
    """The medium of a link direction: delay and impairments; has no queue that could be full.

    Attributes:
        delay_ns: Propagation delay, one way.
        jitter_ns: Largest deviation, or standard deviation, of the delay.
        distribution: Distribution of the jitter: uniform, normal, pareto, paretonormal, or the path
            of a table.
        reorder: Whether jitter may change the order of packets.
        loss: Loss of packets.
        duplicate: Probability of delivering a packet twice.
        corrupt: Probability of flipping a bit of a packet.
        cut: Whether nothing that is sent into the fibre arrives.
        seed: Seed of the random choices.
    """

    delay_ns: int = Field(ge=0)
    jitter_ns: int = Field(0, ge=0)
    distribution: str = "uniform"
    reorder: bool = False
    loss: Loss = Loss()
    duplicate: float = Field(0.0, ge=0, le=1)
    corrupt: float = Field(0.0, ge=0, le=1)
    cut: bool = False
    seed: int = Field(ge=0, lt=2**64)

    @property
    def least_delay_ns(self) -> int:
        """The least delay that jitter leaves; 0 where the distribution of a table is unknown."""
        if not self.jitter_ns:
            return self.delay_ns

        deviations = LEAST_DEVIATIONS.get(self.distribution)
        if deviations is None:
            return 0

        return max(0, self.delay_ns - deviations * self.jitter_ns)


class Tcp(Frozen):
    """TCP settings of every host.

    Attributes:
        congestion_control: The kernel's name of the algorithm.
        ecn: Whether connections ask for congestion marks.
        buffer_bytes: The maximum in tcp_rmem.
        send_buffer_bytes: The maximum in tcp_wmem; None: `buffer_bytes`, as in older run folders.
        slow_start_after_idle: Whether the window shrinks in a pause.
        packets_per_skb: Packets that the stack may hand over as one (segmentation offload); 1: no
            offload.
    """

    congestion_control: str = "cubic"
    ecn: bool = False
    buffer_bytes: int = Field(gt=0)
    send_buffer_bytes: int | None = Field(None, gt=0)
    slow_start_after_idle: bool = True
    packets_per_skb: int = Field(1, ge=1, le=MOST_PACKETS_PER_SKB)


class CpuTime(Frozen):
    """CPU time of the calls by which a host sends and receives.

    Attributes:
        call_ns: Of each call.
        byte_ps: Of each byte that a call copies.
    """

    call_ns: int = Field(0, ge=0)
    byte_ps: int = Field(0, ge=0)


class Host(Frozen):
    """A machine of a datacenter.

    People see `name`; kernel objects are named by `node`, of at most 8 characters.

    Attributes:
        name: For people.
        node: For the kernel, at most 8 characters.
        dc: Name of the datacenter.
        switch: The node that the host is plugged into: the datacenter's switch, or a leaf.
        address: With the length of the subnet.
        mac: Hardware address.
        nic_up: Host to switch, at the host's own interface, as its NIC's transmit queue.
        nic_down: Switch to host, at the switch port.
        nic_delay_ns: Delay, one way, added to what the host sends.
        nic_jitter_ns: Largest deviation of this delay, uniform.
        nic_seed: Seed of the random choices of the NIC's queues.
        flow_rate_bps: Most bit/s of a connection that the host sends, or None for no limit.
        tcp: The host's TCP settings, or None for those of the network.
        cpu: CPU time of sending and receiving, or None for none.
        silent: Whether nothing that the host sends, or that is sent to the host, arrives.
    """

    name: str
    node: str
    dc: str
    switch: str
    address: IPv4Interface
    mac: str
    nic_up: Bottleneck
    nic_down: Bottleneck
    nic_delay_ns: int = Field(ge=0)
    nic_jitter_ns: int = Field(0, ge=0)
    nic_seed: int = Field(ge=0)
    flow_rate_bps: int | None = Field(None, gt=0)
    tcp: Tcp | None = None
    cpu: CpuTime | None = None
    silent: bool = False

    @property
    def least_nic_delay_ns(self) -> int:
        """The least delay that the NIC's jitter leaves."""
        return max(0, self.nic_delay_ns - self.nic_jitter_ns)


class Segment(Frozen):
    """Hosts that share a switch and a subnet; their gateway is the border router or the leaf.

    Attributes:
        switch: Node of the switch.
        gateway: Address with the length of the subnet.
        gateway_mac: Hardware address of the gateway.
    """

    switch: str
    gateway: IPv4Interface
    gateway_mac: str


class FabricEnd(Frozen):
    """One end of a cable between two switches, or a switch and the border router.

    Attributes:
        node: Switch or border router.
        interface: The interface's name.
        address: With the length of the subnet.
        mac: Hardware address.
    """

    node: str
    interface: str
    address: IPv4Interface
    mac: str


class FabricCable(Frozen):
    """A cable of a leaf-spine fabric: the same both ways.

    Attributes:
        ends: Both ends.
        port: The transmitter at either end.
        delay_ns: Propagation delay, one way.
        seed: Seed of the random choices.
    """

    ends: tuple[FabricEnd, FabricEnd]
    port: Bottleneck
    delay_ns: int = Field(ge=0)
    seed: int = Field(ge=0)


class FabricRoute(Frozen):
    """On `node`: packets for `destination` go to one of `via`, chosen by a hash of their flow.

    Attributes:
        node: Switch or border router.
        destination: Subnet.
        via: Next hops.
    """

    node: str
    destination: IPv4Network
    via: tuple[IPv4Address, ...]


class LeafSpine(Frozen):
    """Spine switches, the cables between them, leaves and router, and the routes of all.

    The leaf switches are the datacenter's `segments`.

    Attributes:
        spines: Nodes of the spine switches.
        cables: Between spines and leaves, and spines and the border router.
        routes: Of switches and border router.
    """

    spines: tuple[str, ...]
    cables: tuple[FabricCable, ...]
    routes: tuple[FabricRoute, ...]

    def ends_at(self, node: str) -> Iterator[FabricEnd]:
        """The ends of cables at `node`, in the order of the cables."""
        for cable in self.cables:
            for end in cable.ends:
                if end.node == node:
                    yield end


class Datacenter(Frozen):
    """Hosts behind one switch or a leaf-spine fabric, and one border router (`router` node).

    Attributes:
        name: For people.
        location: Degrees north, degrees east.
        subnet: Of all hosts.
        router: The border router's node.
        hash_seed: Seed of the hash by which the datacenter's routers and leaves choose among equal
            paths.
        segments: One for a single switch, one per leaf.
        fabric: null: the only segment's switch hangs on the border router.
        hosts: Names of the hosts.
    """

    name: str
    location: tuple[float, float] | None = None
    subnet: IPv4Network
    router: str
    hash_seed: int = Field(1, ge=1, lt=2**32)
    segments: tuple[Segment, ...]
    fabric: LeafSpine | None = None
    hosts: tuple[str, ...]

    @property
    def router_address(self) -> IPv4Interface:
        """The border router's address inside the datacenter; of several the first."""
        if self.fabric is None:
            return self.segments[0].gateway
        return next(self.fabric.ends_at(self.router)).address

    def segment(self, switch: str) -> Segment:
        """The segment whose switch is `switch`."""
        return next(segment for segment in self.segments if segment.switch == switch)


class Direction(Frozen):
    """One direction of a WAN link: bottleneck at the sending router's port, then the fibre.

    Attributes:
        source: Datacenter that sends.
        target: Datacenter that receives.
        address: Of the sending router on this link.
        mac: Hardware address of the sending router's port.
        bottleneck: At the sending router's port.
        fibre: What follows the bottleneck.
    """

    source: str
    target: str
    address: IPv4Interface
    mac: str
    bottleneck: Bottleneck
    fibre: Fibre

    def with_rate_and_delay(self, rate_bps: int, delay_ns: int) -> Direction:
        """This direction with another rate of the bottleneck and delay of the fibre."""
        bottleneck = self.bottleneck.model_copy(update={"rate_bps": rate_bps})
        fibre = self.fibre.model_copy(update={"delay_ns": delay_ns})
        return self.model_copy(update={"bottleneck": bottleneck, "fibre": fibre})

    def with_cut_fibre(self) -> Direction:
        """This direction with nothing arriving."""
        fibre = self.fibre.model_copy(update={"cut": True})
        return self.model_copy(update={"fibre": fibre})


class WanLink(Frozen):
    """A link between two border routers. `key` is the link's two ends, e.g. ``iowa-ohio``.

    Attributes:
        key: The link's two ends, e.g. iowa-ohio.
        index: Number of the link, from 0.
        forward: From the first to the second end.
        backward: From the second to the first end.
        conduit: Links that share one fail together.
    """

    key: str
    index: int
    forward: Direction
    backward: Direction
    conduit: str | None = None

    @property
    def directions(self) -> tuple[Direction, Direction]:
        """Forward, then backward."""
        return self.forward, self.backward

    def opposite(self, direction: Direction) -> Direction:
        """The other direction."""
        if direction.source == self.forward.source:
            return self.backward
        return self.forward

    def with_directions(self, forward: Direction, backward: Direction) -> WanLink:
        """This link with other directions."""
        return self.model_copy(update={"forward": forward, "backward": backward})


class Hop(Frozen):
    """A next hop of a border router: on WAN link `link`, to the router with the address `via`.

    Attributes:
        link: Key of a WAN link.
        via: Address of the next router.
    """

    link: str
    via: IPv4Address


class Route(Frozen):
    """On the router of `dc`: packets for `destination`'s subnet take one of `hops`.

    A hash of a packet's flow chooses the hop.

    Attributes:
        dc: Datacenter of the router.
        destination: Datacenter.
        hops: Equally good next hops.
    """

    dc: str
    destination: str
    hops: tuple[Hop, ...] = Field(min_length=1)

    @property
    def ends(self) -> tuple[str, str]:
        """The names of both datacenters."""
        return self.dc, self.destination


class Transfer(Frozen):
    """Bytes that host `source` sends to host `target` in the background, at most at `pace_bps`.

    Attributes:
        source: Host that sends.
        target: Host that receives.
        bytes: How many.
        connections: How many TCP connections share them.
        pace_bps: Most bit/s; null: no limit.
    """

    source: str
    target: str
    bytes: int = Field(gt=0)
    connections: int = Field(gt=0)
    pace_bps: int | None = Field(None, gt=0)


class Change(Frozen):
    """Links, routes and hosts that differ from a time after rank 0's first operation or step on.

    Attributes:
        at_ns: After the begin of rank 0's first operation or step.
        what: For people, each a clause: "iowa-ohio is down".
        links: That differ from now on.
        routes: That differ from now on.
        hosts: That differ from now on.
        killed: Hosts whose ranks are killed.
        started: Hosts whose ranks start again.
        transfers: That begin.
    """

    at_ns: int = Field(ge=0)
    what: tuple[str, ...] = Field(min_length=1)
    links: tuple[WanLink, ...] = ()
    routes: tuple[Route, ...] = ()
    hosts: tuple[Host, ...] = ()
    killed: tuple[str, ...] = ()
    started: tuple[str, ...] = ()
    transfers: tuple[Transfer, ...] = ()


def _replaced(
    items: tuple[T, ...], changed: tuple[T, ...], key: Callable[[T], Hashable]
) -> tuple[T, ...]:
    """`items`, with each of `changed` in the place of the item that has the same key."""
    new_items = {key(item): item for item in changed}
    return tuple(new_items.get(key(item), item) for item in items)


_LOOK_UPS = (
    "_hosts_by_name",
    "_datacenters_by_name",
    "_directions_by_source",
    "_hops_by_ends",
)


class CutLink(Frozen):
    """A WAN link between two guests.

    Attributes:
        link: Key of the link.
        device: Number of the kernel's device that connects the guests.
        ends: The guests at which the link's forward direction begins and ends.
        delays_ns: The least delay of the forward and of the backward direction over time.
    """

    link: str
    device: int
    ends: tuple[int, int]
    delays_ns: tuple[int, int]


def site_device(number: int) -> str:
    """Return the name of a kernel's device that connects two guests."""
    return f"site{number}"


class GuestSite(Frozen):
    """The part of a network that one of several guests builds.

    Attributes:
        number: Number of the guest; guest 0 has rank 0.
        datacenters: Which the guest builds.
        crossings: WAN links to other guests.
        control_devices: Numbers of the devices for messages between guest 0 and the others.
        control_delay_ns: Time that such a message takes.
        memory_bytes: Memory of the guest.
    """

    number: int
    datacenters: tuple[str, ...]
    crossings: tuple[CutLink, ...]
    control_devices: tuple[int, ...]
    control_delay_ns: int
    memory_bytes: int = Field(gt=0)


class Network(Frozen):
    """Everything that is built: nodes, links, addresses, routes, qdisc parameters.

    Attributes:
        name: The topology's name.
        mtu: Bytes of the largest IP packet.
        datacenters: In the order of the topology.
        hosts: Of all datacenters.
        wan: Links between border routers.
        routes: Of the border routers.
        ecmp: What chooses among equal paths: both addresses, or the ports too.
        tcp: Settings of TCP on every host.
        changes: While a run goes on, in the order of their times.
        site: The part that is built here; null: all.
    """

    name: str
    mtu: int = Field(ge=576, le=9000)
    datacenters: tuple[Datacenter, ...]
    hosts: tuple[Host, ...]
    wan: tuple[WanLink, ...]
    routes: tuple[Route, ...]
    ecmp: Ecmp = "hosts"
    tcp: Tcp
    changes: tuple[Change, ...] = ()
    site: GuestSite | None = None

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """This network with other values, and without the look-ups that belong to the old ones."""
        copied = super().model_copy(update=update, deep=deep)
        for name in _LOOK_UPS:
            copied.__dict__.pop(name, None)
        return copied

    @cached_property
    def _hosts_by_name(self) -> dict[str, Host]:
        return {host.name: host for host in self.hosts}

    @cached_property
    def _datacenters_by_name(self) -> dict[str, Datacenter]:
        return {dc.name: dc for dc in self.datacenters}

    @cached_property
    def _directions_by_source(self) -> dict[tuple[str, str], Direction]:
        """The directions of the WAN links, by the link's key and the source."""
        directions: dict[tuple[str, str], Direction] = {}
        for link in self.wan:
            for direction in link.directions:
                directions[link.key, direction.source] = direction
        return directions

    @cached_property
    def _hops_by_ends(self) -> dict[tuple[str, str], tuple[Hop, ...]]:
        """The next hops, by datacenter and destination."""
        return {route.ends: route.hops for route in self.routes}

    def states(self) -> Iterator[Network]:
        """The network as it is built, then as it is after each change."""
        state = self
        yield state
        for change in self.changes:
            state = state.after(change)
            yield state

    def after(self, change: Change) -> Network:
        """This network after `change`; unchanged parts are the same objects."""
        update: dict[str, Any] = {}

        if change.links:
            update["wan"] = _replaced(self.wan, change.links, attrgetter("key"))
        if change.routes:
            update["routes"] = _replaced(self.routes, change.routes, attrgetter("ends"))
        if change.hosts:
            update["hosts"] = _replaced(self.hosts, change.hosts, attrgetter("name"))
        return self.model_copy(update=update)

    def extremes(self, *, rate: Extreme, delay: Extreme) -> Iterator[Network]:
        """Networks with the extremes of all times, one for each set of routes that ever holds.

        Args:
            rate: `min` or `max`, of the rates that a WAN direction's bottleneck has over time,
                without stalls.
            delay: `min` or `max`, of the delays that a WAN direction's fibre has over time; the
                least delays are those that jitter leaves.
        """
        history = self._directions_over_time()

        def extreme(link: WanLink, direction: Direction) -> Direction:
            versions = history[link.key, direction.source]
            rates_bps = [version.bottleneck.rate_bps for version in versions]
            fibres = [version.fibre for version in versions]
            delays_ns = [fibre.delay_ns for fibre in fibres]
            if delay is min:
                delays_ns = [fibre.least_delay_ns for fibre in fibres]

            rate_bps = rate(filter(None, rates_bps))
            delay_ns = delay(delays_ns)
            return direction.with_rate_and_delay(rate_bps, delay_ns)

        wan: list[WanLink] = []
        for link in self.wan:
            forward = extreme(link, link.forward)
            backward = extreme(link, link.backward)
            wan.append(link.with_directions(forward, backward))

        update: dict[str, Any] = {"wan": tuple(wan), "changes": ()}
        for routes in self._sets_of_routes():
            update["routes"] = routes
            yield self.model_copy(update=update)

    def _directions_over_time(self) -> dict[tuple[str, str], list[Direction]]:
        """The versions of each WAN direction, at first and after changes, by link and source."""
        history: dict[tuple[str, str], list[Direction]] = {}

        def remember(links: Iterable[WanLink]) -> None:
            for link in links:
                for direction in link.directions:
                    versions = history.setdefault((link.key, direction.source), [])
                    versions.append(direction)

        remember(self.wan)
        for change in self.changes:
            remember(change.links)
        return history

    def _sets_of_routes(self) -> list[tuple[Route, ...]]:
        """The different sets of routes that hold at some time, in the order of their first time."""
        states = list(self.states())  # keeps the objects alive while their ids are compared
        by_id = {id(state.routes): state.routes for state in states}  # comparing routes takes long
        sets = list(by_id.values())
        return sets if len(sets) == 1 else list(dict.fromkeys(sets))

    def is_here(self, dc: str) -> bool:
        """Whether the datacenter called `dc` is built here."""
        return self.site is None or dc in self.site.datacenters

    @property
    def datacenters_here(self) -> list[Datacenter]:
        """The datacenters that are built here."""
        return [dc for dc in self.datacenters if self.is_here(dc.name)]

    @property
    def hosts_here(self) -> list[Host]:
        """The hosts that are built here."""
        return [host for host in self.hosts if self.is_here(host.dc)]

    @property
    def wan_here(self) -> list[WanLink]:
        """The WAN links with an end that is built here."""
        return [link for link in self.wan if self.directions_here(link)]

    def directions_here(self, link: WanLink) -> list[Direction]:
        """The directions of a WAN link whose sender is built here."""
        return [direction for direction in link.directions if self.is_here(direction.source)]

    def first_hosts(self) -> list[Host]:
        """The first host of each datacenter."""
        return [self.host(dc.hosts[0]) for dc in self.datacenters]

    def router(self, dc: str) -> str:
        """The border router's node of the datacenter called `dc`."""
        return self.datacenter(dc).router

    def host(self, name: str) -> Host:
        """The host called `name`, e.g. ``iowa-h0``."""
        return self._hosts_by_name[name]

    def datacenter(self, name: str) -> Datacenter:
        """The datacenter called `name`."""
        return self._datacenters_by_name[name]

    def path(self, source_dc: str, target_dc: str) -> tuple[Direction, ...]:
        """The first of the paths between two datacenters (see `paths`)."""
        return next(self.paths(source_dc, target_dc))

    def first_direction(self, dc: str, target_dc: str) -> Direction | None:
        """The direction that the first path from `dc` begins with; None without a path or links.

        Args:
            dc: name of a datacenter.
            target_dc: name of another datacenter.
        """
        return next(self.next_directions(dc, target_dc), None)

    def next_directions(self, dc: str, target_dc: str) -> Iterator[Direction]:
        """The directions that the paths from `dc` begin with; none without a path or links.

        Args:
            dc: name of a datacenter.
            target_dc: name of another datacenter.
        """
        for hop in self._hops_by_ends.get((dc, target_dc), ()):
            direction = self._directions_by_source.get((hop.link, dc))
            if direction is not None:
                yield direction

    def paths(self, source_dc: str, target_dc: str) -> Iterator[tuple[Direction, ...]]:
        """Every path that packets between two datacenters may take.

        Args:
            source_dc: name of a datacenter.
            target_dc: name of a datacenter; may be the same.

        Yields:
            The WAN link directions that packets cross, in order; nothing without routes and links.
        """

        def paths_from(dc: str) -> Iterator[tuple[Direction, ...]]:
            if dc == target_dc:
                yield ()
                return

            for direction in self.next_directions(dc, target_dc):
                for rest in paths_from(direction.target):
                    yield (direction, *rest)

        return paths_from(source_dc)

    def all_fabric_cables(self) -> Iterator[FabricCable]:
        """The cables of all leaf-spine fabrics, datacenter by datacenter."""
        for dc in self.datacenters:
            if dc.fabric is not None:
                yield from dc.fabric.cables

    def fabric_cables(self, source: str, target: str) -> tuple[FabricCable, ...]:
        """The cables of leaf-spine fabrics that packets between two hosts cross, in order.

        Packets may take another spine; its cables are alike.

        Args:
            source: name of a host.
            target: name of a host.
        """
        a = self.host(source)
        b = self.host(target)
        if a.switch == b.switch:
            return ()

        if a.dc == b.dc:
            return self.cables_of_first_spine(a.dc, a.switch, b.switch)

        leaving = self.cables_of_first_spine(a.dc, a.switch, self.router(a.dc))
        entering = self.cables_of_first_spine(b.dc, self.router(b.dc), b.switch)
        return leaving + entering

    def cables_of_first_spine(self, dc: str, *nodes: str) -> tuple[FabricCable, ...]:
        """The cables between the first spine of `dc` and each of `nodes`; none without a fabric."""
        fabric = self.datacenter(dc).fabric
        if fabric is None:
            return ()

        first_spine = fabric.spines[0]
        cables: dict[str, FabricCable] = {}  # by the node at the other end
        for cable in fabric.cables:
            lower, upper = cable.ends
            if lower.node == first_spine:
                cables[upper.node] = cable
            elif upper.node == first_spine:
                cables[lower.node] = cable
        return tuple(cables[node] for node in nodes)

    def one_way_delay_ns(self, source: str, target: str) -> int:
        """Propagation between two hosts: the sender's NIC, cables of fabrics, and fibres.

        Args:
            source: name of the sending host.
            target: name of the receiving host.
        """
        if source == target:
            return 0
        a = self.host(source)
        b = self.host(target)

        delay_ns = a.nic_delay_ns
        for cable in self.fabric_cables(source, target):
            delay_ns += cable.delay_ns
        for direction in self.path(a.dc, b.dc):
            delay_ns += direction.fibre.delay_ns
        return delay_ns


class Rank(Frozen):
    """One worker process.

    Where a plan has several jobs, `Plan.workers` numbers the ranks of all jobs, and each job's
    workers number those of the job.

    Attributes:
        rank: Number of the worker among all.
        local_rank: Number of the worker on its host.
        host: Name of the host.
    """

    rank: int
    local_rank: int
    host: str


class Workers(Frozen):
    """What runs on the network. `settings` are the workload's, validated by its spec model.

    Attributes:
        workload: Name of the workload.
        settings: Of the workload, validated by its spec model.
        ranks: Host by host.
        isolation: What a host is.
        image: Path of an image tar; null: the userland of the machine, read-only.
        memory_bytes: Limit of one host.
        cpus: Limit of one host.
        master_port: Of torch.distributed's store.
        timeout_s: Of the process group, in the run's time.
        environment: Environment variables of every rank.
        readable: Folders that hosts see besides the testbed and what is installed.
        once_per_host: Whether a host's first rank is a program that starts the host's ranks itself.
        from_first_host: Whether rank 0 is a program that starts the ranks of all hosts.
        remote_shells: Whether hosts let other hosts start programs on them, as with ssh.
        begin_ns: Time from the start of the workers until the first rank begins; left out of
            plan.json if 0.
    """

    workload: str
    settings: dict[str, Any]
    ranks: tuple[Rank, ...]
    isolation: Isolation
    image: str | None = None
    memory_bytes: int = Field(gt=0)
    cpus: float = Field(gt=0)
    master_port: int = 29500
    timeout_s: int = Field(gt=0)
    environment: dict[str, str] = {}
    readable: tuple[str, ...] = ()
    once_per_host: bool = False
    from_first_host: bool = False
    remote_shells: bool = False
    begin_ns: int = Field(0, ge=0, exclude_if=operator.not_)

    @property
    def has_gpus(self) -> bool:
        """Whether the hosts have modelled GPUs; the `gpu` of a training job only names a kind."""
        return "gpu_figures" in self.settings

    @property
    def processes(self) -> tuple[Rank, ...]:
        """The ranks that the testbed itself starts."""
        if self.from_first_host:
            return self.ranks[:1]
        if not self.once_per_host:
            return self.ranks
        return tuple(rank for rank in self.ranks if rank.local_rank == 0)


class PlannedJob(Frozen):
    """One of several workloads that run at the same time.

    Attributes:
        name: Of the job.
        first: Number of the job's rank 0 among the ranks of all jobs.
        workers: Of the job; ranks are numbered from 0.
    """

    name: str
    first: int = Field(ge=0)
    workers: Workers

    def all_ranks(self) -> range:
        """Return the numbers of the job's ranks among the ranks of all jobs."""
        return range(self.first, self.first + len(self.workers.ranks))


class Capturing(Frozen):
    """What is kept of the packets at each captured interface.

    Attributes:
        filter: As for tcpdump; empty: every packet.
        snap_bytes: Of each packet: 54 to 134 bytes are Ethernet, IPv4 and TCP headers.
        limit_bytes: Of what tcpdump keeps of one interface.
    """

    filter: str = ""
    snap_bytes: int = 128
    limit_bytes: int = 256 * 10**6


class Plan(Frozen):
    """A run, complete.

    Attributes:
        format: Number of the format of run folders.
        network: What is built.
        workers: What runs on it; of several jobs, what they share, and the ranks of all jobs.
        jobs: What runs on it at the same time, in the order of their ranks; left out of plan.json
            if there is only one workload.
        job: Name of the job whose plan this is, where other jobs use the network at the same time;
            left out of plan.json if empty.
        clock: Clock of the run.
        where: In a guest, or here in the kernel of the machine.
        capture: Where packets are captured.
        capturing: What is kept of captured packets.
        seed: From which the seeds of all random choices derive.
        guest_memory_bytes: Memory of the guest.
        sites: What each of several guests builds; empty: one guest builds all.
        versions: Of this project, torch, the kernel, ...: filled when known.
    """

    format: int = FORMAT
    network: Network
    workers: Workers
    clock: Clock
    where: Where
    capture: Capture
    capturing: Capturing = Capturing()
    seed: int
    guest_memory_bytes: int = Field(gt=0)
    sites: tuple[GuestSite, ...] = ()
    versions: dict[str, str] = {}
    jobs: tuple[PlannedJob, ...] = Field((), exclude_if=operator.not_)
    job: str = Field("", exclude_if=operator.not_)

    @property
    def memory_of_guests(self) -> int:
        """Bytes of memory of all guests together."""
        if self.sites:
            return sum(site.memory_bytes for site in self.sites)
        return self.guest_memory_bytes

    @property
    def ranks_here(self) -> list[Rank]:
        """The ranks on hosts that are built here."""
        return self._here(self.workers.ranks)

    @property
    def processes_here(self) -> list[Rank]:
        """The ranks that the testbed itself starts here."""
        return self._here(self._processes())

    def _here(self, ranks: Iterable[Rank]) -> list[Rank]:
        hosts = {host.name for host in self.network.hosts_here}
        return [rank for rank in ranks if rank.host in hosts]

    def _processes(self) -> Iterator[Rank]:
        if not self.jobs:
            yield from self.workers.processes
        for job in self.jobs:
            for rank in job.workers.processes:
                yield self.workers.ranks[job.first + rank.rank]

    def job_of(self, rank: int) -> PlannedJob | None:
        """Return the job of a rank, by its number among all; None without several jobs."""
        for job in self.jobs:
            if rank in job.all_ranks():
                return job
        return None

    def for_job(self, job: PlannedJob) -> Plan:
        """Return the plan of one of the jobs beside the others, without captures."""
        return self.alone(job).model_copy(update={"job": job.name})

    def alone(self, job: PlannedJob) -> Plan:
        """Return the plan of running one of the jobs alone, without captures."""
        return self.model_copy(update={"workers": job.workers, "jobs": (), "capture": "none"})

    def rank_name(self, rank: int) -> str:
        """Return the name of a rank for people, from its number among all: "3", or "1 of a"."""
        job = self.job_of(rank)
        return str(rank) if job is None else f"{rank - job.first} of {job.name}"

    def for_site(self, site: GuestSite) -> Plan:
        """Return the plan of the guest that builds `site`."""
        return self.model_copy(update={"network": self.network.model_copy(update={"site": site})})
