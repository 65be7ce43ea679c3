"""The process from which the points of a sweep are forked.

The server imports everything that a point needs once, which takes seconds. A point forked from the
server needs no imports, and a crash of one point does not affect the others.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import connection, forkserver
from multiprocessing.util import get_temp_dir
from pathlib import Path
from types import ModuleType

from testbed.core.leftovers import Kind, note
from testbed.core.linux import die_with_parent
from testbed.sweep import OWNER_VARIABLE

CONTEXT = multiprocessing.get_context("forkserver")
IMPORTED = [
    "testbed.sweep.fork_server_begin",
    "testbed.sweep.local_executor",
    "testbed.sweep.point_process",
    "testbed.analysis.summarize",
    "testbed.report.page",
    "testbed.sweep.results",
    "testbed.sweep.page",
    "testbed.sweep.outputs",
    "testbed.sweep.fork_server_ready",
]
OOM_SCORE = "500"  # of 1000; the default is 0


@contextmanager
def fork_server() -> Iterator[None]:
    """Run the fork server, with its imports in the background, until this process ends."""
    CONTEXT.set_forkserver_preload(IMPORTED)
    os.environ[OWNER_VARIABLE] = str(os.getpid())
    socket_folder = Path(get_temp_dir())
    with note(Kind.TEMPORARY, socket_folder):
        forkserver.ensure_running()
        yield


@contextmanager
def main_module_hidden() -> Iterator[None]:
    """Keep new processes from running the user's script again, within the block.

    Multiprocessing makes every new process import the script that the interpreter was called with,
    in case the process needs a name of the script. Points need none, and a script that starts a
    sweep would start another sweep in each point.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def prepare_process() -> None:
    """Make this child process end with the sweep, or when the sweep terminates the process."""
    _end_with_server()
    # Ctrl-C, or the end of a terminal, also reaches the sweep, which then ends its points.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _interrupt)
    end_first_without_memory(os.getpid())


def end_first_without_memory(pid: int) -> None:
    """Make the kernel's OOM killer choose process `pid` and its children before the sweep."""
    with suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text(OOM_SCORE)


def _end_with_server() -> None:
    """End this process with its parent, the fork server, and with the sweep."""
    die_with_parent()
    sweep = multiprocessing.parent_process()
    if sweep is not None:
        threading.Thread(target=_end_with, args=(sweep.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os.kill(os.getpid(), signal.SIGKILL)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt
