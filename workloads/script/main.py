"""Run the user's script in a rank: a Python file or module in this process, or a command via exec.

This process is a fork of a process that has imported torch. The script must see a fresh
interpreter, so this module sets ``__main__``, ``sys.argv`` and ``sys.path[0]``, runs the
interpreter's exit handlers, and returns the exit status. Python processes that the script or
command starts find `testbed.workers.hook` on their PYTHONPATH, so that these processes are recorded
too.
"""

from __future__ import annotations

import contextlib
import os
import random
import runpy
import sys
from pathlib import Path
from string import Template
from types import TracebackType
from typing import NoReturn

import torch
from testbed.workloads.script.host_programs import (
    LAUNCHER_ENVIRONMENT,
    PROGRAMS,
    write_programs,
)

from testbed.core.compat.interpreter_exit import finish_interpreter
from testbed.workers import remote_shell
from testbed.workers.observer import BEGUN, observe_as, observed_environment
from testbed.workers.workload import RankContext

RECORDS_ITSELF = True  # `observe` records the operations
INTERRUPTED = 130
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


def main(context: RankContext) -> int:
    """Run the plan's program in the host's working folder, and return the exit status."""
    workers = context.plan.workers
    rank = context.planned_rank
    kind = context.settings["kind"]
    words = context.settings["command"]
    work = _enter_host(context)
    if context.settings["events_from"] == "start":
        with contextlib.closing(context.recorder) as recorder:
            recorder.begin()

        os.environ[BEGUN] = "yes"

    print(
        f"testbed: rank {rank.rank} of {context.world_size} on {rank.host}, in {work}; process "
        f"groups time out after {workers.timeout_s} s by default",
        file=sys.stderr,
        flush=True,
    )
    if kind == "command":
        added = context.settings["added"]
        filled = [_filled(word) if place in added else word for place, word in enumerate(words)]
        os.execvp(filled[0], filled)

    _look_like_a_new_interpreter(words, context.settings["folder"] or str(work), context)
    _seed(context.plan.seed, rank.rank)
    torch.set_num_threads(1)
    observe_as(rank.rank)

    return run_as_main(kind, words[0])


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
    if settings["kind"] == "command" and settings["folder"]:
        _put_first("PYTHONPATH", settings["folder"])

    os.environ.update(observed_environment(context.run, workers.timeout_s))
    _put_first("PATH", str(Path(sys.executable).parent))
    os.environ["PYTHONUNBUFFERED"] = "1"
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


def _look_like_a_new_interpreter(words: list[str], folder: str, context: RankContext) -> None:
    """Set buffering, sys.path and sys.argv as an interpreter does when it starts.

    Args:
        words: the script and its arguments.
        folder: the first folder in which Python looks for modules.
        context: context of the rank.
    """
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    python_path = context.plan.workers.environment.get("PYTHONPATH", "")
    sys.path[:1] = [folder, *filter(None, python_path.split(os.pathsep))]
    sys.argv = list(words)


def _seed(seed: int, rank: int) -> None:
    """Seed random numbers by run and rank, because fresh interpreters draw different numbers."""
    random.seed(f"{seed}/{rank}")
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(random.getrandbits(32))


def run_as_main(kind: str, name: str) -> int:
    """Run a program as ``__main__``, followed by the program's exit handlers.

    Args:
        kind: ``file`` or ``module``.
        name: name of the file or module.

    Returns:
        The exit status.
    """
    try:
        if kind == "file":
            runpy.run_path(name, run_name="__main__")
        else:
            runpy.run_module(name, run_name="__main__", alter_sys=True)

        status = 0
    except SystemExit as stop:
        status = _exit_status(stop.code)
    except KeyboardInterrupt:
        status = INTERRUPTED
    except BaseException as error:
        trace = _trace_of_script(error.__traceback__)
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        status = 1

    finish_interpreter()
    return status


def _exit_status(code: object) -> int:
    """Return the exit status for a SystemExit's code, as Python does (`sys.exit`)."""
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF

    print(code, file=sys.stderr)
    return 1


def _trace_of_script(trace: TracebackType | None) -> TracebackType | None:
    """Return a traceback without the calls that lead to the script."""
    leading_files = (__file__, runpy.__file__, "<frozen runpy>")
    while trace is not None and trace.tb_next is not None:
        if trace.tb_frame.f_code.co_filename not in leading_files:
            break

        trace = trace.tb_next

    return trace
