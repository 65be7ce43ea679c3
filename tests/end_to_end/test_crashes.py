"""Hosts that crash while a run goes on, and come back: when their peers learn of it, and that the
job can go on.

Two hosts, 10 ms apart. examples/rejoin.py repeats all-reduces of two ranks, 40 ms each, with pauses
of 50 ms; it makes a new process group when one has failed.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

import testbed
from tests.support.runs import Command, Folder

EXAMPLES = Path(testbed.__file__).parent.parent / "examples"
SECOND = 10**9
CRASH_S, BACK_S, STEP_S, TRIP_S, TIMEOUT_S = 2, 5, 0.04, 0.01, 10
PAIR = """
datacenters: {west: {hosts: 1, nic: {delay: 0 ms}}, east: {hosts: 1, nic: {delay: 0 ms}}}
wan: [{between: [west, east], rate: 1 Gbit/s, delay: 10 ms}]
events:
  - {at: 2 s, EVENT}
"""


@dataclass(frozen=True)
class Survived:
    """How it went."""

    folder: Folder
    failed_s: list[float]  # when rank 0 met a failure, after its first operation
    exits: list[dict[str, int]]

    def log(self, rank: int) -> list[str]:
        return (self.folder.path / f"logs/rank-{rank}.log").read_text().splitlines()


def survive(
    command: Command, folder: Path, event: str, isolation: str, *, status: int = 0
) -> Survived:
    (folder / "pair.yaml").write_text(PAIR.replace("EVENT", event))
    out = folder / "run"
    words = [
        "run",
        folder / "pair.yaml",
        "--isolation",
        isolation,
        "--out",
        out,
        "--",
        EXAMPLES / "rejoin.py",
    ]
    command(*words, status=status)
    first = Folder(out).began_ns
    lines = (out / "logs/rank-0.log").read_text().splitlines()
    failed = [
        (int(line.split()[1]) - first) / SECOND for line in lines if line.startswith("failed")
    ]
    exits = [json.loads(line) for line in (out / "raw/exits.jsonl").read_text().splitlines()]
    return Survived(Folder(out), failed, exits)


@pytest.mark.parametrize("isolation", ["process", "container"])
def test_killed_ranks_are_noticed_at_once(command: Command, tmp_path: Path, isolation: str) -> None:
    """Their kernel closes the connections, and that takes a trip to the other side; or the next
    step meets it.
    """
    seen = survive(command, tmp_path, "duration: 3 s, hosts: east-h0, crash: ranks", isolation)
    assert seen.folder.status["faithful"], seen.folder.status["warnings"]
    assert len(seen.failed_s) == 1
    assert CRASH_S + TRIP_S <= seen.failed_s[0] <= CRASH_S + TRIP_S + 0.05 + STEP_S
    assert sorted((end["rank"], end["status"]) for end in seen.exits) == [(0, 0), (1, -9), (1, 0)]
    assert seen.log(0)[-1] == seen.log(1)[-1] == "done 1"
    before, away, again = seen.folder.summary["periods"]
    assert [before["what"], away["what"], again["what"]] == [
        ["as built"],
        ["east-h0: ranks are killed"],
        ["east-h0: back, its ranks start again"],
    ]
    assert before["per_s"] == pytest.approx(1 / (STEP_S + 0.05), rel=0.05)
    assert away["finished"] == 0
    assert again["finished"] >= 30
    counted = {row["bytes"]: row["iterations"] for row in seen.folder.summary["collectives"]}
    assert counted == {
        8: 2,
        4000: pytest.approx(60, abs=1),
    }  # the one that fails may have ended on a single rank


def test_a_host_without_power_is_missed_by_waiting(command: Command, tmp_path: Path) -> None:
    """Nothing tells rank 0 until its operation has taken as long as it may, since the host does not
    come back.
    """
    seen = survive(command, tmp_path, "hosts: east, crash: host", "process", status=1)
    assert seen.failed_s[0] == pytest.approx(CRASH_S + TIMEOUT_S, abs=0.1)
    status = seen.folder.status
    assert status["state"] == "failed"
    assert (
        "rank 0 on west-h0 exited with 1, after east-h0 had crashed as scheduled by an event of "
        "the topology" in status["reason"]
    )


def test_a_host_that_is_back_is_joined(command: Command, tmp_path: Path) -> None:
    """Its kernel does not know the old connections: what TCP sends again meets a reset, some time
    after its return.
    """
    seen = survive(command, tmp_path, "duration: 3 s, hosts: east-h0, crash: host", "process")
    assert BACK_S <= seen.failed_s[0] <= CRASH_S + TIMEOUT_S + 0.1
    assert seen.log(0)[-1] == seen.log(1)[-1] == "done 1"


def test_torchrun_starts_again_from_a_checkpoint(command: Command, tmp_path: Path) -> None:
    """Agent and rank of one host are killed after 2 s, in step 21 or 22 of 90 ms, and are back
    after 3 s.

    torchrun counts a node as gone 15 s after its last sign of life (three keep-alives of 5 s, torch
    2.13); then the two form a group again.
    """
    (tmp_path / "pair.yaml").write_text(
        PAIR.replace("EVENT", "duration: 3 s, hosts: east, crash: ranks")
    )
    launcher = [
        "torchrun",
        "--nnodes",
        2,
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        "west-h0:29400",
    ]
    words = [
        "--isolation",
        "process",
        "--env",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1",
        "--out",
        tmp_path / "run",
    ]
    command(
        "run",
        tmp_path / "pair.yaml",
        *words,
        "--",
        *launcher,
        "--max-restarts",
        3,
        EXAMPLES / "torchrun_checkpoint.py",
    )
    folder = Folder(tmp_path / "run")
    assert folder.status["faithful"], folder.status["warnings"]
    said = re.findall(
        r"([\d.]+) start (\d) at step (\d+)", (folder.path / "logs/rank-0.log").read_text()
    )
    reached = int(CRASH_S / (0.05 + STEP_S))
    assert [(number, step) for _, number, step in said] == [("0", "0"), ("1", said[1][2])]
    assert reached - 1 <= int(said[1][2]) <= reached
    assert 10 <= float(said[1][0]) - folder.began_ns / SECOND - CRASH_S <= 20
    counted = {
        row["bytes"]: row["iterations"] for row in folder.summary["collectives"] if row["bytes"]
    }
    assert counted == {8: 2, 4000: pytest.approx(60, abs=1)}
