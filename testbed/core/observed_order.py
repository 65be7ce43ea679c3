"""Derive what waited for what from the times at which the work of a rank began and ended.

A record of times does not say on what a piece of work depends. These rules choose what explains the
times best:

- Computation is cut where an operation begins: the operation depends on the part before the cut.
- A part of computation that follows another one directly depends on that part only: operations in
  the background that end meanwhile do not hold it up.
- Computation after a pause depends on all work that had ended, and that no other work depends on.
- An operation depends on the work that ended when it began. If none did, it depends on the same as
  computation after a pause.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

AT_ONCE_NS = 1_000


@dataclass(frozen=True)
class Work:
    """Something that a rank did: computation, or an operation of a process group.

    Attributes:
        start_ns: Begin.
        end_ns: End.
        is_computation: Whether it is computation; computation never overlaps other computation.
    """

    start_ns: int
    end_ns: int
    is_computation: bool


@dataclass(frozen=True)
class WorkPart:
    """A part of a work.

    Attributes:
        work: Number of the work.
        start_ns: Begin.
        end_ns: End.
        after: Numbers of the parts that had to end before this part.
    """

    work: int
    start_ns: int
    end_ns: int
    after: tuple[int, ...]


def observed_order(works: Sequence[Work], at_once_ns: int = AT_ONCE_NS) -> list[WorkPart]:
    """Return the parts of all works of a rank, in the order of their begins.

    Args:
        works: All works of the rank, in any order.
        at_once_ns: Time in ns after the end of one work within which another one follows directly.
    """
    pieces = sorted(_cut(works), key=lambda piece: (piece[1], piece[2], piece[0]))
    parts: list[WorkPart] = []
    ended = _Ended(at_once_ns)
    last_of_work: dict[int, int] = {}
    for number, (work, start_ns, end_ns) in enumerate(pieces):
        ended.advance(start_ns)
        if works[work].is_computation and work in last_of_work:
            after = [last_of_work[work]]
        elif works[work].is_computation:
            after = ended.loose()
        else:
            after = ended.just_now(start_ns) or ended.loose()
        ended.depend_on(after)
        ended.begin(number, end_ns)
        last_of_work[work] = number
        parts.append(WorkPart(work, start_ns, end_ns, tuple(sorted(after))))
    return parts


def _cut(works: Sequence[Work]) -> Iterator[tuple[int, int, int]]:
    """Yield number, begin and end of each part: computation is cut where operations begin."""
    begins = sorted({work.start_ns for work in works if not work.is_computation})
    position = 0
    in_order = sorted(range(len(works)), key=lambda number: works[number].start_ns)
    for number in in_order:
        work = works[number]
        if not work.is_computation:
            yield number, work.start_ns, work.end_ns
            continue
        while position < len(begins) and begins[position] <= work.start_ns:
            position += 1
        start_ns = work.start_ns
        while position < len(begins) and begins[position] < work.end_ns:
            yield number, start_ns, begins[position]
            start_ns = begins[position]
            position += 1
        yield number, start_ns, work.end_ns


class _Ended:
    """Parts that have ended by a time that only increases."""

    def __init__(self, at_once_ns: int) -> None:
        self._at_once_ns = at_once_ns
        self._running: list[tuple[int, int]] = []  # end, number
        self._loose: set[int] = set()  # ended, and nothing depends on them
        self._recent: list[tuple[int, int]] = []  # end, number; ended just now
        self._last: tuple[int, int] | None = None
        self._needed: set[int] = set()

    def begin(self, number: int, end_ns: int) -> None:
        """Add a part that begins."""
        self._running.append((end_ns, number))

    def advance(self, now_ns: int) -> None:
        """Note which parts have ended by a time."""
        done = sorted(each for each in self._running if each[0] <= now_ns)
        if done:
            self._running = [each for each in self._running if each[0] > now_ns]
            self._loose.update(number for _end_ns, number in done if number not in self._needed)
            self._recent += done
            self._last = max(done) if self._last is None else max(self._last, *done)
        earliest_ns = now_ns - self._at_once_ns
        self._recent = [each for each in self._recent if each[0] >= earliest_ns]

    def just_now(self, now_ns: int) -> list[int]:
        """Return the parts that ended just before a time."""
        earliest_ns = now_ns - self._at_once_ns
        return [number for end_ns, number in self._recent if end_ns >= earliest_ns]

    def loose(self) -> list[int]:
        """Return the parts on which nothing depends yet, or else the part that ended last."""
        if self._loose:
            return list(self._loose)
        return [] if self._last is None else [self._last[1]]

    def depend_on(self, numbers: Iterable[int]) -> None:
        """Note that a part depends on others."""
        self._needed.update(numbers)
        self._loose.difference_update(numbers)
