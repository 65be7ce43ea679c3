"""However a run ends: it says why, keeps its results so far, and leaves nothing behind.

These runs have a separate cache folder, so that what they leave can be told from what other
runs do.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from testbed.guest.kernel import Kernel
from tests.support.runs import Folder, all_reduce

ENDLESS = all_reduce("4 KiB", iterations=1_000_000)
AT_LEAST_OPS = 3
LONGEST_S = 300  # of wall time for any step; they take 2 to 15 s
SHM = Path("/dev/shm")


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + LONGEST_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {LONGEST_S} s"
        time.sleep(0.05)


@dataclass(frozen=True)
class Place:
    """Where a run happens."""

    cache: Path
    out: Path
    environment: dict[str, str]
    shm_before: frozenset[str]

    @property
    def folder(self) -> Folder:
        return Folder(self.out)

    def events(self) -> str:
        path = self.out / "raw/events.jsonl"
        return path.read_text() if path.exists() else ""

    @property
    def notes(self) -> list[Path]:
        """Folders that tell what there is to tidy up if a command is killed."""
        return list(self.cache.glob("notes/*"))

    @property
    def guests(self) -> list[Path]:
        """Those of guests that run."""
        return [folder for folder in self.notes if (folder / "pid").exists()]

    def ops(self) -> int:
        path = self.out / "raw/ops-0.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def command(self, *words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "testbed", *map(str, words)],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=LONGEST_S,
            check=False,
        )

    @contextmanager
    def started(self, *words: object) -> Iterator[subprocess.Popen[str]]:
        """A command in the background, on which Ctrl-C has its usual effect."""
        process = subprocess.Popen(
            ["env", "--default-signal=INT", sys.executable, "-m", "testbed", *map(str, words)],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            try:
                yield process
            finally:
                process.kill()

    def processes(self) -> list[str]:
        """Command lines of processes of this run: each process of a guest has the guest's folder in
        its own.
        """
        marks = [str(self.cache).encode(), str(self.out).encode()]
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    line = (entry / "cmdline").read_bytes()
                except OSError:
                    continue
                if any(mark in line for mark in marks):
                    found.append(line.replace(b"\0", b" ").decode(errors="replace"))
        return found

    def check_nothing_is_left(self) -> None:
        assert self.processes() == []
        assert self.notes == []
        assert shared_memory() <= self.shm_before


def shared_memory() -> frozenset[str]:
    """Names in /dev/shm, without the semaphores of sweeps that other tests run meanwhile."""
    names = {entry.name for entry in SHM.iterdir()}
    return frozenset(name for name in names if not name.startswith("sem.mp-"))


@pytest.fixture
def place(kernel: Kernel, command_environment: dict[str, str], tmp_path: Path) -> Place:
    cache = tmp_path / "cache"
    environment = command_environment | {
        "TESTBED_CACHE": str(cache),
        "TESTBED_KERNEL": str(kernel.path),
    }
    return Place(cache, tmp_path / "run", environment, shared_memory())


def endless(pair: Path, place: Place) -> list[object]:
    return ["run", pair, "collectives", *ENDLESS, "--isolation", "process", "--out", place.out]


def check_results_are_kept(folder: Folder) -> None:
    assert folder.ops.height >= AT_LEAST_OPS
    assert (folder.path / "report.html").stat().st_size > 10_000
    assert folder.summary["collectives"][0]["wrong"] == 0


def test_a_host_without_memory(pair: Path, place: Place) -> None:
    """A host may use 160 MiB: enough to reduce 4 KiB, not 256 MB."""
    job = all_reduce("4 KiB, 256 MB", iterations=3)
    done = place.command(
        "run",
        pair,
        "collectives",
        *job,
        "--isolation",
        "process",
        "--memory",
        "160 MiB",
        "--out",
        place.out,
    )
    assert done.returncode == 1, done.stderr
    assert "out of memory (the limit of a host is 160 MiB)" in done.stderr
    assert "rank 0 on west-h0" in done.stderr or "rank 1 on east-h0" in done.stderr
    assert "raise it with --memory" in done.stderr
    status = place.folder.status
    assert (status["state"], status["exit_status"], status["faithful"]) == ("failed", 1, False)
    assert "out of memory" in status["reason"]
    assert place.folder.summary["fidelity"][0]["ok"]  # what was measured before is kept
    check_results_are_kept(place.folder)
    place.check_nothing_is_left()


def test_a_guest_without_memory(pair: Path, place: Place) -> None:
    """The whole guest has 700 MiB: enough to import torch, too little for two tensors of 300 MB and
    room to work.

    The kernel ends a process, or reads pages of programs again and again, which the watchdog ends.
    """
    job = all_reduce("4 KiB, 300 MB", iterations=3)
    done = place.command(
        "run",
        pair,
        "collectives",
        *job,
        "--isolation",
        "process",
        "--guest-memory",
        "700 MiB",
        "--stall-limit",
        20,
        "--out",
        place.out,
    )
    assert done.returncode in (1, 4), done.stderr
    hints = (
        "the guest ran out of memory: raise --guest-memory",
        "the guest's clock did not move for 20 s",
    )
    assert any(hint in done.stderr for hint in hints), done.stderr
    assert place.folder.status["state"] == "failed"
    assert place.folder.summary["fidelity"][0]["ok"]
    place.check_nothing_is_left()


def test_interrupt(pair: Path, place: Place) -> None:
    """Ctrl-C in the middle of the operations."""
    with place.started(*endless(pair, place)) as process:
        wait_for(
            lambda: place.ops() >= AT_LEAST_OPS or process.poll() is not None,
            "the first operations",
        )
        assert len(place.guests) == 1
        assert place.processes() != []
        process.send_signal(signal.SIGINT)
        _out, err = process.communicate(timeout=LONGEST_S)
    assert process.returncode == 130, err
    status = place.folder.status
    assert (status["state"], status["exit_status"], status["faithful"]) == (
        "interrupted",
        130,
        False,
    )
    check_results_are_kept(place.folder)
    place.check_nothing_is_left()


@pytest.mark.parametrize(
    "stage",
    [
        "boot",
        pytest.param("network", marks=pytest.mark.proof),
        "verify",
        pytest.param("ops", marks=pytest.mark.proof),
    ],
)
def test_interrupt_at_the_beginning_of(stage: str, pair: Path, place: Place) -> None:
    """Ctrl-C before there is anything to keep."""
    begun = f'"stage": "{stage}", "state": "begin"'
    with place.started(*endless(pair, place)) as process:
        wait_for(lambda: place.guests or process.poll() is not None, "the boot")
        if stage != "boot":
            wait_for(
                lambda: begun in place.events() or process.poll() is not None, f"the stage {stage}"
            )
        process.send_signal(signal.SIGINT)
        _out, err = process.communicate(timeout=LONGEST_S)
    assert process.returncode == 130, err
    assert place.folder.status["state"] == "interrupted"
    assert (place.out / "report.html").exists()
    place.check_nothing_is_left()


def test_kill(pair: Path, place: Place) -> None:
    """kill -9 of the command: the guest ends with it, and the next command tidies up."""
    with place.started(*endless(pair, place)) as process:
        wait_for(
            lambda: place.ops() >= AT_LEAST_OPS or process.poll() is not None,
            "the first operations",
        )
        assert len(place.guests) == 1
        process.kill()
        process.communicate(timeout=LONGEST_S)
    assert process.returncode == -signal.SIGKILL
    listed = place.command("topo", "list")
    assert listed.returncode == 0, listed.stderr
    place.check_nothing_is_left()
    assert place.folder.status["state"] == "interrupted"
    assert not place.folder.status["faithful"]
    assert place.ops() >= AT_LEAST_OPS
    report = place.command("report", place.out)
    assert report.returncode == 0, report.stderr
    check_results_are_kept(place.folder)


@pytest.mark.parametrize("number", [0, 1])
def test_a_lost_guest_of_several(pair: Path, place: Place, number: int) -> None:
    """One of two guests is killed: exit status 4, and what both have measured is kept."""
    with place.started(*endless(pair, place), "--guests", "2") as process:
        wait_for(
            lambda: place.ops() >= AT_LEAST_OPS or process.poll() is not None,
            "the first operations",
        )
        os.kill(kernel_of_guest(place, number), signal.SIGKILL)
        _out, err = process.communicate(timeout=LONGEST_S)
    assert process.returncode == 4, err
    assert "one of the guests ended without finishing the run" in err
    status = place.folder.status
    assert (status["state"], status["exit_status"]) == ("failed", 4)
    check_results_are_kept(place.folder)
    assert {row["rank"] for row in place.folder.ops.iter_rows(named=True)} == {0, 1}
    place.check_nothing_is_left()


def test_an_interrupt_of_several_guests(pair: Path, place: Place) -> None:
    """Ctrl-C ends both guests; what both have measured is kept."""
    with place.started(*endless(pair, place), "--guests", "2") as process:
        wait_for(
            lambda: place.ops() >= AT_LEAST_OPS or process.poll() is not None,
            "the first operations",
        )
        process.send_signal(signal.SIGINT)
        _out, err = process.communicate(timeout=LONGEST_S)
    assert process.returncode == 130, err
    assert place.folder.status["state"] == "interrupted"
    check_results_are_kept(place.folder)
    place.check_nothing_is_left()


def kernel_of_guest(place: Place, number: int) -> int:
    """The process of the kernel of one of several guests."""
    for folder in place.guests:
        pid = int((folder / "pid").read_text())
        command = Path("/proc", str(pid), "cmdline").read_bytes()
        if f"time-travel-site={number}".encode() in command.split(b"\0"):
            return pid
    raise AssertionError(f"there is no guest {number}")


def test_a_lost_guest(pair: Path, place: Place) -> None:
    """The guest's kernel is killed: exit status 4, and what was measured is kept."""
    with place.started(*endless(pair, place)) as process:
        wait_for(
            lambda: place.ops() >= AT_LEAST_OPS or process.poll() is not None,
            "the first operations",
        )
        (guest,) = place.guests
        os.kill(int((guest / "pid").read_text()), signal.SIGKILL)
        _out, err = process.communicate(timeout=LONGEST_S)
    assert process.returncode == 4, err
    assert "the guest ended without finishing the run" in err
    assert "guest-console.log" in err
    status = place.folder.status
    assert (status["state"], status["exit_status"]) == ("failed", 4)
    check_results_are_kept(place.folder)
    place.check_nothing_is_left()
