"""What a run will do, in base units: bit/s, ns, bytes, probabilities from 0 to 1. Saved as plan.json.

`testbed.resolve` makes a `Plan` from what the user wrote; everything after it reads only the plan.
All models are frozen; `Plan.model_dump_json` and `Plan.model_validate_json` are exact inverses.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

PLAN_FORMAT = 1

Isolation = Literal["container", "process"]
Clock = Literal["virtual", "real"]
Where = Literal["guest", "here"]
Capture = Literal["none", "wan", "all"]


class Frozen(BaseModel):
    """Base of all plan models: immutable, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Bottleneck(Frozen):
    """The transmitter of a link direction: serialises at `rate_bps`, holds at most `queue_packets` of MTU size."""

    rate_bps: int = Field(gt=0)
    queue_packets: int = Field(gt=0)


class Loss(Frozen):
    """Packet loss of a fibre. `independent`: probability `p`. `gilbert-elliott`: p (good to bad), r (bad to good),
    h (1 - loss in the bad state), k1 (loss in the good state), each a probability, as in tc-netem(8)."""

    model: Literal["independent", "gilbert-elliott"] = "independent"
    p: float = Field(0.0, ge=0, le=1)
    r: float = Field(1.0, ge=0, le=1)
    one_minus_h: float = Field(1.0, ge=0, le=1)
    one_minus_k: float = Field(0.0, ge=0, le=1)


class Fibre(Frozen):
    """The medium of a link direction: delay and impairments; never drops for want of space."""

    delay_ns: int = Field(ge=0)
    jitter_ns: int = Field(0, ge=0)
    distribution: str = "uniform"  # uniform, normal, pareto, paretonormal, or the path of a table
    reorder: bool = False
    loss: Loss = Loss()
    duplicate: float = Field(0.0, ge=0, le=1)
    corrupt: float = Field(0.0, ge=0, le=1)
    seed: int = Field(ge=0, lt=2**64)


class Host(Frozen):
    """A machine of a datacenter. `name` is shown to people; `node` (at most 8 characters) names kernel objects."""

    name: str
    node: str
    dc: str
    address: IPv4Interface
    mac: str
    nic_up: Bottleneck  # host to switch, at the host's own interface, as its NIC's transmit queue
    nic_down: Bottleneck  # switch to host, at the switch port
    nic_delay_ns: int = Field(ge=0)  # one way, added to what the host sends
    nic_seed: int = Field(ge=0)


class Datacenter(Frozen):
    """Hosts behind one switch (`switch` node) and one border router (`router` node)."""

    name: str
    location: tuple[float, float] | None = None  # degrees north, degrees east
    subnet: IPv4Network
    router: str
    switch: str
    gateway: IPv4Interface  # the router's address on `subnet`
    gateway_mac: str
    hosts: tuple[str, ...]


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

    @property
    def directions(self) -> tuple[Direction, Direction]:
        """Forward, then backward."""
        return self.forward, self.backward


class Route(Frozen):
    """On the router of `dc`: packets for `destination`'s subnet leave on WAN link `link` to `via`."""

    dc: str
    destination: str
    link: str
    via: IPv4Address


class Tcp(Frozen):
    """TCP settings of every host. Buffers are the maxima of tcp_rmem and tcp_wmem.

    `packets_per_skb`: how many packets the stack may hand over as one (segmentation offload); 1: none.
    """

    congestion_control: str = "cubic"
    buffer_bytes: int = Field(gt=0)
    packets_per_skb: int = Field(1, ge=1, le=64)


class Network(Frozen):
    """Everything that is built: nodes, links, addresses, routes, qdisc parameters."""

    name: str
    mtu: int = Field(ge=576, le=9000)
    datacenters: tuple[Datacenter, ...]
    hosts: tuple[Host, ...]
    wan: tuple[WanLink, ...]
    routes: tuple[Route, ...]
    tcp: Tcp

    def host(self, name: str) -> Host:
        """The host called `name`, e.g. ``iowa-h0``."""
        return next(host for host in self.hosts if host.name == name)

    def datacenter(self, name: str) -> Datacenter:
        """The datacenter called `name`."""
        return next(dc for dc in self.datacenters if dc.name == name)

    def path(self, source_dc: str, target_dc: str) -> tuple[Direction, ...]:
        """The WAN link directions that packets from `source_dc` to `target_dc` cross, in order."""
        steps: list[Direction] = []
        here = source_dc
        while here != target_dc:
            route = next(r for r in self.routes if r.dc == here and r.destination == target_dc)
            link = next(w for w in self.wan if w.key == route.link)
            step = next(d for d in link.directions if d.source == here)
            steps.append(step)
            here = step.target
        return tuple(steps)

    def one_way_delay_ns(self, source: str, target: str) -> int:
        """Propagation from host `source` to host `target`: its NIC's delay and the fibres on the path."""
        a, b = self.host(source), self.host(target)
        if source == target:
            return 0
        return a.nic_delay_ns + sum(step.fibre.delay_ns for step in self.path(a.dc, b.dc))


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


class Plan(Frozen):
    """A run, complete."""

    format: int = PLAN_FORMAT
    network: Network
    workers: Workers
    clock: Clock
    where: Where
    capture: Capture
    seed: int
    guest_memory_bytes: int = Field(gt=0)
    versions: dict[str, str] = {}  # of this project, torch, the kernel, ...: filled when known
