"""Plan, records, tables and captures of a run folder, each read once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import polars as pl

from testbed.analysis.capture_tables import Captured, read_captures
from testbed.analysis.gpu_steps import GpuRun, read_gpus
from testbed.analysis.network_history import History, happened
from testbed.core.leftovers import temporary_folder
from testbed.plan.model import Plan, Rank
from testbed.runfolder import records, schemas
from testbed.runfolder.folder import RunDir
from testbed.runfolder.problems import Problem, ProblemCode
from testbed.runfolder.records import (
    EVENT,
    Event,
    FirstOperation,
    LinkSample,
    NetworkChange,
    Operation,
    Record,
    TrainingStep,
)
from testbed.runfolder.schemas import Schema
from testbed.runfolder.tables import write_table


@dataclass(frozen=True)
class LoadedRun:
    """The contents of a run folder.

    Attributes:
        folder: the run folder.
        plan: the run's plan.
        events: the records of the run's stages, in order.
        changes: the changes of the network that happened, in order.
        history: the network over time.
        ops: a row per operation and rank, sorted by both (`testbed.runfolder.schemas.OPS`).
        links: the samples of the WAN links (`testbed.runfolder.schemas.LINKS`).
        tcp: a row per operation and rank of which the use of TCP is known (`schemas.TCP`).
        steps: a row per training step and rank, sorted by both (`testbed.runfolder.schemas.TRAIN`),
            or None if the workload does not train.
        gpus: the records of modelled GPUs, or None if the hosts have none.
        captured: the tables of the packet captures, or None without captures.
        incomplete_ranks: the ranks whose records are missing or damaged, or that have none unlike
            others.
        problems: missing or damaged files.
    """

    folder: RunDir
    plan: Plan
    events: list[Event]
    changes: list[NetworkChange]
    history: History
    ops: pl.DataFrame
    tcp: pl.DataFrame
    links: pl.DataFrame
    steps: pl.DataFrame | None
    captured: Captured | None
    gpus: GpuRun | None = None
    incomplete_ranks: list[int] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @classmethod
    def read(cls, folder: RunDir, plan: Plan, *, trains: bool) -> LoadedRun:
        """Read a run folder in which any file but the plan may be missing or damaged.

        Args:
            folder: the run folder.
            plan: the run's plan.
            trains: whether the ranks record training steps.
        """
        problems: list[Problem] = []
        incomplete: set[int] = set()
        operations = _read_operations(folder, plan, problems, incomplete)
        ops = _table(operations, schemas.OPS).sort("start_ns", "rank")
        links = read_links(folder, plan, problems)
        steps: pl.DataFrame | None = None
        if trains:
            steps = _read_steps(folder, plan, problems, incomplete)

        captured = read_captures_of(folder, plan, ops, problems)
        events, event_problems = records.read(folder.events, EVENT)
        problems += event_problems
        changes = happened(plan, folder)

        return cls(
            folder=folder,
            plan=plan,
            events=events,
            changes=changes,
            history=History.with_changes(plan, changes),
            ops=ops,
            tcp=_tcp_table(operations),
            links=links,
            steps=steps,
            captured=captured,
            gpus=read_gpus(folder, plan, problems) if plan.workers.has_gpus else None,
            incomplete_ranks=sorted(incomplete),
            problems=problems,
        )

    @property
    def timed(self) -> pl.DataFrame:
        """The rows of train.parquet, or of ops.parquet for a run without training steps."""
        if self.steps is None or self.steps.is_empty():
            return self.ops
        return self.steps

    @property
    def began_ns(self) -> int | None:
        """The time (Unix ns) at which rank 0 began its first operation or step, or None."""
        for event in self.events:
            if isinstance(event, FirstOperation):
                return event.time_ns
        return None

    def write_tables(self) -> None:
        """Write the tables into the run folder.

        Raises:
            OSError: a table cannot be written.
        """
        folder, captured = self.folder, self.captured
        write_table(self.ops, folder.ops)
        write_table(self.links, folder.links)
        if self.steps is not None:
            write_table(self.steps, folder.train)

        if self.gpus is not None:
            write_table(self.gpus.steps, folder.gpu)

        if captured is not None:
            write_table(captured.flows, folder.flows)
            write_table(captured.throughput, folder.throughput)
            write_table(captured.operations, folder.flow_ops)


AnyRecord = TypeVar("AnyRecord", bound=Record)


@dataclass(frozen=True)
class _RankRecords(Generic[AnyRecord]):
    """The records of one rank, with the rank's host and datacenter, which the records lack."""

    place: dict[str, int | str]
    records: Sequence[AnyRecord]

    @classmethod
    def of(
        cls, plan: Plan, rank: Rank, rank_records: Sequence[AnyRecord]
    ) -> _RankRecords[AnyRecord]:
        place: dict[str, int | str] = {
            "rank": rank.rank,
            "host": rank.host,
            "dc": plan.network.host(rank.host).dc,
        }
        return cls(place, rank_records)

    def column(self, name: str) -> list[Any]:
        """Return the values of a table column for these records."""
        if name in self.place:
            return [self.place[name]] * len(self.records)
        return [getattr(record, name) for record in self.records]


