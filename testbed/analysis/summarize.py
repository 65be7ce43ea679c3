"""Turn the raw records of a run folder into tables and summary.json, without privileges or guest.

`testbed.runfolder.summary` defines the rows, `testbed.analysis.operations` the times of operations,
and `testbed.analysis.lower_bounds` the lower bounds.

Only iterations that every rank finished count, without the warm-up. In a user's script, every
collective counts; sends and receives appear in ops.parquet only. The module `summary` in a
workload's folder adds the workload's section.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

import polars as pl
from pydantic import ValidationError

from testbed.analysis.bottleneck import cause_of_collectives, cause_of_gpus, cause_of_training
from testbed.analysis.event_periods import periods
from testbed.analysis.gpu_steps import summarize_gpus
from testbed.analysis.job_links import links_of_job, of_links
from testbed.analysis.jobs import (
    job_rows,
    load_together,
    summarize_jobs,
    without_bytes_of_others,
    write_tables_with_jobs,
)
from testbed.analysis.link_samples import measured_rates, of_direction, sent_bytes
from testbed.analysis.loaded_run import LoadedRun
from testbed.analysis.loop import summarize_loop
from testbed.analysis.lower_bounds import Bounds, concurrent_us, wire_scale
from testbed.analysis.messages import message_rows
from testbed.analysis.operations import ROW, bus_factor, iterations, settled, spread
from testbed.analysis.plausibility import implausible
from testbed.analysis.workload_summary import WorkloadSummary, workload_summary
from testbed.core.gpus import ModelledGpu
from testbed.core.median import median_within
from testbed.plan.model import Direction, Plan
from testbed.runfolder import records, schemas
from testbed.runfolder.folder import RunDir
from testbed.runfolder.problems import Problem, ProblemCode
from testbed.runfolder.records import (
    EVENT,
    Event,
    GuestWork,
    RoundTripRow,
    StageBegan,
    StageEnded,
    TransferEnded,
)
from testbed.runfolder.summary import (
    Cause,
    CollectiveRow,
    GpuSummary,
    GuestRow,
    LoopSummary,
    RateRow,
    StageRow,
    Summary,
    TrainingSummary,
    TransferRow,
    WanRow,
    read_round_trips,
    write_summary,
)
from testbed.runfolder.tables import write_table
from testbed.spec.collective import AUTO_ITERATIONS, DataFlow, Parts, collectives

Timed: TypeAlias = Literal["first rank", "one way", "all ranks"]

TOLERANCE = 0.001  # share of a bound by which a time may be less, for rounding


@dataclass(frozen=True)
class SameOperation:
    """The fields shared by all iterations of a row of the collectives.

    Attributes:
        members: the ranks of a script's process group in its order; empty for a workload's groups.
        group: description of a script's process group.
        root: rank of the root, or None for the first rank or no root.
        parts: bytes of each rank's parts, a sequence for each rank; None if they are equal.
    """

    op: str
    bytes: int
    ranks: int
    dtype: str
    algorithm: str
    groups: str
    members: tuple[int, ...]
    group: str
    root: int | None
    parts: Parts | None

    @classmethod
    def of(cls, iteration: dict[str, Any], groups: str) -> SameOperation:
        """Return the fields of an iteration.

        Args:
            iteration: a row of `testbed.analysis.operations.iterations`.
            groups: the kind of the workload's groups.
        """
        parts: list[list[int]] | None = None
        if iteration["unequal"]:
            parts = []
            for of_rank in iteration["unequal"].split(","):
                parts.append([int(part) for part in of_rank.split()])

        members = [int(rank) for rank in iteration["members"].split(",") if rank]
        return cls(
            op=iteration["op"],
            bytes=iteration["bytes"],
            ranks=iteration["group_size"],
            dtype=iteration["dtype"],
            algorithm=iteration["algorithm"],
            groups=groups,
            members=tuple(members),
            group=iteration["description"],
            root=iteration["root"],
            parts=parts,
        )


def collect(folder: RunDir) -> Summary:
    """Write the tables and the summary of a run; missing or damaged files become problems.

    Returns:
        The content of summary.json.

    Raises:
        OSError: the run folder cannot be written.
    """
    try:
        plan = folder.read_plan()
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        summary = _summarize_without_plan(folder, type(error).__name__)
    else:
        summary = _summarize_jobs(folder, plan) if plan.jobs else _summarize(folder, plan)[1]
    write_summary(folder.summary, summary)
    return summary


def _summarize_jobs(folder: RunDir, plan: Plan) -> Summary:
    """Summarize each of several jobs in its folder, and return the summary of the whole run."""

    def summarize(of_job: RunDir, plan_of_job: Plan) -> tuple[LoadedRun, Summary]:
        run, summary = _summarize(of_job, plan_of_job)
        write_summary(of_job.summary, summary)
        return run, summary

    jobs = summarize_jobs(folder, plan, summarize)
    run = load_together(folder, plan, jobs)
    write_tables_with_jobs(run)
    wan = _wan(run)
    return Summary(
        wan=wan,
        transfers=_transfers(run),
        captures=[] if run.captured is None else run.captured.points,
        fidelity=_round_trips(run),
        rates=_rates(run),
        stages=stages(run.events, run.problems),
        jobs=job_rows(jobs, folder),
        problems=run.problems,
    )


def _summarize(folder: RunDir, plan: Plan) -> tuple[LoadedRun, Summary]:
    """Write the tables of a run of one workload, and return the run and its summary."""
    of_workload = workload_summary(plan.workers.workload)
    run = LoadedRun.read(folder, plan, trains=of_workload is not None)
    run.write_tables()
    collective_rows = _collectives(run)
    wan = _wan(run)
    training = _training(run, of_workload)
    gpu = _gpu(run)
    run.problems.extend(implausible(run))

    summary = Summary(
        collectives=collective_rows,
        messages=message_rows(run.ops, plan),
        wan=wan,
        transfers=_transfers(run),
        periods=periods(plan.network.changes, run.changes, run.ops, run.steps),
        captures=[] if run.captured is None else run.captured.points,
        training=training,
        loop=_loop(run),
        gpu=gpu,
        fidelity=_round_trips(run),
        rates=_rates(run),
        stages=stages(run.events, run.problems),
        guests=_guests(run),
        problems=run.problems,
        dominant=_dominant(run, collective_rows, training, gpu),
    )
    if plan.job:
        summary = without_bytes_of_others(summary)
    return run, summary


def _guests(run: LoadedRun) -> list[GuestRow]:
    """Return a row for each of several guests."""
    if not run.plan.sites:
        return []

    works: list[GuestWork]
    works, problems = records.read(run.folder.guest_work, GuestWork)
    run.problems.extend(problems)
    rows: list[GuestRow] = []
    for site in run.plan.sites:
        for work in works:
            if work.guest == site.number:
                row = GuestRow(
                    guest=work.guest,
                    datacenters=list(site.datacenters),
                    cpu_seconds=work.cpu_s,
                    waited_seconds=work.waited_s,
                    packets=work.packets,
                    bytes=work.bytes,
                    hasty=work.hasty,
                )
                rows.append(row)
    return rows


def _gpu(run: LoadedRun) -> GpuSummary | None:
    """Return the steps on modelled GPUs, if the hosts have any."""
    if run.gpus is None:
        return None

    settings = run.plan.workers.settings
    gpu = ModelledGpu.of_settings(settings["gpu"], settings["gpu_figures"])
    return summarize_gpus(run.plan, run.gpus, run.ops, gpu.peak_flops)


def _loop(run: LoadedRun) -> LoopSummary | None:
    """Return the steps of a user's script, if it has a loop."""
    if run.plan.workers.workload != "script" or run.ops.is_empty():
        return None

    return summarize_loop(run.ops)


