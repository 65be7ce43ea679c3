"""Carry out one plan, and leave a complete run folder behind, however the run ends."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

from testbed.analysis.fidelity import Watched, judge_watched
from testbed.analysis.workload_summary import workload_cautions
from testbed.core.errors import DiskFull, GuestLost, MachineError, RunError, TestbedError
from testbed.core.full_disk import has_space, write_failure
from testbed.core.held_signals import HeldSignals
from testbed.core.leftovers import Kind, note
from testbed.execution.alone import is_asked_for, measure_alone
from testbed.execution.backend import Backend, backend_for
from testbed.execution.limits import RunLimits, show_notice
from testbed.execution.machines import Machines
from testbed.execution.progress import SilentProgress
from testbed.execution.supervise import Progress, Watch
from testbed.execution.versions import versions
from testbed.plan.model import Plan
from testbed.runfolder.files import last_lines, replace_text, replacing_alone
from testbed.runfolder.folder import RunDir, below_run
from testbed.runfolder.problems import Problem, ProblemCode
from testbed.runfolder.records import EVENT, Record, RunEnded, read
from testbed.runfolder.status import (
    WITHOUT_REPORT,
    Status,
    commit_status,
    release_room,
    reserve_room,
    with_report,
    write_status,
)

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
    machines: Machines | None = None,
    shared_plotly: str = "",
) -> Status:
    """Carry out a plan in a new run folder, and write its tables and report page.

    Several jobs then run alone, too, in folders below that of the run, if the plan asks for it.

    The outcome is committed to status.json as soon as the run ends, before the report is made, and
    again after the report. Signals and a full disk may prevent the report, but no commit.

    Args:
        plan: the plan of the run.
        run: the run folder.
        spec: the user's resolved input, for spec.yaml.
        command: the user's command line, to repeat the run.
        limits: limits of the run; `stall_s` also limits the wait for a resident guest.
        progress: the display.
        resident_guest: the folder of a resident guest, which contains `run`; None: the plan selects
            the backend.
        machines: the machines that run the plan's guests; None: only this one.
        shared_plotly: path of a file with plotly, relative to the run folder, for the report page;
            empty: the page holds plotly itself.

    Returns:
        The status as written to status.json.

    Raises:
        TestbedError: the run failed or was lost; status.json contains the same message.
        MachineError: a file of the run could not be written.
        KeyboardInterrupt: the user interrupted the run; the folder contains the results so far.
    """
    status = Status(command=list(command), pid=os.getpid())
    job = _Job(plan, run, limits, progress, resident_guest, machines)
    began = time.monotonic()
    with HeldSignals() as signals, ExitStack() as stack:
        _begin(run, status, spec, stack)
        for caution in workload_cautions(plan):
            show_notice(progress, f"warning: {caution}")
            status.warnings.append(caution)

        failure: BaseException | None = None
        try:
            with signals.raised():
                job.carry_out()
        except BaseException as error:
            failure = _failure_of_run(error, job)

        _note_end(status, failure, job)
        status.wall_seconds = round(time.monotonic() - began, 3)
        _commit(run, status)
        if failure is None and is_asked_for(plan):

            def launch_alone(plan_alone: Plan, folder: RunDir) -> Status:
                return launch(
                    plan_alone,
                    folder,
                    spec=spec,
                    command=command,
                    limits=limits,
                    progress=SilentProgress(),
                    resident_guest=resident_guest,
                    shared_plotly=below_run(shared_plotly),
                )

            try:
                with signals.raised():
                    show = partial(show_notice, progress)
                    status.warnings += measure_alone(plan, run, launch_alone, show)
            except BaseException as error:
                failure = error

        try:
            with signals.raised():
                status = _report(job, status, shared_plotly)
        except BaseException as error:
            missing = _failure_of_report(error, run)
            _note_missing_report(status, failure, missing)
            failure = _heavier(failure, missing)

        unwritten = _commit(run, status)
        release_room(run.status)
        if failure is None or job.has_started:
            with signals.raised():
                progress.measured()
        if failure is not None:
            raise failure
        if unwritten is not None:
            raise unwritten
    return status


class _Job:
    """The part of a run between the first and the second commit of its status.

    Attributes:
        plan: the plan; gets the versions of what carries it out.
        run: the run folder.
        progress: the display.
        watch: the watch over the run, once the run has ended by itself.
        has_started: whether the backend has begun to carry out the plan.
    """

    def __init__(
        self,
        plan: Plan,
        run: RunDir,
        limits: RunLimits,
        progress: Progress,
        resident_guest: Path | None,
        machines: Machines | None,
    ) -> None:
        self.plan = plan
        self.run = run
        self.progress = progress
        self.watch: Watch | None = None
        self.has_started = False
        self._limits = limits
        self._resident_guest = resident_guest
        self._machines = machines

    def carry_out(self) -> None:
        """Carry out the plan, and check that the run completed.

        Raises:
            TestbedError: the run failed or was lost.
            OSError: a file could not be written.
        """
        backend = backend_for(
            self.plan,
            resident_guest=self._resident_guest,
            patience_s=self._limits.stall_s,
            machines=self._machines,
        )
        backend.check(self.plan)
        backend.prepare(self.progress)
        kernel = backend.kernel_version()
        self.plan = self.plan.model_copy(update={"versions": versions(kernel)})
        self.run.write_plan(self.plan)
        self.run.make_jobs(self.plan)
        exit_status = self._follow(backend)
        _check_end(self.run, backend, exit_status)

    def _follow(self, backend: Backend) -> int:
        """Start the run and follow the run to its end; return the exit status."""
        plan, run, progress = self.plan, self.run, self.progress
        with backend.start(plan, run, progress) as running:
            self.has_started = True
            if self._resident_guest is None:  # else the imports are warm
                _warm_up_reporting(plan)
            of_script = plan.workers.workload == "script"
            limits = self._limits.for_plan(plan)
            rank_0, _number = run.of_rank(plan, 0)
            watch = Watch(run, running, limits, progress, of_script=of_script, rank_0=rank_0)
            while (exit_status := running.status()) is None:
                watch.look()
                time.sleep(POLL_S)
            watch.look()
            watch.end()
        self.watch = watch
        return exit_status


def _begin(run: RunDir, status: Status, spec: str, stack: ExitStack) -> None:
    """Write the first files of a run, with room for its last one, and keep a note until the end.

    Raises:
        StorageError: the folder or the note cannot be written.
    """
    try:
        stack.enter_context(note(Kind.RUN, run.path))
        reserve_room(run.status)
        write_status(run.status, status)
        replace_text(run.spec, spec)
    except OSError as error:
        run.empty()
        doing = f"cannot write the run folder {run.path}"
        raise write_failure(error, doing, "nothing was started") from error


def _failure_of_run(error: BaseException, job: _Job) -> BaseException:
    """Return the error that ends a run: of a failed write, what is kept and how to go on."""
    run = job.run
    remedy = "nothing was started"
    if job.has_started:
        remedy = (
            f"kept: what was recorded until then, in {run.path}; missing: the rest of the run\n"
            "  check the disk and its free space, and run the same command again with another run "
            "folder"
        )
    if isinstance(error, OSError):
        failure = write_failure(error, "a file of the run could not be written or read", remedy)
        failure.__cause__ = error
        return failure
    if isinstance(error, RunError | GuestLost) and not has_space(run.path):
        full = DiskFull(f"{error}\n  the disk of {run.path} is full\n  {remedy}")
        full.__cause__ = error
        return full
    return error


def _note_end(status: Status, failure: BaseException | None, job: _Job) -> None:
    """Write the end of a run into its status; until there is a report, no run is completed."""
    status.warnings += _remove_harmful_files(job.run)
    status.faithful = None
    _note_failure(status, failure)
    if failure is None:
        status.state = "interrupted"
        status.measured = True
        status.reason = f"{WITHOUT_REPORT}; {_remedy(job.run)}"

    watch = job.watch
    if watch is None:
        return
    status.stages = watch.stages
    if watch.clock.reading is not None:
        status.emulated_seconds = watch.clock.reading.time_ns / 1e9
        status.forced_ms = watch.forced_ns / 1e6
    for doubt in judge_watched(job.plan, job.run, _watched(watch)):
        status.doubt(doubt.code, doubt.message)


def _note_failure(status: Status, failure: BaseException | None) -> None:
    """Write why a run, or its report, did not end well into the status."""
    if failure is None:
        return
    status.state = "failed"
    status.exit_status = TestbedError.exit_status
    status.reason = f"{type(failure).__name__}: {failure}"
    if isinstance(failure, TestbedError):
        status.exit_status = failure.exit_status
        status.reason = str(failure)
    elif isinstance(failure, KeyboardInterrupt):
        status.state = "interrupted"
        status.exit_status = INTERRUPTED
        status.reason = "interrupted by the user"


def _report(job: _Job, status: Status, shared_plotly: str) -> Status:
    """Write the tables and the report page from the available records.

    Args:
        job: the run.
        status: the outcome of the run.
        shared_plotly: path of a file with plotly, relative to the run folder; empty: none.

    Returns:
        The status of the run with its report.

    Raises:
        OSError: the run folder cannot be written.
    """
    from testbed.analysis.conclude import conclude  # noqa: PLC0415 (see _warm_up_reporting)
    from testbed.report.page import write_page  # noqa: PLC0415

    run = job.run
    job.progress.stage("report")
    concluded = with_report(status)
    with replacing_alone(run.path):
        if not run.plan.exists():
            run.write_plan(job.plan)
            run.make_jobs(job.plan)
        conclude(job.plan, run, concluded)
        write_page(run, shared_plotly, concluded)
    return concluded


def _failure_of_report(error: BaseException, run: RunDir) -> BaseException:
    """Return the error that reports a missing report."""
    if isinstance(error, MemoryError):
        return MachineError(f"there was not enough memory for the report\n  {_remedy(run)}")
    if not isinstance(error, OSError):
        return error
    doing = f"the report of {run.path} could not be written"
    failure = write_failure(error, doing, _remedy(run))
    failure.__cause__ = error
    return failure


def _remedy(run: RunDir) -> str:
    """Return what of a run's results is kept, what is missing, and how to make it."""
    parts = ["kept: the records of the run (raw/)"]
    missing: list[str] = []
    for path in (run.summary, run.trace, run.report):
        if not path.exists():
            missing.append(path.name)
    if missing:
        parts.append(f"missing: {', '.join(missing)}")
    parts.append(f"make the report with: testbed report {run.path}")
    return "; ".join(parts)


