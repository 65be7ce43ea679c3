"""History of a run's network: the planned network and the changes that happened."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from testbed.plan.model import Direction, Network, Plan
from testbed.runfolder import records
from testbed.runfolder.folder import RunDir
from testbed.runfolder.records import NetworkChange

FOR_EVER = 2**63 - 1  # ns


class Piece(NamedTuple):
    """A span from `begin_ns` to `end_ns` in which a direction of a WAN link stayed the same."""

    begin_ns: int
    end_ns: int
    direction: Direction


Pieces = list[Piece]


@dataclass(frozen=True)
class History:
    """The states of a run's network; times are Unix ns on the run's clock.

    Attributes:
        states: ``states[0]`` applies first, ``states[n]`` from ``times_ns[n - 1]`` on.
        times_ns: times of the changes, ascending.
    """

    states: tuple[Network, ...]
    times_ns: tuple[int, ...] = ()
    _pieces: dict[tuple[str, str], Pieces] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def of(cls, plan: Plan, run: RunDir) -> History:
        """Read the history of a completed run, or of a run with partial records."""
        return cls.with_changes(plan, happened(plan, run))

    @classmethod
    def with_changes(cls, plan: Plan, changes: list[NetworkChange]) -> History:
        """Build the history of a run in which `changes`, the plan's first changes, happened."""
        count = len(changes) + 1
        states = tuple(plan.network.states())
        times_ns = tuple(change.time_ns for change in changes)
        return cls(states[:count], times_ns)

    def direction_at(self, link: str, source: str, time_ns: int) -> Direction:
        """Return the state at a time of one direction of a WAN link.

        Args:
            link: key of the WAN link.
            source: datacenter from which the direction leaves.
            time_ns: Unix time in ns on the run's clock.
        """
        pieces = self.pieces(link, source)
        return pieces[_index_at(pieces, time_ns)].direction

    def pieces(self, link: str, source: str) -> Pieces:
        """Return the states over time of the WAN link direction that leaves datacenter `source`."""
        key = (link, source)
        if key not in self._pieces:
            self._pieces[key] = self._make_pieces(link, source)
        return self._pieces[key]

    def _make_pieces(self, link: str, source: str) -> Pieces:
        borders = (-FOR_EVER, *self.times_ns, FOR_EVER)
        spans = pairwise(borders)
        pieces: Pieces = []
        for (begin_ns, end_ns), state in zip(spans, self.states, strict=True):
            direction = _direction(state, link, source)
            is_unchanged = bool(pieces) and pieces[-1].direction is direction
            if is_unchanged:
                pieces[-1] = pieces[-1]._replace(end_ns=end_ns)
            else:
                pieces.append(Piece(begin_ns, end_ns, direction))

        return pieces

    def mean_rate_bps(self, link: str, source: str, begin_ns: int, end_ns: int) -> float:
        """Return the mean rate in bit/s of a direction over a span; of an empty span the rate then.

        Args:
            link: key of the WAN link.
            source: datacenter from which the direction leaves.
            begin_ns: start of the span, Unix ns.
            end_ns: end of the span, Unix ns.
        """
        pieces = self.pieces(link, source)
        if len(pieces) == 1 or end_ns <= begin_ns:
            direction = self.direction_at(link, source, begin_ns)
            return float(direction.bottleneck.rate_bps)

        return self.capacity_bits(link, source, begin_ns, end_ns) * 1e9 / (end_ns - begin_ns)

    def capacity_bits(self, link: str, source: str, begin_ns: int, end_ns: int) -> float:
        """Return the bits that a direction could have sent in a span.

        Args:
            link: key of the WAN link.
            source: datacenter from which the direction leaves.
            begin_ns: start of the span, Unix ns.
            end_ns: end of the span, Unix ns.
        """
        pieces = self.pieces(link, source)
        first = _index_at(pieces, begin_ns)
        last = _index_at(pieces, end_ns)
        bits_times_1e9 = 0
        for piece in pieces[first : last + 1]:
            overlap_begin_ns = max(piece.begin_ns, begin_ns)
            overlap_end_ns = min(piece.end_ns, end_ns)
            overlap_ns = max(0, overlap_end_ns - overlap_begin_ns)
            bits_times_1e9 += piece.direction.bottleneck.rate_bps * overlap_ns

        return bits_times_1e9 / 1e9


def happened(plan: Plan, run: RunDir) -> list[NetworkChange]:
    """Read the records of the changes that happened; records out of order are left out."""
    changes, _problems = records.read(run.changes, NetworkChange, may_be_empty=True)
    in_order: list[NetworkChange] = []
    for change in changes:
        if change.number == len(in_order) < len(plan.network.changes):
            in_order.append(change)
    return in_order


def _index_at(pieces: Pieces, time_ns: int) -> int:
    """Return the index of the piece that covers a time."""
    return bisect_right(pieces, time_ns, key=lambda piece: piece.begin_ns) - 1


def _direction(network: Network, link_key: str, source: str) -> Direction:
    for link in network.wan:
        if link.key != link_key:
            continue
        for direction in link.directions:
            if direction.source == source:
                return direction
    raise KeyError(f"no WAN link {link_key} leaves {source}")
