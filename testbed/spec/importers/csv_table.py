"""CSV tables of round-trip times and rates between datacenters.

A square matrix has names in its first row and column. A cell is the RTT from the row's datacenter
to the column's; an empty cell means no link, and the diagonal is ignored. A list has one row per
link, with the columns `from`, `to`, `rtt` and optionally `rate`. The first cell of a matrix or the
header of a column (``rtt_ms``) gives the unit of the numbers; the default unit of RTTs is ms. A
cell may also include a unit.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from testbed.core.errors import InputError, Place
from testbed.core.units import RATE, TIME, Quantity, UnitError, format_rate, format_time
from testbed.spec.base import suggest
from testbed.spec.importers.draft import (
    Draft,
    DraftLink,
    Options,
    check_number,
    read_bytes,
    unique_names,
)
from testbed.spec.wan import ARROW

EMPTY = ("", "-", "nan")
FORMS = (
    "use a square matrix with names in the first row and column, or a list with the columns "
    "from, to, rtt_ms"
)
NO_LINK = "leave the cells of rate and RTT empty where no link exists"
SQUARE = "the matrix must be square"
MEASURED_COLUMNS = {"rtt": TIME, "rate": RATE}
COLUMNS = ("from", "to", *MEASURED_COLUMNS)
DEFAULT_UNITS = {"rtt": "ms", "rate": None}
_BARE_NUMBER = re.compile(r"[+]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_BETWEEN_WORDS = re.compile(r"[\s_()\[\]:,\\]+")

Direction = tuple[str, str]  # (from, to): names of two datacenters


class Row(NamedTuple):
    """A line of a file, split into cells."""

    line: int
    cells: list[str]


class Column(NamedTuple):
    """A column of a list: its index in a row, and the unit of its numbers."""

    position: int
    unit: str | None


@dataclass
class Measured:
    """RTTs and rates that a file gives for directions between datacenters.

    Attributes:
        names: All datacenters, in the order of the file.
        rtt: Round-trip times in ns.
        rate: Rates in bit/s.
        places: Place of each direction in the file.
    """

    names: list[str]
    rtt: dict[Direction, int] = field(default_factory=dict)
    rate: dict[Direction, int] = field(default_factory=dict)
    places: dict[Direction, Place] = field(default_factory=dict)


def read(path: Path, content: bytes, options: Options) -> Draft:
    """Read the datacenters and links of a table of RTTs.

    Args:
        path: The file, for messages.
        content: Contents of the file.
        options: Values that the file does not have; may name a second table, with rates.

    Raises:
        InputError: A table is neither form, is not square, or has a wrong cell.
    """
    rows = _rows(path, content)
    measured = _read_table(path, rows)
    if options.bandwidth is not None:
        _add_bandwidth(measured, options.bandwidth, options.bandwidth_unit)

    check_number(path, len(measured.names))
    unique, notes = unique_names(measured.names)
    names = dict(zip(measured.names, unique, strict=True))
    links = list(_links(measured, names))
    return Draft(
        source=f"RTTs between {len(names)} datacenters, {len(links)} links",
        datacenters=dict.fromkeys(unique),
        links=links,
        top={"routing": "hops"},
        notes=notes,
        assumed=[
            "delay: half of the RTT each way; where a pair has two RTTs, half of each",
            "routing: packets take the direct link where one exists, as the measured packets did",
        ],
    )


def _rows(path: Path, content: bytes) -> list[Row]:
    """Return the non-empty lines; the first line determines the separator of the cells."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError("not a UTF-8 text file", place=Place(path)) from error

    first_line = text.partition("\n")[0]
    delimiter = max(",;\t", key=first_line.count)
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
    rows: list[Row] = []
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
                rows.append(Row(reader.line_num, cells))
    except csv.Error as error:
        place = Place(path, None, reader.line_num)
        raise InputError(f"not valid CSV: {error}", place=place) from error

    if len(rows) < 2:
        what = "not a table: fewer than two rows"
        raise InputError(what, place=Place(path), remedy=FORMS)

    return rows


def _read_table(path: Path, rows: list[Row]) -> Measured:
    if _is_list(rows):
        return _read_list(path, rows)
    return _read_matrix(path, rows, "rtt", "ms")


def _is_list(rows: list[Row]) -> bool:
    names = {cell.lower() for cell in rows[0].cells}
    return "from" in names and "to" in names


# ---- matrices


