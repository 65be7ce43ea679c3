"""Run each of several jobs alone, to show what the jobs cost each other."""

from __future__ import annotations

from collections.abc import Callable

from testbed.core.errors import TestbedError
from testbed.plan.model import Plan, PlannedJob
from testbed.runfolder.folder import RunDir
from testbed.runfolder.problems import Problem, ProblemCode
from testbed.runfolder.status import Status

Launch = Callable[[Plan, RunDir], Status]
ALONE = "alone"  # setting of the workload jobs, and stage of the run


def is_asked_for(plan: Plan) -> bool:
    """Return whether the jobs of a plan also run alone."""
    return bool(plan.jobs) and bool(plan.workers.settings[ALONE])


def measure_alone(
    plan: Plan, run: RunDir, launch: Launch, show: Callable[[str], None]
) -> list[Problem]:
    """Carry out the plan of each job alone, in a run folder below that of the run.

    Args:
        plan: the plan of the run.
        run: the run folder.
        launch: function that carries out a plan in a new run folder.
        show: function that shows a message.

    Returns:
        A problem for each job that could not be measured alone, or not faithfully.
    """
    problems: list[Problem] = []
    for job in plan.jobs:
        show(f"running job {job.name} alone")
        reason = _why_not_measured(plan, job, run, launch)
        if reason:
            message = f"job {job.name} alone: {reason}"
            problems.append(Problem(code=ProblemCode.JOB_NOT_ALONE, message=message))
    return problems


def _why_not_measured(plan: Plan, job: PlannedJob, run: RunDir, launch: Launch) -> str:
    """Run a job alone, and return why its figures do not count; empty if they do."""
    folder = run.alone(job.name)
    try:
        status = launch(plan.alone(job), RunDir.create(folder.path))
    except TestbedError as error:
        return f"the run failed: {error}"
    if status.faithful is False:
        return f"not faithful ({', '.join(status.doubts)})"
    return ""
