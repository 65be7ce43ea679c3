"""CSV tables of round-trip times and rates between datacenters: a square matrix, or a row for each
link.

A matrix has names in its first row and column; a cell is the RTT from the row's datacenter to the
column's, an empty one is no link, and the diagonal is not read. A list has the columns `from`,
`to`, `rtt` and `rate` (which may be left out). Numbers are in the unit that stands in the first
cell of a matrix or in the head of a column (``rtt_ms``), RTTs else in ms; a cell may also have a
unit of its own.
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
FORMS = "write a square matrix with names in its first row and column, or a list with the columns from, to, rtt_ms"
NO_LINK = "where there is no link, leave the cells of rate and RTT empty"
COLUMNS = {"rtt": TIME, "rate": RATE}
_BARE = re.compile(r"[+]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_WORDS = re.compile(r"[\s_()\[\]:,\\]+")

Way = tuple[str, str]


class Row(NamedTuple):
    """A line of a file, with its cells."""

    line: int
    cells: list[str]


@dataclass
class Measured:
    """What a file says of ways from one datacenter to another: RTTs in ns, rates in bit/s, and
    where each stands.
    """

    names: list[str]
    rtt: dict[Way, int] = field(default_factory=dict)
    rate: dict[Way, int] = field(default_factory=dict)
    places: dict[Way, Place] = field(default_factory=dict)


def read(path: Path, content: bytes, options: Options) -> Draft:
    """The datacenters and links of a table of RTTs, with the rates of a second one if `options`
    name it.

    Raises:
        InputError: a table is neither form, is not square, or has a cell that is not what it should
            be.
    """
    rows = _rows(path, content)
    measured = _list(path, rows) if _is_list(rows) else _matrix(path, rows, "rtt", "ms")
    if options.bandwidth is not None:
        if measured.rate:
            raise InputError(
                "there are rates in the table of RTTs already", place=Place("--bandwidth")
            )
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
            "delay: half of the RTT each way; where both RTTs of a pair are given, half of its own",
            "routing: packets take the direct link where there is one, as those that were measured did",
        ],
    )


def _rows(path: Path, content: bytes) -> list[Row]:
    """The lines that are not empty; cells are separated by commas, semicolons or tabs, as in the
    first line.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError("it is not a text file in UTF-8", place=Place(path)) from error
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
    rows = []
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                rows.append(Row(reader.line_num, [cell.strip() for cell in cells]))
    except csv.Error as error:
        raise InputError(
            f"this is not CSV: {error}", place=Place(path, None, reader.line_num)
        ) from error
    if len(rows) < 2:
        raise InputError(
            "this is no table: it has fewer than two rows", place=Place(path), remedy=FORMS
        )
    return rows


def _is_list(rows: list[Row]) -> bool:
    return {"from", "to"} <= {cell.lower() for cell in rows[0].cells}


def _matrix(path: Path, rows: list[Row], kind: str, unit: str | None) -> Measured:
    """A square matrix of `kind` ("rtt" or "rate"); `unit` is that of its numbers unless the first
    cell names one.
    """
    head, body = rows[0], rows[1:]
    names = head.cells[1:]
    if not names:
        raise InputError(
            "this is no table: it has one column", place=Place(path, None, head.line), remedy=FORMS
        )
    if all(_BARE.fullmatch(name) for name in names):
        raise InputError(
            "the first row holds numbers, not names",
            place=Place(path, None, head.line),
            remedy=FORMS,
        )
    _check_square(path, head, body)
    quantity = COLUMNS[kind]
    unit = _unit_in(head.cells[0], quantity) or unit
    measured = Measured(names)
    values = measured.rtt if kind == "rtt" else measured.rate
    for row in body:
        source = row.cells[0]
        for target, text in zip(names, row.cells[1:], strict=True):
            if source == target or text.lower() in EMPTY:
                continue
            way, place = (source, target), Place(path, f"{source} to {target}", row.line)
            values[way], measured.places[way] = _value(text, quantity, unit, place), place
    return measured


def _check_square(path: Path, head: Row, body: list[Row]) -> None:
    names, lines = head.cells[1:], dict[str, int]()
    if twice := [name for name, number in Counter(names).items() if number > 1 or not name]:
        what = f"the column {twice[0]!r} is there twice" if twice[0] else "a column has no name"
        raise InputError(what, place=Place(path, None, head.line))
    for line, (name, *values) in body:
        place = Place(path, None, line)
        if len(values) != len(names):
            what = f"the row {name!r} has {len(values)} values, but there are {len(names)} columns"
            raise InputError(what, place=place, remedy="the matrix has to be square")
        if name not in names:
            raise InputError(
                f"the row {name!r} has no column",
                place=place,
                remedy=suggest(name, names, "columns"),
            )
        if name in lines:
            raise InputError(f"the row {name!r} is on line {lines[name]} already", place=place)
        lines[name] = line
    if missing := [name for name in names if name not in lines]:
        what = f"there is no row for {', '.join(missing)}"
        raise InputError(what, place=Place(path), remedy="the matrix has to be square")


