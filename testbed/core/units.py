"""Quantities with units, as people write them, and their base units: bit/s, ns, bytes and
probabilities from 0 to 1.

Text is read exactly: ``8.2 ms`` is 8 200 000 ns, and a value that is not a whole number of the base
unit is refused. A number without a unit is refused too, except zero. The annotated types `Rate`,
`Time`, `Size` and `Probability` do this in pydantic models; their JSON form is text that reads back
to the same value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

LARGEST = 2**63 - 1
_NUMBER = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,2})?"
_QUANTITY = re.compile(rf"\s*({_NUMBER})\s*([^0-9.\s].*?)?\s*")


class UnitError(ValueError):
    """A text is not the quantity it should be: `what` is wrong and how to write it (`remedy`)."""

    def __init__(self, what: str, remedy: str = "") -> None:
        self.what, self.remedy = what, remedy
        super().__init__(f"{what}; {remedy}" if remedy else what)


@dataclass(frozen=True)
class Quantity:
    """A kind of quantity. `units` are those written and listed, smallest first; `synonyms` are read
    as well.
    """

    name: str
    base: str
    example: str
    units: Mapping[str, int]
    synonyms: Mapping[str, str]
    ignore_case: bool = False
    whole: bool = False  # exact text uses only whole numbers: 1536 B, not 1.5 KiB

    @property
    def remedy(self) -> str:
        """How to write this quantity."""
        return f"write a number and a unit, such as {self.example}; the units are {', '.join(self.units)}"

    def exact(self, value: object) -> Fraction:
        """The value of a text in base units.

        Raises:
            UnitError: it is not a non-negative number with a unit of this quantity (zero needs no
                unit).
        """
        match = _QUANTITY.fullmatch(str(value)) if isinstance(value, str | int | float) else None
        if match is None or isinstance(value, bool):
            raise UnitError(f"{value!r} is not a {self.name}", self.remedy)
        number, unit = Fraction(match[1]), match[2]
        if unit is None:
            if number == 0:
                return number
            raise UnitError(f"the {self.name} {value!r} has no unit", self.remedy)
        factor = self._factors().get(unit.lower() if self.ignore_case else unit)
        if factor is None:
            raise UnitError(
                f"{value!r} is not a {self.name}: {unit!r} is not a unit of it", self.remedy
            )
        return number * factor

    def read(self, value: object) -> int:
        """The value of a text as a whole number of base units, at most 2^63 - 1.

        Raises:
            UnitError: as `exact`, or the value is too large or not a whole number of base units.
        """
        result = self.exact(value)
        if result.denominator != 1:
            raise UnitError(f"{value!r} is not a whole number of {self.base}")
        if result > LARGEST:
            raise UnitError(f"the {self.name} {value!r} is too large")
        return int(result)

    def write(self, value: int, digits: int | None = None) -> str:
        """`value` base units as text: exact, or rounded to `digits` significant digits for
        people.
        """
        unit, factor = next(iter(self.units.items()))
        for larger, size in self.units.items():
            if value >= size and (digits is not None or not self.whole or value % size == 0):
                unit, factor = larger, size
        return f"{_decimal(Fraction(value, factor), digits)} {unit}"

    def _factors(self) -> dict[str, int]:
        factors = dict(self.units) | {
            name: self.units[unit] for name, unit in self.synonyms.items()
        }
        return (
            {name.lower(): factor for name, factor in factors.items()}
            if self.ignore_case
            else factors
        )


def _decimal(number: Fraction, digits: int | None) -> str:
    """Plain decimal text of a number whose decimal expansion ends, or rounded to `digits`
    significant digits.
    """
    if digits is not None:
        text = format(Decimal(f"{float(number):.{digits - 1}e}").normalize(), "f")
    else:
        places = 0
        while (number * 10**places).denominator != 1:
            places += 1
        text = format(Decimal(int(number * 10**places)).scaleb(-places), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


RATE = Quantity(
    name="rate",
    base="bit/s",
    example="10 Gbit/s",
    units={"bit/s": 1, "kbit/s": 10**3, "Mbit/s": 10**6, "Gbit/s": 10**9, "Tbit/s": 10**12},
    synonyms={
        f"{prefix}{name}": f"{prefix}bit/s"
        for prefix in ("", "k", "M", "G", "T")
        for name in ("bit", "bits/s", "bps")
    },
    ignore_case=True,
)
TIME = Quantity(
    name="time",
    base="ns",
    example="8.2 ms",
    units={"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9},
    synonyms={"µs": "us", "μs": "us", "sec": "s"},
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
    units=dict(SIZE.units) | {"kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12},
    synonyms=dict(SIZE.synonyms) | {"KB": "kB"},
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
    """bit/s of a text such as ``10 Gbit/s``, ``10 Gbit`` or ``10 Gbps`` (always bits, in powers of
    1000).

    Raises:
        UnitError: it is not a rate, or zero.
    """
    rate = RATE.read(value)
    if rate == 0:
        raise UnitError(
            "a rate of 0 carries nothing", "write a rate above 0, or leave the link out"
        )
    return rate


def parse_time(value: object) -> int:
    """Nanoseconds of a text such as ``8.2 ms``.

    Raises:
        UnitError: it is not a time.
    """
    return TIME.read(value)


def parse_size(value: object) -> int:
    """Bytes of a text such as ``4 KiB`` (1024) or ``16 MB`` (1000 x 1000).

    Raises:
        UnitError: it is not a size.
    """
    return DECIMAL_SIZE.read(value)


def parse_probability(value: object) -> float:
    """A probability from 0 to 1 of a percentage such as ``0.001 %``.

    Raises:
        UnitError: it is not a percentage from 0 to 100.
    """
    percent = PERCENTAGE.exact(value)
    if percent > 100:
        raise UnitError(f"{value!r} is more than 100 %")
    return float(percent / 100)


def format_rate(value: int, digits: int | None = None) -> str:
    """`value` bit/s as text; exact, or with `digits` significant digits."""
    return RATE.write(value, digits)


def format_time(value: int, digits: int | None = None) -> str:
    """`value` ns as text; exact, or with `digits` significant digits."""
    return TIME.write(value, digits)


def format_size(value: int, digits: int | None = None) -> str:
    """`value` bytes as text in powers of 1024; exact, or with `digits` significant digits."""
    return SIZE.write(value, digits)


def format_decimal_size(value: int, digits: int | None = None) -> str:
    """`value` bytes as text in powers of 1000, as of what is sent; exact, or with `digits`
    significant digits.
    """
    return THOUSANDS.write(value, digits)


def format_probability(value: float, digits: int | None = None) -> str:
    """A probability as a percentage; exact, or with `digits` significant digits."""
    return f"{_decimal(Fraction(repr(value)) * 100, digits)} %"


def format_figure(value: float, digits: int = 5) -> str:
    """`digits` digits that mean something, and all those before the point: 0.0061245, 12521021."""
    text = f"{value:.{digits}g}"
    return f"{value:.0f}" if "e+" in text else text


def format_cell(value: object) -> str:
    """Any value as the text of a table's cell; "-" for one that is missing."""
    if value is None:
        return "-"
    return format_figure(value) if isinstance(value, float) else str(value)


def pattern(quantity: Quantity) -> str:
    """A regular expression, as JSON schema has them, for texts that are a number and a unit of
    `quantity`.
    """
    units = [re.escape(unit) for unit in (*quantity.units, *quantity.synonyms)]
    if quantity.ignore_case:
        units = [
            re.sub("[A-Za-z]", lambda letter: f"[{letter[0].upper()}{letter[0].lower()}]", unit)
            for unit in units
        ]
    return rf"^\s*{_NUMBER}\s*(?:{'|'.join(dict.fromkeys(units))})\s*$"


def schema(quantity: Quantity, zero: bool = True) -> WithJsonSchema:
    """The JSON schema of a text with a unit of `quantity`, or a bare 0 if `zero`."""
    text: dict[str, Any] = {
        "title": quantity.name,
        "description": quantity.remedy,
        "examples": [quantity.example],
        "type": "string",
        "pattern": pattern(quantity),
        "patternErrorMessage": quantity.remedy,
    }
    return WithJsonSchema({"anyOf": [text, {"const": 0}]} if zero else text)


Rate = Annotated[
    int,
    BeforeValidator(parse_rate),
    PlainSerializer(format_rate, when_used="json"),
    schema(RATE, zero=False),
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