def _note_missing_report(
    status: Status, failure: BaseException | None, missing: BaseException
) -> None:
    """Write into the status why a run has no report."""
    reason = status.reason
    if failure is None:
        _note_failure(status, missing)
        reason = WITHOUT_REPORT
    elif isinstance(missing, DiskFull):
        status.exit_status = missing.exit_status
    if isinstance(missing, TestbedError):
        status.reason = f"{reason}\n  {missing}"
    elif failure is None:
        status.reason = f"{reason}: {status.reason}"
    status.doubt(ProblemCode.INCOMPLETE, f"the run has no report: {missing}".splitlines()[0])


def _heavier(failure: BaseException | None, missing: BaseException) -> BaseException:
    """Return the error to raise for a run that failed (or None) and has no report."""
    if failure is None:
        return missing
    if isinstance(missing, DiskFull):
        both = DiskFull(f"{failure or 'interrupted'}\n  {missing}")
        both.__cause__ = failure
        return both
    return failure


def _commit(run: RunDir, status: Status) -> MachineError | None:
    """Write status.json; return the error if that is impossible."""
    try:
        commit_status(run.status, status)
    except OSError as error:
        outcome = f"the outcome was: {status.state}"
        if status.reason:
            outcome += f", {status.reason}"
        return write_failure(error, f"cannot write {run.status}", outcome)
    return None


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
        lost = (
            f"{backend.subject} ended without finishing the run; "
            f"the end of {run.console}:\n{tail(run.console)}"
        )
        healed = backend.heal()
        if healed:
            lost += f"\n  damaged in the cache and removed: {healed}; run the same command again"
        raise GuestLost(lost)


