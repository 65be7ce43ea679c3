"""The virtual clock as programs see it: what moves it, and what does not."""

from typing import Any

import pytest

from testbed.guest.kernel import Kernel
from tests.guest.inside.clocks import SPIN_NS, WAIT_S
from tests.support.guests import console, finish, guest_with, result

US, MS = 10**3, 10**6
STEP_NS = 256  # of the clock of a kernel from Linux 7.2; that of 6.12 counts nanoseconds


@pytest.fixture(scope="module")
def measured(kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What inside/clocks.py measured."""
    folder = tmp_path_factory.mktemp("clocks") / "shared"
    with guest_with(kernel, "clocks.py", folder) as guest:
        assert finish(guest) == 0, console(folder)
    return result(folder)


def test_successive_reads_differ(measured: dict[str, Any]) -> None:
    """By 1 us, as far as a float of seconds since 1970 can tell (2^-22 s)."""
    assert set(measured["steps_s"]) == {"time", "monotonic", "perf_counter", "datetime"}
    for step_s in measured["steps_s"].values():
        assert step_s >= 1e-6 - 2**-21


def test_system_calls_take_no_time(measured: dict[str, Any]) -> None:
    """Neither those that fail: only the second read of the clock gives 1 us more than the first."""
    assert measured["system_calls"] == {"fstat": US, "failing": US}


def test_a_program_that_waits_for_the_clock_takes_as_long(measured: dict[str, Any]) -> None:
    """And others wake when they are due: within a few reads, which are 1 us each."""
    spin = measured["spin"]
    assert spin["spun"] == pytest.approx(SPIN_NS, abs=5 * US)
    assert spin["other_woke"] == pytest.approx(SPIN_NS // 2, abs=5 * US)


@pytest.mark.parametrize("what", ["recv", "wait", "yield"])
def test_polling_without_sleeping_ends(measured: dict[str, Any], what: str) -> None:
    """When what it waits for has happened, and no later than some polls, which are 1 us each."""
    assert measured["polls"][what] == pytest.approx(WAIT_S * 1e9, abs=MS)


def test_sleeps_end_when_due(measured: dict[str, Any]) -> None:
    """Each within 1 us and a step of the clock; not 50 us later, by the kernel's timer slack."""
    assert 100 * MS <= measured["sleeps"] <= 100 * (MS + US + STEP_NS)


def test_the_kernel_draws_the_same_numbers_again(measured: dict[str, Any]) -> None:
    first, again, other = measured["random"]
    assert first == again != other


def test_buffers_of_sockets_have_no_common_limit(measured: dict[str, Any]) -> None:
    """Linux would stop their growth at 6 % of the guest's memory: 3 GiB are 786432 pages."""
    assert all(int(pages) > 786_432 for pages in measured["tcp_mem"])
