"""Read traces of links: tables of settings over time, and mahimahi's packet delivery opportunities.

A table has a column of times and columns of settings. The head of a column, or each cell, names the
unit. Times may be elapsed times, Unix times, dates or times of day; the latter three count from the
first row. A file with a single column of whole numbers is a trace of mahimahi: each line is the ms
at which a packet of 1500 bytes may leave.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from testbed.core.errors import InputError
from testbed.core.headings import (
    FILLERS,
    JITTER_WORDS,
    LOSS_WORDS,
    MEAN_WORDS,
    RATE_WORDS,
    ROUND_TRIP_WORDS,
    TIME_WORDS,
    Heading,
    read_heading,
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
from testbed.core.units import DECIMAL_SIZE, PERCENTAGE, RATE, TIME, Quantity, UnitError

MOST_CHANGES = 10_000  # during a run
TIME_COLUMN = "time"
CLOCK_NS = 10**18  # times from here on are Unix times: 2001-09-09
MAHIMAHI_BITS = 12_000  # of a packet of 1500 bytes
MAHIMAHI_BIN_MS = 100
NS_PER_MS = 10**6

QUANTITIES: dict[str, Quantity] = {
    TIME_COLUMN: TIME,
    "rate": RATE,
    "delay": TIME,
    "jitter": TIME,
    "loss": PERCENTAGE,
    "duplicate": PERCENTAGE,
    "corrupt": PERCENTAGE,
}
SETTINGS = ("down", "rate", "delay", "jitter", "loss", "duplicate", "corrupt", "queue")
_WORDS: dict[str, frozenset[str]] = {
    TIME_COLUMN: frozenset({"time", "t", "ts", "timestamp", "elapsed", "epoch", "unix", "date"}),
    "loss": LOSS_WORDS,
    "jitter": JITTER_WORDS,
    "duplicate": frozenset({"duplicate", "duplicates", "duplication"}),
    "corrupt": frozenset({"corrupt", "corruption"}),
    "queue": frozenset({"queue", "buffer"}),
    "rate": RATE_WORDS,
    "delay": TIME_WORDS - {"latency", "latencies", "lag"},
}
ANY_DATE = "2020-01-01"
# As in 2019.12.14_09.51.02 of traces of phones, and 2019/12/14 09:51:02.
_DATE_AND_TIME = re.compile(
    r"(\d{4})[./-](\d\d)[./-](\d\d)[_ T](\d\d)[.:](\d\d)[.:](\d\d(?:\.\d+)?)"
)
_TIME_OF_DAY = re.compile(r"\d\d:\d\d:\d\d(?:\.\d+)?")
_FLAGS = {
    **dict.fromkeys(("true", "yes", "1"), True),
    **dict.fromkeys(("false", "no", "0"), False),
}


class TraceLine(NamedTuple):
    """A line of a trace: its number, its time in ns, and the settings from then on."""

    number: int
    time_ns: int
    settings: dict[str, str | bool]


class _Column(NamedTuple):
    """A column: its position, its setting, the unit of bare numbers, and whether to halve them."""

    position: int
    setting: str
    unit: str | None
    is_round_trip: bool


def read_lines(path: Path) -> list[TraceLine]:
    """Read a trace.

    Raises:
        UnitError: The file cannot be read, or is no trace; the message names the line.
    """
    try:
        table = with_unit_row(read_table(path, read_file(path)))
    except InputError as error:
        what = f"cannot read the trace {path}"
        if error.place.line is not None:
            what = _line(path, error.place.line)
        reason = error.what.removeprefix("cannot read the file: ")
        raise UnitError(f"{what}: {reason}", error.remedy) from error

    if len(table.rows) > MOST_CHANGES + 1 and not _is_mahimahi(table.rows):
        rows = len(table.rows) - 1
        raise UnitError(f"the trace {path} has {rows} rows (at most {MOST_CHANGES} in a run)")

    try:
        if _is_mahimahi(table.rows):
            return _mahimahi_lines(path, table.rows)
        return _table_lines(table)
    except UnitError as error:
        remedy = table.understood
        if error.remedy:
            remedy = f"{error.remedy}\n  {remedy}"
        raise UnitError(error.what, remedy) from error


def _line(path: Path, number: int) -> str:
    return f"line {number} of the trace {path}"


# ---- mahimahi


def _is_mahimahi(rows: Sequence[Row]) -> bool:
    """Return whether all lines hold one whole number."""
    if len(rows) < 2:
        return False
    return all(len(row.cells) == 1 and row.cells[0].isdecimal() for row in rows)


def _mahimahi_lines(path: Path, rows: Sequence[Row]) -> list[TraceLine]:
    """Return the rates of a trace of mahimahi in periods of 100 ms, or more in long traces."""
    times_ms: list[int] = []
    for row in rows:
        time_ms = int(row.cells[0])
        if times_ms and time_ms < times_ms[-1]:
            what = f"{_line(path, row.line)} is earlier than the previous line"
            raise UnitError(what, "a trace of mahimahi has a time in ms on each line")
        times_ms.append(time_ms)

    end_ms = times_ms[-1]
    if end_ms == 0:
        raise UnitError(f"the trace {path} ends at 0 ms")

    bin_ms = MAHIMAHI_BIN_MS
    while end_ms // bin_ms >= MOST_CHANGES // 2:
        bin_ms *= 2

    bins = -(-end_ms // bin_ms)
    packets = [0] * bins
    for time_ms in times_ms:
        packets[min(time_ms // bin_ms, bins - 1)] += 1

    lines: list[TraceLine] = []
    before = ""
    for number, count in enumerate(packets):
        begin_ms = number * bin_ms
        length_ms = min(bin_ms, end_ms - begin_ms)
        rate = f"{round(Fraction(count * MAHIMAHI_BITS * 1000, length_ms))} bit/s"
        if rate != before:
            lines.append(TraceLine(rows[0].line, begin_ms * NS_PER_MS, {"rate": rate}))
        before = rate
    return lines


# ---- tables


def _table_lines(table: Table) -> list[TraceLine]:
    if len(table.rows) < 2:
        raise UnitError(
            f"the trace {table.path} has no rows",
            "write a header such as time,rate,delay",
        )

    head, *body = table.rows
    columns = _columns(table, head, body)
    heads = [head.cells[column.position] for column in columns]
    table.facts.append(f"columns {', '.join(heads)}")

    lines: list[TraceLine] = []
    clock_ns: Fraction | None = None
    before: dict[str, str | bool] = {}
    for row in body:
        place = _line(table.path, row.line)
        if len(row.cells) != len(head.cells):
            raise UnitError(f"{place} has {len(row.cells)} cells, the header has {len(head.cells)}")

        try:
            time_ns, before = _values(table, row, columns, before)
        except UnitError as error:
            raise UnitError(f"{place}: {error.what}", error.remedy) from error

        if not lines and time_ns >= CLOCK_NS:
            clock_ns = time_ns
        if clock_ns is not None:
            time_ns -= clock_ns
        if lines and round(time_ns) <= lines[-1].time_ns:
            raise UnitError(f"{place} is not later than the previous line")
        lines.append(TraceLine(row.line, round(time_ns), before))

    return lines


def _columns(table: Table, head: Row, body: Sequence[Row]) -> list[_Column]:
    """Return the columns of settings and times."""
    if all(is_plain_number(text) for text in head.cells):
        raise UnitError(
            f"the trace {table.path} has no header",
            "name the columns and their units in the first line, such as time_s,rate_mbps",
        )
    columns: list[_Column] = []
    for position, text in enumerate(head.cells):
        if not text and _counts_up(body, position):
            continue
        columns.append(_column(table, position, text))

    settings = [column.setting for column in columns]
    has_duplicates = len(set(settings)) < len(settings)
    if TIME_COLUMN not in settings or len(settings) < 2 or has_duplicates:
        raise UnitError(
            f"the header of the trace {table.path} must name time and the settings, each once",
            f"the settings are {', '.join(SETTINGS)}; units go in brackets, such as rate (Mbit/s)",
        )
    return columns


def _counts_up(body: Sequence[Row], position: int) -> bool:
    cells = [row.cells[position] for row in body if position < len(row.cells)]
    return numbers_from(cells, 0) or numbers_from(cells, 1)


def _column(table: Table, position: int, text: str) -> _Column:
    name = text.lower()
    if name in (TIME_COLUMN, *SETTINGS):
        return _Column(position, name, None, is_round_trip=False)

    heading = read_heading(text)
    setting = _setting(heading)
    if setting == "queue":
        heading = read_heading(text, (DECIMAL_SIZE, TIME))

    known = FILLERS | MEAN_WORDS | {"stamp", "bytes", "mahimahi"}
    if setting is not None:
        known |= _WORDS[setting]
    unknown = heading.unknown(known)
    quantity = QUANTITIES.get(setting or "", heading.quantity)
    if setting is None or unknown or heading.quantity not in (None, quantity):
        raise _unknown_column(table, text, heading)

    unit = heading.unit
    if setting == "queue" and "packets" in heading.words:
        unit = "packets"
    names_round_trip = bool(set(heading.words) & ROUND_TRIP_WORDS)
    is_round_trip = setting == "delay" and names_round_trip and not heading.says_half
    return _Column(position, setting, unit, is_round_trip)


def _setting(heading: Heading) -> str | None:
    """Return the setting that the column with a head holds; None for unknown columns."""
    words = set(heading.words)
    if {"round", "trip"} <= words or {"one", "way"} <= words:
        return "delay"
    for setting, setting_words in _WORDS.items():
        if words & setting_words:
            return setting

    if words:
        return None
    if heading.quantity is RATE:
        return "rate"
    return TIME_COLUMN if heading.quantity is TIME else None


def _unknown_column(table: Table, text: str, heading: Heading) -> UnitError:
    what = f"the trace {table.path} has an unknown column {text!r}"
    if set(heading.words) & {"latency", "latencies", "lag"}:
        return UnitError(what, "call it delay if it is one way, and rtt if it is a round trip")

    remedy = suggest(text, [TIME_COLUMN, *SETTINGS], "known columns")
    return UnitError(what, f"{remedy}; remove columns that are not settings")


def _values(
    table: Table, row: Row, columns: Sequence[_Column], before: dict[str, str | bool]
) -> tuple[Fraction, dict[str, str | bool]]:
    """Return the time of a row in ns, and its settings.

    A missing value, such as ``N/A``, keeps the value of the row `before`. An empty cell does not.
    """
    time_ns: Fraction | None = None
    settings: dict[str, str | bool] = {}
    for column in columns:
        cell = row.cells[column.position]
        if column.setting == TIME_COLUMN:
            time_ns = _time_ns(table, cell, column)
        elif cell and is_missing(cell):
            if column.setting in before:
                settings[column.setting] = before[column.setting]
        elif cell:
            settings[column.setting] = _setting_text(table, cell, column)

    assert time_ns is not None
    return time_ns, settings


def _time_ns(table: Table, cell: str, column: _Column) -> Fraction:
    """Return a time in ns, of a quantity or of a date."""
    if is_plain_number(cell):
        return _exact(table, cell, column)

    moment = _moment(cell)
    if moment is None:
        return _exact(table, cell, column)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    microseconds = (since.days * 86_400 + since.seconds) * 10**6 + since.microseconds
    return Fraction(microseconds * 1000)


def _moment(cell: str) -> datetime | None:
    """Return the date and time that a cell gives, if any; a time of day is one of a fixed date."""
    parts = _DATE_AND_TIME.fullmatch(cell)
    if parts is not None:
        cell = f"{parts[1]}-{parts[2]}-{parts[3]}T{parts[4]}:{parts[5]}:{parts[6]}"
    elif _TIME_OF_DAY.fullmatch(cell):
        cell = f"{ANY_DATE}T{cell}"
    try:
        return datetime.fromisoformat(cell)
    except ValueError:
        return None


def _setting_text(table: Table, cell: str, column: _Column) -> str | bool:
    """Return a cell as a value of a topology file; a measured rate or time is rounded."""
    if column.setting == "down":
        return _FLAGS.get(cell.lower(), cell)
    if column.setting not in QUANTITIES:
        return _with_unit(table, cell, column)

    value = _exact(table, cell, column)
    quantity = QUANTITIES[column.setting]
    if quantity is PERCENTAGE:
        return _with_unit(table, cell, column)
    if column.is_round_trip:
        value /= 2
    return f"{round(value)} {quantity.base}"


def _exact(table: Table, cell: str, column: _Column) -> Fraction:
    quantity = QUANTITIES[column.setting]
    text = _with_unit(table, cell, column)
    try:
        return quantity.exact(with_usual_unit(text, quantity))
    except UnitError as error:
        if not is_plain_number(text):
            raise
        remedy = f"name the unit in the header, such as {column.setting} ({_example(quantity)})"
        raise UnitError(error.what, remedy) from error


def _example(quantity: Quantity) -> str:
    return quantity.example.rpartition(" ")[2]


def _with_unit(table: Table, cell: str, column: _Column) -> str:
    """Return a cell with a decimal point, and with the unit of its column unless it has one."""
    try:
        text = plain_number(cell, table.decimal_mark)
    except ValueError as error:
        remedy = "write the number without separated thousands and with a decimal point"
        raise UnitError(str(error), remedy) from error

    if column.unit is not None and is_plain_number(text):
        return f"{text} {column.unit}"
    return text
