"""A clock that stands still, or runs while nothing happens, is noticed and explained."""

import time
from dataclasses import dataclass

import pytest

from testbed.core.errors import GuestLost
from testbed.execution.clock_watch import ClockWatch
from testbed.guest.clock import ClockReading

SECOND_NS = 10**9


@dataclass
class FakeGuest:
    """A guest whose clock and CPU time are set by hand."""

    reading: ClockReading | None = None
    cpu_s: float = 0.0

    def clock(self) -> ClockReading | None:
        return self.reading

    def cpu_seconds(self) -> float:
        return self.cpu_s


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The wall clock in seconds, in a list so that tests can set it."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def reading(time_ns: int, forced_ns: int = 0) -> ClockReading:
    return ClockReading(time_ns, forced_ns, 7, "iowa-h0", "python")


def test_real_clock_is_left_alone(wall: list[float]) -> None:
    watch = ClockWatch(FakeGuest(), stall_limit_s=1)
    wall[0] += 1000
    watch.look(may_last=False)
    assert watch.reading is None


@pytest.mark.parametrize(
    ("cpu_s", "cause"),
    [
        (0.1, "the guest hangs"),
        (1.5, "python (pid 7) on iowa-h0 is computing, or is busy-waiting for a point in time"),
        (9.0, "python (pid 7) on iowa-h0 is computing, or is busy-waiting for a point in time"),
    ],
)
def test_stall(wall: list[float], cpu_s: float, cause: str) -> None:
    guest = FakeGuest(reading(SECOND_NS))
    watch = ClockWatch(guest, stall_limit_s=10)
    watch.look(may_last=True)
    wall[0] += 9
    guest.cpu_s = cpu_s
    watch.look(may_last=True)
    wall[0] += 2
    with pytest.raises(GuestLost) as caught:
        watch.look(may_last=True)
    assert str(caught.value).startswith(f"the guest's clock did not move for 11 s: {cause}\n")


def test_forced_time_is_no_progress(wall: list[float]) -> None:
    guest = FakeGuest(reading(SECOND_NS))
    watch = ClockWatch(guest, stall_limit_s=10)
    watch.look(may_last=True)
    wall[0] += 11
    guest.reading = reading(5 * SECOND_NS, forced_ns=4 * SECOND_NS)
    with pytest.raises(GuestLost):
        watch.look(may_last=True)
    assert watch.spinner == "python (pid 7) on iowa-h0"


def test_moving_clock_never_stalls(wall: list[float]) -> None:
    guest = FakeGuest(reading(0))
    watch = ClockWatch(guest, stall_limit_s=10)
    for second in range(1, 100):
        wall[0] += 9
        guest.reading = reading(second * SECOND_NS)
        watch.look(may_last=True)
    assert watch.reading == guest.reading


def test_stage_that_does_not_end(wall: list[float]) -> None:
    guest = FakeGuest(reading(0))
    watch = ClockWatch(guest, stall_limit_s=10)
    watch.begin_stage("network", reading(60 * SECOND_NS))
    guest.reading = reading(3659 * SECOND_NS)
    watch.look(may_last=False)
    guest.reading = reading(3661 * SECOND_NS)
    watch.look(may_last=True)
    with pytest.raises(GuestLost, match="the stage network has not ended after an hour"):
        watch.look(may_last=False)
