"""Summarise the training steps of a replay as those of the workload `train`."""

from __future__ import annotations

import polars as pl
from testbed.workloads.train.summary import summarize as summarize_steps

from testbed.plan.model import Plan
from testbed.runfolder.problems import Problem
from testbed.runfolder.summary import TrainingSummary

METHOD = "replay"


def summarize(
    plan: Plan,
    steps: pl.DataFrame,
    ops: pl.DataFrame,
    links: pl.DataFrame,
    problems: list[Problem],
) -> TrainingSummary | None:
    """Return the summary of the steps after the warm-up; None if there are none.

    Args:
        plan: plan of the run.
        steps: train.parquet, by step and rank (`testbed.runfolder.schemas.TRAIN`).
        ops: ops.parquet (`testbed.runfolder.schemas.OPS`).
        links: links.parquet (`testbed.runfolder.schemas.LINKS`).
        problems: list that receives a problem if no step follows the warm-up.
    """
    if steps.is_empty():
        return None
    summary = summarize_steps(plan, steps, ops, links, problems)
    return None if summary is None else summary.model_copy(update={"method": METHOD})
