"""Steps of training on modelled GPUs: records as a table, and the section `gpu` of summary.json.

- A step begins where the step before ended on its stream, so the first step of a rank, which
  connects the ranks, is left out. Optimizers that follow each other without products between them
  end one step.
- ``step_ms``: duration of each step, the mean over the ranks. ``time_per_step_ms``: from the end of
  a rank's first step to the end of its last one / steps, the mean over the ranks.
- ``compute_ms``, ``exposed_ms``, ``streams_ms``, ``launch_ms``: what the stream of the optimizer
  did, per step and rank; they add up to the time per step.
- ``mfu``: FLOPs without recomputation and optimizer / (time x peak); ``hfu``: all FLOPs. The peak
  is that of the number format of mixed precision. Causal attention counts half of its products.
- ``tokens_per_s``: indices that the largest embedding looked up, of all ranks; of ranks that read
  the same tokens (tensor parallelism), one counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from testbed.analysis.gpu_places import Places
from testbed.analysis.operations import spread
from testbed.plan.model import Plan
from testbed.runfolder import records, schemas
from testbed.runfolder.folder import RunDir
from testbed.runfolder.problems import Problem
from testbed.runfolder.records import GPU_RECORD, GpuEnd, GpuRecord, GpuStep, StreamSpan
from testbed.runfolder.summary import ExposedRow, GpuMemoryRow, GpuSummary

PARTS = ("busy_ns", "exposed_ns", "streams_ns", "launch_ns")


@dataclass(frozen=True)
class GpuRun:
    """The records of the modelled GPUs of a run.

    Attributes:
        steps: a row per step and rank (`testbed.runfolder.schemas.GPU`).
        waits: a row per step, rank and kind of operation: columns rank, op, process_group, peer
            and ns.
        memory: the most memory of each rank.
    """

    steps: pl.DataFrame
    waits: pl.DataFrame
    memory: Sequence[GpuMemoryRow]


WAITS: schemas.Schema = {
    "rank": pl.Int32,
    "op": pl.String,
    "process_group": pl.String,
    "peer": pl.Int32,
    "ns": pl.Int64,
}


@dataclass
class _Rows:
    steps: list[dict[str, Any]] = field(default_factory=list)
    waits: list[dict[str, Any]] = field(default_factory=list)


def read_gpus(folder: RunDir, plan: Plan, problems: list[Problem]) -> GpuRun:
    """Read the records of modelled GPUs; a rank may have none.

    Args:
        folder: the run folder.
        plan: the run's plan.
        problems: list to which problems of files are added.
    """
    rows = _Rows()
    memory: list[GpuMemoryRow] = []
    for rank in plan.workers.ranks:
        of_rank = _read(folder, rank.rank, problems)
        place = {"rank": rank.rank, "host": rank.host, "dc": plan.network.host(rank.host).dc}
        _add_steps(rows, place, joined_steps(of_rank))
        memory += _most_memory(rank.rank, of_rank)

    steps = pl.DataFrame(rows.steps, schema=dict(schemas.GPU), orient="row")
    waits = pl.DataFrame(rows.waits, schema=dict(WAITS), orient="row")
    return GpuRun(steps.sort("step", "rank"), waits, memory)


def _most_memory(rank: int, of_rank: Sequence[GpuRecord]) -> list[GpuMemoryRow]:
    """Return the row of a rank, if it has had memory on a GPU."""
    peaks = [record.peak_bytes for record in of_rank if isinstance(record, GpuEnd | GpuStep)]
    if not peaks:
        return []

    reserved_bytes = None
    for record in of_rank:
        if isinstance(record, GpuEnd) and record.reserved_bytes is not None:
            reserved_bytes = max(reserved_bytes or 0, record.reserved_bytes)
    return [GpuMemoryRow(rank=rank, peak_bytes=max(peaks), reserved_bytes=reserved_bytes)]


def read_spans(folder: RunDir, rank: int) -> list[StreamSpan]:
    """Read the stretches of the streams of a rank's modelled GPU."""
    of_rank = _read(folder, rank, [])
    return [record for record in of_rank if isinstance(record, StreamSpan)]


def _read(folder: RunDir, rank: int, problems: list[Problem]) -> list[GpuRecord]:
    path = folder.rank_gpu(rank)
    if not path.exists():
        return []

    of_rank, file_problems = records.read(path, GPU_RECORD, may_be_empty=True)
    problems += file_problems
    return of_rank


def joined_steps(of_rank: Sequence[GpuRecord]) -> list[GpuStep]:
    """Return the steps of a rank, with those joined that lie between the same products."""
    steps: list[GpuStep] = []
    for record in of_rank:
        if not isinstance(record, GpuStep):
            continue

        if steps and not record.computes:
            steps[-1] = _joined(steps[-1], record)
        else:
            steps.append(record)

    return steps


