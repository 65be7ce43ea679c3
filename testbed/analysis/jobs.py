"""Summarize a run with several jobs: the tables of all jobs, and what the jobs cost each other."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from testbed.analysis.advice import figures
from testbed.analysis.loaded_run import LoadedRun, read_captures_of, read_links
from testbed.analysis.network_history import History, happened
from testbed.plan.model import Plan, PlannedJob
from testbed.runfolder import records, schemas
from testbed.runfolder.folder import RunDir
from testbed.runfolder.problems import Problem
from testbed.runfolder.records import EVENT, Event, RunEnded
from testbed.runfolder.status import State, read_status
from testbed.runfolder.summary import JobFigure, JobRow, Summary, read_summary
from testbed.runfolder.tables import read_table


@dataclass(frozen=True)
class SummarizedJob:
    """A job of a run, with its records and its summary."""

    job: PlannedJob
    folder: RunDir
    run: LoadedRun
    summary: Summary


def summarize_jobs(
    folder: RunDir, plan: Plan, summarize: Callable[[RunDir, Plan], tuple[LoadedRun, Summary]]
) -> list[SummarizedJob]:
    """Write the tables of each job, and return the jobs in the order of the plan.

    Args:
        folder: the run folder, which holds the folders of the jobs.
        plan: the run's plan.
        summarize: function that writes the tables of a run folder.

    Raises:
        OSError: a folder cannot be written.
    """
    jobs: list[SummarizedJob] = []
    for job in plan.jobs:
        of_job = folder.job(job.name)
        _share_records(folder, of_job)
        run, summary = summarize(of_job, plan.for_job(job))
        jobs.append(SummarizedJob(job, of_job, run, summary))
    return jobs


def _share_records(run: RunDir, job: RunDir) -> None:
    """Give a job's folder the records of the network, which are those of the whole run."""
    shared = (
        (run.link_samples, job.link_samples),
        (run.fidelity, job.fidelity),
        (run.changes, job.changes),
        (run.transfers, job.transfers),
        (run.spec, job.spec),
    )
    for source, target in shared:
        if source.is_file() and not target.exists():
            _link(source, target)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def without_bytes_of_others(summary: Summary) -> Summary:
    """Return a job's summary without figures that count the bytes of all jobs as the job's."""
    if summary.training is None:
        return summary
    unknown = {"wan_bytes_per_step": None, "wan_bytes_per_token": None}
    training = summary.training.model_copy(update=unknown)
    return summary.model_copy(update={"training": training})


def load_together(folder: RunDir, plan: Plan, jobs: Sequence[SummarizedJob]) -> LoadedRun:
    """Return the records of all jobs, with ranks by their numbers among those of all jobs.

    Args:
        folder: the run folder.
        plan: the run's plan.
        jobs: the jobs of the plan.
    """
    problems: list[Problem] = []
    ops = _together(jobs, [each.run.ops for each in jobs], schemas.OPS)
    trained = [each for each in jobs if each.run.steps is not None]
    steps: pl.DataFrame | None = None
    if trained:
        tables = [each.run.steps for each in trained if each.run.steps is not None]
        steps = _together(trained, tables, schemas.TRAIN)
    events, event_problems = records.read(folder.events, EVENT)
    problems += event_problems
    changes = happened(plan, folder)
    links = read_links(folder, plan, problems)
    captured = read_captures_of(folder, plan, ops.clear(), problems)
    return LoadedRun(
        folder=folder,
        plan=plan,
        events=events,
        changes=changes,
        history=History.with_changes(plan, changes),
        ops=ops.sort("start_ns", "rank"),
        tcp=pl.DataFrame(schema=dict(schemas.TCP)),
        links=links,
        steps=steps,
        captured=captured,
        problems=problems,
    )


def _together(
    jobs: Sequence[SummarizedJob], tables: Sequence[pl.DataFrame], schema: schemas.Schema
) -> pl.DataFrame:
    parts = [pl.DataFrame(schema=dict(schema))]
    for each, table in zip(jobs, tables, strict=True):
        number = (pl.col("rank") + each.job.first).cast(pl.Int32)
        parts.append(table.with_columns(rank=number))
    return pl.concat(parts)


def write_tables_with_jobs(run: LoadedRun) -> None:
    """Write the tables of a run with several jobs, which have the column job.

    Args:
        run: the records of all jobs, with ranks by their numbers among those of all jobs.

    Raises:
        OSError: a table cannot be written.
    """
    captured = run.captured
    if captured is not None:
        captured = replace(captured, flows=_flows_with_jobs(captured.flows, run.plan))
    steps = None if run.steps is None else _with_jobs(run.steps, run.plan)
    replace(run, ops=_with_jobs(run.ops, run.plan), steps=steps, captured=captured).write_tables()


