"""Load what a workload says of its runs, in its modules summary.py and cautions.py."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Protocol, cast

from testbed.plan.model import Plan
from testbed.runfolder.problems import Problem
from testbed.runfolder.summary import TrainingSummary
from testbed.spec.workload import PACKAGE, workload_module

if TYPE_CHECKING:
    import polars as pl


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


class WorkloadCautions(Protocol):
    """The module workloads/NAME/cautions.py of a workload that knows problems before a run."""

    def cautions(self, plan: Plan) -> list[Problem]:
        """Return what a run of the plan will not achieve."""


def workload_summary(workload: str) -> WorkloadSummary | None:
    """Import the summary module of a workload, or return None if its ranks record no steps."""
    return cast(WorkloadSummary | None, _module_if_any(workload, "summary"))


def workload_cautions(plan: Plan) -> list[Problem]:
    """Return what the workload of a plan knows to be a problem before the run."""
    module = cast(WorkloadCautions | None, _module_if_any(plan.workers.workload, "cautions"))
    return [] if module is None else module.cautions(plan)


def _module_if_any(workload: str, name: str) -> ModuleType | None:
    """Import the module workloads/`workload`/`name`.py, or return None if there is none."""
    try:
        return workload_module(workload, name)
    except ModuleNotFoundError as error:
        folder = f"{PACKAGE}.{workload}"
        if error.name in (folder, f"{folder}.{name}"):
            return None
        raise
