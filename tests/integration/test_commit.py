"""Whatever happens to a run, its status.json tells the outcome, and `testbed report` goes on."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from testbed.runfolder.status import Status, read_status
from tests.support.commands import LONGEST_S, begun, outcomes_of
from tests.support.faults import TOPOLOGY, Outcome
from tests.support.shared import Need

RECORDED = [sys.executable, "-m", "tests.support.recorded"]
FAULTS = ["SIGKILL", "SIGINT", "EIO", "ENOSPC"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    cache = tmp_path_factory.mktemp("cache")
    return {**os.environ, "TESTBED_CACHE": str(cache), "COLUMNS": "200"}


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """A run in the folder run."""
    topology = tmp_path / "pair.yaml"
    topology.write_text(TOPOLOGY)
    return [*RECORDED, "run", str(topology), "collectives", "--out", str(tmp_path / "run")]


def status_of(folder: Path) -> Status:
    status, problems = read_status(folder / "status.json")
    assert status is not None
    assert problems == []
    return status


def has_page(folder: Path) -> bool:
    page = folder / "report.html"
    return page.is_file() and page.read_bytes().rstrip().endswith(b"</html>")


def tried(
    cases: list[tuple[str, str, int]], folder: Path, environment: dict[str, str]
) -> list[Outcome]:
    """Carry out cases of `tests.support.faults`."""
    outcomes = outcomes_of("tests.support.faults", cases, folder, environment)
    return [Outcome(**outcome) for outcome in outcomes]


def check(outcome: Outcome, fault: str) -> None:
    """What holds after every fault: the status tells the truth."""
    status: dict[str, Any] = outcome.status
    assert "Traceback" not in outcome.text, outcome.text
    if status.get("state") == "completed":
        assert outcome.has_page
        assert outcome.has_summary
    assert status.get("state") != "running"
    if outcome.exit_status == 0:
        assert status["state"] == "completed"
    if fault in ("EIO", "ENOSPC"):
        assert outcome.exit_status in (0, 3)
        if outcome.exit_status:
            assert "error: " in outcome.text
    if fault == "SIGINT":
        assert outcome.exit_status in (0, 130)


@pytest.mark.parametrize("every", [len(FAULTS), pytest.param(1, marks=pytest.mark.soak)])
@pytest.mark.parametrize("command", ["run", "report"])
def test_a_fault_at_every_write(
    command: str, every: int, tmp_path: Path, environment: dict[str, str]
) -> None:
    """Each write meets one of the faults; in `make soak` each of them."""
    (without,) = tried([(command, "EIO", -1)], tmp_path / "without", environment)
    assert without.exit_status == 0
    assert without.writes > 5
    cases: list[tuple[str, str, int]] = []
    for first, fault in enumerate(FAULTS):
        for number in range(first % every, without.writes, every):
            cases.append((command, fault, number))
    outcomes = tried(cases, tmp_path / "faults", environment)
    assert len(outcomes) == len(cases)
    for case, outcome in zip(cases, outcomes, strict=True):
        check(outcome, case[1])
        if (command, case[1]) != ("report", "SIGKILL"):  # there the next report removes them
            assert outcome.leftovers == [], case
        if command == "run" and outcome.exit_status > 0 and case[1] != "SIGINT":
            assert outcome.status.get("state") != "completed"
        if command == "report":  # what was there before is still there
            assert outcome.status["state"] == "completed"
            assert outcome.has_page
            assert outcome.has_summary
    statuses: set[tuple[str, int]] = set()
    for case, outcome in zip(cases, outcomes, strict=True):
        statuses.add((case[1], outcome.exit_status))
    for expected in (("SIGKILL", -9), ("SIGINT", 130), ("EIO", 3), ("ENOSPC", 3)):
        assert expected in statuses


def test_a_limit_of_file_sizes(tmp_path: Path, environment: dict[str, str]) -> None:
    """Each file that is too large by then is missing, but for the status."""
    sizes = [1, 1000, 70_000, 200_000, 500_000]
    cases = [("run", "RLIMIT_FSIZE", size) for size in sizes]
    outcomes = tried(cases, tmp_path / "faults", environment)
    for outcome in outcomes:
        check(outcome, "ENOSPC")
        assert outcome.exit_status == 3
    last = outcomes[-1]
    assert last.status["measured"]
    assert last.status["state"] == "failed"
    assert last.has_summary
    assert "File too large" in last.status["reason"]
    assert "missing: report.html" in last.status["reason"]
    assert "testbed report " in last.status["reason"]


SMALL_DISK = """
mount -t tmpfs -o size=$1 tmpfs "$2"
shift 2
exec "$@"
"""


@pytest.mark.parametrize("kib", [8, 72, 80, 88, 92, 96, 104, 112, 120, 200, 700])
def test_a_full_disk(
    kib: int, tmp_path: Path, environment: dict[str, str], need: Need, words: list[str]
) -> None:
    """The disk holds more and more of the run folder, and of the report at last."""
    disk = tmp_path / "disk"
    disk.mkdir()
    out = disk / "run"
    words = [*words[:-1], str(out)]
    seen = tmp_path / "seen.json"
    name = f"import sys; sys.stdout.write(open({str(out / 'status.json')!r}).read())"
    look = f"{shlex.join([sys.executable, '-c', name])} >{seen} 2>/dev/null"
    script = f"{shlex.join(words)}; status=$?; {look}; exit $status"
    namespaces = ["unshare", "--mount"]
    if os.geteuid() != 0:
        namespaces += ["--user", "--map-root-user"]
    can = subprocess.run([*namespaces, "true"], capture_output=True, check=False)
    need(can.returncode == 0, "mount namespaces")
    done = subprocess.run(
        [
            *namespaces,
            "bash",
            "-ec",
            SMALL_DISK,
            "disk",
            f"{kib}k",
            str(disk),
            "bash",
            "-c",
            script,
        ],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    assert "No space left on device" in done.stderr or "is full" in done.stderr
    text = seen.read_text()
    if not text:
        assert "nothing was started" in done.stderr or "cannot make the run folder" in done.stderr
        return
    status = Status.model_validate_json(text)
    assert (status.state, status.exit_status) == ("failed", 3)
    assert "kept: " in status.reason
    assert "missing: " in status.reason


@pytest.mark.parametrize(
    ("redirection", "exit_status"),
    [
        ("2>&1 | head -1 >/dev/null; exit ${PIPESTATUS[0]}", 0),
        ("2>/dev/full", 0),
        ("2>&-", 0),
        (">&- 2>&- <&-", 0),
        ("| true; exit ${PIPESTATUS[0]}", 0),
        (">/dev/full", 3),
    ],
)
def test_output_never_decides(
    redirection: str,
    exit_status: int,
    tmp_path: Path,
    environment: dict[str, str],
    words: list[str],
) -> None:
    script = f"{shlex.join(words)} {redirection}"
    done = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert done.returncode == exit_status, done.stderr
    assert status_of(tmp_path / "run").state == "completed"
    assert has_page(tmp_path / "run")
    if exit_status:
        assert "error: cannot write to standard output: No space left on device" in done.stderr


@pytest.mark.parametrize(
    ("signals", "between_s"),
    [
        ([signal.SIGINT], 0),
        ([signal.SIGINT, signal.SIGINT], 0.2),
        ([signal.SIGINT] * 3, 0.01),
        ([signal.SIGTERM] * 5, 0.001),
        ([signal.SIGHUP], 0),
        ([signal.SIGHUP, signal.SIGTERM, signal.SIGINT], 0.05),
    ],
)
def test_signals(
    signals: list[signal.Signals],
    between_s: float,
    tmp_path: Path,
    environment: dict[str, str],
    words: list[str],
) -> None:
    """A second one shortens the report, but the outcome is told."""
    run = tmp_path / "run"
    process = begun(words, environment, (run / "raw/events.jsonl").exists)
    time.sleep(0.1)
    for number in signals:
        process.send_signal(number)
        time.sleep(between_s)
    _out, err = process.communicate(timeout=LONGEST_S)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    status = status_of(run)
    assert (status.state, status.exit_status) == ("interrupted", 130)
    assert status.reason.startswith("interrupted by the user")
    assert status.faithful is False
    if len(signals) == 1:
        assert has_page(run)


def test_ignored_hangup(tmp_path: Path, environment: dict[str, str], words: list[str]) -> None:
    """As with nohup."""
    has_begun = (tmp_path / "run/raw/events.jsonl").exists
    process = begun(words, environment, has_begun, signals="--ignore-signal=HUP", seconds=3)
    process.send_signal(signal.SIGHUP)
    _out, err = process.communicate(timeout=LONGEST_S)
    assert process.returncode == 0, err
    assert status_of(tmp_path / "run").state == "completed"


def test_the_report_completes_a_run(
    tmp_path: Path, environment: dict[str, str], words: list[str]
) -> None:
    """A page of 0.9 MB that is too large for the limit at first."""
    limited = ["bash", "-c", 'ulimit -f 500; exec "$@"', "limited", *words]
    done = subprocess.run(limited, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    run = tmp_path / "run"
    before = status_of(run)
    assert (before.state, before.measured, has_page(run)) == ("failed", True, False)
    report = [*RECORDED, "report", str(run)]
    done = subprocess.run(report, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    after = status_of(run)
    assert (after.state, after.exit_status, after.reason) == ("completed", 0, "")
    assert (after.faithful, after.warnings) == (True, [])
    assert has_page(run)
    assert "The run failed" not in (run / "report.html").read_text()
