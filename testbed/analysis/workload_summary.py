"""What a workload adds to the summary of a run: the module `summary` of the workload's folder."""

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
        """Sum up the steps after the warm-up.

        Args:
            plan: what was to be done.
            steps: train.parquet, by step and rank (`testbed.runfolder.schemas.TRAIN`).
            ops: ops.parquet (`testbed.runfolder.schemas.OPS`).
            links: links.parquet (`testbed.runfolder.schemas.LINKS`).
            problems: where problems are added.

        Returns:
            The section `training` of summary.json; None without such steps.
        """


def workload_summary(workload: str) -> WorkloadSummary | None:
    """Import the summary module of a workload; None if its ranks record no training steps."""
    try:
        module = workload_module(workload, "summary")
    except ModuleNotFoundError as error:
        folder = f"{PACKAGE}.{workload}"
        if error.name in (folder, f"{folder}.summary"):
            return None
        raise
    return cast(WorkloadSummary, module)
