"""A script that attacks its run folder: it writes what it may write only, and figures that it makes
up do not count.
"""

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.support.runs import Command, Folder
from tests.support.shared import PROJECT

ATTACK = PROJECT / "tests/support/attack.py"
HOSTS = ("west-h0", "east-h0")
WRITTEN = {"own work"}


@pytest.fixture(scope="module", params=["container", "process"])
def attacked(
    request: pytest.FixtureRequest,
    command: Command,
    pair: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[str, Folder]:
    """The isolation, and the run folder of an attack by both ranks."""
    isolation: str = request.param
    folder = tmp_path_factory.mktemp("attacked")
    command("run", pair, "--isolation", isolation, "--out", folder / "run", "--", ATTACK)
    return isolation, Folder(folder / "run")


def codes(folder: Folder) -> set[str]:
    return {warning["code"] for warning in folder.status["warnings"]}


def lines_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def outcomes(folder: Folder, host: str) -> dict[str, Any]:
    found: dict[str, Any] = folder.json(f"work/{host}/outcomes.json")
    return found


@pytest.mark.parametrize("host", HOSTS)
def test_a_host_writes_to_its_working_folder_only(attacked: tuple[str, Folder], host: str) -> None:
    """Root of a guest may read the pipes, and could undo all of this (SECURITY.md)."""
    isolation, folder = attacked
    done = {name for name, outcome in outcomes(folder, host).items() if outcome == "done"}
    assert done == (WRITTEN | {"read own records"} if isolation == "process" else WRITTEN)


def test_the_outcome_is_true(attacked: tuple[str, Folder]) -> None:
    _isolation, folder = attacked
    assert folder.status["state"] == "completed"
    assert (folder.path / "raw/exit").read_text() == "0\n"
    assert not (folder.path / "captures/huge").exists()
    events = lines_of(folder.path / "raw/events.jsonl")
    assert all(event.get("time_ns", 2) > 1 for event in events)
    refused = {event["host"]: event["lines"] for event in events if event["state"] == "refused"}
    assert refused == dict.fromkeys(HOSTS, 3)
    starts = lines_of(folder.path / "raw/ranks.jsonl")
    assert [start["host"] for start in starts] == list(HOSTS)


def test_figures_that_are_made_up_do_not_count(attacked: tuple[str, Folder]) -> None:
    """An all-reduce between the two takes at least 20 ms, the records say 1 ns."""
    _isolation, folder = attacked
    assert folder.status["faithful"] is False
    assert {"below-bound", "records-refused"} <= codes(folder)


def test_what_is_left_is_harmless(attacked: tuple[str, Folder]) -> None:
    _isolation, folder = attacked
    for host in HOSTS:
        closed = folder.path / "work" / host / "closed"
        assert {path.name for path in closed.iterdir()} == {"program"}
        assert stat.S_IMODE((closed / "program").stat().st_mode) == 0o755
    assert "file-removed" in codes(folder)
