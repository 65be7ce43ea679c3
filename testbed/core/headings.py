"""Read the heads of columns: the words of a head, and the unit that it names.

``rtt_ms``, ``RTT (ms)``, ``rttMs``, ``RTT/ms`` and ``Round trip in milliseconds`` all name ms. A
word that is neither known nor a unit is left for the caller to refuse: a unit is never guessed.
Nor is a multiple of a unit (``0.1 ms``, ``thousands of us``), or one of several (``ms/us``).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import NamedTuple

from testbed.core.table_files import Row, Table, is_missing, split_number
from testbed.core.units import PERCENTAGE, RATE, TIME, Quantity, UnitError

TIME_WORDS = frozenset(
    {
        *("rtt", "rtts", "ping", "pings", "latency", "latencies", "delay", "delays", "owd"),
        *("roundtrip", "lag"),
    }
)
ROUND_TRIP_WORDS = frozenset({"rtt", "rtts", "ping", "pings", "roundtrip"})
RATE_WORDS = frozenset(
    {
        *("rate", "rates", "bandwidth", "bandwidths", "bw", "throughput", "capacity", "speed"),
        *("bitrate", "goodput", "datarate"),
    }
)
LOSS_WORDS = frozenset({"loss", "losses", "plr"})
JITTER_WORDS = frozenset({"jitter"})
MEAN_WORDS = frozenset({"avg", "average", "mean", "median", "p50"})
SPREAD_WORDS = frozenset(
    {
        *("min", "minimum", "max", "maximum", "p5", "p10", "p25", "p75", "p90", "p95", "p99"),
        *("std", "stddev", "stdev", "mdev", "sd", "var", "variance"),
    }
)
FILLERS = frozenset(
    {
        *("and", "between", "by", "for", "in", "of", "per", "the", "to", "from", "with", "all"),
        *("link", "links", "network", "packet", "packets", "measured", "value", "values", "unit"),
        *("units", "time", "times", "round", "trip", "one", "way", "oneway", "matrix", "table"),
        *("dl", "ul", "down", "up", "downlink", "uplink", "download", "upload", "tcp", "udp"),
        *("icmp", "wan", "inter", "pair", "pairs", "each", "data", "transfer", "percent", "line"),
        *("available", "total", "max", "full", "duplex", "half"),
    }
)
PLACE_WORDS = frozenset(
    {
        *("region", "regions", "city", "cities", "dc", "dcs", "datacenter", "datacenters"),
        *("datacentre", "datacentres", "data", "center", "centre", "site", "sites", "node"),
        *("nodes", "host", "hosts", "name", "names", "location", "locations", "zone", "zones"),
        *("area", "pop", "pops", "vm", "instance", "endpoint", "end", "machine", "place"),
        *("cloud", "az", "availability"),
    }
)

_HALF_RTT = re.compile(r"(?:rtt|ping|trip(?:[\s_-]*time)?)\s*/\s*2\b", re.IGNORECASE)
_BRACKETS = re.compile(r"[(\[{<]([^()\[\]{}<>]*)[)\]}>]")
_BETWEEN_WORDS = re.compile(r"[\s_,:;\\|.=()\[\]{}<>→-]+")
_NEW_CAPITAL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_PERCENT_WORDS = ("pct", "percentage")
LONGEST_UNIT = 4  # words: mega bits per second
_PREFIXES = frozenset(
    {
        *("milli", "micro", "nano", "kilo", "mega", "giga", "tera"),
        *("m", "u", "µ", "μ", "n", "k", "K", "M", "G", "T"),
    }
)
_MULTIPLES = frozenset({"tenths", "tens", "hundreds", "thousand", "thousands", "million"})
_LETTERS = r"[A-Za-zµμ%]+(?:/[A-Za-z]+)?"
_NUMBER_AND_UNIT = re.compile(rf"(?<![\w.])(\d+(?:\.\d+)?(?:[eE]-?\d+|\^-?\d+)?)[\s_]*({_LETTERS})")
_ONE_OR_ANOTHER = re.compile(r"([A-Za-zµμ]+)\s*(?:/|\||,|\bor\b|\band\b)\s*([A-Za-zµμ]+)")


class Heading(NamedTuple):
    """The head of a column.

    Attributes:
        text: The head as written.
        words: Its words, in lower case, without the unit.
        quantity: What the unit measures; None without a unit.
        unit: The unit; None without.
    """

    text: str
    words: tuple[str, ...]
    quantity: Quantity | None
    unit: str | None

    @property
    def says_half(self) -> bool:
        """Whether the head names half of a round trip, such as ``half_rtt_ms`` or ``RTT/2``."""
        return "half" in self.words or _HALF_RTT.search(self.text) is not None

    def unknown(self, vocabulary: Collection[str]) -> list[str]:
        """Return the words that are neither in `vocabulary` nor numbers.

        Args:
            vocabulary: Known words, in lower case.
        """
        return [word for word in self.words if word not in vocabulary and not word.isdigit()]


def unit_named(
    text: str, quantities: Sequence[Quantity] = (TIME, RATE, PERCENTAGE)
) -> Quantity | None:
    """Return the quantity that a text is a unit of; None for other texts."""
    for quantity in quantities:
        if as_unit(text, quantity) is not None:
            return quantity
    return None


def as_unit(text: str, quantity: Quantity) -> str | None:
    """Return `text` as a unit that `quantity` reads; None for other texts.

    Units of times are read in either case, except ``US``, which is a country too.

    Args:
        text: A text that may be a unit.
        quantity: The quantity.
    """
    spellings = [text]
    if quantity is TIME and text != "US":
        spellings.append(text.lower())
    if quantity is PERCENTAGE and text.lower() in _PERCENT_WORDS:
        return "%"

    for spelling in spellings:
        try:
            quantity.exact(f"1 {spelling}")
        except UnitError:
            continue
        return spelling if spelling else None
    return None


def read_heading(text: str, quantities: Sequence[Quantity] = (TIME, RATE, PERCENTAGE)) -> Heading:
    """Return the words and the unit of a head.

    Args:
        text: The head.
        quantities: Quantities whose units are looked for, in this order.
    """
    unclear = _unclear_unit(text, quantities)
    if unclear is not None:
        before = text.replace(unclear, " ", 1)
        return Heading(text, (*_words(_split(before)), unclear.lower()), None, None)

    for bracket in _BRACKETS.finditer(text):
        inside = bracket[1].strip()
        for quantity in quantities:
            unit = as_unit(inside, quantity) if inside else None
            if unit is None:
                continue
            before = text[: bracket.start()]
            after = text[bracket.end() :]
            words = _words(_split(f"{before} {after}"))
            return Heading(text, words, quantity, unit)

    tokens = _split(text)
    for length in range(LONGEST_UNIT, 0, -1):
        for start in range(len(tokens) - length, -1, -1):
            end = start + length
            found = _unit_of(tokens[start:end], quantities)
            if found is None:
                continue
            others = tokens[:start] + tokens[end:]
            return Heading(text, _words(others), *found)

    return _glued(text, tokens, quantities)


def _unclear_unit(text: str, quantities: Sequence[Quantity]) -> str | None:
    """Return the part of a head that names a multiple of a unit, or several units, if any."""
    in_brackets = " ".join(bracket[1] for bracket in _BRACKETS.finditer(text))
    for match in _NUMBER_AND_UNIT.finditer(text):
        number = match[1]
        is_scale = not number.isdigit() or (number != "1" and match[0] in in_brackets)
        if is_scale and unit_named(match[2], quantities) is not None:
            return match[0]

    for match in _ONE_OR_ANOTHER.finditer(text):
        for quantity in quantities:
            units = [as_unit(part, quantity) for part in match.groups()]
            sizes = {quantity.exact(f"1 {unit}") for unit in units if unit is not None}
            if len(sizes) > 1:
                return match[0]

    for word in _BETWEEN_WORDS.split(text):
        if word.lower() in _MULTIPLES:
            return word
    return None


def _split(text: str) -> list[str]:
    """Return the words of a text; a slash and a new capital separate words that are no unit."""
    tokens: list[str] = []
    for token in _BETWEEN_WORDS.split(text):
        if not token:
            continue
        if unit_named(token) is not None:
            tokens.append(token)
            continue

        for part in token.split("/"):
            if unit_named(part) is not None:
                tokens.append(part)
            elif part:
                tokens += _NEW_CAPITAL.split(part)
    return tokens


def _words(tokens: Sequence[str]) -> tuple[str, ...]:
    words: list[str] = []
    for token in tokens:
        letters_and_number = re.fullmatch(r"([a-z]{3,})(\d+)", token.lower())
        if letters_and_number:
            words += letters_and_number.groups()
        else:
            words.append(token.lower())
    return tuple(words)


def _unit_of(tokens: Sequence[str], quantities: Sequence[Quantity]) -> tuple[Quantity, str] | None:
    """Return the unit that successive words are together.

    ``mbit s`` is ``mbit/s``, and ``milli seconds`` are ``milliseconds``.
    """
    joined = [" ".join(tokens), "/".join(tokens)]
    first, *rest = tokens
    if rest and (first in _PREFIXES or first.lower() in _PREFIXES):
        joined += [f"{first}{' '.join(rest)}", f"{first}{'/'.join(rest)}"]
    for quantity in quantities:
        for text in joined:
            unit = as_unit(text, quantity)
            if unit is not None:
                return quantity, unit
    return None


def _glued(text: str, tokens: Sequence[str], quantities: Sequence[Quantity]) -> Heading:
    """Return a head whose unit follows a word without a separator, such as ``rttms``."""
    for token in tokens:
        for word in (*TIME_WORDS, *RATE_WORDS):
            rest = token[len(word) :]
            if not token.lower().startswith(word) or len(rest) < 2:
                continue  # the plural, such as RTTs, names no unit
            for quantity in quantities:
                unit = as_unit(rest, quantity)
                if unit is not None:
                    others = [word if other is token else other for other in tokens]
                    return Heading(text, _words(others), quantity, unit)

    return Heading(text, _words(tokens), None, None)


def with_unit_row(table: Table) -> Table:
    """Return a table whose heads have the units that the row below them names, if any."""
    if len(table.rows) < 3:
        return table

    head, units, *body = table.rows
    named = [cell for cell in units.cells if not is_missing(cell)]
    if not named or len(units.cells) != len(head.cells):
        return table
    if not set(named).isdisjoint(head.cells):
        return table  # the first row of a triangle, of a place such as us
    if not all(unit_named(cell.strip("()[]")) for cell in named):
        return table

    cells: list[str] = []
    for text, unit in zip(head.cells, units.cells, strict=True):
        cells.append(text if is_missing(unit) else f"{text} ({unit.strip('()[]')})")
    return replace(table, rows=[Row(head.line, cells), *body])


_IN_PROSE = re.compile(
    r"(?:\b(?:in|units?|are)\b\s*[:=]?\s*|[(\[])([^\s,;()\[\]]+(?: per \w+)?)", re.IGNORECASE
)


_MULTIPLE_IN_PROSE = re.compile(
    rf"\b(?:in|units?)\b\s*[:=]?\s*((?:\d[\w.^-]*|{'|'.join(sorted(_MULTIPLES))})"
    rf"\s*(?:of\s+)?({_LETTERS}))",
    re.IGNORECASE,
)


def multiple_in_prose(text: str, quantity: Quantity) -> str | None:
    """Return the multiple of a unit that a comment or title names, as in ``in 0.1 ms``, if any.

    Args:
        text: The comment or title.
        quantity: The quantity whose units are looked for.
    """
    for match in _MULTIPLE_IN_PROSE.finditer(text):
        if as_unit(match[2], quantity) is not None:
            return match[1]
    return None


def unit_in_prose(text: str, quantity: Quantity) -> str | None:
    """Return the unit that a comment or title names, as in ``all values in ms``; None without.

    Args:
        text: The comment or title.
        quantity: The quantity whose unit is looked for.
    """
    for match in _IN_PROSE.finditer(text):
        unit = as_unit(match[1].rstrip("."), quantity)
        if unit is not None:
            return unit
    return None


def with_usual_unit(text: str, quantity: Quantity) -> str:
    """Return a number with its unit as `quantity` reads it: ``5 MS`` becomes ``5 ms``.

    Args:
        text: A number, with a decimal point, and a unit or none.
        quantity: The quantity.
    """
    number, unit = split_number(text)
    written = as_unit(unit, quantity) if unit else None
    return text if written is None else f"{number} {written}"
