"""The grammar of conditions: from text to a tree of expressions.

    condition  = all, {"or", all}
    all        = denial, {"and", denial}
    denial     = "not", denial | comparison
    comparison = sum, {("==" | "!=" | "<" | "<=" | ">" | ">=" | "in" | "not in"), sum}
    sum        = product, {("+" | "-"), product}
    product    = sign, {("*" | "/"), sign}
    sign       = "-", sign | atom
    atom       = number | quantity | text | name | "True" | "False"
               | "(", condition, ")" | list
    list       = "(", [condition, ",", [condition, {",", condition}, [","]]], ")"
               | "[", [condition, {",", condition}, [","]], "]"

Numbers and texts in quotes are written as in Python. A quantity is a number with a unit, such as
``20 ms``. A name is one of the caller's names, and may contain dots and hyphens; a minus sign
in front of a name must stand apart.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, NoReturn

from testbed.core.suggestions import suggest
from testbed.core.units import DECIMAL_SIZE, PERCENTAGE, RATE, TIME, Quantity, UnitError

QUANTITIES: tuple[Quantity, ...] = (TIME, RATE, DECIMAL_SIZE, PERCENTAGE)
REMEDY = "use a comparison, such as: delay <= 20 ms and algorithm != 'gloo'"

# ---- expressions


@dataclass(frozen=True)
class Constant:
    """A number, a truth value, or a text with or without a unit."""

    value: bool | int | float | str


@dataclass(frozen=True)
class Name:
    """A named value."""

    name: str


@dataclass(frozen=True)
class ValueList:
    """A list of values, in parentheses or brackets."""

    items: tuple[Expression, ...]


@dataclass(frozen=True)
class All:
    """Parts joined by ``and``."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True)
