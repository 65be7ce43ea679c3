"""Write trace.json, a run's timeline for Perfetto (ui.perfetto.dev) in Chrome's trace event format.

A process per datacenter has two or more threads for each rank: one for steps, with the modelled
computation and the waits in each step, and one for operations, with the wait for the last rank to
begin; overlapping operations have separate threads. On modelled GPUs each stream has a thread too,
with its kernels by part of the model, and its waits for operations. The process "WAN" has counters
for each direction of each link: use in % of the rate, the queue in bytes, and drops. The process
"run" has the stages, and as instants all other events: a failure, changes of the network, warnings.

Times in the file are in us since the first event; `baseTimeNanoseconds` is the Unix time of the
first event on the run's clock, in ns.

HolisticTraceAnalysis treats an event as a GPU kernel if the event's args have a `stream`, and as
communication if the event's name begins with "nccl" and contains "Kernel", otherwise as
computation. Operations are therefore named like NCCL's kernels, whichever library carried them out,
and operations and computation have streams. HolisticTraceAnalysis reads a file per rank
(`write_rank_traces`), and takes trace.json for the file of one rank.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import polars as pl

from testbed.analysis.activity import compute_spans, lanes, start_waits, step_waits
from testbed.analysis.gpu_steps import read_spans
from testbed.core.units import format_size
from testbed.plan.model import Direction, Plan
from testbed.report.load import Content
from testbed.runfolder import records
from testbed.runfolder.files import replacing
from testbed.runfolder.folder import RunDir
from testbed.runfolder.records import (
    EVENT,
    GLOO,
    NCCL,
    FirstOperation,
    OperationsTotal,
    RecordsRefused,
    RunEnded,
    SeparateWorld,
    StageBegan,
    StageEnded,
    StreamSpan,
    ValueDecided,
)

TraceEvent: TypeAlias = dict[str, Any]  # JSON; until written, `ts` is Unix time and both are in ns

RUN_PID = 1
WAN_PID = 2
FIRST_DATACENTER_PID = 3
COMPUTE_STREAM = 7  # of HolisticTraceAnalysis: any number but -1
FIRST_OPERATION_STREAM = 20
FIRST_RANK_TID = 1000
FIRST_GPU_TID = 10**6
RANK_TIDS = 64  # most threads of a rank: steps, and lanes of operations
MOST_LANES = RANK_TIDS - 1
MOST_SPANS = 200_000  # of the streams of all modelled GPUs
SEEN = 0.01  # least share of an operation for a wait to be drawn
KERNEL_NAMES = {
    "all_reduce": "AllReduce",
    "all_gather": "AllGather",
    "reduce_scatter": "ReduceScatter",
    "all_to_all": "AllToAll",
    "send_recv": "SendRecv",
    "send": "Send",
    "recv": "Recv",
}
DTYPE_LETTERS = {"float": "f", "bfloat": "bf", "uint": "u", "int": "i"}
TimedEvent: TypeAlias = StageBegan | StageEnded | FirstOperation | RunEnded


class Thread(NamedTuple):
    """A track of the timeline."""

    pid: int
    tid: int

    def next(self, number: int) -> Thread:
        """Return the thread `number` places after this one, in the same process."""
        return Thread(self.pid, self.tid + number)


STAGES = Thread(RUN_PID, 1)


def write_trace(run: RunDir, content: Content) -> Path | None:
    """Write trace.json of a run.

    Args:
        run: the run folder.
        content: the readable content of the run folder.

    Returns:
        Path of the file, or None, without writing a file, if the plan cannot be read.

    Raises:
        OSError: the file cannot be written.
    """
    if content.plan is None:
        return None

    timeline = Timeline(run, content, content.plan)
    _write(run.trace, timeline.events(), timeline, rank=0)
    return run.trace


def write_rank_traces(run: RunDir, content: Content, folder: Path) -> list[Path]:
    """Write rank-<n>.json of each rank, for HolisticTraceAnalysis.

    Args:
        run: the run folder.
        content: the readable content of the run folder.
        folder: folder for the files, created if missing.

    Returns:
        Paths of the files; none without a plan.

    Raises:
        OSError: the files cannot be written.
    """
    if content.plan is None:
        return []

    timeline = Timeline(run, content, content.plan)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for rank in content.plan.workers.ranks:
        path = folder / f"rank-{rank.rank}.json"
        _write(path, timeline.of_rank(rank.rank), timeline, rank.rank)
        paths.append(path)
    return paths


def _write(path: Path, events: Iterable[TraceEvent], timeline: Timeline, rank: int) -> None:
    """Write events, one per line.

    HolisticTraceAnalysis searches for `"rank": ` with the blank, which no event contains.
    """
    base_ns = timeline.origin_ns
    ranks = len(timeline.plan.workers.ranks)
    info = json.dumps({"rank": rank, "world_size": ranks, "backend": timeline.backend})

    encode = json.JSONEncoder(separators=(",", ":")).encode
    with replacing(path) as new, new.open("x", encoding="utf-8") as file:
        file.write(f'{{"schemaVersion": 1, "distributedInfo": {info},\n')
        file.write(f'"displayTimeUnit": "ms", "baseTimeNanoseconds": {base_ns},\n')
        file.write('"traceEvents": [\n')
        separator = ""
        for event in events:
            _convert_to_us(event, base_ns)
            file.write(separator + encode(event))
            separator = ",\n"
        file.write("\n]}\n")


def _convert_to_us(event: TraceEvent, base_ns: int) -> None:
    if "ts" in event:
        event["ts"] = (event["ts"] - base_ns) / 1000
    if "dur" in event:
        event["dur"] /= 1000


class OperationRow(NamedTuple):
    """The columns of ops.parquet that the timeline shows."""

    op: str
    bytes: int
    dtype: str | None
    group_size: int
    iteration: int
    phase: str
    start_ns: int
    end_ns: int
    algorithm: str


class Timeline:
    """Generator of the events of a run."""

    def __init__(self, run: RunDir, content: Content, plan: Plan) -> None:
        self.plan = plan
        self._content = content
        self._stage_events = _timed_events(run.events)

        self._pids = {}
        for number, dc in enumerate(plan.network.datacenters):
            self._pids[dc.name] = FIRST_DATACENTER_PID + number
        self._gpus = _spans_of_gpus(run, plan)
        self._waits: pl.DataFrame | None = None
        if content.ops is not None and content.train is None:
            self._waits = start_waits(content.ops, len(plan.workers.ranks))

    @property
    def backend(self) -> str:
        """The library that carried out most operations, as torch.distributed names it."""
        ops = self._content.ops
        if ops is None or ops.is_empty() or "algorithm" not in ops.columns:
            return GLOO

        is_nccl = (ops["algorithm"] == NCCL).sum()
        return NCCL if 2 * is_nccl > ops.height else GLOO

    @property
    def origin_ns(self) -> int:
        """Unix time in ns of the first event; 0 without events."""
        content = self._content
        starts = [event.time_ns for event in self._stage_events[:1]]
        for table, column in (
            (content.ops, "start_ns"),
            (content.train, "start_ns"),
            (content.links, "time_ns"),
        ):
            if table is not None and not table.is_empty():
                starts.append(min(table[column]))
        return min(starts, default=0)

    def events(self) -> Iterator[TraceEvent]:
        """Yield all events."""
        yield from _process(RUN_PID, "run", 0)
        yield from self._stages()
        yield from self._instants()
        for order, (dc, pid) in enumerate(self._pids.items(), 1):
            yield from _process(pid, f"datacenter {dc}", order)
        for rank in self.plan.workers.ranks:
            yield from self.of_rank(rank.rank)
        yield from _process(WAN_PID, "WAN", 1 + len(self._pids))
        yield from self._counters()

    def of_rank(self, rank: int) -> Iterator[TraceEvent]:
        """Yield the steps and the operations of one rank."""
        host = self.plan.workers.ranks[rank].host
        pid = self._pids[self.plan.network.host(host).dc]
        steps_thread = Thread(pid, FIRST_RANK_TID + rank * RANK_TIDS)
        label = f"rank {self.plan.rank_name(rank)} ({host})"

        train = self._content.train
        if train is not None:
            yield _thread_name(steps_thread, f"{label}: steps")
            rank_steps = train.filter(rank=rank)
            yield from _steps(rank_steps, steps_thread)
        ops = self._content.ops
        if ops is not None:
            rank_ops = ops.filter(rank=rank)
            waits = self._waits_of_rank(rank)
            yield from _operations(rank_ops, waits, steps_thread.next(1), label)

        gpus_thread = Thread(pid, FIRST_GPU_TID + rank * RANK_TIDS)
        yield from _gpu_events(self._gpus.get(rank, []), gpus_thread, label)

    def _waits_of_rank(self, rank: int) -> dict[int, int]:
        """Return the time at which the last rank began each operation, by the rank's own start."""
        if self._waits is None:
            return {}

        waits = self._waits.filter(pl.col("rank") == rank)
        return dict(waits.select("start_ns", "end_ns").iter_rows())

    def _counters(self) -> Iterator[TraceEvent]:
        links = self._content.links
        if links is None:
            return

        for link in self.plan.network.wan:
            for direction in link.directions:
                is_direction = (pl.col("link") == link.key) & (pl.col("source") == direction.source)
                samples = links.filter(is_direction).sort("time_ns")
                if samples.is_empty():
                    continue

                yield from self._counters_of_direction(link.key, direction, samples)

    def _counters_of_direction(
        self, link: str, direction: Direction, samples: pl.DataFrame
    ) -> Iterator[TraceEvent]:
        """Yield counters of the use, the queue and the drops of a direction.

        Args:
            link: key of the link.
            direction: the direction of the link.
            samples: samples of the direction, sorted: columns time_ns, bytes, backlog_bytes, drops
                (int64).
        """
        name = f"{direction.source} → {direction.target}"
        if self._has_parallel_links(direction):
            name += f" ({link})"

        times_ns = samples["time_ns"].to_list()
        used = self._used_percent(link, direction, samples)
        yield from _counter(f"{name}: used (% of rate)", times_ns, used)
        yield from _counter(f"{name}: queue (bytes)", times_ns, samples["backlog_bytes"].to_list())

        first_drops = samples["drops"].first() or 0
        drops = (samples["drops"] - first_drops).to_list()
        if any(drops):
            yield from _counter(f"{name}: dropped (packets)", times_ns, drops)

    def _used_percent(self, link: str, direction: Direction, samples: pl.DataFrame) -> list[float]:
        """Return the use of a direction in % of its rate, from each sample to the next.

        `samples` are rows of links.parquet (`testbed.runfolder.schemas.LINKS`).
        """
        percent: list[float] = []
        rows = samples.select("time_ns", "bytes").iter_rows()
        for (begin_ns, before), (end_ns, after) in pairwise(rows):
            sent_bits = 8 * (after - before)
            rate_bps = self._rate_bps(link, direction, begin_ns, end_ns)
            duration_ns = max(end_ns - begin_ns, 1)
            capacity = rate_bps * duration_ns
            share = 1e9 * sent_bits / capacity if capacity else 0.0
            percent.append(round(100 * share, 2))
        return [*percent, 0.0]

    def _rate_bps(self, link: str, direction: Direction, begin_ns: int, end_ns: int) -> float:
        """Return the mean rate of a direction between two times."""
        history = self._content.history
        if history is None:
            return direction.bottleneck.rate_bps
        return history.mean_rate_bps(link, direction.source, begin_ns, end_ns)

    def _has_parallel_links(self, direction: Direction) -> bool:
        ends = (direction.source, direction.target)
        same_ends = 0
        for link in self.plan.network.wan:
            for other in link.directions:
                if (other.source, other.target) == ends:
                    same_ends += 1
        return same_ends > 1

    def _stages(self) -> Iterator[TraceEvent]:
        yield _thread_name(STAGES, "stages")
        begun: dict[str, int] = {}

        for event in self._stage_events:
            if isinstance(event, StageBegan):
                begun[event.stage] = event.time_ns
            elif isinstance(event, StageEnded) and event.stage in begun:
                start_ns = begun.pop(event.stage)
                yield _slice(event.stage, "stage", STAGES, start_ns, event.time_ns)

    def _instants(self) -> Iterator[TraceEvent]:
        """Yield the failure, the changes of the network, and the warnings.

        Warnings have no time and are placed at the last event.
        """
        for event in self._stage_events:
            if isinstance(event, RunEnded) and event.state == "failed":
                details = {"stage": event.stage, "state": event.state, "reason": event.reason}
                name = " ".join(details.values()).rstrip()
                yield _instant(name, event.time_ns, details)

        if self._content.history is not None:
            times_ns = self._content.history.times_ns
            for time_ns, change in zip(times_ns, self.plan.network.changes, strict=False):
                name = "; ".join(change.what)
                at_s = change.at_ns / 1e9
                yield _instant(name, time_ns, {"at_s": at_s})

        last_ns = max((event.time_ns for event in self._stage_events), default=0)
        status = self._content.status
        if status is None or not last_ns:
            return
        for warning in status.warnings:
            yield _instant(f"warning: {warning}", last_ns, {"warning": warning.message})


