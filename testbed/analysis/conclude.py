"""Conclude a run: its tables and its summary, and whether the results are those of the plan."""

from __future__ import annotations

from testbed.analysis.fidelity import judge
from testbed.analysis.separate_hosts import separate_hosts
from testbed.analysis.summarize import collect
from testbed.analysis.value_decisions import value_decisions
from testbed.plan.model import Plan
from testbed.runfolder.folder import RunDir
from testbed.runfolder.problems import ProblemCode
from testbed.runfolder.status import Status

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
