"""Options of a run: one model, and the same options wherever they are written."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from testbed.cli.main import app
from testbed.core.errors import InputError
from testbed.plan.resolve import resolve
from testbed.spec.experiment import Experiment
from testbed.spec.options import Option, RunOptions, experiment_options, run_options
from testbed.spec.topology import Topology
from testbed.spec.workload import load_workload
from testbed.sweep.points import plan_points

PROJECT = Path(__file__).parents[3]
OPTIONS = run_options()
GIVEN: dict[str, Any] = {
    "clock": "real",
    "isolation": "process",
    "capture": "all",
    "capture_filter": "tcp port 29500",
    "capture_snap": "96 B",
    "capture_limit": "1 GB",
    "seed": 7,
    "memory": "2 GiB",
    "cpus": 0.5,
    "guest_memory": "3 GiB",
    "stall_limit": "20 s",
    "time_limit": "3600 s",
    "wall_limit": "60 s",
    "environment": {"LEVEL": "debug", "EMPTY": ""},
}


def flags_of(words: Sequence[str]) -> dict[str, set[str]]:
    """The flags and the environment variables of a command's parameters, by parameter."""
    command: Any = typer.main.get_command(app)
    for word in words:
        command = command.commands[word]
    return {parameter.name: {*parameter.opts, parameter.envvar} for parameter in command.params}


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_run_has_every_option(option: Option) -> None:
    assert flags_of(["run"])[option.name] == {option.flag, option.variable}
    assert option.help


@pytest.mark.parametrize("option", experiment_options(), ids=lambda option: option.name)
def test_sweep_has_every_option_of_experiments(option: Option) -> None:
    assert flags_of(["sweep", "run"])[option.name] == {option.flag, option.variable}


def test_names_differ() -> None:
    for names in (
        [option.flag for option in OPTIONS],
        [option.variable for option in OPTIONS],
    ):
        assert len(set(names)) == len(OPTIONS)
    keys = [option.key for option in experiment_options()]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("name", ["capture_snap", "capture_limit", "stall_limit"])
def test_default_for_people_is_the_default(name: str) -> None:
    (option,) = (option for option in OPTIONS if option.name == name)
    given = RunOptions.model_validate({"capture": "all", name: option.default})
    assert getattr(given, name) == getattr(RunOptions(), name)


def experiment(tmp_path: Path, settings: dict[str, Any]) -> Experiment:
    path = tmp_path / "experiment.yaml"
    document = {
        "topology": "two-sites",
        "settings": settings,
        "sweep": {"grid": {"workload.iterations": [1]}},
    }
    path.write_text(json.dumps(document))
    return Experiment.load(path)


def test_experiments_and_python_agree(tmp_path: Path) -> None:
    settings = {f"run.{name}": value for name, value in GIVEN.items()}
    (point,) = plan_points(experiment(tmp_path, settings), {})
    assert point.run == RunOptions(**GIVEN)


def test_command_line_and_python_agree() -> None:
    """The arguments that a point of a sweep records, parsed again, give the same plan."""
    options = RunOptions(**GIVEN)
    arguments = ["run", "two-sites", "collectives", "--dry-run", *options.arguments()]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    plan = resolve(Topology.load("two-sites"), load_workload("collectives"), options)
    assert json.loads(done.stdout) == plan.model_dump(mode="json")


def test_defaults_need_no_arguments() -> None:
    assert RunOptions().arguments() == []


@pytest.mark.parametrize("capture", ["none", "wan", "all"])
def test_experiments_have_every_capture(capture: str, tmp_path: Path) -> None:
    (point,) = plan_points(experiment(tmp_path, {"run.capture": capture}), {})
    assert point.plan.capture == capture


def test_capture_is_off_by_default(tmp_path: Path) -> None:
    (point,) = plan_points(experiment(tmp_path, {}), {})
    plan = resolve(Topology.load("two-sites"), load_workload("collectives"))
    done = CliRunner().invoke(app, ["run", "two-sites", "--dry-run"], catch_exceptions=False)
    captures = [point.plan.capture, plan.capture, json.loads(done.stdout)["capture"]]
    assert captures == ["none"] * 3


def test_experiments_run_in_guests(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unknown key 'run\.where'"):
        experiment(tmp_path, {"run.where": "here"})


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"colck": "real"}, "RunOptions.colck: unknown key 'colck'\n  nearest: clock"),
        ({"memory": 2**30}, "RunOptions.memory: the size 1073741824 has no unit"),
        ({"cpus": 0}, "RunOptions.cpus: 0 is less than 0.01"),
        ({"seed": -1}, "RunOptions.seed: -1 is less than 0"),
        ({"stall_limit": "0.5 s"}, "RunOptions.stall_limit: '0.5 s' is less than 1 s"),
        ({"stall_limit": 0}, "RunOptions.stall_limit: 0 is less than 1 s"),
        ({"stall_limit": "long"}, "RunOptions.stall_limit: 'long' is not a time"),
        ({"capture_snap": "96 B"}, "RunOptions.capture_snap: capturing is off"),
        ({"readable": ["/nowhere"]}, "RunOptions.readable.0: /nowhere is not a folder"),
        ({"readable": ["/tmp"]}, "RunOptions.readable.0: each host has a separate /tmp"),
    ],
)
def test_wrong_options(options: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError) as caught:
        RunOptions(**options)

    assert str(caught.value).startswith(text)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--stall-limit", "0.5"], "--stall-limit: '0.5' is less than 1 s"),
        (["--memory", "2"], "--memory: the size '2' has no unit"),
        (["--env", "LEVEL"], "--env: 'LEVEL' is not NAME=VALUE"),
        (["--readable", "/tmp"], "--readable: each host has a separate /tmp"),
    ],
)
def test_wrong_flags(arguments: list[str], text: str) -> None:
    with pytest.raises(InputError) as caught:
        CliRunner().invoke(app, ["run", "two-sites", *arguments], catch_exceptions=False)

    assert str(caught.value).startswith(text)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--memory", "2"], "--memory: the size '2' has no unit"),
        (["--env", "LEVEL"], "--env: 'LEVEL' is not NAME=VALUE"),
        (["--set", "run.where=here"], "--set run.where: unknown key 'where'"),
    ],
)
def test_wrong_flags_of_a_sweep(arguments: list[str], text: str, tmp_path: Path) -> None:
    experiment(tmp_path, {})
    command = ["sweep", "run", str(tmp_path / "experiment.yaml"), "--dry-run", *arguments]
    with pytest.raises(InputError) as caught:
        CliRunner().invoke(app, command, catch_exceptions=False)
    assert str(caught.value).startswith(text)


def test_a_host_run_has_the_real_clock() -> None:
    assert RunOptions(where="here").clock == "real"
    assert RunOptions(where="here", clock="virtual").clock == "virtual"  # `resolve` refuses it
    assert RunOptions().clock == "virtual"


def test_page_is_current() -> None:
    done = CliRunner().invoke(app, ["reference"])
    assert done.exit_code == 0
    page = (PROJECT / "docs/run-options.md").read_text()
    assert page == done.stdout, "docs/run-options.md is stale: `make docs` writes the page"
