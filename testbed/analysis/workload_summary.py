"""Load the part of a run's summary that the workload computes, in workloads/NAME/summary.py."""

from __future__ import annotations

from typing import Protocol, cast

import polars as pl

from testbed.plan.model import Plan
from testbed.runfolder.problems import Problem
from testbed.runfolder.summary import TrainingSummary
from testbed.spec.workload import PACKAGE, workload_module


class WorkloadSummary(Protocol):
    """The module workloads/NAME/summary.py of a workload whose ranks record training steps."""

    def summarize(
        self,
        plan: Plan,
        steps: pl.DataFrame,
        ops: pl.DataFrame,
        links: pl.DataFrame,
        problems: list[Problem],
    ) -> TrainingSummary | None:
        """Return the training summary of the steps after the warm-up.

        Args:
            plan: the run's plan.
            steps: train.parquet, sorted by step and rank (`testbed.runfolder.schemas.TRAIN`).
            ops: ops.parquet (`testbed.runfolder.schemas.OPS`).
            links: links.parquet (`testbed.runfolder.schemas.LINKS`).
            problems: list to which problems are added.

        Returns:
            The section `training` of summary.json, or None without steps after the warm-up.
        """


def workload_summary(workload: str) -> WorkloadSummary | None:
    """Import the summary module of a workload, or return None if its ranks record no steps."""
    try:
        module = workload_module(workload, "summary")
    except ModuleNotFoundError as error:
        folder = f"{PACKAGE}.{workload}"
        if error.name in (folder, f"{folder}.summary"):
            return None
        raise
    return cast(WorkloadSummary, module)
