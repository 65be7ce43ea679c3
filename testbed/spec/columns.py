"""The columns of a sweep's table (sweep.parquet), for checks of figures before a sweep starts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from testbed.spec.condition import quantity_of

# Endings of the column that has a swept quantity in base units, by the quantity.
SUFFIXES = {"time": "_ns", "rate": "_bps", "size": "_bytes", "percentage": "_share"}

TEXTS_OF_POINT = ("point", "state", "in_grid", "faithful", "doubts", "reason", "folder", "identity")
NUMBERS_OF_POINT = (
    "repeat",
    "seed",
    "wall_seconds",
    "cpu_seconds",
    "emulated_seconds",
    "attempt",
    "rtt_ms",
    "wan_bytes",
    "wan_drops",
    "wan_utilisation",
)
TEXTS_OF_COLLECTIVES = ("op", "dtype", "group", "settled")
NUMBERS_OF_COLLECTIVES = (
    "bytes",
    "ranks",
    "time_us",
    "max_us",
    "bound_us",
    "efficiency",
    "algbw_gbytes",
    "busbw_gbytes",
    "algbw_bound_gbytes",
    "busbw_bound_gbytes",
    "wrong",
    "root",
    "calls",
    "median_within",
)
TEXTS_OF_TRAINING = ("method",)
NUMBERS_OF_TRAINING = (
    "compute_ms",
    "utilisation",
    "tokens_per_s",
    "wan_bytes_per_step",
    "final_loss",
    "training_s",
    "step_ms",
)
NUMBERS_OF_JOBS = ("jobs_s", "slowdown")
OF_ONE_JOB = {"collectives", "train", "replay"}  # workloads that never have several jobs
NUMBERS_WITH_TARGET = ("time_to_loss_s", "compute_to_loss_s")


def columns_of_axes(axes: Mapping[str, Iterable[Any]]) -> tuple[set[str], set[str]]:
    """Return the columns of swept keys, and those of them that hold numbers.

    Args:
        axes: The values of each key, by the key's short name.
    """
    columns: set[str] = set()
    numbers: set[str] = set()
    for name, values in axes.items():
        columns.add(name)
        for value in values:
            if isinstance(value, int | float) and not isinstance(value, bool):
                numbers.add(name)
            quantity = quantity_of(value)
            if quantity is not None:
                numbers.add(name + SUFFIXES[quantity.name])
    return columns | numbers, numbers


def measured_columns(
    workloads: Collection[str], *, has_target: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the columns of points and of their measurements: all columns, and those of numbers.

    Args:
        workloads: Presets or files of the workloads.
        has_target: Whether the experiment has a target loss.
    """
    numbers: tuple[str, ...] = NUMBERS_OF_POINT + NUMBERS_OF_COLLECTIVES
    texts: tuple[str, ...] = TEXTS_OF_POINT + TEXTS_OF_COLLECTIVES
    if set(workloads) != {"collectives"}:
        numbers += NUMBERS_OF_TRAINING
        texts += TEXTS_OF_TRAINING
        if has_target:
            numbers += NUMBERS_WITH_TARGET
    if not set(workloads) <= OF_ONE_JOB:
        numbers += NUMBERS_OF_JOBS
    return numbers + texts, numbers
