"""Carry out one plan, and leave a complete run folder behind, however the run ends."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from testbed.analysis.fidelity import Watched, judge
from testbed.core.errors import GuestLost, MachineError, RunError, TestbedError
from testbed.core.leftovers import Kind, note
from testbed.execution.backend import Backend, backend_for
from testbed.execution.limits import RunLimits
from testbed.execution.supervise import Progress, Watch
from testbed.execution.versions import versions
from testbed.plan.model import Plan
from testbed.runfolder.files import open_plain, replace_text
from testbed.runfolder.folder import RunDir
from testbed.runfolder.problems import Problem, ProblemCode
from testbed.runfolder.records import EVENT, Record, RunEnded, read
from testbed.runfolder.status import Status, write_status

POLL_S = 0.05
OUT_OF_MEMORY = re.compile(r"Out of memory: Killed|oom-kill:constraint=CONSTRAINT_NONE")
INTERRUPTED = 130  # exit status
CONSOLE_LINES = 15  # last lines of a console that are quoted in an error


def launch(
    plan: Plan,
    run: RunDir,
    *,
    spec: str,
    command: Sequence[str],
    limits: RunLimits,
    progress: Progress,
    resident_guest: Path | None = None,
    shared_plotly: str = "",
) -> Status:
    """Carry out a plan in a new run folder, and write its tables and report page.

    Args:
        plan: the plan of the run.
        run: the run folder.
        spec: the user's resolved input, for spec.yaml.
        command: the user's command line, to repeat the run.
        limits: limits of the run; `stall_s` also limits the wait for a resident guest.
        progress: the display.
        resident_guest: the folder of a resident guest, which contains `run`; None: the plan selects
            the backend.
        shared_plotly: path of a file with plotly, relative to the run folder, for the report page;
            empty: the page holds plotly itself.

    Returns:
        The status as written to status.json.

    Raises:
        TestbedError: the run failed or was lost; status.json contains the same message.
        KeyboardInterrupt: the user interrupted the run; the folder contains the results so far.
    """
    status = Status(command=list(command), pid=os.getpid())
    began = time.monotonic()
    write_status(run.status, status)
    replace_text(run.spec, spec)
    watch: Watch | None = None
    with ExitStack() as stack:
        try:
            backend = backend_for(plan, resident_guest=resident_guest, patience_s=limits.stall_s)
            backend.check(plan)
            stack.enter_context(note(Kind.RUN, run.path))
            backend.prepare(progress)
            plan = plan.model_copy(update={"versions": versions(backend.kernel_version())})
            run.write_plan(plan)
            if resident_guest is None:  # else the imports are warm
                _warm_up_reporting(plan)
            watch, exit_status = _carry_out(plan, run, backend, limits, progress)
            _check_end(run, backend, exit_status)
            status.state = "completed"
            status.exit_status = 0
        except TestbedError as error:
            status.state = "failed"
            status.exit_status = error.exit_status
            status.reason = str(error)
            raise
        except KeyboardInterrupt:
            status.state = "interrupted"
            status.exit_status = INTERRUPTED
            status.reason = "interrupted by the user"
            raise
        except Exception as error:
            status.state = "failed"
            status.exit_status = TestbedError.exit_status
            status.reason = f"{type(error).__name__}: {error}"
            raise
        finally:
            status.warnings += _remove_harmful_files(run)
            status.wall_seconds = round(time.monotonic() - began, 3)
            _report(plan, run, status, watch, progress, shared_plotly)
    return status


def _carry_out(
    plan: Plan, run: RunDir, backend: Backend, limits: RunLimits, progress: Progress
) -> tuple[Watch, int]:
    """Start the run and follow the run to its end.

    Returns:
        The watch over the run, and the exit status.
    """
    with backend.start(plan, run, progress) as running:
        of_script = plan.workers.workload == "script"
        watch = Watch(run, running, limits.for_plan(plan), progress, of_script=of_script)
        while (exit_status := running.status()) is None:
            watch.look()
            time.sleep(POLL_S)
        watch.look()
        watch.end()
    return watch, exit_status


def _check_end(run: RunDir, backend: Backend, exit_status: int) -> None:
    """Check that the run completed.

    Raises:
        RunError: a stage failed.
        GuestLost: the run ended without an outcome.
    """
    events: list[Record]
    events, _problems = read(run.events, EVENT)
    last = events[-1] if events else None
    if isinstance(last, RunEnded) and last.state == "failed":
        raise RunError(last.reason + _memory_hint(run))
    if exit_status != 0:
        raise GuestLost(
            f"{backend.subject} ended without finishing the run; "
            f"the end of {run.console}:\n{tail(run.console)}"
        )


def _report(
    plan: Plan,
    run: RunDir,
    status: Status,
    watch: Watch | None,
    progress: Progress,
    shared_plotly: str,
) -> None:
    """Write the tables, the status and the report page from the available records.

    Args:
        plan: the plan of the run.
        run: the run folder.
        status: the outcome of the run; completed with the judgement of the results.
        watch: the watch over the run; None if the run was aborted.
        progress: the display.
        shared_plotly: path of a file with plotly, relative to the run folder; empty: none.
    """
    from testbed.analysis.separate_hosts import separate_hosts  # noqa: PLC0415 (as the next)
    from testbed.analysis.summarize import collect  # noqa: PLC0415 (see _warm_up_reporting)
    from testbed.report.page import write_page  # noqa: PLC0415

    progress.stage("report")
    if not run.plan.exists():
        run.write_plan(plan)
    if watch is not None:
        status.stages = watch.stages
        if watch.clock.reading is not None:
            status.emulated_seconds = watch.clock.reading.time_ns / 1e9
            status.forced_ms = watch.forced_ns / 1e6
    summary = collect(run)
    for doubt in judge(plan, run, summary, status, _watched(watch)):
        status.doubt(doubt.code, doubt.message)
    for problem in summary.problems:
        if problem.code is ProblemCode.CAPTURE:
            status.warnings.append(problem)
    if status.state == "completed":
        status.warnings += separate_hosts(plan, run, summary)
    write_status(run.status, status)
    nothing_started = status.exit_status == MachineError.exit_status
    try:
        if not nothing_started:
            progress.measured()
    finally:
        write_page(run, shared_plotly)


def _watched(watch: Watch | None) -> Watched | None:
    if watch is None:
        return None
    return Watched(
        forced_ns=watch.forced_ns,
        spinner=watch.clock.spinner,
        busy=watch.load.busy,
        steal=watch.load.steal,
    )


def tail(path: Path, lines: int = CONSOLE_LINES) -> str:
    """Return the last lines of a file that a guest may write to, indented for a message.

    Args:
        path: the file; the result is empty if the file cannot be read.
        lines: number of lines.
    """
    try:
        with open_plain(path) as file:
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(f"    {line}" for line in text.splitlines()[-lines:])


def _memory_hint(run: RunDir) -> str:
    console = tail(run.console, lines=10_000)
    if OUT_OF_MEMORY.search(console):
        return "\n  the guest ran out of memory: raise --guest-memory"
    return ""


def _remove_harmful_files(run: RunDir) -> list[Problem]:
    """Remove files of the guest from the run folder that would be unsafe to follow or open."""
    removed = run.settle()
    return [Problem(code=ProblemCode.FILE_REMOVED, message=text) for text in removed]


def _warm_up_reporting(plan: Plan) -> None:
    """Import modules and outline maps on another CPU while a guest boots, which takes a second."""

    def warm_up_all() -> None:
        import testbed.analysis.summarize  # noqa: F401, PLC0415
        from testbed.report.page import warm_up  # noqa: PLC0415

        with suppress(Exception):  # the page hits the same error and reports the error
            warm_up(plan)

    threading.Thread(target=warm_up_all, daemon=True).start()