def _timed_events(path: Path) -> list[TimedEvent]:
    """Read the events of a run that have a time."""
    events, _problems = records.read(path, EVENT, may_be_empty=True)
    without_time = (OperationsTotal, SeparateWorld, ValueDecided, RecordsRefused)
    return [event for event in events if not isinstance(event, without_time)]


def _steps(steps: pl.DataFrame, thread: Thread) -> Iterator[TraceEvent]:
    """Yield the steps of one rank, with the computation and the waits in each step.

    Args:
        steps: rows of train.parquet of one rank.
        thread: thread on which the steps are drawn.
    """
    rows = steps.sort("start_ns").select("step", "loss", "start_ns", "end_ns")

    for step, loss, start_ns, end_ns in rows.iter_rows():
        details = {"step": step}
        if loss is not None:
            details["loss"] = loss
        yield _slice(f"step {step}", "step", thread, start_ns, end_ns, **details)

    for start_ns, end_ns in compute_spans(steps).select("start_ns", "end_ns").iter_rows():
        yield _slice(
            "computation (modelled)",
            "kernel",
            thread,
            start_ns,
            end_ns,
            stream=COMPUTE_STREAM,
        )

    for start_ns, end_ns in step_waits(steps).select("start_ns", "end_ns").iter_rows():
        yield _slice("waiting", "wait", thread, start_ns, end_ns)