def _read_matrix(path: Path, rows: list[Row], kind: str, unit: str | None) -> Measured:
    """Read a square matrix of `kind` ("rtt" or "rate").

    `unit` is the unit of the numbers, unless the first cell names one.
    """
    head, *body = rows
    _check_head(path, head)
    _check_square(path, head, body)

    names = head.cells[1:]
    quantity = MEASURED_COLUMNS[kind]
    unit = _unit_in(head.cells[0], quantity) or unit
    measured = Measured(names)
    values = measured.rtt if kind == "rtt" else measured.rate
    for row in body:
        source = row.cells[0]
        for target, text in zip(names, row.cells[1:], strict=True):
            if source == target or text.lower() in EMPTY:
                continue

            direction = (source, target)
            place = Place(path, f"{source} to {target}", row.line)
            values[direction] = _value(text, quantity, unit, place)
            measured.places[direction] = place

    return measured


def _check_head(path: Path, head: Row) -> None:
    place = Place(path, None, head.line)
    names = head.cells[1:]
    if not names:
        raise InputError("not a table: only one column", place=place, remedy=FORMS)

    has_only_numbers = all(_BARE_NUMBER.fullmatch(name) for name in names)
    if has_only_numbers:
        raise InputError("the first row must hold names, not numbers", place=place, remedy=FORMS)

    counts = Counter(names)
    for name in names:
        if not name:
            raise InputError("a column has no name", place=place)
        if counts[name] > 1:
            raise InputError(f"duplicate column {name!r}", place=place)


def _check_square(path: Path, head: Row, body: list[Row]) -> None:
    names = head.cells[1:]
    lines: dict[str, int] = {}
    for row in body:
        place = Place(path, None, row.line)
        name, *values = row.cells
        if len(values) != len(names):
            what = f"the row {name!r} has {len(values)} values, but there are {len(names)} columns"
            raise InputError(what, place=place, remedy=SQUARE)

        if name not in names:
            suggestion = suggest(name, names, "columns")
            raise InputError(
                f"the row {name!r} has no matching column", place=place, remedy=suggestion
            )

        if name in lines:
            raise InputError(f"duplicate row {name!r}, first on line {lines[name]}", place=place)

        lines[name] = row.line

    missing = [name for name in names if name not in lines]
    if missing:
        what = f"no row for {', '.join(missing)}"
        raise InputError(what, place=Place(path), remedy=SQUARE)


# ---- lists


def _read_list(path: Path, rows: list[Row]) -> Measured:
    """Read a list with one row per link or per direction of a link."""
    head, *body = rows
    columns = _columns(path, head)
    measured = Measured([])
    for row in body:
        if len(row.cells) != len(head.cells):
            what = f"the row has {len(row.cells)} cells and the first row {len(head.cells)}"
            raise InputError(what, place=Place(path, None, row.line))

        _add_link(path, row, columns, measured)

    return measured


def _columns(path: Path, head: Row) -> dict[str, Column]:
    """Return the columns by name."""
    place = Place(path, None, head.line)
    columns: dict[str, Column] = {}
    for index, cell in enumerate(head.cells):
        name = _BETWEEN_WORDS.split(cell.lower())[0]
        if name not in COLUMNS or name in columns:
            problem = "duplicate" if name in columns else "unknown"
            raise InputError(
                f"{problem} column {cell!r}",
                place=place,
                remedy="the columns are from, to, rtt and rate, with a unit, such as rtt_ms and "
                "rate_gbit",
            )

        unit = None
        if name in MEASURED_COLUMNS:
            unit = _unit_in(cell, MEASURED_COLUMNS[name]) or DEFAULT_UNITS[name]

        columns[name] = Column(index, unit)

    if "rtt" not in columns:
        raise InputError("no RTT column found", place=place, remedy="name the column rtt_ms")
    return columns


def _add_link(path: Path, row: Row, columns: Mapping[str, Column], measured: Measured) -> None:
    """Add the values of a row of a list to `measured`."""
    source = row.cells[columns["from"].position]
    target = row.cells[columns["to"].position]
    place = Place(path, f"{source} to {target}", row.line)
    if not source or not target or source == target:
        raise InputError("a link needs two datacenters", place=place)

    direction = (source, target)
    if direction in measured.places:
        line = measured.places[direction].line
        raise InputError(f"duplicate link, first on line {line}", place=place)

    measured.places[direction] = place
    for name in direction:
        if name not in measured.names:
            measured.names.append(name)

    rtt = _cell_value(row, "rtt", columns, place)
    if rtt is None:
        raise InputError("the link has no RTT", place=place)

    measured.rtt[direction] = rtt

    rate = _cell_value(row, "rate", columns, place)
    if rate is not None:
        measured.rate[direction] = rate


