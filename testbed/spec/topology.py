"""The topology file: datacenters and the WAN links between them.

    name: two-sites
    extends: another-topology          # optional: a preset or a file; see `Topology.load`
    datacenters:
      iowa: {hosts: 4, location: [41.22, -95.86], nic: {rate: 25 Gbit/s, delay: 5 us}}
      ohio: {hosts: 4, location: [40.07, -82.76]}
    wan:
      - {between: [iowa, ohio], rate: 10 Gbit/s, delay: 8.2 ms, queue: 1 bdp}
    defaults: {datacenter: {hosts: 2}, wan: {rate: 10 Gbit/s}}
    routing: delay
    events: [{at: 5 s, duration: 2 s, links: iowa-ohio, down: true}]
    tcp: {congestion_control: cubic, buffer: auto}
    mtu: 1500

See `testbed.spec.wan` for the settings and shorthands of `wan`, and `testbed.spec.events` for
`events`. Keys that begin with ``x-`` are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from testbed.core.errors import InputError, Place, reading
from testbed.core.gazetteer import locate
from testbed.core.geo import Location
from testbed.core.suggestions import suggest
from testbed.core.units import Rate, Size, Time, UnitError
from testbed.spec import yaml_reader
from testbed.spec.base import Count, Flag, Mistake, Strict, input_error, overlay, refuse
from testbed.spec.docs.schema import SchemaGenerator
from testbed.spec.event_checks import event_problems
from testbed.spec.events import Event
from testbed.spec.inheritance import extend, find_item, item_name, read_topology
from testbed.spec.overrides import Override, apply_overrides
from testbed.spec.presets import TOPOLOGIES
from testbed.spec.timeline import (
    HostTurn,
    LinkState,
    TransferTurn,
    host_turns,
    link_states,
    transfer_turns,
)
from testbed.spec.wan import SHAPES, Link, LinkSettings, QueueField, QueueLength, Wan, expand
from testbed.spec.yaml_reader import Section

MAX_DATACENTERS = 250
MAX_HOSTS = 999  # of one datacenter: names of kernel objects have room for three digits
MIN_TCP_BUFFER = 2**12
MAX_TCP_BUFFER = 2**30
MAX_LEAVES = 63
MAX_OVERSUBSCRIPTION = 1_000_000
MAX_SPINES = 64
DEFAULT_NIC_RATE = 25_000_000_000  # bit/s
DEFAULT_NIC_DELAY = 5_000  # ns
MIN_COPY_RATE = 10_000_000  # bit/s
MAX_COPY_RATE = 8_000_000_000_000
MIN_CALL_TIME = 100  # ns
MAX_CALL_TIME = 10_000_000
DEFAULT_CALL_TIME = 1_000
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")


def _check_name(value: str) -> str:
    if not _NAME.fullmatch(value):
        remedy = (
            "use at most 63 lower-case letters, digits and hyphens; start with a letter, do "
            "not end with a hyphen"
        )
        raise UnitError(f"{value!r} is not a valid name", remedy)

    return value


Name = Annotated[
    str,
    AfterValidator(_check_name),
    WithJsonSchema({"type": "string", "pattern": f"^{_NAME.pattern}$"}),
]


def _position(value: object) -> object:
    """Return the position of a place that is given by name; other values unchanged."""
    return locate(value) if isinstance(value, str) else value


Degrees = Annotated[float, Field(strict=True)]
Position = tuple[Degrees, Degrees]


def _no_bdp(queue: QueueLength | None) -> QueueLength | None:
    if queue is not None and queue.unit == "bdp":
        raise UnitError(
            "queues inside a datacenter cannot be in bdp",
            "use a size, a time or packets",
        )

    return queue


class Nic(Strict):
    """A host's network interface.

    `rate` and `delay` shape what the host sends, `rate` (or `receive_rate`) and `queue` what the
    host gets.
    """

    rate: Rate = Field(DEFAULT_NIC_RATE, description="rate each way, headers included")
    receive_rate: Rate | None = Field(None, description="rate towards the host; left out, `rate`")
    delay: Time = Field(
        DEFAULT_NIC_DELAY,
        description="one-way delay of packets that the host sends",
        examples=["5 us"],
    )
    jitter: Time = Field(
        0,
        description="largest deviation of the delay, either way and uniform; packets stay in "
        "order; at most the delay",
        examples=["2 us"],
    )
    queue: QueueField | None = Field(
        None,
        description="buffer of the switch port to the host, not in bdp; left out, 16 MiB",
        examples=["4 MiB"],
    )

    flow_rate: Rate | None = Field(
        None,
        description="most that one connection of the host sends, headers included, as clouds "
        "limit it outside of the machine; left out, no limit",
        examples=["5 Gbit/s"],
    )

    _check_queue = field_validator("queue")(_no_bdp)

    @model_validator(mode="after")
    def _least_delay(self) -> Self:
        if self.jitter > self.delay:
            refuse([Mistake(("jitter",), "the jitter of the NIC exceeds its delay")], "Nic")
        return self


class Cpu(Strict):
    """The time that a host's CPU takes to send and to receive by TCP."""

    copy_rate: Rate | None = Field(
        None,
        description="rate at which one core copies what a call sends or receives; left out, copies "
        "take no time",
        examples=["80 Gbit/s"],
    )
    call_time: Annotated[Time, Field(ge=MIN_CALL_TIME, le=MAX_CALL_TIME)] = Field(
        DEFAULT_CALL_TIME,
        description="time that each call takes that sends, receives, or waits for sockets; "
        "from 100 ns to 10 ms",
        examples=["1 us"],
    )

    @field_validator("copy_rate")
    @classmethod
    def _in_range(cls, rate: int | None) -> int | None:
        if rate is not None and not MIN_COPY_RATE <= rate <= MAX_COPY_RATE:
            raise UnitError("the copy rate must be from 10 Mbit/s to 8 Tbit/s")
        return rate


