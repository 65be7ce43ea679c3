"""Conditions over the values of a point, such as ``delay <= 20 ms and algorithm != 'gloo'``.

A condition is read with Python's own parser and evaluated by walking its tree, of which only
comparisons, ``and``, ``or``, ``not``, ``in``, arithmetic, text in quotes and quantities with units
are known: nothing can be called.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

from testbed.core.units import DECIMAL_SIZE, PERCENTAGE, RATE, TIME, Quantity, UnitError
from testbed.spec.base import suggest

QUANTITIES: tuple[Quantity, ...] = (TIME, RATE, DECIMAL_SIZE, PERCENTAGE)
REMEDY = "write it such as: delay <= 20 ms and algorithm != 'gloo'"
_UNITS = sorted(
    {unit for kind in QUANTITIES for unit in (*kind.units, *kind.synonyms)}, key=len, reverse=True
)
_QUANTITY = rf"(?<![\w.])[0-9]+\.?[0-9]*(?:[eE][+-]?[0-9]+)?\s*(?:{'|'.join(map(re.escape, _UNITS))})(?![\w/])"
_TEXT = r"'[^']*'|\"[^\"]*\""


class Measure(NamedTuple):
    """A number in base units; `quantity` is the name of its kind, none for a plain number."""

    number: Fraction | float
    quantity: str = ""


def quantity_of(value: object) -> Quantity | None:
    """The kind of quantity that a text with a unit is of."""
    if isinstance(value, str):
        for kind in QUANTITIES:
            try:
                kind.exact(value)
            except UnitError:
                continue
            return kind if not _is_number(value) else None
    return None


def measure(value: object) -> Any:
    """`value` as a `Measure` if it is a number or a text with a unit, else as it is."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return Measure(value)
    kind = quantity_of(value)
    return value if kind is None else Measure(kind.exact(value), kind.name)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\s*[0-9.]+\s*", text) is not None