def _cell_value(row: Row, name: str, columns: Mapping[str, Column], place: Place) -> int | None:
    """Return the value of a row in the column `name`; None for an empty or missing cell."""
    column = columns.get(name)
    if column is None:
        return None

    text = row.cells[column.position]
    if text.lower() in EMPTY:
        return None
    return _value(text, MEASURED_COLUMNS[name], column.unit, place)


# ---- rates beside a table of RTTs


def _add_bandwidth(measured: Measured, path: Path, unit: str | None) -> None:
    """Add the rates of the matrix `path`, whose numbers have the unit `unit`."""
    if measured.rate:
        what = "the table of RTTs already contains rates"
        raise InputError(what, place=Place("--bandwidth"))

    if unit is not None and _unit_in(unit, RATE) is None:
        what = f"{unit!r} is not a valid unit of rate"
        raise InputError(what, place=Place("--bandwidth-unit"), remedy=RATE.remedy)

    rows = _rows(path, read_bytes(path))
    if _is_list(rows):
        raise InputError(
            "the table of rates must be a matrix",
            place=Place(path),
            remedy="in a list, add a column rate_gbit",
        )

    rates = _read_matrix(path, rows, "rate", unit)
    for name in rates.names:
        if name not in measured.names:
            what = f"the table of RTTs has no datacenter {name!r}"
            suggestion = suggest(name, measured.names, "datacenters")
            raise InputError(what, place=Place(path), remedy=suggestion)

    for direction, place in rates.places.items():
        if direction not in measured.rtt and _reverse(direction) not in measured.rtt:
            raise InputError("this pair has a rate but no RTT", place=place, remedy=NO_LINK)

    measured.rate = rates.rate


# ---- cells


def _unit_in(text: str, quantity: Quantity) -> str | None:
    """Return the unit of `quantity` at the end of a text such as ``rtt_ms`` or ``RTT (ms)``."""
    words = _BETWEEN_WORDS.split(text)
    for word in reversed(words):
        try:
            quantity.exact(f"1 {word}")
        except UnitError:
            continue

        return word or None

    return None


def _value(text: str, quantity: Quantity, unit: str | None, place: Place) -> int:
    """Return a cell in base units, rounded; `unit` applies to a number without a unit."""
    if text.startswith("-"):
        raise InputError(f"the {quantity.name} {text!r} is negative", place=place)

    if _BARE_NUMBER.fullmatch(text):
        if unit is None:
            raise InputError(
                f"the {quantity.name} {text!r} has no unit",
                place=place,
                remedy="add the unit to the first cell or to the column header, such as Gbit/s, "
                "or use --bandwidth-unit",
            )

        text = f"{text.removeprefix('+')} {unit}"

    try:
        value = round(quantity.exact(text))
    except UnitError as error:
        raise InputError(error.what, place=place, remedy=error.remedy) from error

    if quantity is RATE and value == 0:
        raise InputError("the rate must be greater than 0", place=place, remedy=NO_LINK)
    return value


# ---- links


def _links(measured: Measured, names: Mapping[str, str]) -> Iterator[DraftLink]:
    """Yield a link per pair with an RTT; a value for one direction applies to both."""
    for direction in measured.rtt:
        if _is_second(direction, measured):
            continue

        source, target = direction
        delays: dict[Direction, str] = {}
        rates: dict[Direction, str] = {}
        for each in (direction, _reverse(direction)):
            if each in measured.rtt:
                delay = round(measured.rtt[each] / 2)
                delays[each] = format_time(delay)

            if each in measured.rate:
                rates[each] = format_rate(measured.rate[each])

        settings: dict[str, Any] = {}
        if rates:
            settings["rate"] = _written(rates, names)

        settings["delay"] = _written(delays, names)
        ends = (names[source], names[target])
        yield DraftLink(ends, settings, rate_assumed=not rates)


def _is_second(direction: Direction, measured: Measured) -> bool:
    """Return whether the opposite direction, from an earlier datacenter, defines the link."""
    if _reverse(direction) not in measured.rtt:
        return False

    source, target = direction
    return measured.names.index(target) < measured.names.index(source)


def _reverse(direction: Direction) -> Direction:
    source, target = direction
    return target, source


def _written(values: Mapping[Direction, str], names: Mapping[str, str]) -> str | dict[str, str]:
    """Return one text if all given directions have the same value, otherwise a text for each."""
    texts = set(values.values())
    if len(texts) == 1:
        return texts.pop()

    written: dict[str, str] = {}
    for (source, target), text in values.items():
        direction_name = f"{names[source]}{ARROW}{names[target]}"
        written[direction_name] = text

    return written
