"""Summarise the steps of training as the section `training` of summary.json.

All figures are of the steps after the warm-up. Where ranks exchange every `sync_every` steps only,
the last steps that are no whole period are left out, so that each exchange counts with its share of
steps. Times are of the ranks that compute (a parameter server does not compute).

- ``time_per_step_ms``: from the first step's start to the last step's end / steps.
- ``step_ms``: duration of each step from start to end, averaged over the ranks. The median of many
  steps without an exchange hides the exchange.
- ``compute_ms``: modelled computation of a step. ``compute_utilisation``: all computation / all
  time of the steps.
- ``exposed_ms``: the rest of the step, in which a rank waits for data or for slower ranks.
- ``overlapped_ms``: time of operations that overlaps computation; None if the run recorded no
  operation of the training (phase ``train``). The time is the union of a rank's operations within
  its steps, less ``exposed_ms``.
- ``tokens_per_s``: tokens of all ranks, from the first step's start to the last step's end. ``mfu``
  is FLOPs per token x tokens/s / (ranks x the GPU's peak); None without a GPU.
- ``wan_bytes_per_step`` and ``_per_token``: growth of all WAN counters over the steps, interpolated
  between samples. Frames count with their headers, once for each link on the path.
- ``final_loss``: the mean over the ranks, in the last step.
- ``late_ms``: computation that took longer than modelled, per step: the CPU could not keep up (real
  clock).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from testbed.analysis.link_samples import sent_bytes
from testbed.analysis.operations import spread
from testbed.core.gpus import FLOPS_PER_PARAMETER, peak_flops
from testbed.plan.model import Plan
from testbed.runfolder.problems import Problem, ProblemCode
from testbed.runfolder.summary import TrainingSummary

PERIODIC = (
    "local-sgd",
    "diloco",
    "streaming-diloco",
)  # methods that exchange every sync_every steps


def summarize(
    plan: Plan,
    steps: pl.DataFrame,
    ops: pl.DataFrame,
    links: pl.DataFrame,
    problems: list[Problem],
) -> TrainingSummary | None:
    """Return the summary of the steps after the warm-up.

    Args:
        plan: plan of the run, with the settings of `testbed.workloads.train.settings`.
        steps: train.parquet, by step and rank (`testbed.runfolder.schemas.TRAIN`).
        ops: columns phase, rank, start_ns and end_ns of ops.parquet.
        links: columns link, source, time_ns and bytes of links.parquet.
        problems: list that receives a problem if no step follows the warm-up.

    Returns:
        The section `training` of summary.json; None without steps after the warm-up.
    """
    settings = plan.workers.settings
    after_warmup = steps.filter(pl.col("step") >= settings.get("warmup", 0))
    period = steps_between_exchanges(settings)
    measured = _whole_periods(after_warmup, period)
    if measured.is_empty():
        message = "no training step was recorded after the warm-up"
        problems.append(Problem(code=ProblemCode.NO_RECORDS, message=message))
        return None

    computing = _of_computing_ranks(measured)
    durations_ns = computing["end_ns"] - computing["start_ns"]
    compute_ms, step_ms = _mean_ms(computing["compute_ns"]), _mean_ms(durations_ns)
    exposed_ms = step_ms - compute_ms
    count = int(measured["step"].n_unique())
    all_count = int(steps["step"].n_unique())
    tokens, seconds = int(measured["tokens"].sum()), _span_ns(measured) / 1e9
    tokens_per_s = tokens / seconds if seconds > 0 else 0.0
    ranks = len(plan.workers.ranks)
    flops = _flops_utilisation(settings, tokens_per_s / ranks)
    wan_bytes = _wan_bytes(links, measured)

    return TrainingSummary(
        method=settings.get("method"),
        steps=count,
        other_steps=all_count - count,
        ranks=ranks,
        parameters=settings.get("parameters"),
        scale=settings.get("scale", 1),
        period=period,
        periods=count // period,
        time_per_step_ms=1000 * seconds / count,
        step_ms=spread(_step_ms(computing)),
        compute_ms=compute_ms,
        exposed_ms=max(0.0, exposed_ms),
        overlapped_ms=_overlapped_ms(computing, ops, exposed_ms),
        compute_utilisation=compute_ms / step_ms if step_ms > 0 else None,
        tokens_per_s=tokens_per_s,
        mfu=flops.mfu,
        flops_per_token=flops.per_token,
        peak_flops=flops.peak,
        wan_bytes_per_step=None if wan_bytes is None else wan_bytes / count,
        wan_bytes_per_token=None if wan_bytes is None or not tokens else wan_bytes / tokens,
        final_loss=_final_loss(steps),
        seconds=_span_ns(steps) / 1e9,
        late_ms=_mean_ms(computing["late_ns"]),
    )


def steps_between_exchanges(settings: Mapping[str, Any]) -> int:
    """Return the number of steps of a period: each fragment of the model is exchanged once in it.

    Args:
        settings: `testbed.workloads.train.settings`.
    """
    if settings.get("method") in PERIODIC:
        return max(1, int(settings.get("sync_every", 1)))

    return 1


def _whole_periods(steps: pl.DataFrame, period: int) -> pl.DataFrame:
    """Return the steps up to the end of the last whole period; all if there is no whole period.

    Args:
        steps: train.parquet (`testbed.runfolder.schemas.TRAIN`).
        period: number of steps in a period.
    """
    if steps.is_empty():
        return steps

    first = steps["step"].min()
    position = pl.col("step") - first
    whole = steps["step"].n_unique() // period * period
    return steps.filter(position < whole) if whole else steps


def _of_computing_ranks(steps: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of the ranks that compute; all rows if no rank computes."""
    computing = steps.filter(pl.col("compute_ns").sum().over("rank") > 0)
    return steps if computing.is_empty() else computing


