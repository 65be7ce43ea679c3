"""Operations and computation of a trace that gives times only, in the order that they show."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from testbed.core.observed_order import Work, observed_order
from testbed.core.units import UnitError

from .trace import BYTES, Communication, Node

NS_PER_US = 1000
AT_ONCE_NS = 20_000  # a kernel follows another one, or an operation, within this time
COMPUTATION = "computation"
# names of types in traces: torch's data type, or the bytes of an item
TYPES: dict[str, str | int] = {
    "float": "float32",
    "double": "float64",
    "half": "float16",
    "bfloat16": "bfloat16",
    "int": "int32",
    "long": "int64",
    "char": "int8",
    "byte": "uint8",
    "long int": "int64",
    "signed char": "int8",
    "unsigned char": "uint8",
    "short": 2,
    "short int": 2,
    "bool": 1,
    "complexfloat": 8,
    "complexdouble": 16,
}
SIZES = {"float32": 4, "float64": 8, "float16": 2, "bfloat16": 2, "int32": 4, "int64": 8}
ONE_BYTE = "float8"


@dataclass(frozen=True)
class Timed:
    """An operation with its times in us.

    Attributes:
        name: Name of the event.
        begin_us: Begin.
        end_us: End.
        communication: The operation.
        lane: Operations of a lane follow each other; empty: of none.
    """

    name: str
    begin_us: float
    end_us: float
    communication: Communication
    lane: str = ""


def number_of(value: object) -> int | None:
    """Return a whole number that is not negative, or None for other values."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value if value >= 0 else None
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    return None


def sizes_of_type(path: Path, name: str) -> tuple[str, int]:
    """Return torch's data type and the bytes of an item for a type's name in a trace.

    Raises:
        UnitError: The type is unknown.
    """
    plain = name.lower().removeprefix("c10::")
    if plain.startswith(ONE_BYTE):
        return BYTES, 1
    known = TYPES.get(plain)
    if known is None:
        raise UnitError(f"{path}: unknown type of items {name!r}", f"known are {', '.join(TYPES)}")
    if isinstance(known, int):
        return BYTES, known
    return known, SIZES.get(known, 1)


def in_observed_order(
    operations: Sequence[Timed],
    computation: Sequence[tuple[float, float]],
    steps: Sequence[tuple[float, int]],
) -> list[Node]:
    """Return the nodes of a rank, each after what had to end before it.

    Args:
        operations: Operations.
        computation: Begin and end of kernels or operators in us, in any order; they may overlap.
        steps: Begin in us and number of training steps, in order.
    """
    stretches = list(_stretches(operations, computation, [begin for begin, _number in steps]))
    begins = [operation.begin_us for operation in operations]
    begins += [begin for begin, _end in stretches]
    origin_us = min(begins)

    def ns(time_us: float) -> int:
        return round((time_us - origin_us) * NS_PER_US)

    works = [Work(ns(each.begin_us), ns(each.end_us), False) for each in operations]
    works += [Work(ns(begin), ns(end), True) for begin, end in stretches]
    step_begins = [ns(begin) for begin, _number in steps]
    nodes: list[Node] = []
    for part in observed_order(works, AT_ONCE_NS):
        is_operation = part.work < len(operations)
        place = bisect.bisect_right(step_begins, part.start_ns) - 1
        nodes.append(
            Node(
                name=operations[part.work].name if is_operation else COMPUTATION,
                after=part.after,
                start_ns=part.start_ns,
                duration_ns=part.end_ns - part.start_ns,
                lane=operations[part.work].lane if is_operation else COMPUTATION,
                step=steps[place][1] if place >= 0 else None,
                communication=operations[part.work].communication if is_operation else None,
            )
        )
    return nodes


def _stretches(
    operations: Sequence[Timed],
    computation: Sequence[tuple[float, float]],
    step_begins: Sequence[float],
) -> Iterator[tuple[float, float]]:
    """Yield begin and end of stretches of computation.

    A stretch goes on over a pause in which no operation ended and no step began: the computation
    did not wait for an operation, and the pause counts as computation.
    """
    breaks = sorted([operation.end_us for operation in operations] + list(step_begins))
    open_begin: float | None = None
    open_end = 0.0
    for begin, end in sorted(computation):
        if open_begin is None:
            open_begin, open_end = begin, end
            continue
        first = bisect.bisect_left(breaks, open_end)
        is_broken = begin > open_end and first < len(breaks) and breaks[first] <= begin
        if is_broken:
            yield open_begin, open_end
            open_begin, open_end = begin, end
        else:
            open_end = max(open_end, end)
    if open_begin is not None:
        yield open_begin, open_end
