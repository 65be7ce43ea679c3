"""The steps of training of a run: train.parquet, and `training` of summary.json.

All times are medians or sums over the steps after the warm-up, of the ranks that compute (a
parameter server does not).

- ``step_ms``: of each step the mean over the ranks, from its start to its end.
- ``compute_ms``: modelled computation of a step. ``compute_utilisation``: all computation / all
  time of the steps.
- ``exposed_ms``: the rest of the step, in which a rank waits: for data on their way, or for slower
  ranks.
- ``overlapped_ms``: time of operations beside computation; None where the run recorded no operation
  of the training (phase ``train``). It is the union of a rank's operations within its steps, less
  ``exposed_ms``.
- ``tokens_per_s``: of all ranks, from the first step's start to the last one's end. ``mfu`` is
  FLOPs per token x tokens/s / (ranks x the GPU's peak); without a GPU there is none.
- ``wan_bytes_per_step`` and ``_per_token``: the growth of all WAN counters over the steps,
  interpolated between their samples. Frames count with their headers, once for each link that they
  cross.
- ``final_loss``: the mean over the ranks, in the last step.
- ``late_ms``: computation that took longer than it was to, per step: the CPU could not keep up
  (real clock).
"""

from __future__ import annotations

from typing import Any

import polars as pl

from testbed.analysis.link_samples import sent_bytes
from testbed.core.gpus import FLOPS_PER_PARAMETER, PEAK_FLOPS
from testbed.plan.model import Plan

SCHEMA: dict[str, type[pl.DataType] | pl.DataType] = {
    "step": pl.Int32,
    "rank": pl.Int32,
    "host": pl.String,
    "dc": pl.String,
    "start_ns": pl.Int64,
    "end_ns": pl.Int64,
    "compute_ns": pl.Int64,
    "late_ns": pl.Int64,
    "loss": pl.Float64,
    "tokens": pl.Int64,
    "computed_ns": pl.List(pl.Int64),
}
NUMBERS = ("step", "start_ns", "end_ns", "compute_ns", "late_ns", "tokens")

Problems = list[str]


def steps_table(records: list[dict[str, Any]], problems: Problems) -> pl.DataFrame:
    """train.parquet: the records that are whole, by step and rank; `records` have their places
    already.
    """
    good = [record for record in records if _whole(record)]
    if len(good) < len(records):
        problems.append(
            f"raw/train-*.jsonl: {len(records) - len(good)} records lack a column and are left out"
        )
    columns = {column: [record.get(column) for record in good] for column in SCHEMA}
    columns["computed_ns"] = [
        edges if _are_edges(edges) else None for edges in columns["computed_ns"]
    ]
    return pl.DataFrame(columns, schema=SCHEMA).sort("step", "rank")


def _are_edges(edges: Any) -> bool:
    """Whether they are beginnings and ends in turn, in order."""
    if (
        not isinstance(edges, list)
        or len(edges) % 2
        or not all(isinstance(edge, int) for edge in edges)
    ):
        return False
    return edges == sorted(edges)


def _whole(record: dict[str, Any]) -> bool:
    loss = isinstance(record.get("loss"), int | float | None)
    return loss and all(isinstance(record.get(column), int) for column in NUMBERS)


def training(
    plan: Plan, steps: pl.DataFrame, ops: pl.DataFrame, links: pl.DataFrame, problems: Problems
) -> dict[str, Any] | None:
    """The summary of all steps after the warm-up; None without any."""
    settings = plan.workers.settings
    measured = steps.filter(pl.col("step") >= settings.get("warmup", 0))
    if measured.is_empty():
        problems.append("no step of training after the warm-up was recorded")
        return None
    working = measured.filter(pl.col("compute_ns").sum().over("rank") > 0)
    working = measured if working.is_empty() else working
    by_step = working.group_by("step").agg(ms=(pl.col("end_ns") - pl.col("start_ns")).mean() / 1e6)[
        "ms"
    ]
    compute_ms = _mean_ms(working["compute_ns"])
    mean_ms = _mean_ms(working["end_ns"] - working["start_ns"])
    tokens, seconds = int(measured["tokens"].sum()), _span_ns(measured) / 1e9
    wan = _wan_bytes(links, measured)
    count = int(measured["step"].n_unique())
    tokens_per_s = tokens / seconds if seconds > 0 else 0.0
    return {
        "method": settings.get("method"),
        "steps": count,
        "ranks": len(plan.workers.ranks),
        "parameters": settings.get("parameters"),
        "scale": settings.get("scale", 1),
        "step_ms": _spread(by_step),
        "compute_ms": compute_ms,
        "exposed_ms": max(0.0, mean_ms - compute_ms),
        "overlapped_ms": _overlapped_ms(working, ops, mean_ms - compute_ms),
        "compute_utilisation": compute_ms / mean_ms if mean_ms > 0 else None,
        "tokens_per_s": tokens_per_s,
        **_mfu(settings, tokens_per_s / len(plan.workers.ranks)),
        "wan_bytes_per_step": None if wan is None else wan / count,
        "wan_bytes_per_token": None if wan is None or not tokens else wan / tokens,
        "final_loss": steps.filter(pl.col("step") == pl.col("step").max())["loss"].mean(),
        "seconds": _span_ns(steps) / 1e9,
        "late_ms": _mean_ms(working["late_ns"]),
    }


def _spread(values: pl.Series) -> dict[str, Any]:
    p95 = values.quantile(0.95, "linear")
    return {"min": values.min(), "median": values.median(), "p95": p95, "max": values.max()}


def _mean_ms(ns: pl.Series) -> float:
    return float(ns.cast(pl.Float64).sum()) / len(ns) / 1e6


def _span_ns(steps: pl.DataFrame) -> int:
    return int(max(steps["end_ns"]) - min(steps["start_ns"]))


def _mfu(settings: dict[str, Any], tokens_per_s: float) -> dict[str, Any]:
    """Model FLOPs utilisation of one rank, and what it assumes; that of the model before
    scaling.
    """
    gpu = settings.get("gpu")
    if gpu not in PEAK_FLOPS:
        return {"mfu": None, "flops_per_token": None, "peak_flops": None}
    flops = FLOPS_PER_PARAMETER * settings["model_parameters"]
    peak = PEAK_FLOPS[gpu]
    return {"mfu": flops * tokens_per_s / peak, "flops_per_token": flops, "peak_flops": peak}


def _wan_bytes(links: pl.DataFrame, steps: pl.DataFrame) -> int | None:
    if links.is_empty():
        return None
    begin, end = min(steps["start_ns"]), max(steps["end_ns"])
    ways = links.sort("time_ns").group_by("link", "source")
    return round(sum(sent_bytes(samples, begin, end) for _, samples in ways))


def _overlapped_ms(steps: pl.DataFrame, ops: pl.DataFrame, exposed_ms: float) -> float | None:
    """Per step and rank."""
    mine = ops.filter(pl.col("phase") == "train")
    if mine.is_empty():
        return None
    busy = 0
    for (rank,), rows in mine.sort("start_ns").group_by("rank"):
        ranks_steps = steps.filter(pl.col("rank") == rank)
        if ranks_steps.is_empty():
            continue
        until, end = min(ranks_steps["start_ns"]), max(ranks_steps["end_ns"])
        for begin, stop in rows.select("start_ns", "end_ns").iter_rows():
            busy += max(0, min(stop, end) - max(begin, until))
            until = max(until, min(stop, end))
    return max(0.0, busy / steps.height / 1e6 - max(0.0, exposed_ms))
