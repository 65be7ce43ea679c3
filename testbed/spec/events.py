"""Events: WAN links that change, hosts that crash and transfers beside the job while a run goes on.

    events:
      - {at: 5 s, links: iowa-ohio, delay: 30 ms}                                # from then on
      - {at: 8 s, duration: 2 s, links: all, loss: 1 %}                          # and then as
        before
      - {at: 10 s, duration: 500 ms, every: 5 s, times: 4, links: fibre-1, down: true}
      - {at: 20 s, links: iowa-ohio, trace: measured.csv}
      - {at: 30 s, duration: 20 s, hosts: iowa-h1, crash: host}
      - {at: 60 s, every: 60 s, times: 5, transfer: {from: iowa, to: ohio, size: 20 GB}}

An event is in force from `at` on, for `duration` or to the end of the run. What is in force at a
time is laid over the links as the topology has them, in the order written; a link is down while any
event says so. The ranks of a host that crashes are killed, and start again when the event is over.
A transfer ends when all of it has arrived.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import pairwise
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
from testbed.core.units import Probability, Rate, Size, Time, UnitError, parse_time
from testbed.spec.base import Count, Flag, Strict, input_error, suggest
from testbed.spec.wan import Loss, PerDirection, QueueField

TIME_COLUMN = "time"


class EventSettings(Strict):
    """What is different on a WAN link while an event is in force."""

    down: Flag = Field(
        False, description="whether what is sent into the link is lost, both ways", examples=[True]
    )
    rate: PerDirection[Rate] | None = Field(
        None, description="of the bottleneck", examples=["1 Gbit/s"]
    )
    delay: PerDirection[Time] | None = Field(
        None, description="of the fibre, one way", examples=["30 ms"]
    )
    jitter: PerDirection[Time] | None = Field(
        None, description="spread of the delay", examples=["1 ms"]
    )
    loss: PerDirection[Loss] | None = Field(
        None, description="chance of each packet; or in bursts", examples=["1 %"]
    )
    duplicate: PerDirection[Probability] | None = Field(
        None, description="chance of each packet to arrive twice", examples=["0.1 %"]
    )
    corrupt: PerDirection[Probability] | None = Field(
        None, description="chance of each packet to have one bit flipped", examples=["0.1 %"]
    )
    queue: PerDirection[QueueField] | None = Field(
        None,
        description="buffer of the bottleneck; one in bdp follows rate and delay",
        examples=["4 MiB"],
    )

    @property
    def values(self) -> dict[str, Any]:
        """What is set of the links' own settings, by the names of
        `testbed.spec.wan.LinkDirection`.
        """
        named = {name: getattr(self, name) for name in EventSettings.model_fields if name != "down"}
        return {name: value for name, value in named.items() if value is not None}


class TraceRow(NamedTuple):
    """A line of a trace: from `time_ns` after the event's beginning until the next line."""

    time_ns: int
    settings: EventSettings


