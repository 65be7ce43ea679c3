"""Conclude a run: its tables and its summary, and whether the results are those of the plan."""

from __future__ import annotations

from testbed.analysis.fidelity import judge
from testbed.analysis.jobs import ending_of
from testbed.analysis.separate_hosts import separate_hosts
from testbed.analysis.summarize import collect
from testbed.analysis.value_decisions import value_decisions
from testbed.core.errors import RunError
from testbed.plan.model import Plan, PlannedJob
from testbed.runfolder.folder import RunDir
from testbed.runfolder.problems import DOUBTS, Problem, ProblemCode
from testbed.runfolder.records import EVENT, Event, read
from testbed.runfolder.status import Status, write_status
from testbed.runfolder.summary import Summary, read_summary

IMPLAUSIBLE = (
    ProblemCode.RECORDS_INCOMPLETE,
    ProblemCode.RECORDS_REFUSED,
    ProblemCode.CLOCK_DISORDERED,
)


def conclude(plan: Plan, run: RunDir, status: Status) -> None:
    """Write the tables and the summary of a run that has ended, and complete its status.

    Args:
        plan: the run's plan.
        run: the run folder.
        status: the outcome; gets the judgement of the results. The file is not written.

    Raises:
        OSError: the run folder cannot be written.
    """
    summary = collect(run)
    for job in plan.jobs:
        _conclude_job(plan, run, status, job)
    _judge(plan, run, summary, status)


def _conclude_job(plan: Plan, run: RunDir, status: Status, job: PlannedJob) -> None:
    """Write the status of one of several jobs; its doubts are also those of the run.

    Raises:
        OSError: the folder of the job cannot be written.
    """
    folder = run.job(job.name)
    events: list[Event]
    events, _problems = read(folder.events, EVENT)
    of_job = Status(command=status.command, faithful=None, wall_seconds=status.wall_seconds)
    of_job.state, of_job.reason = ending_of(events)
    of_job.exit_status = 0 if of_job.state == "completed" else RunError.exit_status
    of_job.measured = of_job.state == "completed"
    summary, _problems = read_summary(folder.summary)
    _judge(plan.for_job(job), folder, summary, of_job)
    write_status(folder.status, of_job)
    for warning in of_job.warnings:
        problem = Problem(code=warning.code, message=f"job {job.name}: {warning.message}")
        if problem.code is ProblemCode.INCOMPLETE:  # the run is incomplete, too
            continue
        if problem.code in DOUBTS:
            status.doubt(problem.code, problem.message)
        else:
            status.warnings.append(problem)


def _judge(plan: Plan, run: RunDir, summary: Summary, status: Status) -> None:
    """Add the judgement of the results of a run or a job to its status."""
    if status.faithful is None:
        status.faithful = True
    for doubt in judge(plan, run, summary, status):
        status.doubt(doubt.code, doubt.message)
    for problem in summary.problems:
        if problem.code is ProblemCode.CAPTURE:
            status.warnings.append(problem)
        elif problem.code in IMPLAUSIBLE and status.state == "completed":
            status.doubt(problem.code, problem.message)
    if status.state == "completed":
        status.warnings += separate_hosts(plan, run, summary)
        status.warnings += value_decisions(run)
