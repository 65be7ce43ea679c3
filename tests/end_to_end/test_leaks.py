"""Nothing is left behind, however a run ends: a census of this machine before and after each of
them.

Two random moments of each kind in the default tests (25 s on two idle cores), ten in `make soak`;
the seed is fixed.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import testbed
from testbed.guest.kernel import Kernel
from tests.support.census import differences
from tests.support.runs import Need
from tests.support.world import can_make_worlds, in_a_world

PROJECT = Path(testbed.__file__).parent.parent

SEED = 20_250_101
LONGEST_S = 1500
STATUS = {"success": 0, "wrong input": 2, "host without memory": 1}


@pytest.fixture(scope="module", params=[2, pytest.param(10, marks=pytest.mark.soak)])
def found(
    request: pytest.FixtureRequest,
    need: Need,
    kernel: Kernel,
    command_environment: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    """What tests/support/cases.py has counted."""
    need(can_make_worlds(), "namespaces of all kinds")
    folder = tmp_path_factory.mktemp("leaks")
    times = request.param
    words = [sys.executable, PROJECT / "tests/support/cases.py", folder, SEED, times, times]
    kept = [folder, PROJECT, Path(sys.prefix), Path(sys.base_prefix), kernel.path.parent]
    environment = command_environment | {
        "TESTBED_KERNEL": str(kernel.path),
        "PYTHONPATH": str(PROJECT),
    }
    done = subprocess.run(
        in_a_world(words, kept),
        env=environment,
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads((folder / "result.json").read_text())
    assert len(told) == len(STATUS) + 2 * times
    return told


def test_nothing_is_left(found: dict[str, Any]) -> None:
    """Processes, namespaces, links, queues, mounts, control groups, memory, temporary files,
    sockets: as before.
    """
    left = {name: differences(case["before"], case["after"]) for name, case in found.items()}
    assert {name: change for name, change in left.items() if change} == {}


def test_each_ended_as_it_should(found: dict[str, Any]) -> None:
    """A run that was over before its moment came has its own status."""
    for name, case in found.items():
        expected = {STATUS.get(name, {"SIGINT": 130, "SIGKILL": -9}.get(case["end"]))}
        assert case["status"] in expected, (name, case["status"], case["after_s"])


def test_the_census_counts(found: dict[str, Any]) -> None:
    """It sees this world and nothing of the machine's."""
    before = found["success"]["before"]
    assert before["links"] == ["lo"]
    assert len(before["processes"]) < 5
    assert {"/tmp", "/run", "/dev/shm"} <= set(before["mounts"])
    assert before["shared memory"] == []
