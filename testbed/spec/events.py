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

import csv
from collections.abc import Iterator
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
from testbed.spec.yaml_reader import Loc

TIME_COLUMN = "time"


class EventSettings(Strict):
    """What is different on a WAN link while an event is in force."""

    down: Flag = Field(
        False, description="take the link down: packets are lost both ways", examples=[True]
    )
    rate: PerDirection[Rate] | None = Field(
        None, description="rate of the bottleneck", examples=["1 Gbit/s"]
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


class _Line(NamedTuple):
    """A non-empty line of a CSV file, with its line number."""

    number: int
    cells: list[str]


def read_trace(path: Path) -> list[TraceRow]:
    """Read a CSV file with a column `time` and columns of link settings.

    The first line is a header such as ``time,rate,delay``, followed by lines such as
    ``0 s,1 Gbit/s,``. An empty cell keeps the setting that the link has without the event.

    Raises:
        UnitError: The file cannot be read, or is not such a table; the message names the line.
    """
    lines = _read_lines(path)
    if len(lines) < 2:
        raise UnitError(
            f"the trace {path} has no rows",
            "write a header such as time,rate,delay",
        )

    head = lines[0].cells
    _check_head(path, head)
    rows: list[TraceRow] = []
    for line in lines[1:]:
        row = _trace_row(path, head, line)
        if rows and row.time_ns <= rows[-1].time_ns:
            what = f"line {line.number} of the trace {path} is not later than the previous line"
            raise UnitError(what)

        rows.append(row)

    return rows


def _read_lines(path: Path) -> list[_Line]:
    lines: list[_Line] = []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            for row in reader:
                cells = [cell.strip() for cell in row]
                if any(cells):
                    lines.append(_Line(reader.line_num, cells))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UnitError(f"cannot read the trace {path}: {reason}") from error

    return lines


def _check_head(path: Path, head: list[str]) -> None:
    known = [TIME_COLUMN, *EventSettings.model_fields]
    for name in head:
        if name not in known:
            raise UnitError(
                f"the trace {path} has an unknown column {name!r}",
                suggest(name, known, "known columns"),
            )

    has_duplicates = len(set(head)) < len(head)
    if TIME_COLUMN not in head or len(head) < 2 or has_duplicates:
        raise UnitError(
            f"the header of the trace {path} must name time and the settings, each once"
        )


def _trace_row(path: Path, head: list[str], line: _Line) -> TraceRow:
    place = f"line {line.number} of the trace {path}"
    if len(line.cells) != len(head):
        raise UnitError(f"{place} has {len(line.cells)} cells, the header has {len(head)}")

    settings: dict[str, Any] = {}
    for name, cell in zip(head, line.cells, strict=True):
        if cell:
            settings[name] = cell

    if "down" in settings:
        settings["down"] = _flag(settings["down"])

    try:
        time_ns = parse_time(settings.pop(TIME_COLUMN, ""))
        return TraceRow(time_ns, EventSettings.model_validate(settings))
    except UnitError as error:
        raise UnitError(f"{place}: {error.what}", error.remedy) from error
    except ValidationError as error:
        explained = input_error(error, EventSettings, _place_in_settings)
        raise UnitError(f"{place}: {explained.what}", explained.remedy) from error


def _flag(cell: str) -> bool | str:
    """Return the truth value of a cell, or the cell unchanged for pydantic to reject."""
    flags = {"true": True, "false": False}
    return flags.get(cell.lower(), cell)


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
        description="CSV file of link settings over time (time,rate,delay,...); times count from "
        "`at`",
        examples=["measured.csv"],
    )

    @property
    def rows(self) -> list[TraceRow]:
        """The changes of one occurrence, by time after its start."""
        if self.trace is None:
            return [TraceRow(0, self)]
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
