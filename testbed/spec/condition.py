"""Conditions over the values of a point, such as ``delay <= 20 ms and algorithm != 'gloo'``.

A condition can contain only comparisons, ``and``, ``or``, ``not``, ``in``, arithmetic, texts in
quotes and quantities with units. Function calls are not possible.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any, NamedTuple

from testbed.core.units import Quantity, UnitError
from testbed.spec.condition_parser import (
    QUANTITIES,
    REMEDY,
    All,
    AnyOf,
    Arithmetic,
    Comparison,
    Constant,
    Expression,
    Name,
    Negative,
    Not,
    ValueList,
    parse_condition,
)

ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}
COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_PLAIN_NUMBER = re.compile(r"\s*[0-9.]+\s*")


class Measure(NamedTuple):
    """A number in base units; `quantity` is the name of its kind, empty for a plain number."""

    number: Fraction | float
    quantity: str = ""


def quantity_of(value: object) -> Quantity | None:
    """Return the kind of quantity of a text with a unit; None for other values."""
    if not isinstance(value, str) or _PLAIN_NUMBER.fullmatch(value):
        return None

    for quantity in QUANTITIES:
        try:
            quantity.exact(value)
        except UnitError:
            continue

        return quantity

    return None


def measure(value: object) -> Any:
    """Return `value` as a `Measure` if numeric or a text with a unit, otherwise unchanged."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return Measure(value)

    quantity = quantity_of(value)
    if quantity is None:
        return value
    return Measure(quantity.exact(value), quantity.name)


@dataclass(frozen=True)
class Condition:
    """A condition over named values."""

    text: str
    expression: Expression

    @classmethod
    def parse(cls, text: str, known: Iterable[str]) -> Condition:
        """Parse a condition.

        Args:
            text: The condition.
            known: Names allowed in the condition; a name may contain dots and hyphens.

        Raises:
            UnitError: The text is not a condition, or contains an unknown name.
        """
        return cls(text, parse_condition(text, known))

    def __call__(self, values: Mapping[str, Any]) -> bool:
        """Return whether the condition holds for `values` by name.

        A comparison with a missing value is false.

        Raises:
            UnitError: Two values cannot be compared or combined.
        """
        return _Evaluation(self.text, values).truth(self.expression)

    def number(self, values: Mapping[str, Any]) -> Measure:
        """Return the value of an expression that is a number for `values` by name.

        Raises:
            UnitError: The expression is not a number, or two values cannot be combined.
        """
        value = _Evaluation(self.text, values).value(self.expression)
        if not isinstance(value, Measure):
            raise UnitError(f"{self.text!r}: expected a number", "such as step / tokens_per_s")
        return value


@dataclass(frozen=True)
class _Evaluation:
    """Evaluates the expressions of the condition `text` for `values` by name."""

    text: str
    values: Mapping[str, Any]

    def truth(self, expression: Expression) -> bool:
        value = self.value(expression)
        if not isinstance(value, bool):
            raise UnitError(f"{self.text!r}: expected a comparison", REMEDY)
        return value

    def value(self, expression: Expression) -> Any:  # noqa: PLR0911 (one for each expression)
        """Return the value of an expression."""
        match expression:
            case Constant(value):
                return measure(value)
            case Name(name):
                known = self.values.get(name)
                return known if isinstance(known, Measure) else measure(known)
            case ValueList(items):
                return [self.value(item) for item in items]
            case All(parts):
                return all(self.truth(part) for part in parts)
            case AnyOf(parts):
                return any(self.truth(part) for part in parts)
            case Not(operand):
                return not self.truth(operand)
            case Negative(operand):
                return self.combine("-", Measure(0), self.value(operand))
            case Arithmetic(symbol, left, right):
                return self.combine(symbol, self.value(left), self.value(right))
            case Comparison():
                return self.chain(expression)

    def chain(self, comparison: Comparison) -> bool:
        """Return whether every operator of a comparison holds for its neighbouring operands."""
        operands = [self.value(operand) for operand in comparison.operands]
        pairs = pairwise(operands)
        for symbol, (left, right) in zip(comparison.operators, pairs, strict=True):
            if not self.compare(symbol, left, right):
                return False

        return True

    def compare(self, symbol: str, left: Any, right: Any) -> bool:
        if symbol == "in":
            return self.contains(right, left)
        if symbol == "not in":
            return not self.contains(right, left)
        if left is None or right is None:
            return symbol == "!=" and left is not right
        if isinstance(left, Measure) and isinstance(right, Measure):
            self.check_comparable(left, right)
            return bool(COMPARISONS[symbol](left.number, right.number))

        needs_order = symbol not in ("==", "!=")
        if needs_order and type(left) is not type(right):
            raise UnitError(f"{self.text!r}: cannot order {left!r} and {right!r}")
        return bool(COMPARISONS[symbol](left, right))

    def contains(self, values: Any, value: Any) -> bool:
        if not isinstance(values, list):
            raise UnitError(f"{self.text!r}: expected a list after `in`, such as (1, 2)")
        return any(self.compare("==", value, item) for item in values)

    def check_comparable(self, left: Measure, right: Measure) -> None:
        """Raise UnitError for two different quantities; zero is comparable with any."""
        is_zero = 0 in (left.number, right.number)
        if left.quantity == right.quantity or is_zero:
            return

        left_kind = left.quantity or "number without a unit"
        right_kind = right.quantity or "number without a unit"
        what = f"{self.text!r} compares a {left_kind} with a {right_kind}"
        raise UnitError(what, "give both the same kind of unit")

    def combine(self, symbol: str, left: Any, right: Any) -> Measure:
        """Return the result of an arithmetic operation, with its quantity.

        Args:
            symbol: Operator: ``+``, ``-``, ``*`` or ``/``.
            left: Value of the left operand.
            right: Value of the right operand.

        Raises:
            UnitError: An operand is not a number, the units are incompatible, or the divisor is 0.
        """
        if not isinstance(left, Measure) or not isinstance(right, Measure):
            raise UnitError(f"{self.text!r}: arithmetic needs numbers")
        if not _fit(symbol, left, right):
            left_kind = left.quantity or "number"
            right_kind = right.quantity or "number"
            raise UnitError(f"{self.text!r}: incompatible units: a {left_kind} and a {right_kind}")

        if symbol == "/" and right.number == 0:
            raise UnitError(f"{self.text!r}: division by zero")

        number = ARITHMETIC[symbol](left.number, right.number)
        return Measure(number, _resulting_quantity(symbol, left, right))


def _fit(symbol: str, left: Measure, right: Measure) -> bool:
    """Return whether two numbers can be combined: at most one quantity per product, one per sum."""
    same = left.quantity == right.quantity
    if symbol == "*":
        return not left.quantity or not right.quantity
    if symbol == "/":
        return same or not right.quantity
    return same or 0 in (left.number, right.number)


def _resulting_quantity(symbol: str, left: Measure, right: Measure) -> str:
    """Return the quantity of the combination of two numbers; empty for a plain number."""
    if symbol == "/" and left.quantity == right.quantity:
        return ""
    if right.quantity and left.number == 0:
        return right.quantity
    return left.quantity or right.quantity
