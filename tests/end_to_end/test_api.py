"""Python's way to everything: runs, functions and scripts as workloads, sweeps, deployments."""

import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import testbed
from testbed.guest.kernel import Kernel
from tests.support.shared import PROJECT

SETTINGS = {"workload.ops": ["all_reduce"], "workload.sizes": ["4 KiB"], "workload.iterations": 2}
ONE_WAY_US = 10_000


@pytest.fixture(scope="module")
def topology(kernel: Kernel) -> testbed.Topology:
    """Two hosts, 10 ms one way between them."""
    del kernel
    host = testbed.Datacenter(hosts=1, nic=testbed.Nic(delay="0 ms"))
    link = testbed.Wan(between=("west", "east"), rate="1 Gbit/s", delay="10 ms")
    return testbed.Topology(name="pair", datacenters={"west": host, "east": host}, wan=[link])


def all_reduce_once() -> None:
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo")
    tensor = torch.ones(1024)
    dist.all_reduce(tensor)
    assert tensor[0] == dist.get_world_size()
    print(f"the sum is {tensor[0]:.0f}")
    dist.destroy_process_group()


def test_run_a_workload(topology: testbed.Topology, tmp_path: Path) -> None:
    news: list[testbed.RunProgress] = []
    run = testbed.run(
        topology,
        "collectives",
        isolation="process",
        settings=SETTINGS,
        out=tmp_path / "run",
        progress=news.append,
    )
    row = run.collectives.row(0, named=True)
    assert (row["op"], row["bytes"], row["iterations"], row["wrong"]) == ("all_reduce", 4096, 2, 0)
    assert row["time_us"] >= row["bound_us"] >= ONE_WAY_US
    assert run.operations.filter(phase="measure").height == 4
    assert (run.links["bytes"] > 4096).any()
    assert run.status.state == "completed"
    assert [progress.stage for progress in news][-1] == "report"
    counted = [progress.done for progress in news if progress.total]
    assert counted == sorted(counted)
    assert run.report().is_file()
    assert "Latency dominates" in run._repr_html_()


def test_run_a_function(topology: testbed.Topology, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run = testbed.run(topology, all_reduce_once, isolation="process", out=out)
    row = run.collectives.row(0, named=True)
    assert (row["op"], row["bytes"], row["ranks"]) == ("all_reduce", 4096, 2)
    assert row["time_us"] >= ONE_WAY_US
    logs = [path.read_text() for path in (out / "logs").glob("rank*")]
    assert sum("the sum is 2" in text for text in logs) == 2


def test_run_a_function_of_a_module(
    topology: testbed.Topology, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A function that uses other names of its module is imported by every rank."""
    package = tmp_path / "src/my_project"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "training.py").write_text(
        "import torch\nimport torch.distributed as dist\n\n\ndef train():\n"
        "    dist.init_process_group('gloo')\n    dist.all_reduce(torch.ones(8))\n"
    )
    monkeypatch.syspath_prepend(package.parent)
    train = importlib.import_module("my_project.training").train
    run = testbed.run(topology, train, isolation="process", out=tmp_path / "run")
    assert run.collectives.select("op", "bytes", "ranks").rows() == [("all_reduce", 32, 2)]


def test_run_a_script_that_fails(topology: testbed.Topology, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("import sys\nraise SystemExit(f'no {sys.argv[1]}')\n")
    out = tmp_path / "run"
    with pytest.raises(testbed.RunError, match="no data") as caught:
        testbed.run(topology, script=[script, "data"], isolation="process", out=out)
    assert caught.value.__notes__ == [f"the run folder is {out}"]
    run = testbed.open_run(out)
    assert (run.status.state, run.status.reason) == ("failed", str(caught.value))


def test_sweep(topology: testbed.Topology, tmp_path: Path) -> None:
    delay = "topology.wan.west-east.delay"
    experiment = {
        "topology": topology,
        "settings": SETTINGS,
        "sweep": {"grid": {delay: ["1 ms", "20 ms"]}},
    }
    news: list[testbed.PointProgress] = []
    out = tmp_path / "sweep"
    for _attempt in range(2):  # the second time there is nothing left to do
        sweep = testbed.sweep(
            experiment, out=out, isolation="process", jobs=2, progress=news.append
        )

    assert [progress.event for progress in news].count("completed") == 2
    points = sweep.points
    assert points["delay"].to_list() == ["1 ms", "20 ms"]
    assert points["time_us"].is_sorted()
    assert (points["time_us"] >= points["delay_ns"] / 1000).all()
    assert testbed.Topology.load(out / "topology.yaml") == topology
    assert sweep.report().is_file()
    assert sweep.run("delay-20ms").path == sweep.run(1).path
    assert testbed.open_sweep(out).run(1).collectives["time_us"][0] == points["time_us"][1]
    assert "2 points, 2 completed" in sweep._repr_html_()


def test_sweep_in_a_script_without_a_guard(topology: testbed.Topology, tmp_path: Path) -> None:
    """Processes of points do not run the script again."""
    file = tmp_path / "pair.yaml"
    file.write_text(topology.to_yaml())
    experiment = {
        "topology": str(file),
        "settings": {"workload.ops": ["all_reduce"], "run.isolation": "process"},
        "sweep": {"grid": {"workload.sizes": [["4 KiB"]]}},
    }
    script = tmp_path / "script.py"
    script.write_text(f"import testbed\nprint(testbed.sweep({experiment!r}, out='s').points)\n")
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("shape: (1,") == 1


def test_deploy(topology: testbed.Topology) -> None:
    with testbed.deploy(topology, name=f"api-{os.getpid()}", clock="virtual") as net:
        before = net.exec("west-h0", ["ping", "-c1", "east-h0"], check=True)
        assert "time=20." in before.stdout
        net.set({"wan.west-east.delay": "30 ms"})
        assert "time=60." in net.exec("west-h0", ["ping", "-c1", "east-h0"]).stdout
        status = net.inspect()
        assert [link.delay_ms for link in status.links] == [30, 30]
        assert status.state == "running"
        assert "running, virtual clock" in net._repr_html_()
        assert net.exec("west-h0", ["sh", "-c", "echo oops >&2; exit 3"]).returncode == 3
        with pytest.raises(testbed.InputError, match="has no host 'north'"):
            net.exec("north", ["true"])
    assert net.inspect().state == "gone"
    with pytest.raises(testbed.GuestLost, match="has been destroyed"):
        net.set({"wan.west-east.delay": "1 ms"})


def test_ctrl_c(topology: testbed.Topology, tmp_path: Path) -> None:
    """KeyboardInterrupt comes when the folder is settled and the guest is gone."""
    out = tmp_path / "run"

    def interrupt_in_network(progress: testbed.RunProgress) -> None:
        if progress.stage == "network":
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        testbed.run(
            topology,
            "collectives",
            isolation="process",
            settings={"workload.iterations": 100_000},
            out=out,
            progress=interrupt_in_network,
        )
    assert time.monotonic() - began < 30
    run = testbed.open_run(out)
    assert run.status.state == "interrupted"
    assert run.report().is_file()


def test_callback_that_raises(topology: testbed.Topology, tmp_path: Path) -> None:
    out = tmp_path / "run"

    def refuse(progress: testbed.RunProgress) -> None:
        raise ValueError(progress.stage)

    with pytest.raises(ValueError, match="boot"):
        testbed.run(topology, isolation="process", settings=SETTINGS, out=out, progress=refuse)
    status = testbed.open_run(out).status
    assert (status.state, status.reason) == ("failed", "ValueError: boot")