def _watched(watch: Watch) -> Watched:
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
        text = last_lines(path, lines)
    except OSError:
        return ""
    return "\n".join(f"    {line}" for line in text.splitlines())


def _memory_hint(run: RunDir) -> str:
    console = tail(run.console, lines=10_000)
    if OUT_OF_MEMORY.search(console):
        return "\n  the guest ran out of memory: raise --guest-memory"
    return ""


def _remove_harmful_files(run: RunDir) -> list[Problem]:
    """Remove files of the guest from the run folder that would be unsafe to follow or open."""
    try:
        removed = run.settle()
    except OSError as error:
        text = f"a file that hosts left could not be made harmless: {error}"
        return [Problem(code=ProblemCode.FILE_REMOVED, message=text)]
    return [Problem(code=ProblemCode.FILE_REMOVED, message=text) for text in removed]


def _warm_up_reporting(plan: Plan) -> None:
    """Import modules and outline maps on another CPU while a guest boots, which takes a second."""

    def warm_up_all() -> None:
        import testbed.analysis.summarize  # noqa: F401, PLC0415
        from testbed.report.page import warm_up  # noqa: PLC0415

        with suppress(Exception):  # the page hits the same error and reports the error
            warm_up(plan)

    threading.Thread(target=warm_up_all, daemon=True).start()
