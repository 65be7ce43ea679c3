"""The guest as a machine: its clock, what it can touch of the host, how it ends, how a loop in it
is noticed.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import testbed
from testbed.core.errors import GuestLost
from testbed.execution.supervise import Watch
from testbed.guest.boot import EPOCH_NS, Guest
from testbed.guest.kernel import Kernel
from testbed.runfolder.folder import RunDir
from tests.support.guests import console, finish, guest_with, result

SLEEP_S = 1000
STALL_LIMIT_S = 4
SPIN_LIMIT_S = 10  # the kernel's own: then it moves the clock although a process spins


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("machine")


@pytest.fixture(scope="module")
def files_of_the_host(folder: Path) -> dict[Path, bytes | None]:
    """Files that a guest must not change, and what is in them (None: not there)."""
    beside = folder / "beside.txt"
    beside.write_text("not shared\n")
    there = [Path("/etc/hostname"), Path(testbed.__file__), beside]
    return {path: path.read_bytes() for path in there} | {Path("/etc/made-by-a-guest"): None}


@pytest.fixture(scope="module")
def ended(kernel: Kernel, folder: Path, files_of_the_host: dict[Path, bytes | None]) -> int:
    """Exit status of a guest that has run inside/machine.py."""
    with guest_with(kernel, "machine.py", folder / "shared", SLEEP_S, *files_of_the_host) as guest:
        return finish(guest)


@pytest.fixture(scope="module")
def found(ended: int, folder: Path) -> dict[str, Any]:
    del ended
    return result(folder / "shared")


def test_the_exit_status_comes_out(ended: int, folder: Path) -> None:
    assert ended == 7, console(folder / "shared")


def test_a_sleep_is_exact_and_costs_next_to_nothing(found: dict[str, Any], folder: Path) -> None:
    """1000 s pass within 1 ms, in less than 5 s of wall time (the times of files that the host's
    kernel set).
    """
    before, after = (
        (folder / "shared" / name).stat().st_mtime for name in ("before-sleep", "after-sleep")
    )
    assert abs(found["slept_ns"] - SLEEP_S * 10**9) < 1_000_000
    assert after - before < 5


def test_time_begins_at_the_same_moment_in_every_guest(found: dict[str, Any]) -> None:
    """Booting takes virtual time only for waits of its own: less than 10 s."""
    assert 0 <= found["unix_s"] - EPOCH_NS / 1e9 < 10


def test_the_files_of_the_host_stay_as_they_are(
    found: dict[str, Any], files_of_the_host: dict[Path, bytes | None]
) -> None:
    """Each attempt fails or ends in the guest's own layer; that they were made shows that the test
    tests something.
    """
    assert set(found["attempts"]) == set(map(str, files_of_the_host))
    assert found["attempts"]["/etc/made-by-a-guest"] == "written"
    for path, content in files_of_the_host.items():
        assert (path.read_bytes() if path.exists() else None) == content


def test_no_interface_of_the_host(found: dict[str, Any]) -> None:
    """Only loopback is up, and what else there is are unused virtual devices of the guest's own
    kernel.
    """
    assert found["interfaces_up"] == ["lo"]
    assert found["hardware"] == []


class Silent:
    """A progress display that shows nothing."""

    def building(self, what: str, part: float) -> None: ...
    def stage(self, name: str) -> None: ...
    def advance(self, done: int, total: int, unit: str) -> None: ...
    def measured(self) -> None: ...


def end_of_watch(guest: Guest, folder: Path) -> str:
    """Why the watch gives `guest` up."""
    watch = Watch(RunDir(folder), guest, STALL_LIMIT_S, Silent())
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            watch.look()
        except GuestLost as lost:
            return str(lost)
        time.sleep(0.05)
    pytest.fail(f"the watch did not notice:\n{console(folder)}")


@pytest.fixture(scope="module")
def spinning(
    kernel: Kernel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, list[int]]]:
    """What the watch says of a process that loops, and the ns that the kernel forced the clock on,
    as they grew.
    """
    folder = tmp_path_factory.mktemp("spin") / "shared"
    with guest_with(kernel, "spin.py", folder) as guest:
        text = end_of_watch(guest, folder)
        deadline = time.monotonic() + 30
        forced: list[int] = []
        while len(forced) < 3 and time.monotonic() < deadline:
            reading = guest.clock()
            if reading is not None and reading.forced_ns > (forced[-1] if forced else 0):
                forced.append(reading.forced_ns)
                text += f"\n{reading.host} {reading.command}"
            time.sleep(0.05)
        yield text, forced


def test_a_clock_that_stands_still_is_noticed_and_explained(
    spinning: tuple[str, list[int]],
) -> None:
    """A process that loops without waiting keeps the virtual clock still; the message says which
    one, and where.
    """
    text, _forced = spinning
    assert f"the guest's clock stood still for {STALL_LIMIT_S} s: python" in text
    assert "on iowa-h0 computes, or waits in a loop" in text
    assert "raise --stall-limit" in text


def test_a_stage_that_waits_for_ever_is_noticed(kernel: Kernel, tmp_path: Path) -> None:
    """As when a process that it waits for has been killed from outside: the clock runs, an hour in
    seconds.
    """
    folder = tmp_path / "shared"
    with guest_with(kernel, "waits.py", folder) as guest:
        assert end_of_watch(guest, folder).startswith(
            "the stage network has not ended after an hour of the guest's clock"
        )


def test_the_kernel_moves_the_clock_on_in_the_end(spinning: tuple[str, list[int]]) -> None:
    """After 10 s of spinning virtual time is forced on, and is reported as forced, with the process
    that spins.
    """
    text, forced = spinning
    assert len(forced) == 3, forced
    assert text.splitlines()[-1].startswith("iowa-h0 python")
