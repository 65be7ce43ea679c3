"""How well the median of a sample is known, without an assumption about its distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

CONFIDENCE = 0.95
FEWEST = 6  # values, of which least and largest enclose the median with this confidence


def median_within(values: Sequence[float]) -> float | None:
    """Return how far the median may be off, as a share of the median.

    The interval is that between two order statistics, which encloses the median of the
    distribution with a probability of at least `CONFIDENCE` (binomial distribution; W. J. Conover,
    Practical Nonparametric Statistics, 3.2). The values have to be independent of each other: the
    interval means nothing for values that trend.

    Args:
        values: The sample, in any order.

    Returns:
        The larger distance from an end of the interval to the median; None for fewer than `FEWEST`
        values, or a median of 0.
    """
    if len(values) < FEWEST:
        return None
    middle = median(values)
    if middle <= 0:
        return None
    in_order = sorted(values)
    outside = _values_outside(len(values))
    low, high = in_order[outside], in_order[-1 - outside]
    return max(middle - low, high - middle) / middle


def _values_outside(count: int) -> int:
    """Return how many values at each end of a sample are outside the interval."""
    allowed = (1 - CONFIDENCE) / 2 * 2**count
    cumulated = 0
    outside = -1
    while cumulated <= allowed:
        outside += 1
        cumulated += math.comb(count, outside)
    return outside - 1 if outside > 0 else 0