def _summarize_without_plan(folder: RunDir, error: str) -> Summary:
    """Build a summary from the round trips and the stages only; the tables are empty."""
    write_table(pl.DataFrame(schema=dict(schemas.OPS)), folder.ops)
    write_table(pl.DataFrame(schema=dict(schemas.LINKS)), folder.links)

    message = f"cannot read plan.json ({error}): rates, bounds and host names are missing"
    problems = [Problem(code=ProblemCode.FILE_DAMAGED, message=message)]
    round_trips, round_trip_problems = read_round_trips(folder.fidelity)
    problems += round_trip_problems
    events, event_problems = records.read(folder.events, EVENT)
    problems += event_problems
    stage_rows = stages(events, problems)

    return Summary(
        fidelity=round_trips,
        stages=stage_rows,
        problems=problems,
    )


def _collectives(run: LoadedRun) -> list[CollectiveRow]:
    """Return a row per operation, size, group size and type, in the order of execution."""
    measured = _measured(run.ops)
    if measured.is_empty():
        if run.steps is None and run.plan.workers.workload != "script":
            run.problems.append(_no_records("no measured operation was recorded"))

        return []

    groups = str(run.plan.workers.settings.get("groups", "all"))
    bounds = RowBounds(measured, run)
    rows: list[CollectiveRow] = []
    whole = _whole_iterations(measured, run)
    for _key, of_row in whole.group_by(ROW, maintain_order=True):
        operation = SameOperation.of(of_row.row(0, named=True), groups)
        row = _collective_row(operation, of_row, bounds.us(operation))
        if run.plan.workers.settings.get("iterations") == AUTO_ITERATIONS:
            within = median_within(_times_us(row, of_row))
            row = row.model_copy(update={"median_within": within})
        rows.append(row)

    return rows


