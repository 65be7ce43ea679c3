"""The guest as a machine: its clock, what it can touch of the host, how a loop is noticed."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import testbed
from testbed.core.errors import GuestLost
from testbed.execution.limits import RunLimits
from testbed.execution.supervise import Watch
from testbed.guest.boot import EPOCH_NS, Guest
from testbed.guest.kernel import Kernel
from testbed.runfolder.folder import RunDir
from tests.support.guests import console, finish, guest_with, result

SLEEP_S = 1000
STALL_LIMIT_S = 4
LONGEST_SPIN_S = 150  # for 10 s of CPU time on a busy machine


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("machine")


@pytest.fixture(scope="module")
def files_of_the_host(folder: Path) -> dict[Path, bytes | None]:
    """Files that a guest must not change, and what is in them (None: not there)."""
    beside = folder / "beside.txt"
    beside.write_text("not shared\n")
    contents: dict[Path, bytes | None] = {Path("/etc/made-by-a-guest"): None}
    for path in (Path("/etc/hostname"), Path(testbed.__file__), beside):
        contents[path] = path.read_bytes()
    return contents


@pytest.fixture(scope="module")
def ended(kernel: Kernel, folder: Path, files_of_the_host: dict[Path, bytes | None]) -> int:
    """Exit status of a guest that has run inside/machine.py."""
    with guest_with(kernel, "machine.py", folder / "shared", SLEEP_S, *files_of_the_host) as guest:
        return finish(guest)


@pytest.fixture(scope="module")
def measured(ended: int, folder: Path) -> dict[str, Any]:
    """What inside/machine.py measured."""
    del ended
    return result(folder / "shared")


def test_exit_status_comes_out(ended: int, folder: Path) -> None:
    assert ended == 7, console(folder / "shared")


def test_sleep_is_exact_and_takes_no_time(measured: dict[str, Any], folder: Path) -> None:
    """1000 s pass within 1 ms, in less than 5 s of wall time, by files that the host has dated."""
    before = (folder / "shared/before-sleep").stat().st_mtime
    after = (folder / "shared/after-sleep").stat().st_mtime
    assert abs(measured["slept_ns"] - SLEEP_S * 10**9) < 1_000_000
    assert after - before < 5


def test_time_begins_at_the_same_moment_in_every_guest(measured: dict[str, Any]) -> None:
    """Booting takes virtual time only for its own waits: less than 10 s."""
    assert 0 <= measured["unix_s"] - EPOCH_NS / 1e9 < 10


def test_files_of_the_host_stay_as_they_are(
    measured: dict[str, Any], files_of_the_host: dict[Path, bytes | None]
) -> None:
    """Each attempt was made, and failed or ended in the guest's own layer."""
    attempts = measured["attempts"]
    assert set(attempts) == set(map(str, files_of_the_host))
    assert attempts["/etc/made-by-a-guest"] == "written"
    for path, content in files_of_the_host.items():
        present = path.read_bytes() if path.exists() else None
        assert present == content


def test_no_interface_of_the_host(measured: dict[str, Any]) -> None:
    """Only loopback is up; other interfaces are unused virtual devices of the guest's kernel."""
    assert measured["interfaces_up"] == ["lo"]
    assert measured["hardware"] == []


class Silent:
    """A progress display that shows nothing."""

    def building(self, what: str, part: float) -> None: ...
    def stage(self, name: str) -> None: ...
    def advance(self, done: int, total: int, unit: str) -> None: ...
    def measured(self) -> None: ...


def end_of_watch(guest: Guest, folder: Path) -> str:
    """Why the watch gives `guest` up."""
    watch = Watch(RunDir(folder), guest, RunLimits(STALL_LIMIT_S), Silent())
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            watch.look()
        except GuestLost as lost:
            return str(lost)
        time.sleep(0.05)
    pytest.fail(f"the watch did not notice:\n{console(folder)}")


@dataclass(frozen=True)
class Spin:
    """What was seen of a guest in which a process loops.

    Attributes:
        verdict: why the watch gave the guest up.
        forced_ns: by how much the kernel had forced the clock forward, as it grew.
        spinner: the host and the process for which the kernel did so last.
    """

    verdict: str
    forced_ns: list[int]
    spinner: str


@pytest.fixture(scope="module")
def spin(kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> Spin:
    folder = tmp_path_factory.mktemp("spin") / "shared"
    forced_ns = [0]
    spinner = ""
    with guest_with(kernel, "spin.py", folder) as guest:
        verdict = end_of_watch(guest, folder)
        deadline = time.monotonic() + LONGEST_SPIN_S
        while len(forced_ns) < 4 and time.monotonic() < deadline:
            reading = guest.clock()
            if reading is not None and reading.forced_ns > forced_ns[-1]:
                forced_ns.append(reading.forced_ns)
                spinner = f"{reading.host} {reading.command}"
            time.sleep(0.05)
    return Spin(verdict, forced_ns[1:], spinner)


def test_clock_that_stands_still_is_explained(spin: Spin) -> None:
    """A process that loops keeps the virtual clock still; the message says which one, and where."""
    assert f"the guest's clock did not move for {STALL_LIMIT_S} s: python" in spin.verdict
    assert "on iowa-h0 is computing, or is busy-waiting" in spin.verdict
    assert "raise --stall-limit" in spin.verdict


def test_kernel_forces_the_clock_in_the_end(spin: Spin) -> None:
    """After 10 s of CPU time virtual time is forced forward, and reported with the process."""
    assert len(spin.forced_ns) == 3, spin.forced_ns
    assert spin.spinner.startswith("iowa-h0 python")


def test_stage_that_hangs_is_noticed(kernel: Kernel, tmp_path: Path) -> None:
    """As when a process that it waits for was killed from outside: an hour passes in seconds."""
    folder = tmp_path / "shared"
    with guest_with(kernel, "waits.py", folder) as guest:
        assert end_of_watch(guest, folder).startswith(
            "the stage network has not ended after an hour of the guest's clock"
        )