BUFFERS = ("auto", "linux", "linux-5")


def _kind_of_buffer(value: object) -> str:
    return "(name)" if value in BUFFERS else "(size)"


class HostTcp(Strict):
    """TCP of the hosts of a datacenter."""

    congestion_control: Literal["cubic", "bbr", "reno", "dctcp", "htcp", "westwood"] = Field(
        "cubic", description="congestion control algorithm of the kernel"
    )
    buffer: Annotated[
        Annotated[Literal["auto", "linux", "linux-5"], Tag("(name)")]
        | Annotated[Size, Tag("(size)")],
        Discriminator(_kind_of_buffer),
    ] = Field(
        "auto",
        description="largest socket buffers. A size, at most 1 GiB. auto: 4 x the largest "
        "bandwidth-delay product, at least 16 MiB. linux: as Linux sets them, 4 MiB to send and "
        "6 MiB to receive. linux-5: the same before Linux 6.6, which announces half of the "
        "receive buffer, so that at most 3 MiB are on the way",
        examples=["64 MiB"],
    )
    slow_start_after_idle: Flag = Field(
        True,
        description="return to slow start after an idle period longer than the retransmission "
        "timeout",
    )

    @field_validator("buffer")
    @classmethod
    def _in_range(cls, buffer: int | str) -> int | str:
        if isinstance(buffer, int) and not MIN_TCP_BUFFER <= buffer <= MAX_TCP_BUFFER:
            raise UnitError("the TCP buffer must be from 4 KiB to 1 GiB")
        return buffer


class Tcp(HostTcp):
    """TCP of every host."""

    offload: Literal["auto", "on", "off"] = Field(
        "auto",
        description="segmentation offload: hosts send units of up to 64 KiB, which queues hold, "
        "drop and delay whole; faster to emulate, but inexact; auto: off",
    )


