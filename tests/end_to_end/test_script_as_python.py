"""A script sees the same as by `python` on the same host, apart from the differences that
docs/your-script.md lists; commands and their files.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.runs import Command, Folder

PROBE = Path(__file__).parent.parent / "support/interpreter_probe.py"
# Keys of the probe's file, with the reason for the difference.
ALLOWED = {
    "environment": "a command gets torchrun's options, too; each run has its folders",
    "interpreter.filters": "torch and NumPy are imported",
    "interpreter.modules": "torch and NumPy are imported",
    "interpreter.frozen": "a collection would copy the parent's memory",
    "interpreter.meta_path": "the hook of commands; setuptools'",
    "interpreter.path": "an editable installation adds the project",
    "libraries.exit handlers": "torch is imported",
    "libraries.loggers": "torch is imported",
    "main.__warningregistry__": "the filters have another version",
    "process.command": "the parent's",
    "process.more files": "the records",
    "process.limits": "follow from the free memory at the guest's start",
    "torch.drawn": "seeded by run and rank",
    "torch.seed": "seeded by run and rank",
    "torch.exit handlers": "those of the testbed's imports",
    "torch.loggers": "those of the testbed's imports",
    "torch.modules": "those of the testbed's imports",
}
SHADOWING = """
import testbed
import torch
import torch.distributed as dist

dist.init_process_group("gloo")
dist.all_reduce(torch.ones(4))
print("value", testbed.VALUE, hash("text"))
"""
CODE = """
import sys
import torch
import torch.distributed as dist

dist.init_process_group("gloo")
ones = torch.ones(4)
dist.all_reduce(ones)
print("sum", ones[0].item(), sys.argv)
"""
PREPARE = """
import os, sys

with open(os.environ["DATA"]) as data:
    print("prepared for node", sys.argv[1], data.read())
shm = os.statvfs("/dev/shm")
print("shared memory", shm.f_blocks * shm.f_frsize)
"""


def differences(name: str, left: Any, right: Any) -> set[str]:
    """The entries of two files of the probe that differ, two levels deep."""
    if left == right:
        return set()
    if name.count(".") == 1 or name == "environment":
        return {name}
    found: set[str] = set()
    for key in {*left, *right}:
        found |= differences(f"{name}.{key}".lstrip("."), left.get(key), right.get(key))
    return found


def test_as_python(command: Command, pair: Path, tmp_path: Path) -> None:
    words = ["--isolation", "process", "--out"]
    command("run", pair, *words, tmp_path / "rank", "--", PROBE, "--lr", "1")
    command("run", pair, *words, tmp_path / "plain", "--", "python", PROBE, "--lr", "1")
    seen = [
        json.loads((tmp_path / run / "work/east-h0/probe.json").read_text())
        for run in ("rank", "plain")
    ]
    assert differences("", *seen) <= set(ALLOWED)
    other = json.loads((tmp_path / "rank/work/west-h0/probe.json").read_text())
    assert other["torch"]["drawn"] != seen[0]["torch"]["drawn"]


def test_a_new_interpreter(command: Command, pair: Path, tmp_path: Path) -> None:
    """For a script with a module that ranks have imported, and for variables that Python reads."""
    (tmp_path / "train.py").write_text(SHADOWING)
    (tmp_path / "testbed.py").write_text("VALUE = 7\n")
    words = ["--isolation", "process", "--env", "PYTHONHASHSEED=1", "--out", tmp_path / "run"]
    command("run", pair, *words, "--", tmp_path / "train.py")
    folder = Folder(tmp_path / "run")
    expected = subprocess.run(
        [sys.executable, "-c", "print('value 7', hash('text'))"],
        env={"PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    for rank in (0, 1):
        log = (folder.path / f"logs/rank-{rank}.log").read_text()
        assert "a module testbed" in log
        assert log.endswith(expected.stdout)
    rows = folder.ops.select("rank", "op", "bytes", "phase").sort("rank").rows()
    assert rows == [(rank, "all_reduce", 16, "script") for rank in (0, 1)]


def test_code_of_standard_input(command: Command, pair: Path, tmp_path: Path) -> None:
    """In the process of a rank, and in a new interpreter."""
    words = ["--isolation", "process", "--out"]
    command("run", pair, *words, tmp_path / "rank", "--", "-", "--lr", "1", input=CODE)
    code = ["--", "-c", CODE, "--lr", "1"]
    command("run", pair, "--env", "PYTHONHASHSEED=1", *words, tmp_path / "new", *code)
    for run, first in (("rank", "-"), ("new", "-c")):
        folder = Folder(tmp_path / run)
        for rank in (0, 1):
            log = (folder.path / f"logs/rank-{rank}.log").read_text()
            assert log.endswith(f"sum 2.0 [{first!r}, '--lr', '1']\n")
        rows = folder.ops.select("rank", "op", "bytes", "phase").sort("rank").rows()
        assert rows == [(rank, "all_reduce", 16, "script") for rank in (0, 1)]


def test_a_shell_line_in_containers(
    command: Command, pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative file in the line; a folder behind a link; a run folder with a colon."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/text").write_text("from the data")
    (tmp_path / "link").symlink_to("data")
    (tmp_path / "prepare.py").write_text(PREPARE)
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "run 12:00:00"
    line = "exec python prepare.py $TESTBED_NODE_RANK"
    options = ["--memory", "1536 MiB", "--readable", "link", "--env", f"DATA={tmp_path}/link/text"]
    command("run", pair, *options, "--out", out, "--", "sh", "-c", line)
    folder = Folder(out)
    assert folder.status["state"] == "completed"
    log = (out / "logs/rank-1.log").read_text()
    assert "prepared for node 1 from the data" in log
    assert f"shared memory {1536 * 2**20}" in log
