"""A plan gives the same nanoseconds for other users, at other paths, in other environments and on a
machine under load, where packets are lost too.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.guest.kernel import Kernel
from tests.support.runs import Command, Need, all_reduce, records_of_ranks
from tests.support.users import USER, as_user, copied_project

LOSSY = [
    "two-sites",
    "collectives",
    *all_reduce("1 MiB", iterations=4),
    "--set",
    "topology.wan.0.loss=0.1%",
    "--seed",
    "3",
]
# Whatever a person's environment may hold.
ELSEWHERE = {
    "TZ": "Asia/Tokyo",
    "LANG": "de_DE.UTF-8",
    "TERM": "xterm-256color",
    "COLUMNS": "70",
    "LARGE": "x" * 20_000,
}


def records(run: Path) -> dict[str, str]:
    """Read what the ranks of a run did, and what its links carried, by file."""
    return {**records_of_ranks(run), "links.jsonl": (run / "raw/links.jsonl").read_text()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("same")


@pytest.fixture(scope="module")
def lossy(command: Command, folder: Path) -> dict[str, str]:
    """Records of a run in which packets are lost."""
    command("run", *LOSSY, "--isolation", "process", "--out", folder / "lossy")
    found = records(folder / "lossy")
    assert len(found) == 5
    return found


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder of the user's, at a longer path."""
    with tempfile.TemporaryDirectory(prefix="another-place-with-a-longer-name-") as name:
        path = Path(name)
        if USER is not None:
            os.chown(path, USER, USER)
        yield path


def test_another_user_at_another_path(
    need: Need,
    kernel: Kernel,
    command_environment: dict[str, str],
    lossy: dict[str, str],
    home: Path,
) -> None:
    """The operations of all ranks."""
    reached = as_user([sys.executable, "-c", "import polars, yaml"], home, command_environment)
    need(reached.returncode == 0, f"an interpreter that another user can run ({sys.executable})")
    environment = command_environment | copied_project(home, kernel) | ELSEWHERE
    words = ["run", *LOSSY, "--isolation", "process", "--out", home / "a-run-of-another-name"]
    done = as_user([sys.executable, "-m", "testbed", *words], home, environment)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    found = records(home / "a-run-of-another-name")
    # A sample of counters may be taken before or after a packet of the same instant.
    del found["links.jsonl"]
    assert found == {name: text for name, text in lossy.items() if name != "links.jsonl"}


@pytest.mark.usefixtures("load")
def test_a_machine_under_load(command: Command, lossy: dict[str, str], folder: Path) -> None:
    command("run", *LOSSY, "--isolation", "process", "--out", folder / "loaded", timeout_s=600)
    assert records(folder / "loaded") == lossy


def test_red_marks_the_same_packets(command: Command, folder: Path) -> None:
    """The kernel draws RED's marks."""
    words = ["two-sites", "collectives", *all_reduce("4 MiB", iterations=1)]
    for setting in ("discipline=red", "queue=200 packets", "rate=500 Mbit/s"):
        words += ["--set", f"topology.wan.0.{setting}"]
    for name in ("red-1", "red-2"):
        command("run", *words, "--isolation", "process", "--out", folder / name)
    assert records(folder / "red-1") == records(folder / "red-2")
