"""The outcome of each of several jobs, as the last event in the job's folder."""

from __future__ import annotations

import time
from collections.abc import Mapping

from testbed.plan.model import Plan, PlannedJob
from testbed.runfolder.folder import RunDir
from testbed.runfolder.records import RankExit, RunEnded, append


class JobEnds:
    """Writer of the exits and the outcomes of several jobs."""

    def __init__(self, run: RunDir, plan: Plan) -> None:
        self._run = run
        self._plan = plan
        self._going_on = list(plan.jobs)

    def note_exit(self, record: RankExit) -> None:
        """Write the exit of a rank into the folder of its job; nothing without several jobs."""
        job = self._plan.job_of(record.rank)
        if job is not None:
            of_job = RankExit(rank=record.rank - job.first, status=record.status)
            append(self._run.job(job.name).rank_exits, of_job)

    def note_ends(self, running: set[int], failures: Mapping[str, str]) -> None:
        """Write the outcomes of the jobs that have ended since the last call.

        Args:
            running: the ranks that are running, by their numbers among those of all jobs.
            failures: why each failed job failed, by its name.
        """
        for job in list(self._going_on):
            if running.isdisjoint(job.all_ranks()):
                self._going_on.remove(job)
                self._note_end(job, failures.get(job.name))

    def _note_end(self, job: PlannedJob, failure: str | None) -> None:
        events = self._run.job(job.name).events
        if failure is None:
            append(events, RunEnded(state="completed", time_ns=time.time_ns()))
        else:
            append(events, RunEnded(state="failed", reason=failure, time_ns=time.time_ns()))
