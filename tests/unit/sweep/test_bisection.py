"""Which positions a bisection asks about, and what it makes of answers that turn twice."""

from collections.abc import Callable

from hypothesis import given, strategies as st

from testbed.sweep.bisection import Bisection, most_questions


def carry_out(bisection: Bisection, holds: Callable[[int], bool]) -> list[int]:
    """Answer all questions, and return the positions in the order of the questions."""
    asked: list[int] = []
    while positions := bisection.ask():
        assert bisection.ask() == []  # nothing new before the answers
        for position in positions:
            bisection.answer(position, holds(position))
        asked += positions
    return asked


@given(count=st.integers(2, 500), turn=st.integers(0, 500), probes=st.integers(0, 3))
def test_the_first_position_is_found_with_few_questions(count: int, turn: int, probes: int) -> None:
    bisection = Bisection(count, probes, limit=100)
    asked = carry_out(bisection, lambda position: position >= turn)
    assert bisection.is_monotone
    assert bisection.first == (turn if turn < count else None)
    assert bisection.before == (None if turn == 0 else min(turn, count) - 1)
    assert len(asked) == len(set(asked)) <= most_questions(count, probes)


def test_fifty_positions_take_nine_questions() -> None:
    """Both ends, six halvings of 49 steps, and a probe."""
    assert most_questions(50, probes=1) == 9
    counts = []
    for turn in range(1, 50):
        bisection = Bisection(50, 1, limit=100)
        counts.append(len(carry_out(bisection, lambda position, turn=turn: position >= turn)))  # type: ignore[misc]
    assert max(counts) == 9


def test_a_probe_finds_an_earlier_position() -> None:
    """True from 30 on, and also from 8 to 12: the middle, 20, hides the first part."""

    def holds(position: int) -> bool:
        return position >= 30 or 8 <= position <= 12

    blind = Bisection(41, 0, limit=100)
    carry_out(blind, holds)
    assert (blind.first, blind.is_monotone) == (30, True)
    probing = Bisection(41, 1, limit=100)
    asked = carry_out(probing, holds)
    assert (probing.first, probing.is_monotone) == (8, False)
    assert 10 in asked


def test_a_condition_that_holds_only_inside_is_noticed() -> None:
    bisection = Bisection(21, 1, limit=100)
    carry_out(bisection, lambda position: 8 <= position <= 12)
    assert (bisection.first, bisection.is_monotone) == (8, False)


def test_the_limit() -> None:
    bisection = Bisection(1000, 1, limit=4)
    assert len(carry_out(bisection, lambda position: position >= 700)) == 4
    assert not bisection.is_narrow
    assert (bisection.before, bisection.first) == (499, 749)