@dataclass(frozen=True)
class Condition:
    """A condition over named values."""

    text: str
    tree: ast.expr
    names: Mapping[str, str]  # placeholders in the tree and what they stand for
    quantities: Mapping[str, Measure]

    @classmethod
    def parse(cls, text: str, known: Iterable[str]) -> Condition:
        """The condition `text`, in which the names `known` may stand; they need not be Python's.

        Raises:
            UnitError: it is no condition, or has another name.
        """
        names: dict[str, str] = {}
        quantities: dict[str, Measure] = {}
        known = sorted(known, key=len, reverse=True)
        alternatives = "|".join(map(re.escape, known)) or r"(?!)"
        name = rf"(?<![\w.'\"-])(?:{alternatives})(?![\w.])(?!-[A-Za-z_])"

        def replace(match: re.Match[str]) -> str:
            if match["name"]:
                names[f"name{len(names)}_"] = match["name"]
                return f" name{len(names) - 1}_ "
            if match["quantity"]:
                quantities[f"quantity{len(quantities)}_"] = measure(match["quantity"])
                return f" quantity{len(quantities) - 1}_ "
            return match[0]

        source = re.sub(rf"{_TEXT}|(?P<name>{name})|(?P<quantity>{_QUANTITY})", replace, text)
        try:
            tree = ast.parse(source.strip(), mode="eval").body
        except (SyntaxError, ValueError) as error:
            raise UnitError(f"{text!r} is not a condition", REMEDY) from error
        condition = cls(text, tree, names, quantities)
        condition._check(tree, known)
        return condition

    def __call__(self, values: Mapping[str, Any]) -> bool:
        """Whether it holds for `values` by name; a comparison with a value that is missing does not
        hold.

        Raises:
            UnitError: two values cannot be compared or combined.
        """
        return self._truth(self._value(self.tree, values))

    def _check(self, node: ast.expr, known: Iterable[str]) -> None:
        if not isinstance(node, _ALLOWED):
            raise UnitError(f"{self.text!r}: {_shown(node)} is not allowed in a condition", REMEDY)
        if isinstance(node, ast.Name) and node.id not in (*self.names, *self.quantities):
            raise UnitError(
                f"{self.text!r}: unknown name {node.id!r}", suggest(node.id, known, "the names")
            )
        if isinstance(node, ast.UnaryOp) and not isinstance(node.op, ast.Not | ast.USub):
            raise UnitError(f"{self.text!r}: this operator is not known", "there are not and -")
        if isinstance(node, ast.Constant) and not isinstance(node.value, bool | int | float | str):
            raise UnitError(f"{self.text!r}: {node.value!r} is not allowed in a condition", REMEDY)
        if isinstance(node, ast.BinOp) and type(node.op) not in _ARITHMETIC:
            raise UnitError(f"{self.text!r}: this operator is not known", "there are + - * /")
        if isinstance(node, ast.Compare) and any(
            type(each) not in _COMPARISONS for each in node.ops
        ):
            raise UnitError(f"{self.text!r}: this comparison is not known", REMEDY)
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self._check(child, known)

    def _value(self, node: ast.expr, values: Mapping[str, Any]) -> Any:  # noqa: PLR0911 (a line for each kind)
        match node:
            case ast.Constant(value=value):
                return measure(value)
            case ast.Name(id=name):
                return (
                    self.quantities[name]
                    if name in self.quantities
                    else measure(values.get(self.names[name]))
                )
            case ast.Tuple(elts=items) | ast.List(elts=items):
                return [self._value(item, values) for item in items]
            case ast.BoolOp(op=ast.And(), values=parts):
                return all(self._truth(self._value(part, values)) for part in parts)
            case ast.BoolOp(values=parts):
                return any(self._truth(self._value(part, values)) for part in parts)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return not self._truth(self._value(operand, values))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return self._combine(ast.Sub, Measure(0), self._value(operand, values))
            case ast.BinOp(left=left, op=op, right=right):
                return self._combine(
                    type(op), self._value(left, values), self._value(right, values)
                )
            case ast.Compare(left=left, ops=ops, comparators=others):
                row = [self._value(part, values) for part in (left, *others)]
                return all(
                    self._compare(type(op), a, b)
                    for op, a, b in zip(ops, row[:-1], row[1:], strict=True)
                )
        raise AssertionError(f"{ast.dump(node)} has passed the check")

    def _truth(self, value: Any) -> bool:
        if not isinstance(value, bool):
            raise UnitError(f"{self.text!r}: a value alone is neither true nor false", REMEDY)
        return value

    def _combine(self, op: type[ast.operator], left: Any, right: Any) -> Measure:
        if not isinstance(left, Measure) or not isinstance(right, Measure):
            raise UnitError(f"{self.text!r}: arithmetic needs numbers")
        kinds = {left.quantity, right.quantity} - {""}
        same = left.quantity == right.quantity
        allowed = same or (op in (ast.Add, ast.Sub) and 0 in (left.number, right.number))
        if op is ast.Mult:
            allowed = len(kinds) < 2 and "" in (left.quantity, right.quantity)
        elif op is ast.Div:
            allowed = same or not right.quantity
        if not allowed:
            raise UnitError(
                f"{self.text!r}: a {left.quantity or 'number'} and a {right.quantity or 'number'} do not fit"
            )
        if op is ast.Div and right.number == 0:
            raise UnitError(f"{self.text!r}: something is divided by zero")
        number = _ARITHMETIC[op](left.number, right.number)
        return Measure(number, "" if op is ast.Div and same else "".join(kinds))

    def _compare(self, op: type[ast.cmpop], left: Any, right: Any) -> bool:
        if op in (ast.In, ast.NotIn):
            if not isinstance(right, list):
                raise UnitError(f"{self.text!r}: what follows `in` is a list, such as (1, 2)")
            return any(self._compare(ast.Eq, left, item) for item in right) is (op is ast.In)
        if left is None or right is None:
            return op is ast.NotEq and left is not right
        if isinstance(left, Measure) and isinstance(right, Measure):
            if left.quantity != right.quantity and 0 not in (left.number, right.number):
                kinds = " and a ".join(
                    side.quantity or "number without a unit" for side in (left, right)
                )
                raise UnitError(
                    f"{self.text!r} compares a {kinds}", "give both the same kind of unit"
                )
            left, right = left.number, right.number
        elif op not in (ast.Eq, ast.NotEq) and type(left) is not type(right):
            raise UnitError(f"{self.text!r} compares {left!r} and {right!r}, which have no order")
        return bool(_COMPARISONS[op](left, right))


_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: operator.contains,
    ast.NotIn: operator.contains,
}
_ALLOWED = (
    ast.Constant,
    ast.Name,
    ast.Tuple,
    ast.List,
    ast.BoolOp,
    ast.UnaryOp,
    ast.BinOp,
    ast.Compare,
)


def _shown(node: ast.expr) -> str:
    names = {"Call": "a call", "Attribute": "a dot", "Subscript": "[ ]", "Lambda": "lambda"}
    return names.get(type(node).__name__, type(node).__name__)