def _read_operations(
    folder: RunDir, plan: Plan, problems: list[Problem], incomplete: set[int]
) -> list[_RankRecords[Operation]]:
    """Read the operations of all ranks, and add ranks without whole records to `incomplete`."""
    by_rank: list[_RankRecords[Operation]] = []
    idle: dict[int, Problem] = {}
    # A command that is started once per host may run without torch.
    may_be_missing = plan.workers.once_per_host
    for rank in plan.workers.ranks:
        path = folder.rank_ops(rank.rank)
        if may_be_missing and not path.exists():
            continue

        operations, file_problems = records.read(path, Operation, may_be_empty=True)
        problems += file_problems
        if file_problems:
            incomplete.add(rank.rank)
        by_rank.append(_RankRecords.of(plan, rank, operations))
        if not operations:
            message = f"raw/{path.name} holds no operations, unlike the files of other ranks"
            idle[rank.rank] = Problem(code=ProblemCode.NO_RECORDS, message=message)

    some = any(rank_records.records for rank_records in by_rank)
    if some and plan.workers.workload != "script":
        problems += idle.values()
        incomplete.update(idle)

    return by_rank


def _tcp_table(by_rank: Sequence[_RankRecords[Operation]]) -> pl.DataFrame:
    """Return the use of TCP of each operation that has it (`testbed.runfolder.schemas.TCP`)."""
    rows: list[dict[str, Any]] = []
    for rank_records in by_rank:
        for operation in rank_records.records:
            if operation.tcp is None:
                continue

            row = {name: getattr(operation, name, None) for name in schemas.TCP}
            rows.append({**row, **rank_records.place, **operation.tcp.model_dump()})

    return pl.DataFrame(rows, schema=dict(schemas.TCP), orient="row")


def _read_steps(
    folder: RunDir, plan: Plan, problems: list[Problem], incomplete: set[int]
) -> pl.DataFrame:
    """Read the training steps of all ranks (`testbed.runfolder.schemas.TRAIN`).

    Ranks without whole records are added to `incomplete`.
    """
    by_rank: list[_RankRecords[TrainingStep]] = []
    for rank in plan.workers.ranks:
        steps, file_problems = records.read(folder.rank_train(rank.rank), TrainingStep)
        problems += file_problems
        if file_problems:
            incomplete.add(rank.rank)
        by_rank.append(_RankRecords.of(plan, rank, steps))
    return _table(by_rank, schemas.TRAIN).sort("step", "rank")


def read_links(folder: RunDir, plan: Plan, problems: list[Problem]) -> pl.DataFrame:
    """Read the samples of the WAN links (`testbed.runfolder.schemas.LINKS`).

    Args:
        folder: the run folder.
        plan: the run's plan.
        problems: list to which problems are added.
    """
    samples: list[LinkSample] = []
    if plan.network.wan:
        samples, file_problems = records.read(folder.link_samples, LinkSample)
        problems += file_problems
    return _table([_RankRecords({}, samples)], schemas.LINKS)


def read_captures_of(
    folder: RunDir, plan: Plan, ops: pl.DataFrame, problems: list[Problem]
) -> Captured | None:
    """Build the tables of packet captures, or None without captures or with a damaged plan.

    Args:
        folder: the run folder.
        plan: the run's plan.
        ops: ops.parquet (`testbed.runfolder.schemas.OPS`).
        problems: list to which problems are added.
    """
    if plan.capture == "none":
        return None

    try:
        with temporary_folder("testbed-captures-") as scratch:
            captured = read_captures(folder, plan, ops, scratch)
    except ValueError as error:
        message = f"cannot read the captures with this plan.json: {error}"
        problems.append(Problem(code=ProblemCode.FILE_DAMAGED, message=message))
        return None

    problems += captured.problems
    return captured


def _table(by_rank: Sequence[_RankRecords[Any]], schema: Schema) -> pl.DataFrame:
    """Build a table with the columns of `schema` from the records and the ranks' places."""
    columns: dict[str, list[Any]] = {}
    for name in schema:
        columns[name] = []
        for rank_records in by_rank:
            values = rank_records.column(name)
            columns[name].extend(values)

    return pl.DataFrame(columns, schema=dict(schema))
