"""What a run's network was like over time: the plan's network, and its changes when they really
happened.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from testbed.plan.model import Direction, Network, Plan
from testbed.runfolder.folder import RunDir, read_records

FOR_EVER = 2**63 - 1  # ns
Pieces = list[tuple[int, int, Direction]]


@dataclass(frozen=True)
class History:
    """`states[0]` from the beginning on, ``states[n]`` from ``times_ns[n - 1]`` on (Unix time on
    the run's clock).
    """

    states: tuple[Network, ...]
    times_ns: tuple[int, ...] = ()
    _pieces: dict[tuple[str, str], Pieces] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def of(cls, plan: Plan, run: RunDir) -> History:
        """Of a run that has ended, or of which some is there."""
        times = [record["time_ns"] for record in happened(plan, run)]
        return cls(tuple(plan.network.states())[: len(times) + 1], tuple(times))

    def way(self, link: str, source: str, time_ns: int) -> Direction:
        """A direction of a WAN link as it was at a time."""
        pieces = self.pieces(link, source)
        return pieces[_at(pieces, time_ns)][2]

    def pieces(self, link: str, source: str) -> Pieces:
        """From when to before when a direction of a WAN link was how."""
        if (link, source) not in self._pieces:
            self._pieces[link, source] = self._found_pieces(link, source)
        return self._pieces[link, source]

    def _found_pieces(self, link: str, source: str) -> Pieces:
        borders = (-FOR_EVER, *self.times_ns, FOR_EVER)
        found: Pieces = []
        for (begin, end), state in zip(pairwise(borders), self.states, strict=True):
            way = _direction(state, link, source)
            if found and found[-1][2] is way:
                found[-1] = (found[-1][0], end, way)
            else:
                found.append((begin, end, way))
        return found

    def mean_rate_bps(self, link: str, source: str, begin_ns: int, end_ns: int) -> float:
        """The mean of a direction's rate between two times; of an empty span the rate at it."""
        pieces = self.pieces(link, source)
        if len(pieces) == 1 or end_ns <= begin_ns:
            return float(self.way(link, source, begin_ns).bottleneck.rate_bps)
        total = 0.0
        for begin, end, way in pieces[_at(pieces, begin_ns) : _at(pieces, end_ns) + 1]:
            total += way.bottleneck.rate_bps * max(0, min(end, end_ns) - max(begin, begin_ns))
        return total / (end_ns - begin_ns)


def happened(plan: Plan, run: RunDir) -> list[dict[str, Any]]:
    """The records of the changes that happened, in order, as far as they are sound."""
    kept: list[dict[str, Any]] = []
    for record in read_records(run.changes):
        sound = isinstance(record, dict) and all(
            isinstance(record.get(key), int) for key in ("time_ns", "due_ns")
        )
        if sound and record.get("number") == len(kept) < len(plan.network.changes):
            kept.append(record)
    return kept


def _at(pieces: Pieces, time_ns: int) -> int:
    """The index of the piece that holds at a time."""
    return bisect_right(pieces, time_ns, key=lambda piece: piece[0]) - 1


def _direction(network: Network, link: str, source: str) -> Direction:
    ways: Sequence[Direction] = next(found.directions for found in network.wan if found.key == link)
    return next(way for way in ways if way.source == source)
