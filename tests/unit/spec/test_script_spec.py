"""The script of ``testbed run … -- SCRIPT``: its plan, and what is refused before the start."""

import io
import json
import os
import sys
from pathlib import Path

import pytest
from testbed.workloads.script.settings import Script

from testbed.api import script_workload
from testbed.cli.main import app
from testbed.core.errors import InputError
from testbed.plan.budget import windows_bytes
from testbed.plan.resolve import resolve
from testbed.spec.options import RunOptions
from testbed.spec.topology import Topology
from testbed.spec.workload import load_workload

MIB = 2**20


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: train.py, and a package with a module."""
    (tmp_path / "train.py").write_text("")
    (tmp_path / "package").mkdir()
    (tmp_path / "package/__init__.py").write_text("raise AssertionError('nobody may import this')")
    (tmp_path / "package/loop.py").write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str) -> None:
    app(["run", "two-sites", *words], standalone_mode=False)


def planned(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    """`workers` of the plan."""
    run("--dry-run", *words)
    workers: dict[str, object] = json.loads(capsys.readouterr().out)["workers"]
    return workers


def test_a_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workers = planned(
        capsys,
        "--nproc-per-host",
        "2",
        "--env",
        "A=b=c",
        "--",
        "train.py",
        "--lr",
        "3e-4",
        "--",
        "-h",
    )
    assert workers["workload"] == "script"
    assert workers["settings"] == {
        "kind": "file",
        "command": [str(here / "train.py"), "--lr", "3e-4", "--", "-h"],
        "added": [],
        "early_variables": [],
        "source": None,
        "environment": {},
        "folder": str(here),
        "ranks_per_host": 2,
        "shared_folder": False,
        "events_from": "operation",
    }
    assert len(workers["ranks"]) == 8  # type: ignore[arg-type]  # four hosts
    assert (workers["readable"], workers["once_per_host"]) == ([str(here)], False)
    assert workers["environment"]["A"] == "b=c"  # type: ignore[index]


def test_a_module(here: Path) -> None:
    script = Script(command=["-m", "package.loop", "--lr", "1"])
    script.check_installed()
    assert script.program() == ("module", ("package.loop", "--lr", "1"), here, (here,))
    script = Script(command=["-m", "json.tool"])
    script.check_installed()
    assert script.program() == ("module", ("json.tool",), None, ())


def test_a_command(here: Path) -> None:
    """A file that it names is found wherever it runs; the command itself is looked for as usual."""
    script = Script(command=["sh", "train.py", "-x"])
    script.check_installed()
    assert script.program() == ("command", ("sh", str(here / "train.py"), "-x"), None, (here,))
    assert script.starts_ranks_itself


def test_command_once_per_host(here: Path) -> None:
    work = Script(command=["torchrun", "train.py"], ranks_per_host=2)
    plan = resolve(Topology.load("two-sites"), work, machine_memory_bytes=2**40)
    assert len(plan.workers.ranks) == 8
    assert [rank.rank for rank in plan.workers.processes] == list(range(0, 8, 2))


def test_a_workload_file(here: Path) -> None:
    (here / "work.yaml").write_text(
        "workload: script\ncommand: [train.py, --lr, '1']\nranks_per_host: 3\n"
    )
    work = load_workload("work.yaml")
    assert isinstance(work, Script)
    assert (
        Script.model_validate({"command": ["train.py", "--lr", "1"], "ranks_per_host": 3}) == work
    )


def test_memory(here: Path) -> None:
    """A guess for weights of 64 MiB, their gradients and Adam's state; else --memory."""
    work = Script(command=["train.py"])
    plan = resolve(
        Topology.load("two-sites"),
        work,
        RunOptions(isolation="process"),
        machine_memory_bytes=2**40,
    )
    packets_bytes = windows_bytes(plan.network)
    assert plan.guest_memory_bytes == 2**30 + 4 * (250 + 4 * 64) * MIB + packets_bytes
    more = resolve(
        Topology.load("two-sites"),
        work,
        RunOptions(isolation="process", memory="2 GiB"),
        machine_memory_bytes=2**40,
    )
    assert more.workers.memory_bytes == 2**31
    assert more.guest_memory_bytes == 2**30 + 4 * 2**31 + packets_bytes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--", "trian.py"], "--: no such script: trian.py\n  nearest: train.py"),
        (["--", "none/train.py"], "--: no such script: none/train.py"),
        (
            ["--", "package.py"],
            "--: package.py is a folder, not a script\n  name a script in the folder",
        ),
        (["--", "--lr", "1"], "--: '--lr' is not a script\n  write the script first"),
        (
            ["--", "torchrunn", "train.py"],
            "--: unknown command 'torchrunn'\n  script names end in .py",
        ),
        (["--", "-m"], "--: -m requires a module"),
        (["--", "-c"], "--: -c requires code\n  use -c 'CODE', followed by arguments"),
        (["--", "-c", "x = (\n"], "--: the code has a syntax error, line 1: '(' was never closed"),
        (
            ["--", "-m", "package.lop"],
            "--: unknown module 'package.lop'\n  'lop' is neither in ",
        ),
        (["--"], "nothing follows --"),
        (
            ["collectives", "--", "train.py"],
            "cannot run both a workload (collectives) and a script (train.py)",
        ),
        (
            ["train.py", "--lr", "1"],
            "train.py: write scripts after --\n  use: testbed run two-sites -- train.py --lr 1",
        ),
        (
            ["--set", "workload.iterations=1", "--", "train.py"],
            "--set: workload settings do not apply to scripts",
        ),
        (["--nproc-per-host", "2"], "--nproc-per-host: applies only to scripts"),
        (["--shared-folder"], "--shared-folder: applies only to scripts"),
        (["--events-from", "start"], "--events-from: applies only to scripts"),
        (
            ["--readable", "/tmp", "--", "train.py"],
            "--readable: each host has a separate /tmp",
        ),
        (["--env", "A", "--", "train.py"], "--env: 'A' is not NAME=VALUE"),
    ],
)
def test_refused(here: Path, words: list[str], message: str) -> None:
    (here / "package.py").mkdir()
    with pytest.raises(InputError) as refused:
        run(*words)

    assert str(refused.value).startswith(message)
    assert not (here / "results").exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"print(", "--: the code has a syntax error, line 1: '(' was never closed"),
        (b"x = '\xff'\n", "-- -: cannot read the script: "),
        (b"# coding: none\n", "-- -: cannot read the script: unknown encoding: none"),
    ],
)
def test_refused_standard_input(
    here: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, message: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    with pytest.raises(InputError) as refused:
        run("--", "-")

    assert str(refused.value).startswith(message)


def test_standard_input(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"print(1)\r\n")))
    settings = planned(capsys, "--", "-", "--lr", "1")["settings"]
    assert isinstance(settings, dict)
    assert settings["command"] == ["-", "--lr", "1"]
    assert settings["source"] == "print(1)\n"


