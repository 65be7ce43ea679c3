"""A run as it happens: stage, use of the links, activity of the ranks, events.

Everything that is kept of a run is bounded: the newest records of each rank and of each direction.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import plotly.graph_objects as go
import polars as pl
from pydantic import ValidationError

from testbed.analysis.network_history import History
from testbed.plan.model import Plan
from testbed.report.figures.common import loss_figure
from testbed.report.figures.links import queue_figure, utilisation_figure
from testbed.report.figures.ranks import rank_figure
from testbed.report.page import LOSS, QUEUE, RANKS, USED
from testbed.runfolder.files import last_lines
from testbed.runfolder.folder import RunDir
from testbed.runfolder.records import (
    Follower,
    LinkSample,
    NetworkChange,
    Operation,
    RankExit,
    TrainingStep,
    TransferEnded,
)
from testbed.runfolder.status import read_status
from testbed.ui.entries import LONGEST_TEXT, read_run
from testbed.ui.feed import READING_ERRORS, Parts
from testbed.ui.stage import StageWatch

MOST_BYTES = 256 * 1024  # of a rank's file that are read in one look
MOST_RANKS = 256  # whose files are followed
MOST_OPERATIONS = 40_000  # kept, of all ranks together
MOST_SAMPLES = 2000  # kept of each direction of a link
MOST_EVENTS = 100
BINS = 200  # of time in the figure of the ranks
USE_SAMPLES = 10  # newest samples over which the use of a link is a mean
OUTPUT_LINES = 12

OPS = {
    "op": pl.String,
    "bytes": pl.Int64,
    "group_size": pl.Int64,
    "iteration": pl.Int64,
    "phase": pl.String,
    "rank": pl.Int32,
    "start_ns": pl.Int64,
    "end_ns": pl.Int64,
    "process_group": pl.String,
    "group": pl.String,
    "case": pl.Int64,
}
LINKS = {
    "time_ns": pl.Int64,
    "source": pl.String,
    "target": pl.String,
    "link": pl.String,
    "bytes": pl.Int64,
    "drops": pl.Int64,
    "backlog_bytes": pl.Int64,
}
STEPS = {
    "step": pl.Int64,
    "rank": pl.Int32,
    "start_ns": pl.Int64,
    "end_ns": pl.Int64,
    "compute_ns": pl.Int64,
    "loss": pl.Float64,
    "computed_ns": pl.List(pl.Int64),
}
Row = tuple[Any, ...]


@dataclass
class RankRecords:
    """The newest records of a rank."""

    rank: int
    operations: Follower[Operation]
    steps: Follower[TrainingStep]
    operation_rows: deque[Row]
    step_rows: deque[Row]

    @classmethod
    def of(cls, run: RunDir, plan: Plan, rank: int, most: int) -> RankRecords:
        """Follow the files of a rank, and keep `most` rows of each."""
        folder, number = run.of_rank(plan, rank)
        return cls(
            rank,
            Follower(folder.rank_ops(number), Operation, most_bytes=MOST_BYTES),
            Follower(folder.rank_train(number), TrainingStep, most_bytes=MOST_BYTES),
            deque(maxlen=most),
            deque(maxlen=most),
        )

    def read(self) -> int:
        """Read what is new, and return how many records that are."""
        operations = self.operations.new()
        for record in operations:
            row: list[Any] = []
            for name in OPS:
                row.append(self.rank if name == "rank" else getattr(record, name))
            self.operation_rows.append(tuple(row))
        steps = self.steps.new()
        for record in steps:
            row = []
            for name in STEPS:
                row.append(self.rank if name == "rank" else getattr(record, name))
            self.step_rows.append(tuple(row))
        return len(operations) + len(steps)


@dataclass
class LinkRecords:
    """The newest samples of each direction of a WAN link, by link and source."""

    samples: Follower[LinkSample]
    rows: dict[tuple[str, str], deque[Row]] = field(default_factory=dict)

    def read(self, known: set[tuple[str, str]]) -> int:
        """Read what is new of the directions `known`, and return how many samples that are."""
        new = self.samples.new()
        for sample in new:
            key = (sample.link, sample.source)
            if key in known:
                rows = self.rows.setdefault(key, deque(maxlen=MOST_SAMPLES))
                rows.append(tuple(getattr(sample, name) for name in LINKS))
        return len(new)

    def table(self) -> pl.DataFrame:
        """Return the samples as a table with the columns `LINKS`."""
        every: list[Row] = []
        for rows in self.rows.values():
            every += rows
        return pl.DataFrame(every, schema=LINKS, orient="row")


class LiveRun:
    """Follows one run; `look` returns what is known of it by now."""

    def __init__(self, run: RunDir, at: str) -> None:
        self._run = run
        self._at = at
        self._stage = StageWatch(run)
        self._links = LinkRecords(Follower(run.link_samples, LinkSample))
        self._changes: Follower[NetworkChange] = Follower(run.changes, NetworkChange)
        self._exits: Follower[RankExit] = Follower(run.rank_exits, RankExit)
        self._transfers: Follower[TransferEnded] = Follower(run.transfers, TransferEnded)
        self._ranks: list[RankRecords] = []
        self._plan: Plan | None = None
        self._happened: list[NetworkChange] = []
        self._events: deque[dict[str, Any]] = deque(maxlen=MOST_EVENTS)
        self._figures: dict[str, str] = {}

    def look(self) -> Parts:
        """Read what is new, and return the parts of the page by name."""
        entry = read_run(self._run, self._at)
        if entry.state != "running" and self._plan is None:
            return {"entry": entry.model_dump_json()}  # the report has everything
        if self._plan is None:
            self._read_plan()
        entry.stage = self._stage.look()
        if self._read_records():
            self._draw()
        status, _problems = read_status(self._run.status)
        parts = {
            "entry": entry.model_dump_json(),
            "events": json.dumps(list(self._events)),
            "use": json.dumps(self._use()),
            "output": json.dumps(self._output()),
        }
        if status is not None and status.warnings:
            warnings = [str(warning)[:LONGEST_TEXT] for warning in status.warnings]
            parts["warnings"] = json.dumps(warnings[:MOST_EVENTS])
        parts.update(self._figures)
        return parts

    def _read_plan(self) -> None:
        try:
            plan = self._run.read_plan()
        except (OSError, ValidationError, UnicodeDecodeError):
            return
        self._plan = plan
        ranks = range(min(len(plan.workers.ranks), MOST_RANKS))
        most = MOST_OPERATIONS // max(len(ranks), 1)
        self._ranks = [RankRecords.of(self._run, plan, rank, most) for rank in ranks]

    def _read_records(self) -> int:
        """Read new records of a run with a plan, and return how many there are to draw."""
        if self._plan is None:
            return 0
        known: set[tuple[str, str]] = set()
        for link in self._plan.network.wan:
            known.update((link.key, direction.source) for direction in link.directions)
        new_rows = self._links.read(known)
        for rank in self._ranks:
            new_rows += rank.read()
        for change in self._changes.new():
            if change.number == len(self._happened) < len(self._plan.network.changes):
                self._happened.append(change)
                what = "; ".join(self._plan.network.changes[change.number].what)
                self._note(what, change.time_ns)
                new_rows += 1
        for transfer in self._transfers.new():
            how = f"ended: {transfer.error}" if transfer.error else "ended"
            self._note(f"transfer {transfer.source} to {transfer.target} {how}", transfer.end_ns)
        for ended in self._exits.new():
            if ended.status:
                self._note(f"rank {ended.rank} ended with status {ended.status}", None)
        return new_rows

    def _note(self, what: str, time_ns: int | None) -> None:
        at_s = None
        if time_ns is not None and self._stage.first_ns is not None:
            at_s = round((time_ns - self._stage.first_ns) / 1e9, 6)
        self._events.append({"what": what[:LONGEST_TEXT], "at_s": at_s})

    def _draw(self) -> None:
        plan = self._plan
        assert plan is not None
        history = History.with_changes(plan, self._happened)
        operations = _table([rank.operation_rows for rank in self._ranks], OPS)
        steps = _table([rank.step_rows for rank in self._ranks], STEPS)
        links = self._links.table()
        origin_ns = self._origin_ns(operations, links)
        trained = None if steps.is_empty() else steps

        self._keep("loss", "Loss against time", LOSS, lambda: _loss(trained, history))
        self._keep(
            "ranks",
            "Ranks over time",
            RANKS.partition(" trace.json")[0],
            lambda: rank_figure(operations, trained, plan, origin_ns, history, BINS),
        )
        if plan.network.wan:
            self._keep(
                "utilisation",
                "Use of the WAN over time",
                USED,
                lambda: None if links.is_empty() else utilisation_figure(links, history, origin_ns),
            )
            self._keep(
                "queue",
                "Queues over time",
                QUEUE,
                lambda: None if links.is_empty() else queue_figure(links, history, origin_ns),
            )

    def _keep(
        self, name: str, title: str, explanation: str, draw: Callable[[], go.Figure | None]
    ) -> None:
        """Keep a figure as JSON; without data, or if the records make no sense, the last one."""
        try:
            figure = draw()
        except READING_ERRORS:
            return
        if figure is None:
            return
        document = json.dumps({"title": title, "explanation": explanation})
        self._figures[f"figure-{name}"] = f'{document[:-1]}, "figure": {figure.to_json()}}}'

    def _origin_ns(self, operations: pl.DataFrame, links: pl.DataFrame) -> int:
        """Return the Unix time in ns from which the time of figures counts."""
        if self._stage.first_ns is not None:
            return self._stage.first_ns
        for table, column in ((operations, "start_ns"), (links, "time_ns")):
            if not table.is_empty():
                return int(min(table[column]))
        return 0

    def _use(self) -> dict[str, list[float]]:
        """Return for each link the share of its rate that each direction carried of late."""
        if self._plan is None:
            return {}
        history = History.with_changes(self._plan, self._happened)
        shares: dict[str, list[float]] = {}
        for link in self._plan.network.wan:
            of_link: list[float] = []
            for direction in link.directions:
                rows = self._links.rows.get((link.key, direction.source), ())
                of_link.append(_share(history, link.key, direction.source, rows))
            shares[link.key] = of_link
        return shares

    def _output(self) -> str:
        try:
            return last_lines(self._run.rank_log(0), OUTPUT_LINES)[-4000:]
        except OSError:
            return ""


def _table(parts: Sequence[deque[Row]], schema: dict[str, Any]) -> pl.DataFrame:
    rows: list[Row] = []
    for part in parts:
        rows += part
    return pl.DataFrame(rows, schema=schema, orient="row")


def _loss(steps: pl.DataFrame | None, history: History) -> go.Figure | None:
    if steps is None:
        return None
    return loss_figure({"this run": steps}, history)


def _share(history: History, link: str, source: str, rows: Sequence[Row]) -> float:
    """Return the share of a direction's rate that its newest samples (columns `LINKS`) used."""
    newest = list(rows)[-USE_SAMPLES:]
    if len(newest) < 2:
        return 0.0
    names = list(LINKS)
    time_ns, sent = names.index("time_ns"), names.index("bytes")
    begin_ns, end_ns = newest[0][time_ns], newest[-1][time_ns]
    capacity_bits = history.capacity_bits(link, source, begin_ns, end_ns)
    if capacity_bits <= 0:
        return 0.0
    share = 8 * (newest[-1][sent] - newest[0][sent]) / capacity_bits
    return float(round(min(max(share, 0.0), 1.0), 3))
