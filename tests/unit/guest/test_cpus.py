"""The CPUs that guests get: one of their own, and one that they borrow for their processes."""

import fcntl
import os
import struct
from pathlib import Path

import pytest

from testbed.guest.cpus import GuestCpus, reserve_cpus


@pytest.fixture
def two_cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESTBED_CACHE", str(tmp_path))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})


@pytest.mark.usefixtures("two_cpus")
def test_guests_get_cpus_for_themselves_and_then_share() -> None:
    with (
        reserve_cpus(None, borrows=False) as first,
        reserve_cpus(None, borrows=False) as second,
        reserve_cpus(None, borrows=True) as third,
        reserve_cpus(None, borrows=True) as fourth,
        reserve_cpus(None, borrows=True) as fifth,
    ):
        assert {first.kernel, second.kernel} == {0, 1}
        assert first.prefix() == ["taskset", "--cpu-list", "1"]
        assert third.arguments() == []
        assert third.descriptors() == []
        assert {third.kernel, fourth.kernel} == {0, 1}
        assert fifth == third
    with reserve_cpus(None, borrows=False) as again:
        assert again == first


@pytest.mark.usefixtures("two_cpus")
def test_a_borrowed_cpu_is_given_back_to_the_next_guest() -> None:
    """The first guest's kernel learns by the lock that another guest has the CPU."""
    with reserve_cpus(None, borrows=True) as first:
        assert (first.kernel, first.processes) == (1, 0)
        assert first.arguments() == [f"stub-cpu=0,{first.owned}"]
        assert not _is_locked(first)
        with reserve_cpus(None, borrows=True) as second:
            assert (second.kernel, second.processes) == (0, None)
            assert _is_locked(first)
        assert not _is_locked(first)
    with reserve_cpus(None, borrows=True) as again:
        assert (again.kernel, again.processes) == (1, 0)


@pytest.mark.usefixtures("two_cpus")
def test_only_one_guest_borrows_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2})
    with reserve_cpus(None, borrows=True) as first, reserve_cpus(None, borrows=True) as second:
        assert (first.kernel, first.processes) == (2, 1)
        assert (second.kernel, second.processes) == (0, None)


def test_named_cpu_is_shared() -> None:
    with reserve_cpus(3, borrows=True) as first, reserve_cpus(3, borrows=True) as second:
        assert first == second == GuestCpus(3)


def _is_locked(cpus: GuestCpus) -> bool:
    """Return what the guest's kernel sees."""
    assert cpus.owned is not None
    wanted = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    lock = fcntl.fcntl(cpus.owned, fcntl.F_OFD_GETLK, wanted)
    return bool(struct.unpack_from("h", lock)[0] != fcntl.F_UNLCK)