def read_trace(path: Path) -> list[TraceRow]:
    """The lines of a CSV file whose head names `time` and settings of links: ``time,rate,delay``,
    ``0 s,1 Gbit/s,``.

    An empty cell leaves the setting as it is without the event.

    Raises:
        UnitError: it cannot be read, or is not such a table; names the line.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            lines = [
                (reader.line_num, line) for line in reader if any(cell.strip() for cell in line)
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = getattr(error, "strerror", None) or error
        raise UnitError(f"the trace {path} cannot be read: {why}") from error
    if len(lines) < 2:
        raise UnitError(
            f"the trace {path} has no line below its head", "write a head such as time,rate,delay"
        )
    head = [cell.strip() for cell in lines[0][1]]
    known = [TIME_COLUMN, *EventSettings.model_fields]
    for name in head:
        if name not in known:
            raise UnitError(
                f"the trace {path} has an unknown column {name!r}",
                suggest(name, known, "the columns"),
            )
    if TIME_COLUMN not in head or len(head) < 2 or len(set(head)) < len(head):
        raise UnitError(f"the head of the trace {path} does not name time and settings, each once")
    rows = [_trace_row(path, number, head, cells) for number, cells in lines[1:]]
    for (number, _), (row, after) in zip(lines[2:], pairwise(rows), strict=True):
        if after.time_ns <= row.time_ns:
            raise UnitError(f"line {number} of the trace {path} is not later than the one before")
    return rows


def _trace_row(path: Path, number: int, head: list[str], cells: list[str]) -> TraceRow:
    if len(cells) != len(head):
        raise UnitError(
            f"line {number} of the trace {path} has {len(cells)} cells, its head has {len(head)}"
        )
    written: dict[str, Any] = {
        name: cell.strip() for name, cell in zip(head, cells, strict=True) if cell.strip()
    }
    if "down" in written:
        written["down"] = {"true": True, "false": False}.get(
            written["down"].lower(), written["down"]
        )
    try:
        time_ns = parse_time(written.pop(TIME_COLUMN, ""))
        return TraceRow(time_ns, EventSettings.model_validate(written))
    except UnitError as error:
        raise UnitError(f"line {number} of the trace {path}: {error.what}", error.remedy) from error
    except ValidationError as error:
        found = input_error(error, EventSettings, lambda loc: Place(key=".".join(map(str, loc))))
        raise UnitError(f"line {number} of the trace {path}: {found.what}", found.remedy) from error


def _found_trace(value: str, info: ValidationInfo) -> str:
    path = Path((info.context or {}).get("folder", "")) / value
    read_trace(path)
    return str(path.resolve())


Crash = Literal["ranks", "host"]
Names = Annotated[
    Annotated[Literal["all"], Tag("(all)")]
    | Annotated[str, Tag("(one)")]
    | Annotated[list[str], Tag("(some)")],
    Discriminator(
        lambda value: (
            "(all)" if value == "all" else "(some)" if isinstance(value, list) else "(one)"
        )
    ),
]


class Transfer(Strict):
    """Bytes that hosts send to others over TCP, beside the job: a checkpoint, data, somebody else's
    traffic.
    """

    model_config = ConfigDict(populate_by_name=True)

    source: str = Field(
        alias="from",
        description="a host (iowa-h0), or a datacenter: each host sends its part",
        examples=["iowa"],
    )
    target: str = Field(
        alias="to", description="a host, or a datacenter: its hosts in turn", examples=["ohio"]
    )
    size: Size = Field(description="in all", examples=["20 GB"])
    connections: Annotated[Count, Field(le=64)] = Field(
        1, description="of each pair of hosts", examples=[4]
    )
    rate: Rate | None = Field(
        None, description="at most, in all, where the sender paces itself", examples=["2 Gbit/s"]
    )


class Event(EventSettings):
    """Something that happens to WAN links or hosts at a time of the run; what is not written stays
    as it is.
    """

    at: Time = Field(
        description="when, from the first step or operation of rank 0 on", examples=["5 s"]
    )
    duration: Time | None = Field(
        None, description="for how long; left out, to the end of the run", examples=["500 ms"]
    )
    every: Time | None = Field(
        None, description="from one occurrence to the next", examples=["10 s"]
    )
    times: Count | None = Field(
        None, description="how many occurrences, with `every`", examples=[5]
    )
    links: Names | None = Field(
        None,
        description="whose settings these are: all, or names of links (iowa-ohio), of conduits (`shares`), or of "
        "datacenters, for all links of theirs",
        examples=["iowa-ohio"],
    )
    hosts: Names | None = Field(
        None,
        description="that crash: all, or names of hosts (iowa-h1) or of datacenters",
        examples=["iowa-h1"],
    )
    crash: Crash | None = Field(
        None,
        description="of hosts. ranks: all their ranks are killed, and the kernel closes their connections. host: they "
        "fall silent as well, as without power, and others find out by waiting. Over, the ranks start again",
        examples=["host"],
    )
    transfer: Transfer | None = Field(
        None,
        description="what hosts send each other from then on",
        examples=[{"from": "iowa", "to": "ohio", "size": "20 GB"}],
    )
    trace: Annotated[str, AfterValidator(_found_trace)] | None = Field(
        None,
        description="CSV file of what changes when: time,rate,delay,...; times count from `at` on",
        examples=["measured.csv"],
    )

    @property
    def rows(self) -> list[TraceRow]:
        """What is different, and from when after the beginning of an occurrence: the trace, or the
        event's own.
        """
        return [TraceRow(0, self)] if self.trace is None else read_trace(Path(self.trace))

    def occurrences(self) -> Iterator[tuple[int, int | None]]:
        """From when to before when (None: to the end of the run) the event is in force, in ns."""
        for number in range(self.times or 1):
            begin = self.at + number * (self.every or 0)
            yield begin, None if self.duration is None else begin + self.duration


def listed(names: str | list[str] | None) -> list[str]:
    """What `links` or `hosts` names; `all` is a name."""
    return [] if names is None else names if isinstance(names, list) else [names]
