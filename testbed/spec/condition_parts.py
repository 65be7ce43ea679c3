"""The names and the comparisons in a condition, and a check of its units before any run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from testbed.spec.condition import Condition
from testbed.spec.condition_parser import (
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
)


def names_in(condition: Condition) -> list[str]:
    """Return the names that a condition uses, in order of first appearance."""
    return list(dict.fromkeys(_names(condition.expression)))


def check_units(condition: Condition, samples: Mapping[str, Any]) -> None:
    """Check that every comparison of a condition compares equal kinds of quantities.

    Args:
        condition: The condition to check.
        samples: A value of each kind, by name.

    Raises:
        UnitError: Two values cannot be compared or combined.
    """
    for part in _comparisons(condition.expression):
        Condition(condition.text, part)(samples)


def _names(expression: Expression) -> Iterator[str]:
    if isinstance(expression, Name):
        yield expression.name
    for part in _parts(expression):
        yield from _names(part)


def _comparisons(expression: Expression) -> Iterator[Expression]:
    """Yield the parts that are true or false by themselves."""
    if not isinstance(expression, All | AnyOf | Not):
        yield expression
        return
    for part in _parts(expression):
        yield from _comparisons(part)


def _parts(expression: Expression) -> tuple[Expression, ...]:
    match expression:
        case Constant() | Name():
            return ()
        case ValueList(items):
            return items
        case All(parts) | AnyOf(parts):
            return parts
        case Not(operand) | Negative(operand):
            return (operand,)
        case Arithmetic(_symbol, left, right):
            return (left, right)
        case Comparison(_operators, operands):
            return operands
