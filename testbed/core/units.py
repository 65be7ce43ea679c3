"""Read and write quantities with units, in bit/s, ns, bytes and probabilities from 0 to 1.

Text is read exactly: ``8.2 ms`` is 8 200 000 ns, and a value that is not a whole number of the base
unit is rejected. A number without a unit is rejected too, except zero. The annotated types `Rate`,
`Time`, `Size` and `Probability` apply these rules in pydantic models; their JSON form is text that
reads back to the same value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

LARGEST = 2**63 - 1
_NUMBER = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,2})?"
_QUANTITY = re.compile(rf"\s*({_NUMBER})\s*([^0-9.\s].*?)?\s*")


class UnitError(ValueError):
    """Invalid text of a quantity: `what` states the error, `remedy` the expected form."""

    def __init__(self, what: str, remedy: str = "") -> None:
        self.what = what
        self.remedy = remedy
        super().__init__(f"{what}; {remedy}" if remedy else what)


@dataclass(frozen=True)
class Quantity:
    """A kind of quantity, such as a rate or a time.

    Attributes:
        name: Name of the quantity in messages.
        base: The base unit.
        example: An example value as people write it.
        units: Size of each canonical unit in base units, smallest first.
        synonyms: Additional accepted unit names, with the canonical unit of each.
        spellings: Function that returns the size in base units of further unit names, or None.
        spellings_pattern: Regular expression of all unit names, if there are further ones.
        whole: Whether exact text uses only whole numbers: 1536 B, not 1.5 KiB.
    """

    name: str
    base: str
    example: str
    units: Mapping[str, int]
    synonyms: Mapping[str, str]
    spellings: Callable[[str], int | None] | None = None
    spellings_pattern: str = ""
    whole: bool = False

    @property
    def remedy(self) -> str:
        """Message that explains how to write this quantity."""
        units = ", ".join(self.units)
        return f"write a number and a unit, such as {self.example}; the units are {units}"

    def exact(self, value: object) -> Fraction:
        """Return the value of a text in base units.

        Raises:
            UnitError: The text is not a non-negative number with a unit of this quantity (zero
                needs no unit).
        """
        match = None
        is_truth_value = isinstance(value, bool)
        if isinstance(value, str | int | float) and not is_truth_value:
            match = _QUANTITY.fullmatch(str(value))
        if match is None:
            raise UnitError(f"{value!r} is not a {self.name}", self.remedy)

        number = Fraction(match[1])
        unit = match[2]
        if unit is None:
            if number == 0:
                return number
            raise UnitError(f"the {self.name} {value!r} has no unit", self._remedy_of(number))

        factor = self._factor(unit)
        if factor is None:
            what = f"{value!r} is not a {self.name}: unknown unit {unit!r}"
            raise UnitError(what, self.remedy)

        return number * factor

    def _remedy_of(self, number: Fraction) -> str:
        """Return the remedy for a number without a unit; a share from 0 to 1 may be meant."""
        if self.base != "%" or number > 1:
            return self.remedy
        return f"write {_decimal(number, None)} %, or {_decimal(100 * number, None)} % for a share"

    def read(self, value: object) -> int:
        """Return the value of a text as a whole number of base units, at most 2^63 - 1.

        Raises:
            UnitError: As `exact`, or the value is too large or not a whole number of base units.
        """
        result = self.exact(value)
        if result.denominator != 1:
            raise UnitError(f"{value!r} is not a whole number of {self.base}")
        if result > LARGEST:
            raise UnitError(f"the {self.name} {value!r} is too large")
        return int(result)

    def write(self, value: int, digits: int | None = None) -> str:
        """Return `value` base units as text in the largest unit that fits.

        Args:
            value: The number of base units.
            digits: Number of significant digits, for readable text; None: exact text.
        """
        unit = next(iter(self.units))
        for larger_unit, factor in self.units.items():
            fits = value >= factor
            stays_whole = not self.whole or value % factor == 0
            if fits and (stays_whole or digits is not None):
                unit = larger_unit

        number = Fraction(value, self.units[unit])
        return f"{_decimal(number, digits)} {unit}"

    def _factor(self, unit: str) -> int | None:
        """Return the size of `unit`, or of its canonical unit, in base units; None if unknown."""
        if unit in self.units:
            return self.units[unit]
        if unit in self.synonyms:
            return self.units[self.synonyms[unit]]
        if self.spellings is None:
            return None
        return self.spellings(unit)


def _decimal(number: Fraction, digits: int | None) -> str:
    """Return plain decimal text of `number`, exact or rounded to `digits` significant digits.

    For exact text, the decimal expansion of `number` must be finite.
    """
    if digits is not None:
        scientific = f"{float(number):.{digits - 1}e}"
        rounded = Decimal(scientific)
        text = format(rounded.normalize(), "f")
    else:
        places = 0
        while (number * 10**places).denominator != 1:
            places += 1

        scaled = int(number * 10**places)
        exact = Decimal(scaled).scaleb(-places)
        text = format(exact, "f")

    if "." not in text:
        return text
    return text.rstrip("0").rstrip(".")


def _either_case(text: str) -> str:
    """Return a regular expression of `text` in upper or lower case."""
    return "".join(f"[{letter.upper()}{letter.lower()}]" for letter in text)


# Words for bits and bytes are read in either case. A lone letter says which: b bits, B bytes. Where
# everything is upper case, as in MBPS, it says nothing, and the unit is refused.
_PREFIXES = {
    **{"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12},
    **{"kilo": 10**3, "mega": 10**6, "giga": 10**9, "tera": 10**12},
    **{"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40},
}
_PREFIX = (
    "(?:[kKmMgGtT]i?|"
    + "|".join(_either_case(name) for name in ("kilo", "mega", "giga", "tera"))
    + ")?"
)
_SECOND = rf"(?:{_either_case('s')}|{_either_case('sec')}|{_either_case('second')})"
_PER_SECOND = rf"(?:/{_SECOND}| [pP][eE][rR] {_SECOND})"
_BITS = rf"{_either_case('bit')}[sS]?"
_BYTES = rf"{_either_case('byte')}[sS]?"
_RATE_UNIT = (
    rf"(?:{_PREFIX}{_BITS}{_PER_SECOND}?|{_PREFIX}{_BYTES}{_PER_SECOND}"
    r"|(?:[kKmMgGtT]i?)?[bB](?:/s|/sec|ps))"
)
_RATE_PARTS = re.compile(
    r"(?P<prefix>.*?)(?P<what>bits?|bytes?|b)(?:/.*|ps| per .*|)", re.IGNORECASE
)


def _rate_unit(unit: str) -> int | None:
    """Return the bit/s of a unit such as ``Mbits/sec``, ``Mbps``, ``MB/s`` or ``GiB/s``."""
    if not re.fullmatch(_RATE_UNIT, unit):
        return None

    parts = _RATE_PARTS.fullmatch(unit)
    assert parts is not None
    what = parts["what"]
    is_bytes = what == "B" or what.lower().startswith("byte")
    factor = _PREFIXES[parts["prefix"].lower()]
    return 8 * factor if is_bytes else factor


def _rate_synonyms() -> dict[str, str]:
    """Return synonyms of the units of a rate: ``Gbit`` and ``Gbps`` are ``Gbit/s``."""
    synonyms: dict[str, str] = {}
    for prefix in ("", "k", "M", "G", "T"):
        for name in ("bit", "bits/s", "bps"):
            synonyms[f"{prefix}{name}"] = f"{prefix}bit/s"

    return synonyms


RATE = Quantity(
    name="rate",
    base="bit/s",
    example="10 Gbit/s",
    units={"bit/s": 1, "kbit/s": 10**3, "Mbit/s": 10**6, "Gbit/s": 10**9, "Tbit/s": 10**12},
    synonyms=_rate_synonyms(),
    spellings=_rate_unit,
    spellings_pattern=_RATE_UNIT,
)
TIME = Quantity(
    name="time",
    base="ns",
    example="8.2 ms",
    units={"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9},
    synonyms={
        **dict.fromkeys(("nsec", "nsecs", "nanosec", "nanosecond", "nanoseconds"), "ns"),
        **dict.fromkeys(("µs", "μs", "usec", "usecs", "µsec", "μsec"), "us"),
        **dict.fromkeys(("microsec", "microsecs", "microsecond", "microseconds"), "us"),
        **dict.fromkeys(("msec", "msecs", "millisec", "millisecs"), "ms"),
        **dict.fromkeys(("millis", "millisecond", "milliseconds"), "ms"),
        **dict.fromkeys(("sec", "secs", "second", "seconds"), "s"),
    },
)
SIZE = Quantity(
    name="size",
    base="B",
    example="4 KiB",
    units={"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40},
    synonyms={"bytes": "B", "byte": "B"},
    whole=True,
)
DECIMAL_SIZE = Quantity(
    name="size",
    base="B",
    example="4 KiB",
    units={**SIZE.units, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12},
    synonyms={**SIZE.synonyms, "KB": "kB"},
)
THOUSANDS = Quantity(
    name="size",
    base="B",
    example="4 MB",
    units={"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12},
    synonyms={},
)
PERCENTAGE = Quantity(
    name="percentage", base="%", example="0.001 %", units={"%": 1}, synonyms={"percent": "%"}
)


def parse_rate(value: object) -> int:
    """Return the rate in bit/s of a text such as ``10 Gbit/s``, ``10 Gbps`` or ``125 MB/s``.

    Prefixes are powers of 1000; b is a bit and B a byte.

    Raises:
        UnitError: The text is not a rate, or the rate is zero.
    """
    rate = RATE.read(value)
    if rate == 0:
        remedy = "to remove a link, delete its entry"
        raise UnitError("the rate must be greater than 0", remedy)

    return rate


def parse_changing_rate(value: object) -> int:
    """Return the rate in bit/s of a text such as ``10 Gbit/s``; 0 is a stall.

    Raises:
        UnitError: The text is not a rate.
    """
    return RATE.read(value)


def parse_time(value: object) -> int:
    """Return the nanoseconds of a text such as ``8.2 ms``.

    Raises:
        UnitError: The text is not a time.
    """
    return TIME.read(value)


def parse_size(value: object) -> int:
    """Return the bytes of a text such as ``4 KiB`` (1024) or ``16 MB`` (1000 x 1000).

    Raises:
        UnitError: The text is not a size.
    """
    return DECIMAL_SIZE.read(value)


def parse_probability(value: object) -> float:
    """Return the probability from 0 to 1 of a percentage such as ``0.001 %``.

    Raises:
        UnitError: The text is not a percentage from 0 to 100.
    """
    percent = PERCENTAGE.exact(value)
    if percent > 100:
        raise UnitError(f"{value!r} is more than 100 %")
    return float(percent / 100)


def format_rate(value: int, digits: int | None = None) -> str:
    """Return `value` bit/s as text, exact or with `digits` significant digits."""
    return RATE.write(value, digits)


def format_time(value: int, digits: int | None = None) -> str:
    """Return `value` ns as text, exact or with `digits` significant digits."""
    return TIME.write(value, digits)


def format_microseconds(value: float | None, digits: int = 4) -> str:
    """Return a time as text with its unit, such as 1.235 s; "-" for a missing value.

    Args:
        value: the time in us.
        digits: number of significant digits.
    """
    if value is None:
        return "-"
    return format_time(round(1000 * value), digits)


def format_share(value: float | None) -> str:
    """Return a share from 0 to 1 as a percentage with one decimal; "-" for a missing value."""
    if value is None:
        return "-"
    return f"{100 * value:.1f} %"


def format_size(value: int, digits: int | None = None) -> str:
    """Return `value` bytes as text in powers of 1024, exact or with `digits` significant digits."""
    return SIZE.write(value, digits)


def format_decimal_size(value: int, digits: int | None = None) -> str:
    """Return `value` bytes as text in powers of 1000, exact or with `digits` significant digits."""
    return THOUSANDS.write(value, digits)


def format_probability(value: float, digits: int | None = None) -> str:
    """Return a probability as a percentage, exact or with `digits` significant digits."""
    percent = Fraction(repr(value)) * 100
    return f"{_decimal(percent, digits)} %"


def format_ranks(ranks: Iterable[int]) -> str:
    """Return numbers of ranks as text in ascending order, such as ``0-3,6``."""
    runs: list[list[int]] = []
    for rank in sorted(set(ranks)):
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])

    texts: list[str] = []
    for run in runs:
        ends = [run[0]] if len(run) == 1 else [run[0], run[-1]]
        texts.append("-".join(str(end) for end in ends))

    return ",".join(texts)


def parse_ranks(text: str) -> list[int]:
    """Return the numbers of ranks in a text such as ``0-3,6``, in ascending order."""
    ranks: list[int] = []
    for run in text.split(","):
        first, _dash, last = run.partition("-")
        ranks += range(int(first), int(last or first) + 1)
    return ranks


def format_figure(value: float, digits: int = 5) -> str:
    """Return a number with at least `digits` significant digits, and all digits before the point.

    Examples with five digits: 0.0061245, 116.14, 12521021.
    """
    text = f"{value:.{digits}g}"
    if "e+" in text:
        return f"{value:.0f}"
    return text


def format_cell(value: object) -> str:
    """Return any value as the text of a table cell; "-" for a missing value."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return format_figure(value)
    return str(value)