def _named_tcp(value: object) -> object:
    """Return the settings that a name stands for; other values unchanged."""
    if not isinstance(value, str):
        return value

    if value not in BUFFERS:
        raise UnitError(
            f"{value!r} is not a valid tcp",
            "use linux, linux-5, or settings such as {buffer: 64 MiB}",
        )
    return {"buffer": value}


NamedTcp = Annotated[Tcp, BeforeValidator(_named_tcp, Tcp | Literal["linux", "linux-5"])]
NamedHostTcp = Annotated[
    HostTcp, BeforeValidator(_named_tcp, HostTcp | Literal["linux", "linux-5"])
]


class LeafSpine(Strict):
    """Leaf switches with blocks of hosts, and spine switches, each joined to every leaf.

    The sizes of the blocks differ by at most one host, and the first leaf has a largest one. The
    leaves are alike: each one's uplinks together have the rate of the largest block's hosts divided
    by `oversubscription`. Traffic is spread over the spines by a hash (`ecmp`). The border router
    is connected to every spine, at the rate of all leaves' uplinks to that spine.
    """

    leaves: Annotated[
        Count, Field(le=MAX_LEAVES, description="number of leaf switches", examples=[4])
    ]
    spines: Annotated[
        Count, Field(le=MAX_SPINES, description="number of spine switches", examples=[2])
    ]
    oversubscription: Annotated[
        float, Field(ge=1, le=MAX_OVERSUBSCRIPTION, allow_inf_nan=False)
    ] = Field(1.0, description="ratio of the hosts' rate to the uplinks' rate of a leaf")
    delay: Time = Field(0, description="one-way delay of each link between switches")
    queue: QueueField | None = Field(
        None, description="buffer of each port of a switch; left out, 16 MiB"
    )

    _check_queue = field_validator("queue")(_no_bdp)


def _one_switch(value: object) -> object:
    if value != "switch":
        raise UnitError(
            f"{value!r} is not a valid fabric",
            "use switch, or {leaves: 4, spines: 2, oversubscription: 2}",
        )

    return value


def _kind_of_fabric(value: object) -> str:
    return "(leaf-spine)" if isinstance(value, Mapping | LeafSpine) else "(switch)"


class DatacenterDefaults(Strict):
    """What every datacenter has unless it says otherwise."""

    hosts: Annotated[Count, Field(le=MAX_HOSTS)] = Field(
        1, description="number of hosts", examples=[4]
    )
    nic: Nic = Field(Nic(), description="network interface of each host")
    tcp: NamedHostTcp | None = Field(
        None,
        description="TCP settings of each host; left out, those of the topology",
        examples=["linux-5"],
    )
    cpu: Cpu | None = Field(
        None,
        description="CPU time of sending and receiving; left out, none",
        examples=[{"copy_rate": "80 Gbit/s"}],
    )
    fabric: Annotated[
        Annotated[Literal["switch"], BeforeValidator(_one_switch), Tag("(switch)")]
        | Annotated[LeafSpine, Tag("(leaf-spine)")],
        Discriminator(_kind_of_fabric),
    ] = Field(
        "switch",
        description="between the hosts: one switch without limits, or leaves and spines",
    )


class Datacenter(DatacenterDefaults):
    """Hosts, a fabric of switches, and one border router."""

    location: Annotated[Position, BeforeValidator(_position, Position | str)] | None = Field(
        None,
        description="[degrees north, degrees east], a city (Zurich, or Birmingham, GB), or a "
        "region of a cloud (aws:us-east-1, gcp:europe-west4, azure:westeurope)",
        examples=[[41.22, -95.86]],
    )

    @field_validator("location")
    @classmethod
    def _on_earth(cls, location: Location | None) -> Location | None:
        if location is None:
            return None

        north, east = location
        if abs(north) > 90 or abs(east) > 180:
            raise UnitError(
                f"{[north, east]} is not a valid position", "use [degrees north, degrees east]"
            )
        return location


