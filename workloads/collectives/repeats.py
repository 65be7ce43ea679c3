"""How many iterations of an operation follow: a fixed number, or until its median is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist

from testbed.core.median import median_within
from testbed.spec.collective import AUTO_ITERATIONS

PRECISION = 0.01  # share of the median
DECIDER = 0  # rank


class Repeats(Protocol):
    """Decides after each iteration whether another one follows."""

    most: int

    def more(self, times_ns: Sequence[int]) -> bool:
        """Return whether another iteration follows, in every rank the same.

        Args:
            times_ns: this rank's times of the measured iterations of the operation until now.
        """


class FixedRepeats:
    """A fixed number of iterations."""

    def __init__(self, count: int) -> None:
        self.most = count

    def more(self, times_ns: Sequence[int]) -> bool:
        """Return whether fewer iterations than planned are done."""
        return len(times_ns) < self.most


class AgreedRepeats:
    """As many iterations as rank 0 needs to know its median, at most a limit.

    Rank 0 decides by its own times and broadcasts the decision, after each iteration, so that the
    pauses between iterations are equal. Nothing is measured meanwhile.
    """

    def __init__(self, limit: int, rank: int) -> None:
        self.most = limit
        self._rank = rank
        self._decision = torch.zeros(1, dtype=torch.uint8)

    def more(self, times_ns: Sequence[int]) -> bool:
        """Return whether rank 0 needs another iteration."""
        if self._rank == DECIDER:
            self._decision[0] = self._needs_more(times_ns)
        dist.broadcast(self._decision, src=DECIDER)
        return bool(self._decision.item())

    def _needs_more(self, times_ns: Sequence[int]) -> bool:
        if len(times_ns) >= self.most:
            return False
        within = median_within(times_ns)
        return within is None or within > PRECISION


def repeats_of(settings: Mapping[str, Any], rank: int) -> Repeats:
    """Return what decides about the iterations of every operation.

    Args:
        settings: the workload's settings.
        rank: this rank.
    """
    if settings["iterations"] == AUTO_ITERATIONS:
        return AgreedRepeats(settings["iteration_limit"], rank)
    return FixedRepeats(settings["iterations"])