def _operations(
    ops: pl.DataFrame, waits: Mapping[int, int], first_thread: Thread, label: str
) -> Iterator[TraceEvent]:
    """Yield the operations of one rank, in as many threads as necessary.

    Args:
        ops: rows of ops.parquet of one rank.
        waits: time at which the last rank began each operation, by the rank's own start.
        first_thread: first of the threads on which operations are drawn.
        label: name of the rank.
    """
    ops = ops.sort("start_ns", "end_ns", descending=[False, True])

    used_lanes = [min(lane, MOST_LANES - 1) for lane in lanes(ops)]
    for lane in sorted(set(used_lanes)):
        name = f"{label}: operations"
        if lane:
            name += f" {lane + 1}"
        yield _thread_name(first_thread.next(lane), name)

    for lane, row in zip(used_lanes, _operation_rows(ops), strict=True):
        thread = first_thread.next(lane)
        yield _slice(
            kernel_name(row.op, row.bytes, row.dtype or "", row.algorithm),
            "kernel",
            thread,
            row.start_ns,
            row.end_ns,
            stream=FIRST_OPERATION_STREAM + lane,
            bytes=row.bytes,
            group_size=row.group_size,
            phase=row.phase,
            iteration=row.iteration,
        )

        last_begin_ns = waits.get(row.start_ns, row.start_ns)
        shortest_ns = SEEN * (row.end_ns - row.start_ns)
        if last_begin_ns - row.start_ns > max(shortest_ns, 0):
            yield _slice(
                "waits for the last rank to begin",
                "wait",
                thread,
                row.start_ns,
                last_begin_ns,
            )