class Defaults(Strict):
    """Settings of every datacenter and every WAN link that does not say otherwise."""

    datacenter: DatacenterDefaults | None = Field(
        None, description="settings of every datacenter", examples=[{"hosts": 2}]
    )
    wan: LinkSettings | None = Field(
        None, description="settings of every WAN link", examples=[{"rate": "10 Gbit/s"}]
    )


def _kind_of_ranks(value: object) -> str:
    return "(list)" if isinstance(value, list) else "(name)"


def _kind_of_convergence(value: object) -> str:
    return "(never)" if value == "never" else "(time)"


class Topology(Strict):
    """Datacenters and the WAN links between them, as written."""

    name: Name = Field(
        "topology",
        description="name of the topology; left out, the file name without .yaml",
        examples=["two-sites"],
    )
    description: str = Field(
        "", description="one-line description", examples=["Iowa and Ohio, 10 Gbit/s"]
    )
    datacenters: dict[Name, Datacenter] = Field(
        min_length=1,
        max_length=MAX_DATACENTERS,
        description="datacenters by name",
        examples=[{"iowa": {"hosts": 4}, "ohio": {}}],
    )
    wan: list[Wan] = Field(
        [],
        description="links between datacenters, one by one or by shorthands; every two "
        "datacenters need a path",
        examples=[[{"between": ["iowa", "ohio"], "rate": "10 Gbit/s", "delay": "8.2 ms"}]],
    )
    defaults: Defaults = Field(
        Defaults(),
        description="settings of all datacenters and links",
        examples=[{"datacenter": {"hosts": 2}}],
    )
    routing: Literal["delay", "hops", "weight"] = Field(
        "delay",
        description="choose paths by least delay (delay), fewest links (hops) or least sum of "
        "weights (weight); ties by least delay",
    )
    multipath: Flag = Field(
        False,
        description="spread traffic over all best paths (ECMP: equal delay, links or weight)",
    )
    ecmp: Literal["hosts", "flows"] = Field(
        "hosts",
        description="hash that selects among equal paths and spines. hosts: by the addresses of "
        "both hosts. flows: by ports too, as in most switches; ports repeat with the seed",
    )
    convergence: Annotated[
        Annotated[Literal["never"], Tag("(never)")] | Annotated[Time, Tag("(time)")],
        Discriminator(_kind_of_convergence),
    ] = Field(
        10**9,
        description="time until routers react to a link going down or up; or never",
        examples=["300 ms"],
    )
    ranks: Annotated[
        Annotated[Literal["written", "auto"], Tag("(name)")]
        | Annotated[list[str], Field(min_length=1), Tag("(list)")],
        Discriminator(_kind_of_ranks),
    ] = Field(
        "written",
        description="order in which hosts get ranks. written: as the datacenters are written. "
        "auto: datacenters in a short ring. A list: datacenters or hosts, which names each host "
        "once",
        examples=[["ohio", "iowa"]],
    )
    events: list[Event] = Field(
        [],
        description="changes of WAN links and hosts during a run",
        examples=[[{"at": "5 s", "duration": "2 s", "links": "iowa-ohio", "down": True}]],
    )
    tcp: NamedTcp = Field(
        Tcp(),
        description="TCP settings of every host; linux and linux-5: that `buffer`, and all else "
        "as left out",
        examples=["linux"],
    )
    mtu: Annotated[int, Field(strict=True, ge=576, le=9000)] = Field(
        1500, description="largest IP packet, in bytes", examples=[9000]
    )

    @classmethod
    def load(cls, name_or_path: str | Path, overrides: Iterable[Override] = ()) -> Self:
        """Load a topology from a preset or a file.

        With ``extends``, the file is merged over the extended file: mappings key by key, `wan` link
        by link; a null removes a key. The name of a link is its two ends (``wan.iowa-ohio.delay``),
        the name of a shorthand is its kind (``wan.mesh.rate``). The name of a link in a shorthand
        changes only that link; ``wan.*.rate`` changes all entries.

        Args:
            name_or_path: Name of a preset, or path of a file.
            overrides: Settings of ``--set`` that replace values (see `parse_overrides`).

        Raises:
            InputError: The topology does not exist or is wrong; the message lists every error.
        """
        path = TOPOLOGIES.find(name_or_path)
        with reading(path):
            source = read_topology(path)
            source.setdefault("name", _name_of(path))
            return cls._of(source, path.parent, overrides)

    @classmethod
    def from_yaml(cls, text: str, overrides: Iterable[Override] = ()) -> Self:
        """Return the topology of a YAML document; paths are relative to the working directory.

        Args:
            text: The document, as in a file.
            overrides: As for `load`.

        Raises:
            InputError: The topology is wrong; the message lists every error.
        """
        source = yaml_reader.parse(text, None)
        if not isinstance(source, Section):
            raise InputError("expected a mapping of keys to values", place=Place(key="topology"))
        return cls._of(extend(source, Path()), Path(), overrides)

    @classmethod
    def _of(cls, source: Section, folder: Path, overrides: Iterable[Override]) -> Self:
        apply_overrides(source, overrides, partial(find_item, source))
        try:
            return cls.model_validate(source, context={"folder": folder})
        except ValidationError as error:
            place_of = partial(yaml_reader.place_of, source, name_item=item_name)
            raise input_error(error, cls, place_of) from error

    def model_post_init(self, context: Any) -> None:
        """Mark the name as set, so that `to_yaml` writes a name taken from the file's stem."""
        self.model_fields_set.add("name")

    def _repr_html_(self) -> str:
        """Return the map of the topology, for notebooks."""
        # Drawing needs the layers above this one, and only notebooks call this method.
        from testbed.report.notebook import topology_html  # noqa: PLC0415

        return topology_html(self)

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """Return the JSON schema (draft 7) of a topology file, for editors.

        The schema is looser than `load`, which sees the whole file.
        """
        schema = cls.model_json_schema(schema_generator=SchemaGenerator)
        properties = schema["properties"]
        datacenters = properties["datacenters"]
        null_or_datacenter = [datacenters["additionalProperties"], {"type": "null"}]
        datacenters["additionalProperties"] = {"anyOf": null_or_datacenter}
        properties["extends"] = {
            "type": "string",
            "description": ("preset or file (relative to this one) to extend; null removes a key"),
            "examples": ["two-sites"],
        }

        del schema["required"]
        schema["anyOf"] = [{"required": ["datacenters"]}, {"required": ["extends"]}]
        schema["$defs"]["Wan"]["oneOf"] = [{"required": [shape]} for shape in SHAPES]
        return {"$schema": SchemaGenerator.schema_dialect, **schema}

    @property
    def links(self) -> list[Link]:
        """All WAN links, complete, in the order written."""
        return self._expanded[0]

    @property
    def sites(self) -> dict[str, Datacenter]:
        """All datacenters by name, complete, in the order written."""
        base = overlay(Datacenter(), self.defaults.datacenter)
        return {name: overlay(base, datacenter) for name, datacenter in self.datacenters.items()}

    @property
    def states(self) -> list[LinkState]:
        """The states of links during a run, by time."""
        return link_states(self.events, self.links, list(self.datacenters))

    @property
    def turns(self) -> list[HostTurn]:
        """The crashes and returns of hosts, by time."""
        return host_turns(self.events, self.host_names)

    @property
    def transfers(self) -> list[TransferTurn]:
        """The transfers between hosts in the background, by time."""
        return transfer_turns(self.events, self.host_names)

    @property
    def host_names(self) -> dict[str, list[str]]:
        """Names of the hosts of each datacenter."""
        names: dict[str, list[str]] = {}
        for datacenter, site in self.sites.items():
            names[datacenter] = [f"{datacenter}-h{number}" for number in range(site.hosts)]
        return names

    @cached_property
    def _expanded(self) -> tuple[list[Link], list[Mistake]]:
        """The links that `wan` describes, and the problems of `wan`."""
        locations: dict[str, Location | None] = {}
        for name, datacenter in self.datacenters.items():
            locations[name] = datacenter.location
        return expand(self.wan, self.defaults.wan, locations)

    @model_validator(mode="after")
    def _check(self) -> Self:
        links, link_problems = self._expanded
        problems = list(link_problems)
        if not problems:
            problems += self._path_problems(links)

        for name, site in self.sites.items():
            problems += _fabric_problems(name, site)
        if isinstance(self.ranks, list):
            problems += _rank_problems(self.ranks, self.host_names)
        if not problems:
            problems += event_problems(self.events, links, self.host_names)
        refuse(problems, type(self).__name__)
        return self

    def _path_problems(self, links: list[Link]) -> list[Mistake]:
        """Return a problem for each datacenter without a path to the first component."""
        if _are_joined(list(self.datacenters), links):
            return []

        import networkx as nx  # noqa: PLC0415 (0.2 s, which commands do without)

        graph = nx.Graph([(link.forward.source, link.forward.target) for link in links])
        graph.add_nodes_from(self.datacenters)
        first, *others = [sorted(part) for part in nx.connected_components(graph)]

        problems: list[Mistake] = []
        for other in others:
            what = f"no path between {', '.join(first)} and {', '.join(other)}"
            remedy = f"add a link of {other[0]} to `wan`, or remove the datacenter"
            problems.append(Mistake(("datacenters", other[0]), what, remedy))

        return problems


