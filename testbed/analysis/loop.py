"""Find the loop of a script: a sequence of operations that one rank repeats."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from testbed.analysis.operations import spread
from testbed.runfolder.summary import LoopSummary

LEAST_STEPS = 3
NEARLY = 0.01  # a shorter sequence is preferred if it repeats nearly as well
LEAST_PART = 0.5  # of the operations that must belong to the loop
LONGEST_STEP = 2000  # operations
KIND = ("op", "bytes", "group_size", "dtype")


@dataclass(frozen=True)
class Loop:
    """A loop: operations `start` to `start + steps * period` are `steps` equal sequences."""

    start: int
    period: int
    steps: int


def find_loop(kinds: Sequence[Hashable]) -> Loop | None:
    """Return the loop in a sequence of operations, or None if most operations do not repeat.

    Args:
        kinds: the kind of each operation, in the order of their starts.
    """
    numbers: dict[Hashable, int] = {}
    codes = np.array([numbers.setdefault(kind, len(numbers)) for kind in kinds])
    period = _period(codes)
    if period is None:
        return None

    start, length = _longest_run(codes[period:] == codes[:-period])
    steps = (length + period) // period
    if steps < LEAST_STEPS or steps * period < LEAST_PART * len(codes):
        return None

    return Loop(start, period, steps)


def _period(codes: np.ndarray) -> int | None:
    """Return the distance at which most operations equal those before.

    `codes` holds a number for each kind of operation, in their order: integers, shape (n,).
    """
    longest = min(LONGEST_STEP, len(codes) // LEAST_STEPS)
    equal = []
    for period in range(1, longest + 1):
        equal.append(float(np.mean(codes[period:] == codes[:-period])))

    if not equal:
        return None

    best = max(equal)
    for index, part in enumerate(equal):
        if part >= best - NEARLY:
            return index + 1

    return None


def _longest_run(equal: np.ndarray) -> tuple[int, int]:
    """Return start and length of the longest run of true values; `equal` is bool, shape (n,)."""
    framed = np.concatenate(([0], equal.astype(np.int8), [0]))
    edges = np.flatnonzero(np.diff(framed))
    starts, ends = edges[::2], edges[1::2]
    if not len(starts):
        return 0, 0

    lengths = ends - starts
    longest = int(np.argmax(lengths))
    return int(starts[longest]), int(lengths[longest])


def summarize_loop(ops: pl.DataFrame) -> LoopSummary | None:
    """Return the steps of a script, from the operations of the lowest rank that has any.

    Args:
        ops: the columns of ops.parquet (`testbed.runfolder.schemas.OPS`).
    """
    rank = ops["rank"].min()
    mine = ops.filter(pl.col("rank") == rank).sort("start_ns", "end_ns", maintain_order=True)
    loop = find_loop(mine.select(KIND).rows())
    if loop is None:
        return None

    starts = mine["start_ns"].to_numpy()
    ends = mine["end_ns"].to_numpy()
    loop_end = loop.start + loop.steps * loop.period
    edges = starts[loop.start : loop_end : loop.period]
    step_ms = pl.Series(np.diff(edges) / 1e6)
    begin_ns, end_ns = int(edges[0]), int(edges[-1])
    total_ns = end_ns - begin_ns
    busy_ns = _covered_ns(starts, ends, begin_ns, end_ns)
    return LoopSummary(
        rank=int(mine["rank"][0]),
        steps=len(step_ms),
        operations=loop.period,
        step_ms=spread(step_ms),
        communication=busy_ns / total_ns if total_ns else None,
    )


def _covered_ns(starts: np.ndarray, ends: np.ndarray, begin_ns: int, end_ns: int) -> int:
    """Return for how many ns from `begin_ns` to `end_ns` at least one operation was in progress."""
    covered_ns = 0
    until_ns = begin_ns
    for start_ns, stop_ns in zip(starts, ends, strict=True):
        first_ns = max(int(start_ns), until_ns)
        last_ns = min(int(stop_ns), end_ns)
        covered_ns += max(0, last_ns - first_ns)
        until_ns = max(until_ns, last_ns)

    return covered_ns