def pattern(quantity: Quantity) -> str:
    """Return the regular expression of texts with a unit of `quantity`, for JSON schemas."""
    names = [re.escape(unit) for unit in (*quantity.units, *quantity.synonyms)]
    units = quantity.spellings_pattern or "|".join(names)
    return rf"^\s*{_NUMBER}\s*(?:{units})\s*$"


def schema(quantity: Quantity, zero: bool = True) -> WithJsonSchema:
    """Return the JSON schema of a text with a unit of `quantity`; with `zero`, also of a bare 0."""
    text_schema: dict[str, Any] = {
        "title": quantity.name,
        "description": quantity.remedy,
        "examples": [quantity.example],
        "type": "string",
        "pattern": pattern(quantity),
        "patternErrorMessage": quantity.remedy,
    }
    if not zero:
        return WithJsonSchema(text_schema)
    return WithJsonSchema({"anyOf": [text_schema, {"const": 0}]})


Rate = Annotated[
    int,
    BeforeValidator(parse_rate),
    PlainSerializer(format_rate, when_used="json"),
    schema(RATE, zero=False),
]
ChangingRate = Annotated[
    int,
    BeforeValidator(parse_changing_rate),
    PlainSerializer(format_rate, when_used="json"),
    schema(RATE),
]
Time = Annotated[
    int, BeforeValidator(parse_time), PlainSerializer(format_time, when_used="json"), schema(TIME)
]
Size = Annotated[
    int,
    BeforeValidator(parse_size),
    PlainSerializer(format_size, when_used="json"),
    schema(DECIMAL_SIZE),
]
Probability = Annotated[
    float,
    BeforeValidator(parse_probability),
    PlainSerializer(format_probability, when_used="json"),
    schema(PERCENTAGE),
]
