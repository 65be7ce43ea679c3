"""Whatever happens to a command of a deployment, it ends with the right status, and a deployment is
whole or can be destroyed, after which nothing is left.

The guest is an ordinary process here (`tests.support.recorded_keeper`); everything else is real.
"""

from pathlib import Path

import pytest

from tests.support.commands import environment_without_guest, outcomes_of
from tests.support.deployment_faults import COMMANDS, Outcome

FAULTS = ["SIGKILL", "SIGINT", "EIO", "ENOSPC", "EPIPE"]
ERRORS = ("EIO", "ENOSPC", "EPIPE")
# By default each write meets one fault of those that end a command in different ways.
DEFAULT = ["SIGKILL", "ENOSPC", "SIGINT"]
WRITES = {"deploy": 6, "keeper": 6, "set": 4, "exec": 2, "destroy": 1}  # at least


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return environment_without_guest(tmp_path, "6.12 time-travel-slice")


def tried(
    cases: list[tuple[str, str, int]], folder: Path, environment: dict[str, str]
) -> list[Outcome]:
    """Carry out cases of `tests.support.deployment_faults`."""
    outcomes = outcomes_of("tests.support.deployment_faults", cases, folder, environment)
    return [Outcome(**outcome) for outcome in outcomes]


def check(case: tuple[str, str, int], outcome: Outcome) -> None:
    """What holds after every fault."""
    command, fault, _number = case
    about = (case, outcome)
    assert "Traceback" not in outcome.text, about
    assert outcome.destroyed == 0, about
    assert outcome.left == [], about
    plan_is_new, topology_is_new = outcome.has_loss
    if fault != "SIGKILL":
        assert plan_is_new == topology_is_new, about
    if outcome.exit_status == 0:
        assert outcome.state == ("" if command == "destroy" else "running"), about
        assert plan_is_new == (command == "set"), about
    if command == "keeper" and outcome.exit_status:
        is_write_error = fault in ("ENOSPC", "EIO", "EPIPE")
        assert outcome.exit_status == (3 if is_write_error else 1), about
        assert "could not be deployed" in outcome.text, about
    elif command != "keeper":
        allowed = {"SIGKILL": {0, -9}, "SIGINT": {0, 130}}.get(fault, {0, 3})
        if (command, fault) == ("exec", "EPIPE"):  # as if the reader of its output were gone
            allowed.add(141)
        assert outcome.exit_status in allowed, about
    if command in ("deploy", "keeper") and outcome.exit_status > 0:
        assert outcome.state == "", about
    if command in ("set", "exec") and outcome.exit_status != 0:
        assert outcome.state == "running", about
    if outcome.exit_status == 3:
        assert "error: " in outcome.text, about


@pytest.mark.parametrize("is_thorough", [False, pytest.param(True, marks=pytest.mark.soak)])
def test_a_fault_at_every_write(
    is_thorough: bool, tmp_path: Path, environment: dict[str, str]
) -> None:
    """Each write of `deploy` and `set` meets one of the faults; in `make soak` each write of each
    command all of them.
    """
    commands = list(COMMANDS) if is_thorough else ["deploy", "set"]
    whole = [(command, "EIO", -1) for command in commands]
    counts: dict[str, int] = {}
    for case, outcome in zip(whole, tried(whole, tmp_path / "whole", environment), strict=True):
        check(case, outcome)
        assert outcome.exit_status == 0, outcome
        assert outcome.writes >= WRITES[case[0]]
        counts[case[0]] = outcome.writes
    if is_thorough:
        counts["keeper"] = 3  # its writes are not those of the command

    cases: list[tuple[str, str, int]] = []
    for command, count in counts.items():
        for number in range(count):
            faults = FAULTS if is_thorough else [DEFAULT[number % len(DEFAULT)]]
            cases += [(command, fault, number) for fault in faults]
    outcomes = tried(cases, tmp_path / "faults", environment)
    assert len(outcomes) == len(cases)
    ends: set[tuple[str, int]] = set()
    for case, outcome in zip(cases, outcomes, strict=True):
        check(case, outcome)
        ends.add((case[1], outcome.exit_status))
    assert {("SIGKILL", -9), ("SIGINT", 130), ("ENOSPC", 3)} <= ends