def _spans_of_gpus(run: RunDir, plan: Plan) -> dict[int, list[StreamSpan]]:
    """Return the stretches of streams by rank; the more ranks, the fewer of each."""
    if not plan.workers.has_gpus:
        return {}

    most = max(1, MOST_SPANS // len(plan.workers.ranks))
    spans: dict[int, list[StreamSpan]] = {}
    for rank in plan.workers.ranks:
        spans[rank.rank] = read_spans(run, rank.rank)[:most]

    return spans


def _gpu_events(
    spans: Sequence[StreamSpan], first_thread: Thread, label: str
) -> Iterator[TraceEvent]:
    """Yield the kernels and the waits of the streams of a rank's modelled GPU, a thread for each.

    Args:
        spans: stretches of the streams.
        first_thread: first of the threads on which streams are drawn.
        label: name of the rank.
    """
    streams = sorted({(span.device, span.stream) for span in spans})
    threads: dict[tuple[int, int], Thread] = {}
    for number, (device, stream) in enumerate(streams[:RANK_TIDS]):
        threads[device, stream] = first_thread.next(number)
        yield _thread_name(first_thread.next(number), f"{label}: GPU {device}, stream {stream}")

    for span in spans:
        thread = threads.get((span.device, span.stream))
        if thread is None:
            continue
        name = f"waits for {span.name}" if span.waits else span.name
        yield _slice(name, "stream", thread, span.start_ns, span.end_ns)


def _operation_rows(ops: pl.DataFrame) -> Iterator[OperationRow]:
    """Yield the rows of ops.parquet, which may lack the columns dtype and algorithm."""
    for column, value in (("dtype", ""), ("algorithm", GLOO)):
        if column not in ops.columns:
            ops = ops.with_columns(pl.lit(value).alias(column))

    for row in ops.select(OperationRow._fields).iter_rows():
        yield OperationRow(*row)


@cache
def kernel_name(op: str, size: int, dtype: str, algorithm: str = GLOO) -> str:
    """Return an NCCL-like kernel name, e.g. ``ncclDevKernel_AllReduce_f32 16 MiB (gloo)``.

    Args:
        op: name of the operation, such as all_reduce.
        size: bytes, or 0 if the operation has no size.
        dtype: type such as float32, or empty if the operation has no type.
        algorithm: gloo, hierarchical or nccl.
    """
    kernel = KERNEL_NAMES.get(op)
    if kernel is None:
        kernel = "".join(part.capitalize() for part in op.split("_"))

    name = f"ncclDevKernel_{kernel}"
    if dtype:
        name += f"_{_short_dtype(dtype)}"
    if size:
        name += f" {format_size(size, 4)}"
    return f"{name} ({algorithm})"


def _short_dtype(dtype: str) -> str:
    for long_name, letter in DTYPE_LETTERS.items():
        if dtype.startswith(long_name):
            return dtype.replace(long_name, letter)
    return dtype


def _process(pid: int, name: str, order: int) -> Iterator[TraceEvent]:
    """Yield the events that name a process and set its position."""
    yield {
        "ph": "M",
        "name": "process_name",
        "pid": pid,
        "tid": 0,
        "args": {"name": name},
    }
    yield {
        "ph": "M",
        "name": "process_sort_index",
        "pid": pid,
        "tid": 0,
        "args": {"sort_index": order},
    }


def _thread_name(thread: Thread, name: str) -> TraceEvent:
    return {
        "ph": "M",
        "name": "thread_name",
        "pid": thread.pid,
        "tid": thread.tid,
        "args": {"name": name},
    }


def _slice(
    name: str, category: str, thread: Thread, start_ns: int, end_ns: int, **details: object
) -> TraceEvent:
    """Return an event with a duration."""
    return {
        "ph": "X",
        "cat": category,
        "name": name,
        "pid": thread.pid,
        "tid": thread.tid,
        "ts": start_ns,
        "dur": max(end_ns - start_ns, 0),
        "args": details,
    }


def _instant(name: str, time_ns: int, details: Mapping[str, object]) -> TraceEvent:
    return {
        "ph": "i",
        "s": "g",
        "cat": "event",
        "name": name,
        "pid": STAGES.pid,
        "tid": STAGES.tid,
        "ts": time_ns,
        "args": details,
    }


def _counter(name: str, times_ns: Sequence[int], values: Sequence[float]) -> Iterator[TraceEvent]:
    """Yield counter events for a value that holds from each of its times to the next."""
    last = None

    for time_ns, value in zip(times_ns, values, strict=True):
        if value == last:
            continue
        yield {
            "ph": "C",
            "cat": "counter",
            "name": name,
            "pid": WAN_PID,
            "tid": 0,
            "ts": time_ns,
            "args": {"value": value},
        }
        last = value
