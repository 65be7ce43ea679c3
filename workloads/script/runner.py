"""The user's script in a rank: a Python file or module in this process, or a command in its place.

This process is a fork of one that has imported torch. It is made to look like a fresh interpreter
that was called with the script: ``__main__``, ``sys.argv``, ``sys.path[0]``, what is left to do at
the end, the exit status. Python processes that the script or command starts find
`testbed.workers.hook` on their PYTHONPATH, which has them recorded.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import random
import runpy
import sys
import threading
from datetime import timedelta
from pathlib import Path
from types import TracebackType

import torch
import torch.distributed.distributed_c10d as c10d

from testbed.plan.model import Plan, Rank
from testbed.runfolder.folder import RunDir
from testbed.workers.dispatcher import Interception
from testbed.workers.recorder import Recorder

HOOK = Path(__file__).parent / "hook"
RUN, FIRST_RANK, TIMEOUT = "TESTBED_RUN_FOLDER", "TESTBED_FIRST_RANK", "TESTBED_TIMEOUT_S"
BEGUN = "TESTBED_BEGUN"  # set if the run's events count already, whatever the script does
INTERRUPTED = 130

_interceptions: list[Interception] = []  # of this process: at most one, which lasts


def run_script(run: RunDir, plan: Plan, rank: Rank) -> int:
    """Run what the plan names as `rank`, in the host's working folder; returns the exit status."""
    workers = plan.workers
    kind, words, folder = (workers.settings[key] for key in ("kind", "command", "folder"))
    work = run.work(None if workers.settings["shared_folder"] else rank.host)
    work.mkdir(parents=True, exist_ok=True)
    os.chdir(work)
    os.environ.update(_environment(run, rank, workers.timeout_s))
    if workers.settings["events_from"] == "start":
        with contextlib.closing(Recorder(run, rank.rank)) as recorder:
            recorder.begin()
        os.environ[BEGUN] = "yes"
    print(
        f"testbed: rank {rank.rank} of {len(workers.ranks)} on {rank.host}, in {work}; process groups time out after "
        f"{workers.timeout_s} s, unless the script says otherwise",
        file=sys.stderr,
        flush=True,
    )
    if kind == "command":
        os.execvp(words[0], words)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    wanted = workers.environment.get("PYTHONPATH", "").split(
        os.pathsep
    )  # an interpreter reads it when it starts
    sys.path[:1] = [folder or str(work), *filter(None, wanted)]
    sys.argv = list(words)
    _seed(plan.seed, rank.rank)
    torch.set_num_threads(1)
    observe()
    return run_as_main(kind, words[0])


def observe() -> None:
    """Record what this process does with torch.distributed, and give process groups the plan's
    timeout by default.

    Raises:
        RuntimeError: the host has more ranks than the plan knows of.
    """
    if _interceptions:
        return
    local_rank, per_host = (
        int(os.environ.get("LOCAL_RANK", "0")),
        int(os.environ["TESTBED_RANKS_PER_HOST"]),
    )
    if local_rank >= per_host:
        raise RuntimeError(
            f"testbed: LOCAL_RANK is {local_rank}, but a host of this run has {per_host} ranks: say --nproc-per-host"
        )
    recorder = Recorder(RunDir(Path(os.environ[RUN])), int(os.environ[FIRST_RANK]) + local_rank)
    begin = (lambda: None) if BEGUN in os.environ else recorder.begin
    _interceptions.append(Interception(recorder.record, "script", begin))
    atexit.register(_interceptions[0].settle)
    c10d.default_pg_timeout = timedelta(seconds=int(os.environ[TIMEOUT]))


def _environment(run: RunDir, rank: Rank, timeout_s: int) -> dict[str, str]:
    places = [str(HOOK), os.environ.get("PYTHONPATH", "")]
    commands = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    return {
        RUN: str(run.path),
        FIRST_RANK: str(rank.rank - rank.local_rank),
        TIMEOUT: str(timeout_s),
        "PATH": os.pathsep.join(commands),
        "PYTHONPATH": os.pathsep.join(filter(None, places)),
        "PYTHONUNBUFFERED": "1",
    }


def _seed(seed: int, rank: int) -> None:
    """A fresh interpreter draws other numbers than its neighbours; here they depend on the run's
    seed.
    """
    random.seed(f"{seed}/{rank}")
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(random.getrandbits(32))


def run_as_main(kind: str, name: str) -> int:
    """Run the file or module `name` as ``__main__``, and what it leaves to its end; returns the
    exit status.
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
        trace = _of_the_script(error.__traceback__)
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    return status


def _exit_status(code: object) -> int:
    """As Python's own (`sys.exit`)."""
    if code is None or isinstance(code, int):
        return (code or 0) & 0xFF
    print(code, file=sys.stderr)
    return 1


def _of_the_script(trace: TracebackType | None) -> TracebackType | None:
    """Without the calls that lead to the script."""
    own = (__file__, runpy.__file__, "<frozen runpy>")
    while (
        trace is not None and trace.tb_next is not None and trace.tb_frame.f_code.co_filename in own
    ):
        trace = trace.tb_next
    return trace
