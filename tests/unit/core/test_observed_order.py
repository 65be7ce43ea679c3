"""What waited for what, from times: cases whose order is known by construction."""

import pytest

from testbed.core.observed_order import Work, observed_order

MS = 10**6


def order(*works: tuple[int, int, bool]) -> list[tuple[int, float, float, tuple[int, ...]]]:
    """The parts of works that are given by begin and end in ms: work, begin, end, after."""
    given = [Work(begin * MS, end * MS, computes) for begin, end, computes in works]
    return [
        (part.work, part.start_ns / MS, part.end_ns / MS, part.after)
        for part in observed_order(given)
    ]


def test_an_operation_waits_for_the_computation_before_it_begins() -> None:
    """Gradients of the first half leave while the second half is computed."""
    assert order((0, 100, True), (50, 120, False)) == [
        (0, 0, 50, ()),
        (0, 50, 100, (0,)),
        (1, 50, 120, (0,)),
    ]


def test_computation_does_not_wait_for_what_ends_in_the_background() -> None:
    """The operation from 20 to 40 ends while computation goes on, which is cut at 60."""
    parts = order((0, 100, True), (20, 40, False), (60, 70, False))
    waited: list[list[int]] = []
    for work, _begin, _end, after in parts:
        if work == 0:
            waited.append([parts[number][0] for number in after])
    assert waited == [[], [0], [0]]


def test_the_next_step_waits_for_all_operations() -> None:
    """Three operations of a backward pass: the first ones end before the last begins."""
    parts = order(
        (0, 100, True), (20, 30, False), (50, 80, False), (100, 130, False), (130, 200, True)
    )
    step = next(part for part in parts if part[0] == 4)
    waited = {parts[number][0] for number in step[3]}
    assert waited == {1, 2, 3}


def test_operations_one_after_another() -> None:
    assert order((0, 10, False), (10, 30, False), (31, 40, False)) == [
        (0, 0, 10, ()),
        (1, 10, 30, (0,)),
        (2, 31, 40, (1,)),
    ]


def test_operations_that_begin_at_once_do_not_wait_for_each_other() -> None:
    parts = order((0, 10, True), (10, 50, False), (10, 20, False))
    assert [part[3] for part in parts] == [(), (0,), (0,)]


def test_something_always_comes_before_a_late_operation() -> None:
    """The operation at 15 begins after a pause, while another one is under way."""
    parts = order((0, 10, True), (10, 50, False), (15, 20, False))
    assert parts[2] == (2, 15, 20, (0,))


@pytest.mark.parametrize("computes", [True, False])
def test_a_single_work(computes: bool) -> None:
    assert order((5, 7, computes)) == [(0, 5, 7, ())]


def test_no_work() -> None:
    assert order() == []
