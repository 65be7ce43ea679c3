"""The Python API: what it accepts, and what a run folder gives."""

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import testbed
from testbed import api
from testbed.analysis.summarize import collect
from testbed.api import prepared_run
from testbed.core.errors import GuestLost, InputError
from testbed.execution.supervise import Progress
from testbed.plan.model import Plan
from testbed.runfolder.folder import RunDir
from testbed.runfolder.schemas import LINKS, OPS
from testbed.runfolder.status import Status, write_status
from testbed.runfolder.summary import Summary
from testbed.runfolder.tables import COLLECTIVES, collectives_table
from testbed.spec.options import RunOptions
from testbed.spec.topology import Topology
from testbed.spec.workload import load_workload
from testbed.sweep.folder import SweepDir
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
    monkeypatch.setattr(prepared_run, "launch", launch)
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
    assert launch.options["limits"].stall_s == 20
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


def test_names_are_listed() -> None:
    assert set(dir(testbed)) >= set(testbed.__all__)
    for name in testbed.__all__:
        assert getattr(testbed, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'runn'"):
        _ = testbed.runn


def test_sweep_is_a_function_and_a_package() -> None:
    assert callable(testbed.sweep)
    assert inspect.signature(testbed.sweep) == inspect.signature(api.sweep)
    assert sys.modules["testbed.sweep.folder"].SweepDir is SweepDir


def test_import_is_quick_and_small() -> None:
    program = """
import sys, time
began = time.process_time()
import testbed
print(time.process_time() - began)
heavy = {"polars", "pydantic", "torch", "plotly", "docker", "numpy", "yaml"}
print(sorted(heavy & set(sys.modules)))
"""
    seconds: list[float] = []
    for _attempt in range(3):
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        duration, modules = done.stdout.splitlines()
        seconds.append(float(duration))
        assert modules == "[]"
    assert min(seconds) < 0.03


def test_package_is_typed() -> None:
    assert Path(testbed.__file__).with_name("py.typed").is_file()


def test_docstrings() -> None:
    """Every public function says what it takes, gives and raises, and shows an example."""
    functions = (api.run, api.open_run, api.sweep, api.open_sweep, api.deploy, api.prepare)
    methods = (api.DeployedNetwork.exec, api.Sweep.run)
    for function in (*functions, *methods):
        text = inspect.getdoc(function) or ""
        for section in ("Args:", "Returns:", "Raises:", "Example:"):
            assert section in text, f"{function.__qualname__} has no {section}"


def test_collectives(folder: RunDir) -> None:
    run = testbed.open_run(folder.path)
    table = run.collectives
    assert dict(table.schema) == COLLECTIVES
    assert table.height == len(run.summary.collectives) > 0
    row, first = table.row(0, named=True), run.summary.collectives[0]
    assert row["time_us"] == first.time_us.median
    assert row["max_us"] == first.time_us.max
    assert row["bound_us"] == first.bound_us
    assert collectives_table(Summary()).schema == table.schema


def test_report_is_made_again(folder: RunDir) -> None:
    assert not folder.report.exists()
    path = testbed.open_run(folder.path).report()
    assert path == folder.report
    assert path.read_bytes().startswith(b"<!doctype html>")


def test_script(launch: Launch, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("")
    out = tmp_path / "run"
    testbed.run("two-sites", script=[script, "--lr", "1"], out=out, ranks_per_host=2)
    assert launch.plan is not None
    assert launch.plan.workers.settings["command"] == [str(script), "--lr", "1"]
    assert launch.plan.workers.settings["ranks_per_host"] == 2


def work() -> None:
    print("work")


def test_function(launch: Launch, tmp_path: Path) -> None:
    out = tmp_path / "run"
    testbed.run("two-sites", work, out=out, isolation="process")
    assert launch.plan is not None
    assert launch.plan.workers.settings["command"] == [str(out / "function/work.py")]
    assert (out / "function/work.py").read_text().endswith('print("work")\n\n\nwork()\n')


def test_a_refused_function_leaves_no_folder(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(InputError, match="is not a plain function"):
        testbed.run("two-sites", print, out=out)
    assert not out.exists()
    with pytest.raises(InputError, match="'never' is not one of"):
        testbed.run("two-sites", work, out=out, events_from="never")  # type: ignore[arg-type]
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"script": ["no.py"]}, "script: no such script: no.py"),
        (
            {"script": ["t.py"], "workload": "train"},
            "cannot run both a workload (train) and a script (t.py)",
        ),
        (
            {"script": ["t.py"], "settings": {"workload.sizes": []}},
            "settings workload.sizes: workload settings do not apply to scripts",
        ),
        ({"ranks_per_host": 2}, 'for a workload, use settings={"workload.ranks_per_host": 2}'),
        ({"shared_folder": True}, "shared_folder: applies only to scripts"),
    ],
)
def test_wrong_scripts(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError) as caught:
        testbed.run("two-sites", **arguments)
    assert text in str(caught.value)


def test_progress_callback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def report(plan: Plan, folder: RunDir, *, progress: Progress, **options: Any) -> None:
        progress.building("compiling", 0.25)
        progress.stage("boot")
        for _look in range(2):
            progress.advance(3, 20, "step")
        progress.measured()

    monkeypatch.setattr(prepared_run, "launch", report)
    news: list[testbed.RunProgress] = []
    testbed.run("two-sites", out=tmp_path / "run", progress=news.append)
    assert [str(progress) for progress in news] == [
        "guest kernel: compiling, 25 %",
        "starting",
        "running, step 3 of 20",
    ]
    assert (news[-1].stage, news[-1].done, news[-1].total) == ("ops", 3, 20)


def test_error_names_the_run_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(plan: Plan, folder: RunDir, **options: Any) -> None:
        raise GuestLost("the guest is gone")

    monkeypatch.setattr(prepared_run, "launch", fail)
    with pytest.raises(testbed.GuestLost, match="the guest is gone") as caught:
        testbed.run("two-sites", out=tmp_path / "run")
    assert caught.value.__notes__ == [f"the run folder is {tmp_path / 'run'}"]
    assert isinstance(caught.value, testbed.TestbedError)


def test_figures_of_a_run(folder: RunDir) -> None:
    collect(folder)
    run = testbed.open_run(folder.path)
    first = run.plot()
    assert first.layout.yaxis.title.text == "time (ms)"
    assert run.plot("latency").data[0].name == first.data[0].name
    assert len(run.plot("ranks").data[0].y) == len(run.plan.workers.ranks)
    with pytest.raises(InputError, match="there is no figure 'rank'") as caught:
        run.plot("rank")
    assert "choose one of: latency, matrix" in str(caught.value)