def _are_joined(datacenters: Sequence[str], links: Iterable[Link]) -> bool:
    """Return whether links join all datacenters."""
    neighbours: dict[str, list[str]] = {name: [] for name in datacenters}
    for link in links:
        neighbours[link.forward.source].append(link.forward.target)
        neighbours[link.forward.target].append(link.forward.source)

    reached = {datacenters[0]}
    waiting = [datacenters[0]]
    while waiting:
        for name in neighbours[waiting.pop()]:
            if name not in reached:
                reached.add(name)
                waiting.append(name)
    return len(reached) == len(datacenters)


def _name_of(path: Path) -> str:
    """Return a topology's name from its file name, with hyphens for invalid characters."""
    stem = path.stem.lower()
    text = re.sub(r"[^a-z0-9]+", "-", stem).strip("-")
    text = text[:60].rstrip("-")
    if text[:1].isalpha():
        return text
    return f"t-{text}".rstrip("-")


def _fabric_problems(name: str, site: Datacenter) -> list[Mistake]:
    fabric = site.fabric
    if not isinstance(fabric, LeafSpine) or site.hosts >= fabric.leaves:
        return []

    what = f"more leaves ({fabric.leaves}) than hosts ({site.hosts})"
    return [Mistake(("datacenters", name, "fabric"), what, "every leaf needs at least one host")]


def _rank_problems(ranks: Sequence[str], host_names: Mapping[str, Sequence[str]]) -> list[Mistake]:
    """Return a problem for each entry of `ranks` that is unknown, and for hosts named not once.

    Args:
        ranks: Names of datacenters and hosts.
        host_names: Names of the hosts of each datacenter.
    """
    problems: list[Mistake] = []
    counts: dict[str, int] = {}
    for names in host_names.values():
        counts.update(dict.fromkeys(names, 0))

    for number, entry in enumerate(ranks):
        named = host_names.get(entry, [entry])
        for host in named:
            if host not in counts:
                what = f"no datacenter or host {entry!r}"
                remedy = suggest(entry, [*host_names, *counts], "known names")
                problems.append(Mistake(("ranks", number), what, remedy))
                continue

            counts[host] += 1
            if counts[host] == 2:
                what = f"{host} is named twice"
                problems.append(Mistake(("ranks", number), what, "name each host once"))

    missing = [host for host, count in counts.items() if not count]
    if missing and not problems:
        what = f"ranks leaves out {', '.join(missing[:3])}{' …' if len(missing) > 3 else ''}"
        problems.append(Mistake(("ranks",), what, "name every host, or its datacenter"))

    return problems
