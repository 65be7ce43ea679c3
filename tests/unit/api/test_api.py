"""The Python API: what it accepts, and what a run folder gives."""

from pathlib import Path
from typing import Any

import pytest

import testbed
from testbed import api
from testbed.analysis.summarize import collect
from testbed.core.errors import InputError
from testbed.plan.model import Plan
from testbed.runfolder.folder import RunDir
from testbed.runfolder.schemas import LINKS, OPS
from testbed.runfolder.status import Status, write_status
from testbed.spec.options import RunOptions
from testbed.spec.topology import Topology
from testbed.spec.workload import load_workload
from tests.support.synthetic import make_plan, two_dcs, write_run


@pytest.fixture
def folder(tmp_path: Path) -> RunDir:
    run = write_run(tmp_path / "run", make_plan(two_dcs()))
    collect(run)
    return run


def test_names_of_the_package() -> None:
    assert testbed.run is api.run
    assert testbed.open_run is api.open_run
    assert set(testbed.__all__) >= {"Run", "open_run", "run"}


def test_package_has_no_module_called_run() -> None:
    assert not (Path(testbed.__file__).parent / "run.py").exists()
    assert not (Path(testbed.__file__).parent / "run").exists()


def test_summary_and_status(folder: RunDir) -> None:
    write_status(folder.status, Status(state="completed", exit_status=0))
    run = testbed.open_run(folder.path)
    assert run.path == folder.path
    assert run.summary.collectives[0].op == "all_reduce"
    assert run.status.state == "completed"
    assert run.plan == folder.read_plan()


def test_tables(folder: RunDir) -> None:
    run = testbed.open_run(str(folder.path))
    assert dict(run.operations.schema) == dict(OPS)
    assert dict(run.links.schema) == dict(LINKS)
    assert run.operations.height > 0


def test_missing_tables(folder: RunDir) -> None:
    run = testbed.open_run(folder.path)
    with pytest.raises(InputError, match=r"train\.parquet\n  only the workload train has steps"):
        _ = run.steps
    folder.flows.unlink()
    with pytest.raises(InputError, match=r"flows\.parquet\n  only runs with captures have flows"):
        _ = run.flows
    folder.ops.write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"cannot read .*ops\.parquet"):
        _ = run.operations


def test_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a run folder"):
        testbed.open_run(tmp_path)


def test_damage_is_among_the_problems(folder: RunDir) -> None:
    folder.summary.write_text('{"collectives": [{}]}')
    (problem,) = testbed.open_run(folder.path).summary.problems
    assert "collectives" in problem.message


def test_missing_summary(folder: RunDir) -> None:
    folder.summary.unlink()
    with pytest.raises(
        InputError, match=r"no summary.json\n  run `testbed report .*` to create it"
    ):
        _ = testbed.open_run(folder.path).summary


class Launch:
    """Stands in for `launch`: keeps what it is asked for."""

    def __init__(self) -> None:
        self.plan: Plan | None = None
        self.folder: RunDir | None = None
        self.options: dict[str, Any] = {}

    def __call__(self, plan: Plan, folder: RunDir, **options: Any) -> None:
        self.plan = plan
        self.folder = folder
        self.options = options


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch) -> Launch:
    launch = Launch()
    monkeypatch.setattr(api, "launch", launch)
    return launch


def test_run(launch: Launch, tmp_path: Path) -> None:
    run = testbed.run(
        "two-sites",
        settings={"topology.wan.iowa-ohio.delay": "20 ms", "workload.iterations": 7},
        out=tmp_path / "run",
        isolation="process",
        stall_limit=20,
        environment={"LEVEL": "debug"},
    )
    plan = launch.plan
    assert plan is not None
    assert run.path == tmp_path / "run"
    assert plan.network.wan[0].forward.fibre.delay_ns == 20_000_000
    assert plan.workers.settings["iterations"] == 7
    assert plan.workers.isolation == "process"
    assert plan.workers.environment["LEVEL"] == "debug"
    assert launch.options["stall_limit_s"] == 20
    assert launch.options["spec"].startswith("# topology\n")


def test_run_with_models(launch: Launch, tmp_path: Path) -> None:
    topology = Topology.load("two-sites")
    testbed.run(topology, load_workload("collectives"), out=tmp_path / "run")
    assert launch.plan == api.prepare(topology, load_workload("collectives"), RunOptions()).plan


def test_default_folder(launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = testbed.run("two-sites", "collectives")
    assert run.path.parent == tmp_path / "results"
    assert run.path.name.endswith("-two-sites-collectives")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"settings": {"wan.iowa-ohio.delay": 1}}, "'wan.iowa-ohio.delay' is not a valid setting"),
        ({"settings": {"workload": 1}}, "'workload' is not a valid setting"),
        ({"settings": {"workload.iteration": 1}}, "settings workload.iteration: unknown key"),
        ({"isolaton": "process"}, "unknown key 'isolaton'\n  nearest: isolation"),
        ({"where": "here", "clock": "virtual"}, "--clock: the host kernel has no virtual clock"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], text: str, launch: Launch) -> None:
    with pytest.raises(InputError) as caught:
        testbed.run("two-sites", "collectives", **arguments)
    assert text in str(caught.value)
    assert launch.plan is None


def test_settings_of_a_model(launch: Launch) -> None:
    topology = Topology.load("two-sites")
    with pytest.raises(InputError, match="settings apply to a preset or a file, not to a model"):
        testbed.run(topology, settings={"topology.mtu": 1400})
    assert launch.plan is None
