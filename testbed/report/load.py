"""Read the content of a report from a run folder, in which any file may be missing or damaged."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import yaml
from pydantic import ValidationError

from testbed.analysis.jobs import numbered_among_all
from testbed.analysis.network_history import History
from testbed.plan.model import Plan
from testbed.runfolder.files import read_plain
from testbed.runfolder.folder import RunDir
from testbed.runfolder.problems import Problem, ProblemCode
from testbed.runfolder.status import Status, read_status
from testbed.runfolder.summary import Summary, read_summary
from testbed.runfolder.tables import read_table

# Columns that a table must have to be useful; `testbed.runfolder.schemas` defines their types.
OPS_COLUMNS = ("op", "bytes", "group_size", "iteration", "phase", "rank", "start_ns", "end_ns")
LINKS_COLUMNS = ("time_ns", "source", "target", "link", "bytes", "drops", "backlog_bytes")
TRAIN_COLUMNS = ("step", "rank", "start_ns", "end_ns", "compute_ns", "loss")
FLOWS_COLUMNS = ("link", "from_dc", "to_dc", "src_host", "dst_host", "payload_bytes")


@dataclass
class Content:
    """The readable content of a run folder.

    The tables have the columns of `testbed.runfolder.schemas`: `ops` of ops.parquet, `links` of
    links.parquet, `train` of train.parquet, `flows` of flows.parquet. A table is None if the file
    is unreadable; only runs that trained have `train`, and only runs with captures have `flows`.

    Attributes:
        name: name of the run folder.
        plan: the run's plan, or None if unreadable.
        status: outcome of the run, or None if unreadable.
        summary: the run's summary; empty if unreadable.
        spec: text of spec.yaml.
        history: the run's network over time, or None without a plan.
        problems: missing or damaged files, and problems of the records behind the summary.
        jobs: contents of the folders of several jobs, whose ranks `ops` and `train` number one job
            after another.
    """

    name: str
    plan: Plan | None = None
    status: Status | None = None
    summary: Summary = field(default_factory=Summary)
    ops: pl.DataFrame | None = None
    links: pl.DataFrame | None = None
    train: pl.DataFrame | None = None
    flows: pl.DataFrame | None = None
    spec: str = ""
    history: History | None = None
    problems: list[Problem] = field(default_factory=list)
    jobs: list[Content] = field(default_factory=list)

    @property
    def origin_ns(self) -> int:
        """Unix time in ns at which the time of figures begins.

        This is the start of the first operation or step, or else the time of the first link sample.
        """
        starts = [_least(table, "start_ns") for table in (self.ops, self.train)]
        known_starts = [start for start in starts if start is not None]
        if known_starts:
            return min(known_starts)
        return _least(self.links, "time_ns") or 0

    def report_damage(self, message: str) -> None:
        """Add a problem about damaged content of the folder."""
        self.problems.append(Problem(code=ProblemCode.FILE_DAMAGED, message=message))


def _least(table: pl.DataFrame | None, column: str) -> int | None:
    """Return the least value of an int64 column, or None without a table or rows."""
    if table is None or table.is_empty():
        return None
    return int(min(table[column]))


def load(run: RunDir, status: Status | None = None) -> Content:
    """Read everything in a run folder that a report shows.

    Args:
        run: the run folder.
        status: the outcome to show; None: that of status.json.
    """
    content = Content(run.path.name, status=status)
    status_problems: list[Problem] = []
    if status is None:
        content.status, status_problems = read_status(run.status)
    summary, summary_problems = read_summary(run.summary)
    content.problems += [*status_problems, *summary_problems]

    if content.status is not None and content.status.stages:
        # The guest, which wrote the summary, does not know the wall time of stages.
        summary = summary.model_copy(update={"stages": content.status.stages})
    content.summary = summary

    content.plan = _read_plan(run, content)
    if content.plan is not None:
        content.history = History.of(content.plan, run)

    _read_tables(run, content)
    _read_jobs(run, content)
    content.spec = _read_spec(run.spec, content)
    content.problems += content.summary.problems
    return content


def _read_jobs(run: RunDir, content: Content) -> None:
    """Read the folders of several jobs, if the plan has them."""
    plan = content.plan
    if plan is None:
        return
    for job in plan.jobs:
        content.jobs.append(load(run.job(job.name)))


def _read_plan(run: RunDir, content: Content) -> Plan | None:
    try:
        return run.read_plan()
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        content.report_damage(_unreadable(run.plan, error))
        return None


def _read_tables(run: RunDir, content: Content) -> None:
    content.ops = _of_ranks(_read_table(run.ops, OPS_COLUMNS, content), content)
    content.links = _read_table(run.links, LINKS_COLUMNS, content)

    if run.train.is_file():
        content.train = _of_ranks(_read_table(run.train, TRAIN_COLUMNS, content), content)
    if run.flows.is_file():
        content.flows = _read_table(run.flows, FLOWS_COLUMNS, content)


def _of_ranks(table: pl.DataFrame | None, content: Content) -> pl.DataFrame | None:
    """Return a table whose ranks are those of the plan: of several jobs, numbered among all."""
    plan = content.plan
    if table is None or plan is None or not plan.jobs:
        return table
    try:
        return numbered_among_all(table, plan)
    except pl.exceptions.PolarsError as error:
        content.report_damage(f"the column job is missing or damaged ({type(error).__name__})")
        return None


def _read_table(path: Path, columns: Iterable[str], content: Content) -> pl.DataFrame | None:
    """Read a Parquet table; add a problem and return None if unreadable or lacking a column."""
    try:
        table = read_table(path)
        table.select(columns)
    except (OSError, pl.exceptions.PolarsError) as error:
        content.report_damage(_unreadable(path, error))
        return None
    return table


def _read_spec(path: Path, content: Content) -> str:
    """Return the text of spec.yaml, which holds two documents: the topology and the workload."""
    try:
        text = read_plain(path)
    except (OSError, UnicodeDecodeError) as error:
        content.report_damage(_unreadable(path, error))
        return ""

    try:
        # Events only: values of a hostile document may be wrong, endless or nested too deeply.
        events = yaml.parse(text, Loader=yaml.CSafeLoader)
        documents = sum(isinstance(event, yaml.DocumentStartEvent) for event in events)
    except yaml.YAMLError:
        content.report_damage("spec.yaml is damaged")
        return text
    if not text:
        content.report_damage("spec.yaml is empty")
    elif documents < 2:
        content.report_damage("spec.yaml is cut short")
    return text


def _unreadable(path: Path, error: Exception) -> str:
    return f"cannot read {path.name} ({type(error).__name__})"
