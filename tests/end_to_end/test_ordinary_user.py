"""A user without any privilege runs a job: the guest's root has no more rights on the host than
whoever started it.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.guest.kernel import Kernel
from tests.support.runs import Folder, Need, all_reduce
from tests.support.users import USER, as_user, copied_project


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder of the user's. pytest's own are closed to other users."""
    with tempfile.TemporaryDirectory(prefix="testbed-user-") as name:
        path = Path(name)
        if USER is not None:
            os.chown(path, USER, USER)
        yield path


def test_an_ordinary_user(
    need: Need, kernel: Kernel, command_environment: dict[str, str], pair: Path, home: Path
) -> None:
    """All of it under another uid if the tests run as root, else under their own."""
    reached = as_user([sys.executable, "-c", "import polars, yaml"], home, command_environment)
    need(
        reached.returncode == 0,
        f"an interpreter that another user can run ({sys.executable} is not)",
    )
    shutil.copy(pair, home / "pair.yaml")
    environment = command_environment | copied_project(home, kernel)
    job = all_reduce("4000 B", iterations=3)
    words = [
        "run",
        home / "pair.yaml",
        "collectives",
        *job,
        "--isolation",
        "process",
        "--capture",
        "wan",
    ]
    done = as_user(
        [sys.executable, "-m", "testbed", *words, "--out", home / "run"], home, environment
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    folder = Folder(home / "run")
    assert folder.status["faithful"], folder.status
    # As in the run of whoever owns this machine: four one-way trips and the serialisation, within
    # 1.5 %.
    assert folder.median_ms()[4000] == pytest.approx(40.05, rel=0.015)
    assert all(row["captured_packets"] > 0 for row in folder.summary["wan"])
    owners = {path.stat().st_uid for path in folder.path.rglob("*")}
    assert owners == {USER if USER is not None else os.geteuid()}
    assert list((home / "cache/notes").iterdir()) == []
