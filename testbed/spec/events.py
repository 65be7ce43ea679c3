"""Events during a run: WAN links change, hosts crash, background transfers start.

    events:
      - {at: 5 s, links: iowa-ohio, delay: 30 ms}        # from then on
      - {at: 8 s, duration: 2 s, links: all, loss: 1 %}  # for two seconds
      - {at: 10 s, duration: 500 ms, every: 5 s, times: 4, links: fibre-1, down: true}
      - {at: 20 s, links: iowa-ohio, trace: measured.csv}
      - {at: 30 s, duration: 20 s, hosts: iowa-h1, crash: host}
      - {at: 60 s, every: 60 s, times: 5, transfer: {from: iowa, to: ohio, size: 20 GB}}

An event is active from `at` on, for `duration` or until the end of the run. Active events override
the topology's link settings in the order written; a link is down while any active event takes the
link down. The ranks of a crashed host are killed, and restart when the event ends. A transfer ends
when all of its bytes have arrived.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
)

from testbed.core.errors import Place
from testbed.core.units import ChangingRate, Probability, Rate, Size, Time, UnitError
from testbed.spec.base import Count, Flag, Strict, input_error
from testbed.spec.trace_files import TraceLine, read_lines
from testbed.spec.wan import Loss, PerDirection, QueueField
from testbed.spec.yaml_reader import Loc


class EventSettings(Strict):
    """What is different on a WAN link while an event is in force."""

    down: Flag = Field(
        False, description="take the link down: packets are lost both ways", examples=[True]
    )
    rate: PerDirection[ChangingRate] | None = Field(
        None,
        description="rate of the bottleneck; 0: a stall, in which packets wait in the queue",
        examples=["1 Gbit/s"],
    )
    delay: PerDirection[Time] | None = Field(
        None, description="one-way delay of the fibre", examples=["30 ms"]
    )
    jitter: PerDirection[Time] | None = Field(
        None, description="spread of the delay", examples=["1 ms"]
    )
    loss: PerDirection[Loss] | None = Field(
        None,
        description="loss probability of each packet, or a mapping for bursty loss",
        examples=["1 %"],
    )
    duplicate: PerDirection[Probability] | None = Field(
        None, description="probability that a packet arrives twice", examples=["0.1 %"]
    )
    corrupt: PerDirection[Probability] | None = Field(
        None, description="probability that one bit of a packet is flipped", examples=["0.1 %"]
    )
    queue: PerDirection[QueueField] | None = Field(
        None,
        description="buffer of the bottleneck; a value in bdp follows rate and delay",
        examples=["4 MiB"],
    )

    @property
    def values(self) -> dict[str, Any]:
        """The link settings that are set, by the names of `testbed.spec.wan.LinkDirection`."""
        values: dict[str, Any] = {}
        for name in EventSettings.model_fields:
            value = getattr(self, name)
            if name != "down" and value is not None:
                values[name] = value

        return values


class TraceRow(NamedTuple):
    """A line of a trace, in force from `time_ns` after the event's start until the next line."""

    time_ns: int
    settings: EventSettings


