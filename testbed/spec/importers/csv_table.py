"""Tables of round-trip times and rates between datacenters, as people's tools write them.

A square matrix has names in its first row and column. A cell is the RTT from the row's datacenter
to the column's; a missing value means no link, and the diagonal is ignored. A list has one row per
link, with columns for both ends and for the values. The first cell of a matrix, the head of a
column or a comment gives the unit of the numbers; the default unit of times is ms. A cell may also
include a unit. `testbed.core.table_files` reads the text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, NamedTuple

from testbed.core.errors import InputError, Place
from testbed.core.headings import (
    FILLERS,
    JITTER_WORDS,
    LOSS_WORDS,
    MEAN_WORDS,
    PLACE_WORDS,
    RATE_WORDS,
    SPREAD_WORDS,
    TIME_WORDS,
    Heading,
    multiple_in_prose,
    read_heading,
    unit_in_prose,
    unit_named,
    with_unit_row,
    with_usual_unit,
)
from testbed.core.suggestions import suggest
from testbed.core.table_files import (
    Row,
    Table,
    is_missing,
    is_plain_number,
    numbers_from,
    plain_number,
    read_file,
    read_table,
)
from testbed.core.units import (
    PERCENTAGE,
    RATE,
    TIME,
    Quantity,
    UnitError,
    format_probability,
    format_rate,
    format_time,
)
from testbed.spec.importers.draft import (
    Draft,
    DraftLink,
    ImportOptions,
    check_number,
    listed,
    unique_names,
)
from testbed.spec.wan import ARROW

FORMS = (
    "use a square matrix with names in the first row and column, or a list with the columns "
    "from, to, rtt_ms"
)
NO_LINK = "leave the cells of rate and RTT empty where no link exists"
NOT_MEASURED = "leave the cell empty where nothing was measured"
SQUARE = "the matrix must be square"
NAME_THE_UNIT = "name the unit in brackets, such as RTT (ms) or RTT (us)"

Kind = Literal["time", "rate", "loss", "jitter"]
QUANTITIES: dict[Kind, Quantity] = {
    "time": TIME,
    "rate": RATE,
    "loss": PERCENTAGE,
    "jitter": TIME,
}
WORDS: dict[Kind, frozenset[str]] = {
    "loss": LOSS_WORDS,
    "jitter": JITTER_WORDS,
    "time": TIME_WORDS,
    "rate": RATE_WORDS,
}
FIRST_ENDS = frozenset(
    {"from", "src", "source", "a", "client", "origin", "start", "1", "sender", "left", "u"}
)
SECOND_ENDS = frozenset(
    {
        *("to", "dst", "dest", "destination", "target", "b", "server", "2", "receiver", "right"),
        *("v", "z", "peer", "sink"),
    }
)
MINOR_PLACE_WORDS = frozenset(
    {
        *("id", "ids", "ip", "address", "country", "continent", "state", "lat", "latitude", "lon"),
        *("lng", "long", "longitude", "provider", "asn", "isp", "code", "label", "x", "y"),
    }
)
OTHER_COLUMNS = frozenset(
    {
        *MINOR_PLACE_WORDS,
        *("index", "idx", "no", "nr", "row", "number", "timestamp", "date", "datetime", "day"),
        *("hour", "year", "count", "samples", "sample", "n", "sent", "received", "distance", "km"),
        *("miles", "type", "comment", "comments", "note", "notes", "status", "protocol", "hops"),
        *("ttl", "size", "bytes", "run", "ok", "success", "cable", "operator"),
    }
)
CORNER_WORDS = frozenset(
    {*TIME_WORDS, *RATE_WORDS, *MEAN_WORDS, *SPREAD_WORDS, *FILLERS, *PLACE_WORDS}
    | FIRST_ENDS
    | SECOND_ENDS
    | {"index", "id", "aws", "azure", "gcp", "provider", "country"}
)
SUMMARIES = frozenset(
    {*MEAN_WORDS, *SPREAD_WORDS, "total", "sum", "count", "all", "source", "note", "notes"}
)

# Words of columns that are neither times nor rates, although they have a unit.
NO_VALUES = frozenset(
    {
        *("diff", "difference", "delta", "change", "increase", "decrease", "improvement"),
        *("error", "overhead", "budget", "target", "sla", "limit", "threshold", "expected"),
    }
)

Direction = tuple[str, str]  # (from, to): names of two datacenters


class Column(NamedTuple):
    """A column of a list: its index in a row, its head, and the unit of its numbers."""

    position: int
    heading: Heading
    unit: str | None


@dataclass
class Measured:
    """Values that a file gives for directions between datacenters.

    Attributes:
        names: All datacenters, in the order of the file.
        delay: One-way delays in ns.
        rate: Rates in bit/s.
        loss: Loss probabilities.
        jitter: Jitter in ns.
        places: Place of each direction in the file.
        notes: What was left out.
        assumed: What the file does not say.
    """

    names: list[str]
    delay: dict[Direction, int] = field(default_factory=dict)
    rate: dict[Direction, int] = field(default_factory=dict)
    loss: dict[Direction, float] = field(default_factory=dict)
    jitter: dict[Direction, int] = field(default_factory=dict)
    places: dict[Direction, Place] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)

    def put(self, kind: Kind, direction: Direction, value: Fraction) -> None:
        """Keep a value in base units, rounded."""
        if kind == "time":
            self.delay[direction] = round(value)
        elif kind == "rate":
            self.rate[direction] = round(value)
        elif kind == "jitter":
            self.jitter[direction] = round(value)
        else:
            self.loss[direction] = float(value / 100)


def read(path: Path, content: bytes, options: ImportOptions) -> Draft:
    """Read the datacenters and links of a table of RTTs.

    Args:
        path: The file, for messages.
        content: Contents of the file.
        options: Values that the file does not have; may name a second table, with rates.

    Raises:
        InputError: A table is neither form, is not square, or has a wrong cell.
    """
    table = with_unit_row(read_table(path, content))
    try:
        measured = _read_table(table)
    except InputError as error:
        raise _with_reading(error, table) from error
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
        notes=[*notes, *measured.notes],
        assumed=[
            *measured.assumed,
            "routing: packets take the direct link where one exists, as the measured packets did",
        ],
    )


def _with_reading(error: InputError, table: Table) -> InputError:
    """Return an error that also says how the table was read."""
    remedy = table.understood
    if error.remedy:
        remedy = f"{error.remedy}\n  {remedy}"
    return InputError(error.what, place=error.place, remedy=remedy)


def _read_table(table: Table) -> Measured:
    _check_rows(table)
    ends = _end_columns(table)
    if ends is not None:
        return _read_list(table, *ends)
    return _read_matrix(table, "time", None)


def _check_rows(table: Table) -> None:
    if len(table.rows) < 2:
        what = "not a table: fewer than two rows"
        raise InputError(what, place=Place(table.path), remedy=FORMS)


# ---- matrices


def _read_matrix(table: Table, kind: Kind, unit: str | None) -> Measured:
    """Read a square matrix of times or rates.

    `unit` is the unit of the numbers, unless the first cell or a comment names one.
    """
    head, *body = _without_index(table.rows)
    _check_head(table.path, head)
    head, body, notes = _without_summaries(head, body)
    body = _padded_triangle(head, body)
    _check_square(table.path, head, body)

    quantity = QUANTITIES[kind]
    corner = read_heading(head.cells[0], (quantity,))
    _check_corner(table, head, corner)
    unit = corner.unit or _unit_of_remarks(table, quantity) or unit
    names = head.cells[1:]
    notes += _remark_notes(table)
    measured = Measured(names, notes=notes)
    heading = corner if corner.words else _remark_heading(table)
    halves = _Halves(measured, heading)
    if kind == "time":
        halves.explain(table, unit)
        unit = unit or "ms"

    values = _matrix_values(table, head, body, quantity, unit)
    _drop_zeros(values, names, kind)
    for direction, cell in values.items():
        value = cell.value
        if kind == "time":
            value = halves.one_way(value)
        measured.put(kind, direction, value)
        measured.places[direction] = cell.place
    return measured


class _Cell(NamedTuple):
    """A value in base units, with its place."""

    value: Fraction
    place: Place


def _matrix_values(
    table: Table, head: Row, body: Sequence[Row], quantity: Quantity, unit: str | None
) -> dict[Direction, _Cell]:
    """Return the values of a matrix outside its diagonal; missing values are left out."""
    values: dict[Direction, _Cell] = {}
    names = head.cells[1:]
    for row in body:
        source = row.cells[0]
        for target, text in zip(names, row.cells[1:], strict=True):
            if source == target or is_missing(text):
                continue

            place = Place(table.path, f"{source} to {target}", row.line)
            value = _value(text, quantity, unit, place, table.decimal_mark)
            values[source, target] = _Cell(value, place)
    return values


def _drop_zeros(values: dict[Direction, _Cell], names: Sequence[str], kind: Kind) -> None:
    """Remove the zeros that fill one triangle of a matrix; they are no measurements.

    Raises:
        InputError: Another value is zero.
    """
    upper: list[Direction] = []
    lower: list[Direction] = []
    order = {name: number for number, name in enumerate(names)}
    for source, target in values:
        triangle = upper if order[source] < order[target] else lower
        triangle.append((source, target))

    has_upper = any(values[pair].value for pair in upper)
    has_lower = any(values[pair].value for pair in lower)
    if has_upper != has_lower:
        unmeasured = lower if has_upper else upper
        for pair in unmeasured:
            del values[pair]

    for pair, cell in values.items():
        if cell.value == 0:
            raise _zero(kind, cell.place, values.get(_reverse(pair)))


def _zero(kind: Kind, place: Place, opposite: _Cell | None) -> InputError:
    if kind == "rate":
        return InputError("the rate must be greater than 0", place=place, remedy=NO_LINK)

    what = "a time of 0 between two datacenters is not a measurement"
    if opposite is not None and opposite.value:
        what += ", and the opposite direction has one"
    return InputError(what, place=place, remedy=NOT_MEASURED)


def _without_index(rows: Sequence[Row]) -> list[Row]:
    """Return the rows without a first column of row numbers, as pandas writes it."""
    head, *body = rows
    widths = {len(row.cells) for row in rows}
    if head.cells[0] or len(widths) > 1 or len(head.cells) < 3:
        return list(rows)

    numbers = [row.cells[0] for row in body]
    counts_up = numbers_from(numbers, 0) or numbers_from(numbers, 1)
    names = {row.cells[1] for row in body}
    columns = set(head.cells[2:])
    if not counts_up or not names <= columns:
        return list(rows)
    return [Row(row.line, row.cells[1:]) for row in rows]


def _check_head(path: Path, head: Row) -> None:
    place = Place(path, None, head.line)
    names = head.cells[1:]
    if not names:
        raise InputError("not a table: only one column", place=place, remedy=FORMS)

    has_only_numbers = all(is_plain_number(name) for name in names)
    if has_only_numbers:
        raise InputError("the first row must hold names, not numbers", place=place, remedy=FORMS)

    counts = Counter(names)
    for name in names:
        if not name:
            raise InputError("a column has no name", place=place)
        if counts[name] > 1:
            raise InputError(f"duplicate column {name!r}", place=place)


def _without_summaries(head: Row, body: Sequence[Row]) -> tuple[Row, list[Row], list[str]]:
    """Return a matrix without rows and columns of averages and totals, and notes on them."""
    left_out: list[str] = []
    kept_columns = [0]
    for position, name in enumerate(head.cells[1:], 1):
        if name.lower() in SUMMARIES:
            left_out.append(name)
        else:
            kept_columns.append(position)

    kept_rows: list[Row] = []
    for row in body:
        name = row.cells[0]
        if name.lower() in SUMMARIES:
            left_out += [] if name in left_out else [name]
        elif name not in head.cells and not any(row.cells[1:]):
            continue  # the row's name is the head of the first column: From, below To
        elif len(row.cells) == len(head.cells):
            kept_rows.append(Row(row.line, [row.cells[index] for index in kept_columns]))
        else:
            kept_rows.append(row)

    kept_head = Row(head.line, [head.cells[index] for index in kept_columns])
    notes = [f"left out as a summary: {listed(left_out)}"] if left_out else []
    return kept_head, kept_rows, notes


def _padded_triangle(head: Row, body: Sequence[Row]) -> list[Row]:
    """Return full rows of a lower triangle whose rows end at, or before, the diagonal."""
    names = head.cells[1:]
    if [row.cells[0] for row in body] != names:
        return list(body)

    for with_diagonal in (0, 1):
        widths = [1 + number + with_diagonal for number in range(len(names))]
        if [len(row.cells) for row in body] == widths:
            missing = [len(head.cells) - width for width in widths]
            return [
                Row(row.line, row.cells + [""] * count)
                for row, count in zip(body, missing, strict=True)
            ]
    return list(body)


def _check_square(path: Path, head: Row, body: Sequence[Row]) -> None:
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


def _check_corner(table: Table, head: Row, corner: Heading) -> None:
    """Check that the first cell has no word that may be an unknown unit."""
    unknown = corner.unknown(CORNER_WORDS)
    if corner.unit is None and unknown:
        raise InputError(
            f"the first cell {corner.text!r} names no known unit: {' '.join(unknown)!r}",
            place=Place(table.path, None, head.line),
            remedy=f"{NAME_THE_UNIT}; without a unit, leave the cell empty",
        )


# ---- lists


def _end_columns(table: Table) -> tuple[int, int] | None:
    """Return the positions of the columns of both ends; None if the table is a matrix."""
    head, *body = _without_index(table.rows)
    if any(row.cells[0] in head.cells[1:] for row in body):
        return None

    head = table.rows[0]
    first = _end_column(head, FIRST_ENDS)
    second = _end_column(head, SECOND_ENDS)
    if first is None or second is None or first == second:
        return _text_columns(table)
    return first, second


def _text_columns(table: Table) -> tuple[int, int] | None:
    """Return the only two columns that hold texts, if another column is one of times."""
    head, *body = table.rows
    has_times = False
    texts: list[int] = []
    for position, text in enumerate(head.cells):
        heading = read_heading(text)
        if _kind_of(heading) is not None:
            has_times = has_times or _kind_of(heading) == "time"
            continue
        cells = [row.cells[position] for row in body if position < len(row.cells)]
        values = [cell for cell in cells if not is_missing(cell)]
        is_text = values and not any(is_plain_number(cell) for cell in values)
        if is_text and not set(heading.words) & OTHER_COLUMNS:
            texts.append(position)

    if not has_times or len(texts) != 2:
        return None
    first, second = texts
    return first, second


def _end_column(head: Row, ends: frozenset[str]) -> int | None:
    """Return the position of the column that names an end; one with a name before one with an id.

    A column of times or rates names no end.
    """
    best: tuple[int, int] | None = None
    for position, text in enumerate(head.cells):
        heading = read_heading(text)
        if heading.unit is not None or _kind_of(heading) is not None:
            continue

        words = set(heading.words)
        named = words & ends
        if ends is SECOND_ENDS and words == {"end"}:
            named = words
        others = words - named - PLACE_WORDS
        if len(named) != 1 or others - MINOR_PLACE_WORDS:
            continue

        rank = (len(others), position)
        if best is None or rank < best:
            best = rank
    return None if best is None else best[1]


def _kind_of(heading: Heading) -> Kind | None:
    """Return what the column with a head holds; None for an end or another column."""
    words = set(heading.words)
    is_value = words & {"rtt", "rate", "latency", "delay"}
    is_other = words & (OTHER_COLUMNS - {"n"}) and not is_value
    if is_other or words & NO_VALUES:
        return None

    for kind, kind_words in WORDS.items():
        if words & kind_words:
            return kind
    if {"round", "trip"} <= words or {"one", "way"} <= words:
        return "time"
    if heading.quantity is RATE and words <= FILLERS | MEAN_WORDS | SPREAD_WORDS:
        return "rate"

    is_statistic = words and words <= MEAN_WORDS | SPREAD_WORDS
    is_unit_alone = heading.quantity is TIME and not words
    if is_unit_alone or (is_statistic and heading.quantity in (TIME, None)):
        return "time"
    return None


def _read_list(table: Table, first: int, second: int) -> Measured:
    """Read a list with one row per link or per direction of a link.

    Args:
        table: The table.
        first: Position of the column of the first end.
        second: Position of the column of the second end.
    """
    head, *body = table.rows
    measured = Measured([], notes=_remark_notes(table))
    columns = _columns(table, head, {first, second}, measured.notes)
    heads = [head.cells[first], head.cells[second]]
    if _end_column(head, FIRST_ENDS) != first or _end_column(head, SECOND_ENDS) != second:
        measured.assumed.append(f"links lead from {heads[0]!r} to {heads[1]!r}")
    for column in columns.values():
        heads.append(column.heading.text)
    table.facts.append(f"columns {', '.join(heads)}")

    times = columns["time"]
    halves = _Halves(measured, times.heading)
    halves.explain(table, times.unit)
    if times.unit is None:
        columns["time"] = times._replace(unit="ms")

    zeros: dict[Direction, _Cell] = {}
    unmeasured: list[str] = []
    for row in body:
        _check_length(table.path, row, head)
        ends = (row.cells[first], row.cells[second])
        if _is_summary(row, ends):
            measured.notes.append(f"left out as a summary: line {row.line}")
            continue

        direction = _new_direction(table.path, row, ends, measured)
        place = measured.places[direction]
        time = _cell_value(table, row, "time", columns, place)
        if time is None:
            source, target = direction
            unmeasured.append(f"{source} to {target}")
        elif time.value == 0:
            zeros[direction] = time
        else:
            measured.put("time", direction, halves.one_way(time.value))
            _put_others(table, row, direction, columns, measured)

    for direction, cell in zeros.items():
        raise _zero("time", cell.place, _measured_cell(measured, _reverse(direction)))
    if not measured.delay:
        raise InputError("no row has an RTT", place=Place(table.path))
    if unmeasured:
        measured.notes.append(f"left out because without an RTT: {listed(unmeasured)}")
    return measured


def _check_length(path: Path, row: Row, head: Row) -> None:
    count, head_count = len(row.cells), len(head.cells)
    if count != head_count:
        what = f"the row has {count} cells and the first row {head_count}"
        raise InputError(what, place=Place(path, None, row.line))


def _put_others(
    table: Table,
    row: Row,
    direction: Direction,
    columns: Mapping[Kind, Column],
    measured: Measured,
) -> None:
    """Add the rate, the loss and the jitter of a row of a list to `measured`."""
    others: tuple[Kind, ...] = ("rate", "loss", "jitter")
    for kind in others:
        cell = _cell_value(table, row, kind, columns, measured.places[direction])
        if cell is None:
            continue
        if kind == "rate" and cell.value == 0:
            raise _zero(kind, cell.place, None)
        measured.put(kind, direction, cell.value)


def _measured_cell(measured: Measured, direction: Direction) -> _Cell | None:
    delay = measured.delay.get(direction)
    return None if delay is None else _Cell(Fraction(delay), measured.places[direction])


def _is_summary(row: Row, ends: Direction) -> bool:
    """Return whether a row holds an average or total instead of a link."""
    if all(ends):
        return False
    texts = [cell for cell in row.cells if cell]
    if not texts:
        return False
    first_text = texts[0].lower().rstrip(":")
    words = first_text.split()
    return bool(words) and words[0] in SUMMARIES


def _columns(table: Table, head: Row, ends: set[int], notes: list[str]) -> dict[Kind, Column]:
    """Return the columns of values, by what they hold; add notes on other columns."""
    place = Place(table.path, None, head.line)
    candidates: dict[Kind, list[Column]] = {}
    left_out: list[str] = []
    for position, text in enumerate(head.cells):
        if position in ends:
            continue

        heading = read_heading(text)
        kind = _kind_of(heading)
        if kind is not None:
            _check_column(table, place, heading, kind)
            unit = heading.unit or _unit_of_remarks(table, QUANTITIES[kind])
            candidates.setdefault(kind, []).append(Column(position, heading, unit))
        elif text:
            _check_other_column(place, heading)
            left_out.append(text)

    if "time" not in candidates:
        raise InputError("no RTT column found", place=place, remedy="name the column rtt_ms")

    columns: dict[Kind, Column] = {}
    for kind, found in candidates.items():
        best, *others = sorted(found, key=_preference)
        _check_preferred(place, best, others)
        columns[kind] = best
        for column in others:
            left_out.append(column.heading.text)

    if left_out:
        notes.append(f"left out columns: {listed(left_out)}")
    return columns


def _check_preferred(place: Place, best: Column, others: Sequence[Column]) -> None:
    """Check that no other column of the same kind is as good as the best one."""
    if not others:
        return
    second = others[0]
    rank, _position = _preference(best)
    second_rank, _position = _preference(second)
    if rank == second_rank:
        what = f"duplicate column {second.heading.text!r}"
        also = f"{best.heading.text!r} holds the same"
        raise InputError(f"{what}: {also}", place=place, remedy="remove one of the two")


def _preference(column: Column) -> tuple[int, int]:
    """Return a sort key of columns of the same kind: no statistic, a mean, then a spread."""
    words = set(column.heading.words)
    if words & SPREAD_WORDS:
        return 2, column.position
    return (1 if words & MEAN_WORDS else 0), column.position


def _check_column(table: Table, place: Place, heading: Heading, kind: Kind) -> None:
    """Check that the head of a column has a unit of its quantity, and no unknown word."""
    quantity = QUANTITIES[kind]
    if heading.quantity is not None and heading.quantity is not quantity:
        unit = f"{heading.unit}, which is not a unit of {quantity.name}"
        what = f"the column {heading.text!r} has {unit}"
        raise InputError(what, place=place, remedy=NAME_THE_UNIT)

    known = FILLERS | WORDS[kind] | MEAN_WORDS | SPREAD_WORDS | PLACE_WORDS | FIRST_ENDS
    unknown = heading.unknown(known | SECOND_ENDS)
    if unknown and heading.unit is None:
        what = f"the column {heading.text!r} names no known unit: {' '.join(unknown)!r}"
        raise InputError(what, place=place, remedy=NAME_THE_UNIT)


def _check_other_column(place: Place, heading: Heading) -> None:
    """Check that a column without values of links is known as such, and not misspelt."""
    if NO_VALUES & set(heading.words):
        return
    known = OTHER_COLUMNS | PLACE_WORDS | FIRST_ENDS | SECOND_ENDS | FILLERS
    unknown = heading.unknown(known)
    if unknown:
        raise InputError(
            f"unknown column {heading.text!r}",
            place=place,
            remedy="the columns are from, to, rtt, rate, loss and jitter, with a unit, such as "
            "rtt_ms and rate_gbit; remove others",
        )


def _new_direction(path: Path, row: Row, ends: Direction, measured: Measured) -> Direction:
    """Return the direction of a row of a list, and add its ends to the names."""
    source, target = ends
    place = Place(path, f"{source} to {target}", row.line)
    if not source or not target or source == target:
        raise InputError("a link needs two datacenters", place=place)

    if ends in measured.places:
        line = measured.places[ends].line
        raise InputError(f"duplicate link, first on line {line}", place=place)

    measured.places[ends] = place
    for name in ends:
        if name not in measured.names:
            measured.names.append(name)
    return ends


def _cell_value(
    table: Table, row: Row, kind: Kind, columns: Mapping[Kind, Column], place: Place
) -> _Cell | None:
    """Return the value of a row of a list; None for a missing value or column."""
    column = columns.get(kind)
    if column is None or is_missing(row.cells[column.position]):
        return None

    text = row.cells[column.position]
    value = _value(text, QUANTITIES[kind], column.unit, place, table.decimal_mark)
    return _Cell(value, place)


# ---- what the times mean, and their unit


class _Halves:
    """Whether the times of a table are round trips, of which each direction gets half."""

    def __init__(self, measured: Measured, heading: Heading) -> None:
        words = set(heading.words)
        says_one_way = bool(words & {"owd", "oneway"}) or {"one", "way"} <= words
        says_round_trip = bool(words & {"rtt", "rtts", "ping", "pings", "roundtrip"})
        if {"round", "trip"} <= words:
            says_round_trip = True
        says_delay = bool(words & {"delay", "delays"})

        self.measured = measured
        self.heading = heading
        self.is_one_way = says_one_way or heading.says_half or (says_delay and not says_round_trip)
        self.is_said = says_one_way or says_round_trip or not words & TIME_WORDS

    def explain(self, table: Table, unit: str | None) -> None:
        """Add to the assumptions what the times of the table mean.

        Args:
            table: The table.
            unit: The unit that the table names; None without one.
        """
        assumed = self.measured.assumed
        if self.is_one_way:
            assumed.append("delay: the times of the table are one way")
        else:
            assumed.append(
                "delay: half of the RTT each way; where a pair has two RTTs, half of each"
            )
        if not self.is_said:
            meaning = "one-way delays" if self.is_one_way else "round-trip times"
            assumed.append(f"{self.heading.text!r} are {meaning}")
        if unit is None:
            assumed.append("unit of times without one: ms")
        table.facts.append(f"times in {unit or 'ms'}")

    def one_way(self, value: Fraction) -> Fraction:
        """Return the one-way delay of a time in the table."""
        return value if self.is_one_way else value / 2


def _unit_of_remarks(table: Table, quantity: Quantity) -> str | None:
    """Return the unit that comments and titles of a table name.

    Raises:
        InputError: Two comments name different units, or one names a multiple of a unit.
    """
    units: dict[str, None] = {}
    for remark in table.remarks:
        multiple = multiple_in_prose(remark, quantity)
        if multiple is not None:
            what = f"a comment names {multiple!r}, which is not a unit"
            raise InputError(what, place=Place(table.path), remedy=NAME_THE_UNIT)
        unit = unit_in_prose(remark, quantity)
        if unit is not None:
            units[unit] = None

    if len(units) > 1:
        what = f"comments name several units: {', '.join(units)}"
        raise InputError(what, place=Place(table.path), remedy=NAME_THE_UNIT)
    return next(iter(units), None)


def _remark_heading(table: Table) -> Heading:
    """Return the first comment or title with a word for times, as a head; else an empty head."""
    for remark in table.remarks:
        heading = read_heading(remark, (TIME,))
        if set(heading.words) & TIME_WORDS:
            return heading
    return Heading("", (), None, None)


def _remark_notes(table: Table) -> list[str]:
    return [f"left out below the table: {text}" for text in table.left_out]


# ---- rates next to a table of RTTs


def _add_bandwidth(measured: Measured, path: Path, unit: str | None) -> None:
    """Add the rates of the matrix `path`, whose numbers have the unit `unit`."""
    if measured.rate:
        what = "the table of RTTs already contains rates"
        raise InputError(what, place=Place("--bandwidth"))

    if unit is not None and unit_named(unit, (RATE,)) is None:
        what = f"{unit!r} is not a valid unit of rate"
        raise InputError(what, place=Place("--bandwidth-unit"), remedy=RATE.remedy)

    table = read_table(path, read_file(path))
    try:
        rates = _read_rates(table, unit)
        _check_rates(rates, measured, path)
    except InputError as error:
        raise _with_reading(error, table) from error

    measured.rate = rates.rate
    measured.notes += rates.notes


def _read_rates(table: Table, unit: str | None) -> Measured:
    _check_rows(table)
    if _end_columns(table) is not None:
        raise InputError(
            "the table of rates must be a matrix",
            place=Place(table.path),
            remedy="in a list, add a column rate_gbit",
        )
    return _read_matrix(table, "rate", unit)


def _check_rates(rates: Measured, measured: Measured, path: Path) -> None:
    for name in rates.names:
        if name not in measured.names:
            what = f"the table of RTTs has no datacenter {name!r}"
            suggestion = suggest(name, measured.names, "datacenters")
            raise InputError(what, place=Place(path), remedy=suggestion)

    for direction, place in rates.places.items():
        if direction not in measured.delay and _reverse(direction) not in measured.delay:
            raise InputError("this pair has a rate but no RTT", place=place, remedy=NO_LINK)


# ---- cells


def _value(
    text: str, quantity: Quantity, unit: str | None, place: Place, decimal_mark: str
) -> Fraction:
    """Return a cell in base units; `unit` applies to a number without a unit."""
    if text.startswith(("-", "−")):
        raise InputError(f"the {quantity.name} {text!r} is negative", place=place)

    try:
        number = plain_number(text, decimal_mark).removeprefix("+")
    except ValueError as error:
        remedy = "write the number without separated thousands and with a decimal point"
        raise InputError(str(error), place=place, remedy=remedy) from error

    if is_plain_number(number):
        if unit is None and float(number) != 0:
            raise InputError(
                f"the {quantity.name} {text!r} has no unit",
                place=place,
                remedy="add the unit to the first cell or to the column header, such as Gbit/s, "
                "or use --bandwidth-unit",
            )

        number = f"{number} {unit or ''}"

    try:
        return quantity.exact(with_usual_unit(number, quantity))
    except UnitError as error:
        if number == text:
            raise InputError(error.what, place=place, remedy=error.remedy) from error
        what = f"{text!r} is not a {quantity.name}"
        raise InputError(what, place=place, remedy=error.remedy) from error


# ---- links


def _links(measured: Measured, names: Mapping[str, str]) -> Iterator[DraftLink]:
    """Yield a link per pair with an RTT; a value for one direction applies to both."""
    order = {name: number for number, name in enumerate(measured.names)}
    for direction in measured.delay:
        source, target = direction
        opposite = _reverse(direction)
        if opposite in measured.delay and order[target] < order[source]:
            continue  # the opposite direction, from an earlier datacenter, defines the link

        settings: dict[str, Any] = {}
        for name, values in _texts(measured, (direction, opposite)).items():
            if values:
                settings[name] = _written(values, names)

        ends = (names[source], names[target])
        yield DraftLink(ends, settings, rate_assumed="rate" not in settings)


def _texts(measured: Measured, directions: Sequence[Direction]) -> dict[str, dict[Direction, str]]:
    """Return the values of the directions of a link as text, by the name of the setting."""
    rates: dict[Direction, str] = {}
    delays: dict[Direction, str] = {}
    jitters: dict[Direction, str] = {}
    losses: dict[Direction, str] = {}
    for direction in directions:
        if direction in measured.rate:
            rates[direction] = format_rate(measured.rate[direction])
        if direction in measured.delay:
            delays[direction] = format_time(measured.delay[direction])
        if direction in measured.jitter:
            jitters[direction] = format_time(measured.jitter[direction])
        if direction in measured.loss:
            losses[direction] = format_probability(measured.loss[direction])
    return {"rate": rates, "delay": delays, "jitter": jitters, "loss": losses}


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