def _joined(first: GpuStep, second: GpuStep) -> GpuStep:
    return second.model_copy(
        update={
            "busy_ns": first.busy_ns + second.busy_ns,
            "launch_ns": first.launch_ns + second.launch_ns,
            "streams_ns": first.streams_ns + second.streams_ns,
            "waits": [*first.waits, *second.waits],
            "flops": first.flops + second.flops,
            "recomputed_flops": first.recomputed_flops + second.recomputed_flops,
            "optimizer_flops": first.optimizer_flops + second.optimizer_flops,
            "tokens": _sum(first.tokens, second.tokens),
        }
    )


def _sum(first: int | None, second: int | None) -> int | None:
    known = [number for number in (first, second) if number is not None]
    return sum(known) if known else None


def _add_steps(rows: _Rows, place: Mapping[str, Any], steps: Sequence[GpuStep]) -> None:
    """Add the rows of a rank's steps, without the first one, whose begin is not known."""
    for number, step in enumerate(steps[1:], 1):
        parts = {name: getattr(step, name) for name in PARTS}
        row = {
            **place,
            **parts,
            "step": number,
            "start_ns": step.end_ns - sum(parts.values()),
            "end_ns": step.end_ns,
            "flops": step.flops,
            "recomputed_flops": step.recomputed_flops,
            "optimizer_flops": step.optimizer_flops,
            "tokens": step.tokens,
            "token_ranks": step.token_ranks,
            "peak_bytes": step.peak_bytes,
        }
        rows.steps.append(row)
        for wait in step.waits:
            rows.waits.append({"rank": place["rank"], **wait.model_dump()})


def summarize_gpus(plan: Plan, run: GpuRun, ops: pl.DataFrame, peak_flops: float) -> GpuSummary:
    """Return the section `gpu` of summary.json.

    Args:
        plan: the run's plan.
        run: the records of the modelled GPUs.
        ops: ops.parquet (`testbed.runfolder.schemas.OPS`).
        peak_flops: peak of one GPU, of the number format of mixed precision, in FLOP/s.
    """
    summary = GpuSummary(
        gpu=str(plan.workers.settings["gpu"]),
        ranks=max(len(run.memory), run.steps["rank"].n_unique()),
        peak_flops=peak_flops,
        memory=list(run.memory),
    )
    steps = run.steps
    if steps.is_empty():
        return summary

    rows = steps.height
    total_ns = sum(_total(steps, name) for name in PARTS)
    if total_ns == 0:
        return summary

    model_flops = _total(steps, "flops")
    model_flops -= _total(steps, "recomputed_flops") + _total(steps, "optimizer_flops")
    possible_flops = max(1.0, total_ns / 1e9 * peak_flops)
    durations_ms = steps.group_by("step").agg(
        ms=(pl.col("end_ns") - pl.col("start_ns")).mean() / 1e6
    )
    tokens = _tokens_per_step(steps)
    of_one_step = steps["rank"].n_unique() / rows
    mean_ms = total_ns / rows / 1e6
    return summary.model_copy(
        update={
            "steps": steps["step"].n_unique(),
            "step_ms": spread(durations_ms.sort("step")["ms"]),
            "time_per_step_ms": mean_ms,
            "compute_ms": _total(steps, "busy_ns") / rows / 1e6,
            "exposed_ms": _total(steps, "exposed_ns") / rows / 1e6,
            "streams_ms": _total(steps, "streams_ns") / rows / 1e6,
            "launch_ms": _total(steps, "launch_ns") / rows / 1e6,
            "mfu": model_flops / possible_flops,
            "hfu": _total(steps, "flops") / possible_flops,
            "flops_per_step": model_flops * of_one_step,
            "tokens_per_step": tokens,
            "tokens_per_s": None if tokens is None else tokens / mean_ms * 1000,
            "exposed": list(_exposed_rows(plan, run, ops)),
        }
    )


def _total(steps: pl.DataFrame, column: str) -> float:
    return float(steps[column].sum())


def _tokens_per_step(steps: pl.DataFrame) -> float | None:
    """Return the tokens of all ranks in a step; None if no rank has an embedding."""
    if steps["tokens"].null_count() == steps.height:
        return None

    tokens = (pl.col("tokens") / pl.col("token_ranks")).fill_null(0)
    by_rank = steps.group_by("rank").agg(tokens=tokens.mean())
    return float(by_rank["tokens"].sum())


def _exposed_rows(plan: Plan, run: GpuRun, ops: pl.DataFrame) -> Iterator[ExposedRow]:
    """Yield the waits for operations by kind and place, the longest first."""
    places = Places(plan, ops)
    sums: dict[tuple[str, str, str], int] = {}
    kinds = run.waits.group_by(*WAITS.keys() - {"ns"}).agg(pl.col("ns").sum())
    for row in kinds.iter_rows(named=True):
        where = places.of(row["op"], row["process_group"], row["peer"], row["rank"])
        key = (row["op"] or "operation", where.text, where.link)
        sums[key] = sums.get(key, 0) + row["ns"]

    total_ns = sum(_total(run.steps, name) for name in PARTS)
    rows = run.steps.height
    for (op, text, link), ns in sorted(sums.items(), key=lambda item: (-item[1], item[0])):
        yield ExposedRow(op=op, where=text, link=link, ms=ns / rows / 1e6, share=ns / total_ns)
