"""The program `testbed`, whose runs need no guest: a backend writes the records of a run at once.

usage: python -m tests.support.recorded WORD...    as `testbed WORD...`

Everything else is the testbed's: the command line, the run folder, the report, the sweep.
The variable RECORDED_SECONDS says how long a run goes on after its records are written (0).
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from testbed.core.leftovers import Note
from testbed.execution import launch
from testbed.execution.supervise import Progress
from testbed.plan.model import Plan
from testbed.runfolder.folder import RunDir
from testbed.runfolder.records import RunEnded, append
from testbed.sweep import fork_server
from tests.support.synthetic import START_NS, write_links, write_ops, write_round_trips


class RecordedRun:
    """A run that ends after some seconds of wall time."""

    def __init__(self) -> None:
        self._end = time.monotonic() + float(os.environ.get("RECORDED_SECONDS", "0"))

    def status(self) -> int | None:
        return 0 if time.monotonic() >= self._end else None

    def clock(self) -> None:
        return None

    def cpu_seconds(self) -> float:
        return 0.0


class RecordedBackend:
    """A backend whose runs are over once their records are written."""

    subject = "the recorded run"

    def check(self, plan: Plan) -> None:
        """Everything is there."""

    def prepare(self, progress: Progress) -> None:
        """Nothing is needed."""

    def heal(self) -> str:
        return ""

    def kernel_version(self) -> str:
        return "recorded"

    @contextmanager
    def start(self, plan: Plan, run: RunDir, progress: Progress) -> Iterator[RecordedRun]:
        progress.stage("boot")
        write_ops(run, plan)
        write_links(run, plan)
        write_round_trips(run, plan)
        append(run.events, RunEnded(state="completed", time_ns=START_NS))
        progress.stage("ops")
        yield RecordedRun()

    @staticmethod
    def clean_up(left: Note) -> None:
        """Nothing is left."""


def use_recorded_backend() -> None:
    """Make the runs of this process recorded ones."""

    def backend_for(plan: Plan, **options: object) -> RecordedBackend:
        return RecordedBackend()

    vars(launch)["backend_for"] = backend_for


if __name__ == "__main__":
    use_recorded_backend()
    fork_server.IMPORTED.append("tests.support.recorded_preload")
    from testbed.__main__ import main

    main()