class AnyOf:
    """Parts joined by ``or``."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True)
class Not:
    """The opposite of a condition."""

    operand: Expression


@dataclass(frozen=True)
class Negative:
    """A number with a minus sign."""

    operand: Expression


@dataclass(frozen=True)
class Arithmetic:
    """Two numbers joined by ``+``, ``-``, ``*`` or ``/``."""

    operator: str
    left: Expression
    right: Expression


@dataclass(frozen=True)
class Comparison:
    """A chain such as ``1 ms < delay <= 20 ms``: one operator fewer than operands."""

    operators: tuple[str, ...]
    operands: tuple[Expression, ...]


Expression = Constant | Name | ValueList | All | AnyOf | Not | Negative | Arithmetic | Comparison

# ---- tokens

ORDER_SYMBOLS = ("==", "!=", "<=", ">=", "<", ">")
UNKNOWN_ARITHMETIC = ("**", "//", "<<", ">>", "%", "@", "&", "|", "^")
UNKNOWN_SIGNS = ("+", "~")
AFTER_ATOM = {"(": "a call", ".": "a dot", "[": "[ ]"}
_OTHER_SYMBOLS = ("+", "-", "*", "/", "~", "(", ")", "[", "]", ",", ".")
_KEYWORDS = ("and", "or", "not", "in", "is", "None", "True", "False")

_TEXT = r"'[^']*'|\"[^\"]*\""
_NUMBER = r"(?:\d|\.\d)(?:[eE][+-](?=\d)|[\w.])*"
_WORD = r"[^\W\d]\w*"


def _one_of(texts: Iterable[str]) -> str:
    """Return a regular expression for any of `texts` that prefers longer texts."""
    longest_first = sorted(texts, key=len, reverse=True)
    return "|".join(re.escape(text) for text in longest_first)


def _unit_names() -> set[str]:
    names: set[str] = set()
    for quantity in QUANTITIES:
        names.update(quantity.units, quantity.synonyms)
    return names


_QUANTITY = (
    rf"(?<![\w.])[0-9]+\.?[0-9]*(?:[eE][+-]?[0-9]+)?\s*(?:{_one_of(_unit_names())})(?![\w/])"
)
_SYMBOL = _one_of([*ORDER_SYMBOLS, *UNKNOWN_ARITHMETIC, *_OTHER_SYMBOLS])

Kind = Literal["text", "name", "quantity", "number", "keyword", "unknown", "symbol", "end"]


class Token(NamedTuple):
    """A token of a condition; `unknown` is a word that is neither a name nor a keyword."""

    kind: Kind
    text: str


class _NotACondition(Exception):
    """The text breaks the grammar."""


def _token_pattern(names: Iterable[str]) -> re.Pattern[str]:
    """Return a regular expression with a group per kind of token, and one for blanks."""
    any_name = _one_of(names) or r"(?!)"
    return re.compile(
        rf"(?P<blank>\s+)"
        rf"|(?P<text>{_TEXT})"
        rf"|(?P<name>(?<![\w.'\"-])(?:{any_name})(?![\w.])(?!-[A-Za-z_]))"
        rf"|(?P<quantity>{_QUANTITY})"
        rf"|(?P<number>{_NUMBER})"
        rf"|(?P<keyword>(?:{'|'.join(_KEYWORDS)})\b)"
        rf"|(?P<unknown>{_WORD})"
        rf"|(?P<symbol>{_SYMBOL})"
    )


def _tokens(text: str, names: Iterable[str]) -> list[Token]:
    """Return the tokens of a condition; the last one has the kind `end`.

    Raises:
        _NotACondition: A character is not part of a token.
    """
    pattern = _token_pattern(names)
    tokens: list[Token] = []
    position = 0
    while position < len(text):
        match = pattern.match(text, position)
        if match is None:
            raise _NotACondition

        kind: Any = match.lastgroup
        if kind != "blank":
            tokens.append(Token(kind, match[0]))

        position = match.end()

    tokens.append(Token("end", ""))
    return tokens


def _python_literal(text: str) -> Any:
    """Return the value of a number or of a text in quotes.

    Raises:
        _NotACondition: The text is not a Python literal.
    """
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError) as error:
        raise _NotACondition from error


# ---- grammar


def parse_condition(text: str, names: Iterable[str]) -> Expression:
    """Parse a condition into a tree of expressions.

    Args:
        text: The condition.
        names: Names allowed in the condition.

    Raises:
        UnitError: The text is not a condition, uses an operator that conditions do not have, or
            has an unknown name.
    """
    known = sorted(names, key=len, reverse=True)
    try:
        return _Parser(text, known).whole()
    except (_NotACondition, RecursionError) as error:
        raise UnitError(f"{text!r} is not a valid condition", REMEDY) from error


class _Parser:
    """A recursive descent parser of one condition, with a method for each rule of the grammar.

    An unknown name is reported only after the whole text has been read, because a grammar error
    takes precedence.
    """

    def __init__(self, text: str, known: Sequence[str]) -> None:
        self.text = text
        self.known = known
        self.tokens = _tokens(text, known)
        self.position = 0
        self.unknown_name: UnitError | None = None

    def whole(self) -> Expression:
        expression = self.condition()
        if self.next.kind != "end":
            raise _NotACondition
        if self.unknown_name is not None:
            raise self.unknown_name
        return expression

    @property
    def next(self) -> Token:
        return self.tokens[self.position]

    def take(self) -> Token:
        token = self.next
        self.position += 1
        return token

    def next_is(self, *texts: str) -> bool:
        return self.next.kind in ("symbol", "keyword") and self.next.text in texts

    def take_if(self, *texts: str) -> bool:
        """Take the next token if it is one of `texts`, and return whether a token was taken."""
        if not self.next_is(*texts):
            return False
        self.take()
        return True

    def refuse(self, what: str, remedy: str) -> NoReturn:
        """Raise an error about an unsupported construct, or about an unknown name before it."""
        raise self.unknown_name or UnitError(f"{self.text!r}: {what}", remedy)

    def condition(self) -> Expression:
        parts = self.joined_by("or", self.all)
        if len(parts) == 1:
            return parts[0]
        return AnyOf(parts)

    def all(self) -> Expression:
        parts = self.joined_by("and", self.denial)
        if len(parts) == 1:
            return parts[0]
        return All(parts)

    def joined_by(self, keyword: str, part: Callable[[], Expression]) -> tuple[Expression, ...]:
        parts = [part()]
        while self.take_if(keyword):
            parts.append(part())
        return tuple(parts)

    def denial(self) -> Expression:
        if self.take_if("not"):
            return Not(self.denial())
        return self.comparison()

    def comparison(self) -> Expression:
        operands = [self.sum()]
        operators: list[str] = []
        while operator := self.comparison_operator():
            operators.append(operator)
            operands.append(self.sum())

        if not operators:
            return operands[0]
        return Comparison(tuple(operators), tuple(operands))

    def comparison_operator(self) -> str:
        """Return the next comparison operator; empty if there is none."""
        if self.next_is("is"):
            self.refuse("unknown comparison", REMEDY)
        if self.next_is("in", *ORDER_SYMBOLS):
            return self.take().text
        if not self.take_if("not"):
            return ""
        if not self.take_if("in"):
            raise _NotACondition
        return "not in"

    def sum(self) -> Expression:
        result = self.product()
        while self.next_is("+", "-"):
            operator = self.take().text
            result = Arithmetic(operator, result, self.product())

        return result

    def product(self) -> Expression:
        result = self.sign()
        while self.next_is("*", "/"):
            operator = self.take().text
            result = Arithmetic(operator, result, self.sign())

        if self.next_is(*UNKNOWN_ARITHMETIC):
            self.refuse("unknown operator", "the operators are + - * /")
        return result

    def sign(self) -> Expression:
        if self.take_if("-"):
            return Negative(self.sign())
        if self.next_is(*UNKNOWN_SIGNS):
            self.refuse("unknown operator", "the operators are not and -")
        return self.atom()

    def atom(self) -> Expression:
        token = self.take()
        read = self.values if token.text in ("(", "[") else self.single
        expression = read(token)

        if self.next_is(*AFTER_ATOM):
            construct = AFTER_ATOM[self.next.text]
            self.refuse(f"{construct} is not allowed in a condition", REMEDY)

        if token.kind == "unknown" and self.unknown_name is None:
            what = f"{self.text!r}: unknown name {token.text!r}"
            suggestion = suggest(token.text, self.known, "known names")
            self.unknown_name = UnitError(what, suggestion)

        return expression

    def single(self, token: Token) -> Expression:
        """Return the expression of a single token."""
        if token.kind in ("name", "unknown"):
            return Name(token.text)
        if token.kind == "quantity":
            return Constant(token.text)
        if token.kind in ("number", "text"):
            value = _python_literal(token.text)
            if isinstance(value, complex):
                self.refuse(f"{value!r} is not allowed in a condition", REMEDY)
            return Constant(value)

        if token.text in ("True", "False"):
            return Constant(token.text == "True")
        if token.text == "None":
            self.refuse("None is not allowed in a condition", REMEDY)
        raise _NotACondition

    def values(self, opening: Token) -> Expression:
        """Return a list, or the single expression in parentheses without a comma."""
        closing = ")" if opening.text == "(" else "]"
        items: list[Expression] = []
        has_comma = False
        while not self.take_if(closing):
            items.append(self.condition())
            if self.take_if(","):
                has_comma = True
            elif not self.next_is(closing):
                raise _NotACondition

        has_one_item = len(items) == 1 and not has_comma
        if closing == ")" and has_one_item:
            return items[0]
        return ValueList(tuple(items))
