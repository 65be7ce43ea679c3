"""A script in a process that was forked after an import of torch ends as in a new interpreter.

Each program runs twice: by `python`, and as a rank runs it. Output, exit status and files must be
the same.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import testbed

# Forks for each program, as the parent of ranks does, and tells the exit statuses.
PARENT = """
import gc, json, os, signal, sys
import torch.distributed
from testbed.workloads.script.main import _installed_folders
from testbed.workloads.script.new_interpreter import renew_interpreter, renew_process
from testbed.workloads.script.program import run_program
statuses = {}
folder, *programs = sys.argv[1:]
os.environ.pop("PYTHONPATH")
gc.freeze()
for path in programs:
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        name = os.path.splitext(os.path.basename(path))[0]
        os.mkdir(os.path.join(folder, name))
        os.chdir(os.path.join(folder, name))
        log = os.open("log", os.O_WRONLY | os.O_CREAT)
        os.dup2(log, 1), os.dup2(log, 2)
        renew_process()
        kind, words = "file", [path, "--lr", "1"]
        if "module" in name:
            kind, words = "module", ["package." + name, "--lr", "1"]
        text = None
        if name.startswith("case_code"):
            kind, words = "code", ["-c", open(path).read(), "--lr", "1"]
        if name.startswith("case_input"):
            kind, words, text = "input", ["-", "--lr", "1"], open(path).read()
        module_folder = os.path.dirname(path).removesuffix("/package")
        if kind in ("code", "input"):
            module_folder = ""
        renew_interpreter([module_folder, *_installed_folders()], words)
        run_program(kind, words, text)
    statuses[os.path.basename(path)] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(json.dumps(statuses))
"""
SOURCES = Path(__file__).with_name("script_programs.txt").read_text()
PROGRAMS = dict(re.findall(r"^### (\w+)\n(.*?)(?=^###|\Z)", SOURCES, re.MULTILINE | re.DOTALL))
ADDRESS = r"0x[0-9a-f]+"
BESIDE = {
    "beside.py": "",
    "raising.py": "raise RuntimeError('in a module')\n",
    "holding.py": "file = open('file', 'w')\n",
    "package/__init__.py": "print('package')\n",
    "package/sibling.py": "VALUE = 7\n\n\ndef fail():\n    raise LookupError('sibling')\n",
}


class Ran(NamedTuple):
    """A folder with a folder for each program, and the exit statuses."""

    folder: Path
    statuses: dict[str, int]

    def outcome(self, name: str) -> tuple[int, str, dict[str, bytes]]:
        files = {
            file.name: file.read_bytes()
            for file in (self.folder / f"case_{name}").iterdir()
            if file.name != "log"
        }
        log = (self.folder / f"case_{name}/log").read_text()
        return self.statuses[f"case_{name}.py"], re.sub(ADDRESS, "0x", log), files


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("programs")
    (folder / "package").mkdir()
    for name, text in BESIDE.items():
        (folder / name).write_text(text)
    paths = []
    for name, text in PROGRAMS.items():
        parent = folder / "package" if name.startswith("module") else folder
        paths.append(parent / f"case_{name}.py")
        paths[-1].write_text(text, encoding="latin-1")
    return paths


@pytest.fixture(scope="module")
def plain(programs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("plain")
    statuses = {}
    for path in programs:
        work = folder / path.stem
        work.mkdir()
        words = [str(path)]
        environment = {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", "LANG": "C.UTF-8"}
        if "module" in path.stem:
            words = ["-m", f"package.{path.stem}"]
            environment["PYTHONPATH"] = str(path.parent.parent)
        read = None
        if path.stem.startswith("case_code"):
            words = ["-c", path.read_text()]
        if path.stem.startswith("case_input"):
            words, read = ["-"], path.read_text()
        with (work / "log").open("wb") as log:
            done = subprocess.run(
                [sys.executable, *words, "--lr", "1"],
                cwd=work,
                env=environment,
                input=read or "",
                text=True,
                stdout=log,
                stderr=log,
                check=False,
                timeout=60,
            )
        statuses[path.name] = done.returncode
    return Ran(folder, statuses)


@pytest.fixture(scope="module")
def as_rank(programs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("rank")
    done = subprocess.run(
        [sys.executable, "-c", PARENT, folder, *programs],
        env={
            "PYTHONPATH": str(Path(testbed.__file__).parent.parent),
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "LANG": "C.UTF-8",
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=120,
    )
    return Ran(folder, json.loads(done.stdout))


@pytest.mark.parametrize("name", PROGRAMS)
def test_as_by_python(name: str, plain: Ran, as_rank: Ran) -> None:
    assert as_rank.outcome(name) == plain.outcome(name)