def test_unreadable_script(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may read everything
    with pytest.raises(
        InputError, match=r"cannot read the script train.py: permission denied\n  make it readable"
    ):
        run("--", "train.py")


def test_script_in_a_private_folder() -> None:
    path = Path("/tmp/testbed-unit-test-of-a-script.py")
    path.write_text("")
    try:
        with pytest.raises(InputError, match="--: each host has a separate /tmp"):
            run("--", str(path))
    finally:
        path.unlink()


def test_misspelt_option(here: Path) -> None:
    with pytest.raises(Exception, match="No such option: --nproc-per-hots") as refused:
        run("--nproc-per-hots", "2", "--", "train.py")

    assert "--nproc-per-host)" in refused.value.format_message()  # type: ignore[attr-defined]  # which main prints


def test_gpus_of_a_host(here: Path) -> None:
    """Each modelled GPU has a rank, unless the number of ranks is given."""
    plain = Script(command=["train.py"])
    assert "gpu" not in plain.settings(4)
    eight = Script.model_validate({"command": ["train.py"], "gpu": "H100", "gpus_per_host": 8})
    assert eight.ranks_per_host == 8
    settings = eight.settings(8)
    assert (settings["gpu"], settings["gpus_per_host"]) == ("H100", 8)
    assert (settings["comm"], settings["scale"], eight.divisor) == ("nccl", 1, 1)
    scaled = Script(command=["train.py"], gpu="H100", scale=1000)
    assert (scaled.settings(1)["scale"], scaled.divisor) == (1000, 1000)
    given = {"command": ["train.py"], "gpu": "A100", "gpus_per_host": 2, "ranks_per_host": 1}
    assert Script.model_validate(given).ranks_per_host == 1


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"gpu": "H1000"}, "H100"),
        ({"gpus_per_host": 2}, "--gpu H100"),
        ({"gpu": "TPUv4"}, "TPUv5p"),
        ({"comm": "gloo"}, "comm requires gpu"),
        ({"scale": 10}, "scale requires gpu"),
    ],
)
def test_wrong_gpus(here: Path, settings: dict[str, object], error: str) -> None:
    with pytest.raises(InputError, match=error):
        script_workload(["train.py"], settings, in_image=False)