def _list(path: Path, rows: list[Row]) -> Measured:
    """A row for each link, or for each direction of it."""
    head, body = rows[0], rows[1:]
    columns: dict[str, tuple[int, str | None]] = {}
    for index, cell in enumerate(head.cells):
        column = _WORDS.split(cell.lower())[0]
        if column not in ("from", "to", *COLUMNS) or column in columns:
            what = f"the column {cell!r} is {'there twice' if column in columns else 'unknown'}"
            remedy = (
                "the columns are from, to, rtt and rate, with a unit, such as rtt_ms and rate_gbit"
            )
            raise InputError(what, place=Place(path, None, head.line), remedy=remedy)
        columns[column] = index, _unit_in(cell, COLUMNS[column]) if column in COLUMNS else None
    if "rtt" not in columns:
        raise InputError(
            "there is no column of RTTs",
            place=Place(path, None, head.line),
            remedy="name it rtt_ms",
        )
    measured = Measured([])
    for row in body:
        _read_link(path, row, head, columns, measured)
    return measured


def _read_link(
    path: Path,
    row: Row,
    head: Row,
    columns: Mapping[str, tuple[int, str | None]],
    measured: Measured,
) -> None:
    if len(row.cells) != len(head.cells):
        what = f"the row has {len(row.cells)} cells and the first row {len(head.cells)}"
        raise InputError(what, place=Place(path, None, row.line))
    source, target = way = row.cells[columns["from"][0]], row.cells[columns["to"][0]]
    place = Place(path, f"{source} to {target}", row.line)
    if not all(way) or source == target:
        raise InputError("a link needs two datacenters", place=place)
    if way in measured.places:
        raise InputError(f"this link is on line {measured.places[way].line} already", place=place)
    measured.places[way] = place
    measured.names += [name for name in way if name not in measured.names]
    for column, values in (("rtt", measured.rtt), ("rate", measured.rate)):
        index, unit = columns.get(column, (None, None))
        text = "" if index is None else row.cells[index]
        if text.lower() not in EMPTY:
            values[way] = _value(
                text, COLUMNS[column], unit or ("ms" if column == "rtt" else None), place
            )
        elif column == "rtt":
            raise InputError("the link has no RTT", place=place)


def _add_bandwidth(measured: Measured, path: Path, unit: str | None) -> None:
    """The rates of the matrix `path`."""
    if unit is not None and _unit_in(unit, RATE) is None:
        raise InputError(
            f"{unit!r} is not a unit of a rate", place=Place("--bandwidth-unit"), remedy=RATE.remedy
        )
    rows = _rows(path, read_bytes(path))
    if _is_list(rows):
        what = "rates beside a table of RTTs have to be a matrix"
        raise InputError(
            what,
            place=Place(path),
            remedy="in a list, write them into a column rate_gbit beside the RTTs",
        )
    found = _matrix(path, rows, "rate", unit)
    for name in found.names:
        if name not in measured.names:
            what = f"there is no datacenter {name!r} in the table of RTTs"
            raise InputError(
                what, place=Place(path), remedy=suggest(name, measured.names, "datacenters")
            )
    for way, place in found.places.items():
        if way not in measured.rtt and way[::-1] not in measured.rtt:
            raise InputError("there is a rate but no RTT", place=place, remedy=NO_LINK)
    measured.rate = found.rate


def _unit_in(text: str, quantity: Quantity) -> str | None:
    """The unit of `quantity` at the end of a text such as ``rtt_ms``, ``RTT (ms)`` or
    ``Gbit/s``.
    """
    for word in reversed(_WORDS.split(text)):
        try:
            quantity.exact(f"1 {word}")
        except UnitError:
            continue
        return word or None
    return None


def _value(text: str, quantity: Quantity, unit: str | None, place: Place) -> int:
    """A cell in base units, rounded."""
    if text.startswith("-"):
        raise InputError(f"the {quantity.name} {text!r} is negative", place=place)
    if _BARE.fullmatch(text):
        if unit is None:
            remedy = "write it into the first cell or the head of the column, such as Gbit/s, or give --bandwidth-unit"
            raise InputError(
                f"the {quantity.name} {text!r} has no unit", place=place, remedy=remedy
            )
        text = f"{text.removeprefix('+')} {unit}"
    try:
        value = round(quantity.exact(text))
    except UnitError as error:
        raise InputError(error.what, place=place, remedy=error.remedy) from error
    if quantity is RATE and value == 0:
        raise InputError("a rate of 0 carries nothing", place=place, remedy=NO_LINK)
    return value


def _links(measured: Measured, names: Mapping[str, str]) -> Iterator[DraftLink]:
    """A link for each pair with an RTT; a value that is given for one way only holds for both."""
    for way in measured.rtt:
        back = way[::-1]
        if back in measured.rtt and measured.names.index(back[0]) < measured.names.index(way[0]):
            continue
        delays = {
            key: format_time(round(measured.rtt[key] / 2))
            for key in (way, back)
            if key in measured.rtt
        }
        rates = {
            key: format_rate(measured.rate[key]) for key in (way, back) if key in measured.rate
        }
        settings: dict[str, Any] = {"rate": _each_way(rates, names)} if rates else {}
        settings["delay"] = _each_way(delays, names)
        yield DraftLink((names[way[0]], names[way[1]]), settings, rate_assumed=not rates)


def _each_way(values: Mapping[Way, str], names: Mapping[str, str]) -> str | dict[str, str]:
    """One text if both ways have the same value or only one has any, else one for each."""
    if len(set(values.values())) == 1:
        return next(iter(values.values()))
    return {f"{names[a]}{ARROW}{names[b]}": text for (a, b), text in values.items()}