def read_trace(path: Path) -> Sequence[TraceRow]:
    """Read a file of link settings over time, as `testbed.spec.trace_files` does.

    A file that has not changed is read once.

    Raises:
        UnitError: The file cannot be read, or is no trace; the message names the line.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise UnitError(f"cannot read the trace {path}: {error.strerror}") from error
    return _read_version(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=64)
def _read_version(path: Path, _changed_ns: int, _size: int) -> Sequence[TraceRow]:
    rows: list[TraceRow] = []
    for line in read_lines(path):
        rows.append(TraceRow(line.time_ns, _settings(path, line)))
    return tuple(rows)


def _settings(path: Path, line: TraceLine) -> EventSettings:
    try:
        return EventSettings.model_validate(line.settings)
    except ValidationError as error:
        explained = input_error(error, EventSettings, _place_in_settings)
        what = f"line {line.number} of the trace {path}: {explained.what}"
        raise UnitError(what, explained.remedy) from error


def _place_in_settings(loc: Loc) -> Place:
    return Place(key=".".join(map(str, loc)))


def _find_trace(value: str, info: ValidationInfo) -> str:
    folder = (info.context or {}).get("folder", "")
    path = Path(folder) / value
    read_trace(path)
    return str(path.resolve())


def _kind_of_names(value: object) -> str:
    if value == "all":
        return "(all)"
    return "(some)" if isinstance(value, list) else "(one)"


Crash = Literal["ranks", "host"]
Names = Annotated[
    Annotated[Literal["all"], Tag("(all)")]
    | Annotated[str, Tag("(one)")]
    | Annotated[list[str], Tag("(some)")],
    Discriminator(_kind_of_names),
]


class Transfer(Strict):
    """Bytes that hosts send over TCP in the background: a checkpoint, data, other traffic."""

    model_config = ConfigDict(populate_by_name=True)

    source: str = Field(
        alias="from",
        description="sending host (iowa-h0), or datacenter: each of its hosts sends an equal part",
        examples=["iowa"],
    )
    target: str = Field(
        alias="to",
        description="receiving host, or datacenter: its hosts take turns",
        examples=["ohio"],
    )
    size: Size = Field(description="total size", examples=["20 GB"])
    connections: Annotated[Count, Field(le=64)] = Field(
        1, description="TCP connections between each pair of hosts", examples=[4]
    )
    rate: Rate | None = Field(
        None, description="total pace of the senders; left out, unlimited", examples=["2 Gbit/s"]
    )


class Event(EventSettings):
    """Something that happens to WAN links or hosts at a time of the run.

    A setting that is left out stays as it is.
    """

    at: Time = Field(
        description="start, counted from rank 0's first step or operation", examples=["5 s"]
    )
    duration: Time | None = Field(
        None, description="duration; left out, until the end of the run", examples=["500 ms"]
    )
    every: Time | None = Field(None, description="interval between repetitions", examples=["10 s"])
    times: Count | None = Field(
        None, description="number of occurrences, with `every`", examples=[5]
    )
    links: Names | None = Field(
        None,
        description="links to change: all, or names of links (iowa-ohio), of conduits (`shares`), "
        "or of datacenters (all their links)",
        examples=["iowa-ohio"],
    )
    hosts: Names | None = Field(
        None,
        description="hosts to crash: all, or names of hosts (iowa-h1) or of datacenters",
        examples=["iowa-h1"],
    )
    crash: Crash | None = Field(
        None,
        description="kind of crash. ranks: kill all ranks of the hosts; the kernel closes their "
        "connections. host: also cut the hosts off, as by a power failure; peers notice by "
        "timeouts. Afterwards the ranks start again",
        examples=["host"],
    )
    transfer: Transfer | None = Field(
        None,
        description="background transfer that starts at this time",
        examples=[{"from": "iowa", "to": "ohio", "size": "20 GB"}],
    )
    trace: Annotated[str, AfterValidator(_find_trace)] | None = Field(
        None,
        description="table of link settings over time (time,rate,delay,...), or a trace of "
        "mahimahi; times count from `at`",
        examples=["measured.csv"],
    )

    @property
    def rows(self) -> Sequence[TraceRow]:
        """The changes of one occurrence, by time after its start."""
        if self.trace is None:
            return (TraceRow(0, self),)
        return read_trace(Path(self.trace))

    def occurrences(self) -> Iterator[tuple[int, int | None]]:
        """Yield the start and the end of each occurrence in ns; end None: end of the run."""
        for number in range(self.times or 1):
            begin_ns = self.at + number * (self.every or 0)
            end_ns = None if self.duration is None else begin_ns + self.duration
            yield begin_ns, end_ns


def listed(names: str | list[str] | None) -> list[str]:
    """Return the names in `links` or `hosts`; `all` counts as a name."""
    if names is None:
        return []
    return names if isinstance(names, list) else [names]
