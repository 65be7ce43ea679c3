"""A sweep whose disk fills up, whose output breaks, or that is interrupted: points stay whole."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from testbed.runfolder.status import read_status
from tests.support.commands import begun, environment_without_guest
from tests.support.faults import TOPOLOGY
from tests.support.shared import Need

POINTS = 2
LONGEST_S = 120.0
EXPERIMENT = """
name: small
topology: {topology}
workload: collectives
settings: {{run.clock: real}}
sweep:
  grid:
    workload.iterations: [2, 3]
"""
SMALL_DISK = """
mount -t tmpfs -o size=$1 tmpfs "$2"
shift 2
exec "$@"
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return environment_without_guest(tmp_path, "6.12")


def words_of(folder: Path, out: Path) -> list[str]:
    (folder / "pair.yaml").write_text(TOPOLOGY)
    experiment = folder / "small.yaml"
    experiment.write_text(EXPERIMENT.format(topology=folder / "pair.yaml"))
    recorded = [sys.executable, "-m", "tests.support.recorded"]
    return [*recorded, "sweep", str(experiment), "--out", str(out), "--jobs", "1"]


def check_points(out: Path) -> int:
    """Check that each complete point is whole, and return how many there are."""
    runs = list((out / "points").iterdir()) if (out / "points").is_dir() else []
    for run in runs:
        status, _problems = read_status(run / "status.json")
        assert status is not None
        assert status.state == "completed"
        assert (run / "report.html").read_bytes().rstrip().endswith(b"</html>")
        assert json.loads((run / "point.json").read_text())["state"] == "completed"
    return len(runs)


def carry_out(words: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        words, env=environment, capture_output=True, text=True, check=False, timeout=LONGEST_S
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.mark.parametrize(
    "redirection", ["", "2>&1 | head -1 >/dev/null; exit ${PIPESTATUS[0]}", ">&- 2>&- <&-"]
)
def test_output_never_decides(
    redirection: str, tmp_path: Path, environment: dict[str, str]
) -> None:
    words = words_of(tmp_path, tmp_path / "out")
    done = carry_out(["bash", "-c", f"{shlex.join(words)} {redirection}"], environment)
    assert done.returncode == 0, done.stderr
    assert check_points(tmp_path / "out") == POINTS
    assert (tmp_path / "out/sweep.html").is_file()


@pytest.mark.parametrize("blocks", [1, 100])
def test_limit_of_file_sizes(blocks: int, tmp_path: Path, environment: dict[str, str]) -> None:
    """In KiB: the index, the room for a status, a page, and plotly are too large one by one."""
    out = tmp_path / "out"
    words = words_of(tmp_path, out)
    limited = ["bash", "-c", f'ulimit -f {blocks}; exec "$@"', "limited", *words]
    done = carry_out(limited, environment)
    assert done.returncode == 3, done.stderr
    assert "is full" in done.stderr or "File too large" in done.stderr
    check_points(out)
    done = carry_out(words, environment)
    assert done.returncode == 0, done.stderr
    assert check_points(out) == POINTS


@pytest.mark.parametrize("kib", [16, 200, 700])
def test_full_disk(kib: int, tmp_path: Path, environment: dict[str, str], need: Need) -> None:
    namespaces = ["unshare", "--mount"]
    if os.geteuid() != 0:
        namespaces += ["--user", "--map-root-user"]
    can = subprocess.run([*namespaces, "true"], capture_output=True, check=False)
    need(can.returncode == 0, "mount namespaces")
    disk = tmp_path / "disk"
    disk.mkdir()
    copy = tmp_path / "copy"
    script = (
        f"{shlex.join(words_of(tmp_path, disk / 'out'))}; s=$?; cp -r {disk}/out {copy}; exit $s"
    )
    disk_words = ["bash", "-ec", SMALL_DISK, "disk", f"{kib}k", str(disk), "bash", "-c", script]
    done = carry_out([*namespaces, *disk_words], environment)
    assert done.returncode == 3, done.stderr
    assert "is full" in done.stderr or "No space left" in done.stderr
    check_points(copy)


@pytest.mark.parametrize("between_s", [0.0, 0.2])
def test_two_signals(between_s: float, tmp_path: Path, environment: dict[str, str]) -> None:
    out = tmp_path / "out"
    words = words_of(tmp_path, out)
    pattern = "running/*/raw/events.jsonl"
    process = begun(words, environment, lambda: list(out.glob(pattern)))
    for _number in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(between_s)
    _out, err = process.communicate(timeout=LONGEST_S)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert list((out / "running").iterdir()) == []
    done = carry_out(words, environment)
    assert done.returncode == 0, done.stderr
    assert check_points(out) == POINTS