def _measured(ops: pl.DataFrame) -> pl.DataFrame:
    """Select the rows of ops.parquet that count: measured ones, and a script's collectives."""
    phase = pl.col("phase")
    is_message = pl.col("op").is_in(["send", "recv"])
    is_measured = phase == "measure"
    is_of_script = (phase == "script") & ~is_message
    return ops.filter(is_measured | is_of_script)


def _whole_iterations(measured: pl.DataFrame, run: LoadedRun) -> pl.DataFrame:
    """Return the complete iterations, as `iterations` does; incomplete ones become a problem."""
    every = iterations(measured)
    whole = every.filter("whole")
    partial = every.height - whole.height
    if partial:
        message = f"{partial} iterations lack the record of a rank and were skipped"
        problem = Problem(code=ProblemCode.RECORDS_LEFT_OUT, message=message)
        run.problems.append(problem)

    return whole


def scaled_parts(parts: Parts | None, scale: int) -> Parts | None:
    """Return the bytes of each rank's parts on the wire; None if they are equal."""
    if parts is None or scale == 1:
        return parts

    scaled: list[list[int]] = []
    for of_rank in parts:
        scaled.append([part // scale for part in of_rank])

    return scaled


class RowBounds:
    """Lower bounds of the operations of a run."""

    def __init__(self, measured: pl.DataFrame, run: LoadedRun) -> None:
        """Find the groups of ranks that a workload lets work at the same time.

        Args:
            measured: columns process_group and group (String), group_size and rank (Int32) of
                ops.parquet.
            run: the run; a problem is added if the plan's network has no path between two ranks.
        """
        self._run = run
        self._of_members: dict[tuple[int, ...], Bounds] = {}
        self._of_size: dict[int, list[Bounds]] = {}
        self._failed = False
        self._scale = wire_scale(run.plan)
        of_workload = measured.filter(process_group="")
        members = of_workload.select("group", "group_size", "rank").unique().sort("rank")
        groups = members.group_by("group", "group_size", maintain_order=True)
        for (_group, size), table in groups:
            ranks = tuple(table["rank"].to_list())
            has_name = len(ranks) == size  # otherwise several groups share the empty name
            bounds = self._bounds(ranks) if has_name else None
            if bounds is not None:
                self._of_size.setdefault(int(size), []).append(bounds)

    def us(self, operation: SameOperation) -> float | None:
        """Return the lower bound of an operation in us, or None if no bound is known."""
        if operation.bytes == 0 and operation.op != "barrier":
            return None  # a library may return at once

        try:
            if not operation.members:
                at_once = self._of_size[operation.ranks]
                return concurrent_us(at_once, operation.op, operation.bytes // self._scale)

            ranks = operation.members
            if len(ranks) != operation.ranks:  # several groups at once that cannot be told apart
                return None

            if operation.root is not None:
                others = [rank for rank in ranks if rank != operation.root]
                ranks = (operation.root, *others)

            bounds = self._bounds(ranks)
            if bounds is None:
                return None

            parts = scaled_parts(operation.parts, self._scale)
            return bounds.us(operation.op, operation.bytes // self._scale, parts)
        except (KeyError, ValueError):
            return None

    def _bounds(self, ranks: tuple[int, ...]) -> Bounds | None:
        """Return the bounds of a group whose first rank is the root; None without a path."""
        if ranks in self._of_members:
            return self._of_members[ranks]

        plan = self._run.plan
        try:
            planned = [plan.workers.ranks[rank] for rank in ranks]
            bounds = Bounds(plan.network, planned)
        except (ValueError, KeyError, StopIteration):
            if not self._failed:
                message = "plan.json has no path between two ranks: no lower bounds"
                problem = Problem(code=ProblemCode.NO_BOUNDS, message=message)
                self._run.problems.append(problem)
                self._failed = True

            return None

        self._of_members[ranks] = bounds
        return bounds


def _collective_row(
    operation: SameOperation, of_row: pl.DataFrame, bound_us: float | None
) -> CollectiveRow:
    """Return the row for the iterations of one operation.

    Args:
        operation: the fields shared by the iterations.
        of_row: a row per iteration, as returned by `iterations`.
        bound_us: the lower bound, or None if unknown.
    """
    times_us, slowest_us = of_row["time_us"], of_row["slowest_us"]
    timed: Timed = "first rank" if _is_two_way(operation.op) else "one way"
    least_us = 0.0 if bound_us is None else bound_us * (1 - TOLERANCE)
    if timed == "first rank" and (times_us < least_us).any():
        # Others began before the first rank, or are farther from each other than from it.
        times_us = slowest_us = of_row["span_us"]
        timed = "all ranks"

    time_us = spread(times_us)
    factor = bus_factor(operation.op, operation.ranks)
    algbw = 0.0
    efficiency: float | None = None
    if time_us.median > 0:
        algbw = operation.bytes / time_us.median / 1000
        if bound_us is not None:
            efficiency = bound_us / time_us.median

    wrong: int | None = None
    if of_row["checked"].any():
        wrong = int(of_row["wrong"].sum())

    return CollectiveRow(
        op=operation.op,
        bytes=operation.bytes,
        ranks=operation.ranks,
        iterations=of_row.height,
        time_us=time_us,
        slowest_us=spread(slowest_us).median,
        algbw_gbytes=algbw,
        busbw_gbytes=algbw * factor,
        bound_us=bound_us,
        efficiency=efficiency,
        wrong=wrong,
        dtype=operation.dtype,
        algorithm=operation.algorithm,
        groups=operation.groups,
        group=operation.group,
        group_ranks=list(operation.members),
        root=operation.root,
        unequal=operation.parts is not None,
        timed=timed,
        settled=settled(times_us.to_list()),
        below_bound=bool((times_us < least_us).any()),
    )


def _times_us(row: CollectiveRow, of_row: pl.DataFrame) -> list[float]:
    """Return the time of each iteration in us, as `row.timed` counts it.

    Args:
        row: the row of the iterations.
        of_row: a row per iteration, as returned by `iterations`.
    """
    column = "span_us" if row.timed == "all ranks" else "time_us"
    times: list[float] = of_row[column].to_list()
    return times


def _is_two_way(op: str) -> bool:
    collective = collectives().get(op)
    return collective is None or collective.flow is DataFlow.ALL_TO_ALL


def _wan(run: LoadedRun) -> list[WanRow]:
    """Return a row per WAN direction of the plan; of one of several jobs, that the job uses."""
    begin_ns, end_ns = 0, 0
    if not run.timed.is_empty():
        begin_ns = min(run.timed["start_ns"])
        end_ns = max(run.timed["end_ns"])

    rows: list[WanRow] = []
    crossed = links_of_job(run.plan)
    for link in run.history.states[0].wan:
        for direction in link.directions:
            if crossed is not None and (link.key, direction.source) not in crossed:
                continue
            row = _wan_row(run, link.key, direction, begin_ns, end_ns)
            rows.append(row)
            if row.bytes is None:
                ends = f"from {row.source} to {row.target}"
                problem = _no_records(f"no sample of WAN link {link.key} {ends}")
                run.problems.append(problem)

    return rows


def _wan_row(run: LoadedRun, link: str, direction: Direction, begin_ns: int, end_ns: int) -> WanRow:
    """Return a direction's row: growth of the counters from the first sample to the last.

    The use of the rate is that between the first start and the last end, because the ranks also
    send before and after.

    Args:
        run: the run, with history, links and captures.
        link: key of the WAN link.
        direction: the direction of the link.
        begin_ns: first start of all operations or steps, Unix ns.
        end_ns: last end of all operations or steps, Unix ns.
    """
    source = direction.source
    samples = of_direction(run.links, link, source)
    rate_bps = run.history.mean_rate_bps(link, source, begin_ns, end_ns)
    seconds = (end_ns - begin_ns) / 1e9
    utilisation: float | None = None
    if not samples.is_empty() and rate_bps * seconds > 0:
        capacity = partial(run.history.capacity_bits, link, source)
        sent = sent_bytes(samples, begin_ns, end_ns, capacity)
        utilisation = sent * 8 / (rate_bps * seconds)

    row = WanRow(
        source=source,
        target=direction.target,
        link=link,
        bytes=_growth(samples, "bytes"),
        packets=_growth(samples, "packets"),
        drops=_growth(samples, "drops"),
        rate_bps=round(rate_bps),
        mean_utilisation=utilisation,
    )
    if run.captured is None:
        return row

    captured = run.captured.sent.get((link, source))
    if captured is None:
        return row

    columns = {
        "captured_bytes": captured.wire_bytes,
        "captured_packets": captured.packets,
    }
    return row.model_copy(update=columns)


def _growth(samples: pl.DataFrame, counter: str) -> int | None:
    """Return the growth of a cumulative column over the samples, or None without samples."""
    if samples.is_empty():
        return None
    return int(samples[counter][-1] - samples[counter][0])


def _transfers(run: LoadedRun) -> list[TransferRow]:
    """Return a row per background transfer, sorted by start."""
    ended, _problems = records.read(run.folder.transfers, TransferEnded, may_be_empty=True)
    rows = [_transfer_row(transfer, run.began_ns) for transfer in ended]
    return sorted(rows, key=lambda row: row.start_ns)


def _transfer_row(transfer: TransferEnded, began_ns: int | None) -> TransferRow:
    seconds = (transfer.end_ns - transfer.start_ns) / 1e9
    bps: float | None = None
    if seconds > 0:
        bps = 8 * transfer.received / seconds

    at_s: float | None = None
    if began_ns is not None:
        at_s = (transfer.start_ns - began_ns) / 1e9

    return TransferRow(
        source=transfer.source,
        target=transfer.target,
        bytes=transfer.bytes,
        received=transfer.received,
        seconds=seconds,
        bps=bps,
        at_s=at_s,
        start_ns=transfer.start_ns,
        error=transfer.error,
    )


def _training(run: LoadedRun, of_workload: WorkloadSummary | None) -> TrainingSummary | None:
    if of_workload is None or run.steps is None:
        return None
    return of_workload.summarize(run.plan, run.steps, run.ops, run.links, run.problems)


def _round_trips(run: LoadedRun) -> list[RoundTripRow]:
    if not run.plan.network.wan:
        return []
    rows, problems = read_round_trips(run.folder.fidelity)
    run.problems.extend(problems)
    return rows


def _rates(run: LoadedRun) -> list[RateRow]:
    if run.plan.clock != "real":
        return []
    return measured_rates(run.history, run.links)


def stages(events: Sequence[Event], problems: list[Problem]) -> list[StageRow]:
    """Return the durations of the stages, in the order in which the stages began.

    Args:
        events: the events of the run.
        problems: list to which a problem is added for each stage that did not end.
    """
    open_stages: dict[str, StageBegan] = {}
    rows: dict[str, StageRow] = {}
    for event in events:
        if isinstance(event, StageBegan):
            open_stages[event.stage] = event
            rows[event.stage] = StageRow(
                stage=event.stage, wall_seconds=None, emulated_seconds=None
            )
        elif isinstance(event, StageEnded) and event.stage in open_stages:
            began = open_stages.pop(event.stage)
            rows[event.stage] = _stage_row(began, event)

    for name in open_stages:
        message = f"the stage {name!r} did not end"
        problems.append(Problem(code=ProblemCode.STAGE_UNFINISHED, message=message))

    return list(rows.values())


def _stage_row(began: StageBegan, ended: StageEnded) -> StageRow:
    wall_seconds = None
    if began.wall_s is not None and ended.wall_s is not None:
        wall_seconds = ended.wall_s - began.wall_s
    return StageRow(
        stage=began.stage,
        wall_seconds=wall_seconds,
        emulated_seconds=(ended.time_ns - began.time_ns) / 1e9,
    )


def _dominant(
    run: LoadedRun,
    collective_rows: Sequence[CollectiveRow],
    training: TrainingSummary | None,
    gpu: GpuSummary | None,
) -> Cause | None:
    of_gpus = None if gpu is None else cause_of_gpus(gpu)
    if of_gpus is not None:
        return of_gpus

    links = of_links(run.links, links_of_job(run.plan))
    flows: pl.DataFrame | None = None
    if run.captured is not None:
        flows = run.captured.flows

    if training is None or training.compute_utilisation is None or run.steps is None:
        return cause_of_collectives(run.history, collective_rows, run.ops, links, flows, run.tcp)
    return cause_of_training(run.history, training, run.steps, links, flows, run.ops, run.tcp)


def _no_records(message: str) -> Problem:
    return Problem(code=ProblemCode.NO_RECORDS, message=message)
