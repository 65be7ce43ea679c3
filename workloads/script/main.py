"""Run the user's script in a rank: a Python file or module in this process, or a command via exec.

This process is a fork of a process that has imported torch, and takes on the state of a new
interpreter. A script that could notice the imports gets a new interpreter via exec. Python
processes that the script or command starts find `testbed.workers.hook` on their PYTHONPATH, so that
these processes are recorded too.
"""

from __future__ import annotations

import contextlib
import os
import site
import sys
from pathlib import Path
from string import Template
from typing import NoReturn

from testbed.workloads.script.host_programs import (
    LAUNCHER_ENVIRONMENT,
    PROGRAMS,
    write_programs,
)
from testbed.workloads.script.new_interpreter import (
    execute,
    renew_interpreter,
    renew_process,
    seed_generators,
    shadowed_modules,
)
from testbed.workloads.script.program import run_program
from testbed.workloads.script.python_code import encoded_source

import testbed
from testbed.workers import remote_shell
from testbed.workers.observer import BEGUN, HOOK, observe_as, observed_environment
from testbed.workers.workload import RankContext

RECORDS_ITSELF = True  # `observe` records the operations
# Variables that Python, the C library and the testbed's modules have read before torch is imported.
EARLY_VARIABLES = ("PYTHON", "LD_", "GLIBC_", "MALLOC_", "LC_", "LANG", "TZ", "PYDANTIC_")
HANDLED_VARIABLES = ("PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE")
# Variables of one rank, which programs that start ranks on several hosts must not inherit.
OF_ONE_RANK = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "GROUP_WORLD_SIZE",
    "ROLE_NAME",
    "ROLE_RANK",
    "ROLE_WORLD_SIZE",
    "TORCHELASTIC_RUN_ID",
    "TORCHELASTIC_RESTART_COUNT",
    "TORCHELASTIC_MAX_RESTARTS",
    "TORCHELASTIC_USE_AGENT_STORE",
)


def main(context: RankContext) -> None:
    """Run the plan's program in the host's working folder, and end as the program ends."""
    workers = context.plan.workers
    rank = context.planned_rank
    kind = context.settings["kind"]
    words = context.settings["command"]
    work = _enter_host(context)
    if context.settings["events_from"] == "start":
        with contextlib.closing(context.recorder) as recorder:
            recorder.begin()

        os.environ[BEGUN] = "yes"

    _announce(
        f"rank {rank.rank} of {context.world_size} on {rank.host}, in {work}; process groups time "
        f"out after {workers.timeout_s} s by default"
    )
    renew_process()
    if kind == "command":
        added = context.settings["added"]
        execute([_filled(word) if place in added else word for place, word in enumerate(words)])

    source = context.settings["source"]
    python_path = workers.environment.get("PYTHONPATH", "")
    folder = context.settings["folder"]
    module_folders = [folder or str(work)]
    if kind in ("code", "input") and folder:
        module_folders = [str(work), folder]

    module_folders += filter(None, python_path.split(os.pathsep))
    reason = _reason_for_new_interpreter(context, module_folders)
    if reason:
        _announce(f"starting a new Python interpreter, because {reason}")
        if kind == "module":
            os.environ["PYTHONPATH"] = os.pathsep.join([str(HOOK), *module_folders])
            execute([sys.executable, "-m", *words])

        if kind in ("code", "input"):
            os.environ["PYTHONPATH"] = os.pathsep.join([str(HOOK), *module_folders[1:]])

        if kind == "input":
            _put_on_standard_input(source)

        execute([sys.executable, *words])

    if kind in ("code", "input"):
        module_folders[0] = ""  # the working folder, as Python writes it for code

    renew_interpreter([*module_folders, *_installed_folders()], words)
    seed_generators(context.plan.seed, rank.rank)
    observe_as(rank.rank)
    run_program(kind, words, source)


def _announce(text: str) -> None:
    print(f"testbed: {text}", file=sys.stderr, flush=True)


def _installed_folders() -> list[str]:
    """Return `sys.path` without the entries that this process has besides Python's."""
    project = str(Path(testbed.__file__).parent.parent)
    added = set() if project in site.getsitepackages() else {project}
    return [folder for folder in sys.path[1:] if folder not in added]


def _reason_for_new_interpreter(context: RankContext, module_folders: list[str]) -> str:
    """Return why the program could notice what this process has done before; empty if it cannot."""
    for name in shadowed_modules(module_folders):
        return f"the script's folders have a module {name}, as Python or a package has"

    for name in context.plan.workers.environment:
        if name.startswith(EARLY_VARIABLES) and name not in HANDLED_VARIABLES:
            return f"Python reads {name} when it starts"

    for name in context.settings["early_variables"]:
        return f"the script sets {name} before torch reads it"

    return ""


def _put_on_standard_input(source: str) -> None:
    """Make a script's text the standard input of this process."""
    file = os.memfd_create("script")
    with os.fdopen(os.dup(file), "wb") as stream:
        stream.write(encoded_source(source))

    os.lseek(file, 0, os.SEEK_SET)
    os.dup2(file, 0)


def serve(context: RankContext) -> NoReturn:
    """Run commands of other hosts on this host, until this process is ended."""
    work = _enter_host(context)
    for name in OF_ONE_RANK:
        os.environ.pop(name, None)

    remote_shell.serve(os.environ, work)


def _enter_host(context: RankContext) -> Path:
    """Enter the host's working folder, and set the environment of its programs.

    Returns:
        The working folder.
    """
    workers = context.plan.workers
    settings = context.settings
    work = context.run.work(None if settings["shared_folder"] else context.planned_rank.host)
    work.mkdir(parents=True, exist_ok=True)
    os.chdir(work)
    if "PYTHONPATH" not in workers.environment:
        os.environ.pop("PYTHONPATH", None)  # the testbed's, which the hook finds itself

    if settings["kind"] == "command" and settings["folder"]:
        _put_first("PYTHONPATH", settings["folder"])

    os.environ.update(observed_environment(context.run, workers.timeout_s))
    _put_first("PATH", str(Path(sys.executable).parent))
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    if workers.remote_shells or workers.from_first_host:
        write_programs(context.plan.workers.ranks)
        _put_first("PATH", str(PROGRAMS))
        os.environ.update(LAUNCHER_ENVIRONMENT)

    for name, value in settings["environment"].items():
        os.environ[name] = _filled(value)

    if workers.from_first_host:
        for name in OF_ONE_RANK:
            os.environ.pop(name, None)

    return work


def _put_first(variable: str, folder: str) -> None:
    """Put a folder in front of a list of folders in the environment."""
    others = os.environ.get(variable, os.defpath if variable == "PATH" else "")
    os.environ[variable] = os.pathsep.join(filter(None, [folder, others]))


def _filled(text: str) -> str:
    """Return a text with the values of the environment variables that it names."""
    return Template(text).substitute(os.environ)
