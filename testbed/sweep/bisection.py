"""Find the first position of an ordered list at which something holds, with few questions.

What is asked for is expected to be false up to some position, and true from there on. The first
questions are about both ends, the next ones about the middle of what is open. At the end some
further positions are asked about, each in the middle of the largest gap outside the answer: they
show whether the expectation is wrong. Where it is, the search goes on for an earlier position.

The questions follow from the answers alone, so the same answers lead to the same questions.
"""

from __future__ import annotations

import math
from itertools import pairwise


def most_questions(count: int, probes: int) -> int:
    """Return the largest number of questions if the expectation is right.

    Args:
        count: Number of positions, at least 2.
        probes: Number of positions to ask about after the answer is known.
    """
    halvings = math.ceil(math.log2(count - 1))
    return min(count, 2 + halvings + probes)


class Bisection:
    """A search among `count` positions, from 0."""

    def __init__(self, count: int, probes: int, limit: int) -> None:
        """Begin a search.

        Args:
            count: Number of positions, at least 2.
            probes: Number of positions to ask about after the answer is known.
            limit: Largest number of questions.
        """
        self._count = count
        self._probes = probes
        self._limit = limit
        self._asked: list[int] = []
        self._known: dict[int, bool] = {}

    def ask(self) -> list[int]:
        """Return the next positions to ask about; empty while answers are missing, and at the end.

        Each position is returned once.
        """
        if len(self._known) < len(self._asked):
            return []
        positions = self._next()[: self._limit - len(self._asked)]
        self._asked += positions
        return positions

    def answer(self, position: int, holds: bool) -> None:
        """Note the answer for a position."""
        self._known[position] = holds

    @property
    def known(self) -> dict[int, bool]:
        """All answers by position, in order of the positions."""
        return dict(sorted(self._known.items()))

    @property
    def first(self) -> int | None:
        """The first position that is known to hold; None if there is none."""
        return min((position for position, holds in self._known.items() if holds), default=None)

    @property
    def before(self) -> int | None:
        """The last position before `first` that is known not to hold; None if there is none."""
        end = self._count if self.first is None else self.first
        return max((position for position in self._known if position < end), default=None)

    @property
    def is_narrow(self) -> bool:
        """Whether no position lies between `before` and `first`."""
        if self.first is None:
            return True
        return self.first == 0 or self.first - 1 == self.before

    @property
    def is_monotone(self) -> bool:
        """Whether no known position after one that holds does not hold."""
        holds = list(self.known.values())
        return holds == sorted(holds)

    def _next(self) -> list[int]:
        ends = [position for position in (0, self._count - 1) if position not in self._known]
        if ends:
            return ends
        first, before = self.first, self.before
        if first is not None and before is not None and not self.is_narrow:
            return [(before + first) // 2]
        return self._next_probe()

    def _next_probe(self) -> list[int]:
        """Return the middle of the largest gap between known positions, if a probe is left."""
        if self._probes == 0:
            return []
        largest = max(pairwise(self.known), key=lambda gap: gap[1] - gap[0])
        low, high = largest
        if high - low < 2:
            return []
        self._probes -= 1
        return [(low + high) // 2]
