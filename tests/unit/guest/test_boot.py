"""How a guest is started: the CPU that it gets."""

import os
from pathlib import Path

import pytest

from testbed.guest.boot import _pinned, outermost


def test_guests_get_cpus_for_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESTBED_CACHE", str(tmp_path))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})
    with _pinned(None) as first, _pinned(None) as second, _pinned(None) as third:
        assert {first[-1], second[-1]} == {"0", "1"}
        assert third == []  # left to the scheduler
    with _pinned(None) as again:
        assert again == first


def test_named_cpu_is_shared() -> None:
    with _pinned(3) as first, _pinned(3) as second:
        assert first == second == ["taskset", "--cpu-list", "3"]


def test_folders_inside_others_are_left_out() -> None:
    """In any order; a name that only begins like another's is no part of it."""
    given = [Path(name) for name in ("/tmp/a/link", "/tmp/ab", "/tmp/a", "/tmp/a/b/c", "/tmp/d/e")]
    assert outermost(given) == [Path("/tmp/a"), Path("/tmp/ab"), Path("/tmp/d/e")]
    assert outermost(reversed(given)) == outermost(given)