def _with_jobs(table: pl.DataFrame, plan: Plan) -> pl.DataFrame:
    """Return a table with the column job first, and the number of a rank in its job."""
    job = pl.col("rank").replace_strict(_job_names(plan), return_dtype=pl.String)
    first = pl.col("rank").replace_strict(_firsts(plan), return_dtype=pl.Int32)
    others = pl.all().exclude("rank")
    return table.select(job.alias("job"), pl.col("rank") - first, others)


def numbered_among_all(table: pl.DataFrame, plan: Plan) -> pl.DataFrame:
    """Return a table with ranks by their numbers among those of all jobs, without column job.

    Args:
        table: a table of a run with several jobs, with the columns job and rank.
        plan: the run's plan.
    """
    firsts = {job.name: job.first for job in plan.jobs}
    first = pl.col("job").replace_strict(firsts, return_dtype=pl.Int32)
    return table.with_columns(rank=pl.col("rank") + first).drop("job")


def _job_names(plan: Plan) -> dict[int, str]:
    names: dict[int, str] = {}
    for job in plan.jobs:
        names.update(dict.fromkeys(job.all_ranks(), job.name))
    return names


def _firsts(plan: Plan) -> dict[int, int]:
    """Return the number of rank 0 of each rank's job, by the rank's number among all."""
    firsts: dict[int, int] = {}
    for job in plan.jobs:
        firsts.update(dict.fromkeys(job.all_ranks(), job.first))
    return firsts


def _flows_with_jobs(flows: pl.DataFrame, plan: Plan) -> pl.DataFrame:
    """Return flows.parquet with the job of each flow, and the numbers of its ranks in the job.

    A flow whose hosts have ranks of several jobs has no job and no ranks.
    """
    names, firsts = _job_names(plan), _firsts(plan)
    job_name = pl.col("src_rank").replace_strict(names, default=None, return_dtype=pl.String)
    columns = [job_name.alias("job")]
    for rank in ("src_rank", "dst_rank"):
        first = pl.col(rank).replace_strict(firsts, default=None, return_dtype=pl.Int32)
        columns.append((pl.col(rank) - first).alias(rank))
    return flows.with_columns(columns)


def job_rows(jobs: Sequence[SummarizedJob], folder: RunDir) -> list[JobRow]:
    """Return a row for each job: its times beside the other jobs, and alone where measured.

    Args:
        jobs: the jobs of the run.
        folder: the run folder.
    """
    began = [each.run.timed for each in jobs if not each.run.timed.is_empty()]
    origin_ns = min((int(min(timed["start_ns"])) for timed in began), default=0)
    return [_job_row(each, folder.alone(each.job.name), origin_ns) for each in jobs]


def _job_row(each: SummarizedJob, alone: RunDir, origin_ns: int) -> JobRow:
    workers = each.job.workers
    state, reason = ending_of(each.run.events)
    timed = each.run.timed
    alone_summary, alone_seconds = _measured_alone(alone)
    alone_ms = figures(alone_summary)
    rows: list[JobFigure] = []
    for what, ms in figures(each.summary).items():
        rows.append(JobFigure(what=what, ms=ms, alone_ms=alone_ms.get(what)))

    return JobRow(
        job=each.job.name,
        workload=workers.workload,
        ranks=len(workers.ranks),
        hosts=list(dict.fromkeys(rank.host for rank in workers.ranks)),
        state=state,
        reason=reason,
        start_s=None if timed.is_empty() else (min(timed["start_ns"]) - origin_ns) / 1e9,
        seconds=_seconds(timed),
        alone_seconds=alone_seconds,
        figures=rows,
    )


def ending_of(events: Sequence[Event]) -> tuple[State, str]:
    """Return how a job ended, from its events, and why it did not complete."""
    for event in events:
        if isinstance(event, RunEnded):
            return event.state, event.reason
    return "interrupted", "the run ended before the job"


def _measured_alone(alone: RunDir) -> tuple[Summary, float | None]:
    """Return the summary of a job's run alone, and its seconds; empty and None without such a run.

    A run that did not complete counts as missing.
    """
    status, _problems = read_status(alone.status)
    if status is None or status.state != "completed":
        return Summary(), None
    summary, _problems = read_summary(alone.summary)
    for path in (alone.train, alone.ops):
        try:
            table = read_table(path)
        except OSError:
            continue
        if not table.is_empty():
            return summary, _seconds(table)
    return summary, None


def _seconds(timed: pl.DataFrame) -> float | None:
    """Return the time from the first start to the last end; None without rows.

    Args:
        timed: columns start_ns and end_ns (Unix ns).
    """
    if timed.is_empty():
        return None
    return float(max(timed["end_ns"]) - min(timed["start_ns"])) / 1e9
