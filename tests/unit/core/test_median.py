"""The interval of a median against tables and against draws from a known distribution."""

import random

import pytest

from testbed.core.median import FEWEST, median_within


def test_intervals_of_a_table() -> None:
    """Ranks of the 95 % interval (Conover's table of the binomial distribution with p = 1/2): of 6
    values 1 and 6, of 10 2 and 9, of 20 6 and 15, of 100 40 and 61.
    """
    for count, rank in ((6, 1), (8, 1), (9, 2), (10, 2), (20, 6), (100, 40)):
        values = list(range(1, count + 1))
        middle = (count + 1) / 2
        assert median_within(values) == pytest.approx((middle - rank) / middle)


def test_few_values_and_equal_ones() -> None:
    assert median_within([5.0] * (FEWEST - 1)) is None
    assert median_within([5.0] * FEWEST) == 0
    assert median_within([0.0] * FEWEST) is None


@pytest.mark.parametrize("count", [6, 11, 40])
def test_the_interval_holds_the_median(count: int) -> None:
    """Of 4000 samples at least 95 %, less four standard deviations (1.4 %), for a lopsided law."""
    draw = random.Random(1)
    true_median = 2**0.5  # of the square root of a uniform number from 0 to 4
    enclosed = 0
    for _ in range(4000):
        values = sorted((draw.random() * 4) ** 0.5 for _ in range(count))
        middle = (values[(count - 1) // 2] + values[count // 2]) / 2
        within = median_within(values)
        assert within is not None
        enclosed += abs(true_median - middle) <= within * middle
    assert enclosed / 4000 > 0.95 - 0.014