def _step_ms(steps: pl.DataFrame) -> pl.Series:
    """Return the mean duration of each step over the ranks in ms (Float64)."""
    duration_ns = pl.col("end_ns") - pl.col("start_ns")
    return steps.group_by("step").agg(ms=duration_ns.mean() / 1e6)["ms"]


def _final_loss(steps: pl.DataFrame) -> float | None:
    """Return the mean loss over the ranks in the last step; columns step and loss."""
    last = steps.filter(pl.col("step") == pl.col("step").max())
    loss: Any = last["loss"].mean()
    return None if loss is None else float(loss)


def _mean_ms(ns: pl.Series) -> float:
    """Return the mean in ms of times in ns (Int64)."""
    return float(ns.cast(pl.Float64).sum()) / len(ns) / 1e6


def _span_ns(steps: pl.DataFrame) -> int:
    """Return the ns from the first start to the last end; columns start_ns and end_ns."""
    return int(max(steps["end_ns"]) - min(steps["start_ns"]))


@dataclass(frozen=True)
class _FlopsUtilisation:
    """Model FLOPs utilisation of a rank, FLOPs per token, GPU peak; all None without a GPU."""

    mfu: float | None = None
    per_token: float | None = None
    peak: float | None = None


def _flops_utilisation(settings: dict[str, Any], tokens_per_s: float) -> _FlopsUtilisation:
    """Return the utilisation of a rank's GPU by the model before scaling at `tokens_per_s`."""
    peak = peak_flops(settings.get("gpu") or "", settings.get("gpu_dtype"))
    if peak is None:
        return _FlopsUtilisation()
    per_token = FLOPS_PER_PARAMETER * settings["model_parameters"]
    return _FlopsUtilisation(per_token * tokens_per_s / peak, per_token, peak)


def _wan_bytes(links: pl.DataFrame, steps: pl.DataFrame) -> int | None:
    """Return the bytes sent in all WAN directions during the steps; None without samples."""
    if links.is_empty():
        return None
    begin_ns, end_ns = min(steps["start_ns"]), max(steps["end_ns"])
    sent = 0.0
    for _direction, samples in links.sort("time_ns").group_by("link", "source"):
        sent += sent_bytes(samples, begin_ns, end_ns)
    return round(sent)


def _overlapped_ms(steps: pl.DataFrame, ops: pl.DataFrame, exposed_ms: float) -> float | None:
    """Return the time of operations that overlaps computation in ms, per step and rank.

    Args:
        steps: columns rank, start_ns and end_ns of train.parquet.
        ops: columns phase, rank, start_ns and end_ns of ops.parquet.
        exposed_ms: time per step in which a rank does not compute, in ms.
    """
    in_training = ops.filter(phase="train")
    if in_training.is_empty():
        return None

    busy_ns = 0
    for (rank,), operations in in_training.sort("start_ns").group_by("rank"):
        of_rank = steps.filter(rank=rank)
        if of_rank.is_empty():
            continue

        begin_ns = min(of_rank["start_ns"])
        end_ns = max(of_rank["end_ns"])
        busy_ns += _union_ns(operations, begin_ns, end_ns)

    busy_ms = busy_ns / steps.height / 1e6
    return max(0.0, busy_ms - max(0.0, exposed_ms))


def _union_ns(operations: pl.DataFrame, begin_ns: int, end_ns: int) -> int:
    """Return the time in ns between two times during which at least one operation was in progress.

    Args:
        operations: columns start_ns and end_ns (Int64), sorted by start.
        begin_ns: start of the interval.
        end_ns: end of the interval.
    """
    union_ns = 0
    covered_until = begin_ns
    spans = operations.select("start_ns", "end_ns")
    for start_ns, stop_ns in spans.iter_rows():
        counted_from = max(start_ns, covered_until)
        counted_until = min(stop_ns, end_ns)
        union_ns += max(0, counted_until - counted_from)
        covered_until = max(covered_until, counted_until)

    return union_ns
