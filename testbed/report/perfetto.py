"""trace.json: a run as a timeline for Perfetto (ui.perfetto.dev), in Chrome's trace event format.

A process per datacenter has two threads or more for each rank: its steps, with the modelled
computation and the waiting in them, and its operations, with the wait for the last rank to begin;
operations that overlap have threads of their own.
The process "WAN" has counters for each direction of each link: use in % of the rate, the queue in
bytes, and what was dropped. The process "run" has the stages, and as instants whatever else
happened: faults, failures, warnings.

Times are in us since the first event; `baseTimeNanoseconds` is that event's Unix time on the run's
clock, in ns.

HolisticTraceAnalysis takes an event for a kernel of a GPU if its args have a `stream`, and for
communication if its name begins with "nccl" and contains "Kernel", otherwise for computation. So
operations are named as NCCL's kernels are, although gloo carried them out, and they and the
computation have streams. It reads a file per rank (`write_rank_traces`); of trace.json it makes one
rank.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import polars as pl

from testbed.analysis.activity import compute_spans, lanes, start_waits, step_waits
from testbed.core.units import format_size
from testbed.plan.model import Direction, Plan
from testbed.report.load import Content
from testbed.runfolder.folder import RunDir, read_records

Event = dict[str, Any]
RUN, WAN, FIRST_DC = 1, 2, 3  # process ids
COMPUTE_STREAM, FIRST_STREAM = 7, 20  # of HolisticTraceAnalysis: any number but -1
SEEN = 0.01  # part of an operation from which on a wait in it is drawn
LANES = 64  # most threads of a rank
KERNEL_NAMES = {
    "all_reduce": "AllReduce",
    "all_gather": "AllGather",
    "reduce_scatter": "ReduceScatter",
    "all_to_all": "AllToAll",
    "send_recv": "SendRecv",
    "send": "Send",
    "recv": "Recv",
}
DTYPES = {"float": "f", "bfloat": "bf", "uint": "u", "int": "i"}


def write_trace(run: RunDir, content: Content) -> Path | None:
    """Write trace.json of `run`; None, without a file, if the plan cannot be read.

    Raises:
        OSError: it cannot be written.
    """
    if content.plan is None:
        return None
    timeline = Timeline(run, content)
    _write(run.trace, timeline.events(), timeline, rank=0)
    return run.trace


def write_rank_traces(run: RunDir, content: Content, folder: Path) -> list[Path]:
    """Write rank-<n>.json of each rank into `folder`, which is made, for HolisticTraceAnalysis;
    none without a plan.

    Raises:
        OSError: they cannot be written.
    """
    if content.plan is None:
        return []
    timeline, paths = Timeline(run, content), []
    folder.mkdir(parents=True, exist_ok=True)
    for rank in content.plan.workers.ranks:
        paths.append(folder / f"rank-{rank.rank}.json")
        _write(paths[-1], timeline.of_rank(rank.rank), timeline, rank.rank)
    return paths


def _write(path: Path, events: Iterable[Event], timeline: Timeline, rank: int) -> None:
    """One event a line. HolisticTraceAnalysis searches for `"rank": ` with its blank, which no
    event has.
    """
    base, ranks = timeline.origin_ns, len(timeline.plan.workers.ranks)
    new = path.with_name(path.name + ".new")
    dump = json.JSONEncoder(separators=(",", ":")).encode
    with new.open("w") as file:
        info = json.dumps({"rank": rank, "world_size": ranks, "backend": "gloo"})
        file.write(f'{{"schemaVersion": 1, "distributedInfo": {info},\n')
        file.write(f'"displayTimeUnit": "ms", "baseTimeNanoseconds": {base},\n"traceEvents": [\n')
        for i, event in enumerate(events):
            if "ts" in event:
                event["ts"] = (event["ts"] - base) / 1000
            if "dur" in event:
                event["dur"] /= 1000
            file.write((",\n" if i else "") + dump(event))
        file.write("\n]}\n")
    new.replace(path)


class Timeline:
    """The events of a run. Here `ts` is Unix time and `dur` a length, both in ns."""

    def __init__(self, run: RunDir, content: Content) -> None:
        if content.plan is None:
            raise ValueError("a timeline needs the plan")
        self.plan: Plan = content.plan
        self.content = content
        self.records = [
            record for record in _records(run.events) if isinstance(record.get("time_ns"), int)
        ]
        self.pids = {dc.name: FIRST_DC + i for i, dc in enumerate(self.plan.network.datacenters)}
        self.waits = (
            None if content.ops is None else start_waits(content.ops, len(self.plan.workers.ranks))
        )

    @property
    def origin_ns(self) -> int:
        """Unix time of the first event; 0 if there is none."""
        content = self.content
        firsts = [record["time_ns"] for record in self.records[:1]]
        for table, column in (
            (content.ops, "start_ns"),
            (content.train, "start_ns"),
            (content.links, "time_ns"),
        ):
            if table is not None and not table.is_empty():
                firsts.append(min(table[column]))
        return min(firsts, default=0)

    def events(self) -> Iterator[Event]:
        """All of them."""
        yield from _process(RUN, "run", 0)
        yield from self._stages()
        yield from self._instants()
        for i, (name, pid) in enumerate(self.pids.items()):
            yield from _process(pid, f"datacenter {name}", 1 + i)
        for rank in self.plan.workers.ranks:
            yield from self.of_rank(rank.rank)
        yield from _process(WAN, "WAN", 1 + len(self.pids))
        yield from self._links()

    def of_rank(self, rank: int) -> Iterator[Event]:
        """Steps and operations of one rank."""
        host = self.plan.workers.ranks[rank].host
        at = {"pid": self.pids[self.plan.network.host(host).dc]}
        first = 1000 + rank * LANES
        train, ops = self.content.train, self.content.ops
        if train is not None:
            yield _thread(at["pid"], first, f"rank {rank} ({host}): steps")
            yield from self._steps(train.filter(pl.col("rank") == rank), {**at, "tid": first})
        if ops is not None:
            mine = ops.filter(pl.col("rank") == rank).sort(
                "start_ns", "end_ns", descending=[False, True]
            )
            waits: dict[
                int, int
            ] = {}  # from the start of an operation to the time at which its last rank has begun
            if train is None and self.waits is not None:
                waits = dict(
                    self.waits.filter(pl.col("rank") == rank)
                    .select("start_ns", "end_ns")
                    .iter_rows()
                )
            used = [min(lane, LANES - 2) for lane in lanes(mine)]
            for lane in sorted(set(used)):
                name = f"rank {rank} ({host}): operations{f' {lane + 1}' if lane else ''}"
                yield _thread(at["pid"], first + 1 + lane, name)
            yield from self._operations(mine, used, waits, {**at, "tid": first + 1})

    def _steps(self, steps: pl.DataFrame, at: Event) -> Iterator[Event]:
        for row in steps.sort("start_ns").iter_rows(named=True):
            loss = {} if row["loss"] is None else {"loss": row["loss"]}
            yield _slice(
                f"step {row['step']}",
                "step",
                row["start_ns"],
                row["end_ns"],
                at,
                step=row["step"],
                **loss,
            )
        for start, end in compute_spans(steps).select("start_ns", "end_ns").iter_rows():
            yield _slice("computation (modelled)", "kernel", start, end, at, stream=COMPUTE_STREAM)
        for start, end in step_waits(steps).select("start_ns", "end_ns").iter_rows():
            yield _slice("waiting", "wait", start, end, at)

    def _operations(
        self, ops: pl.DataFrame, used: list[int], waits: dict[int, int], at: Event
    ) -> Iterator[Event]:
        first = at["tid"]
        names: dict[tuple[str, int, str], str] = {}
        for lane, row in zip(used, ops.iter_rows(named=True), strict=True):
            key = row["op"], row["bytes"], row.get("dtype") or ""
            name = names.get(key) or names.setdefault(key, kernel_name(*key))
            at["tid"] = first + lane
            yield _slice(
                name,
                "kernel",
                row["start_ns"],
                row["end_ns"],
                at,
                stream=FIRST_STREAM + lane,
                bytes=row["bytes"],
                group_size=row["group_size"],
                phase=row["phase"],
                iteration=row["iteration"],
            )
            waited = waits.get(row["start_ns"], 0) - row["start_ns"]
            if waited > SEEN * (row["end_ns"] - row["start_ns"]):
                yield _slice(
                    "waits for the last rank to begin",
                    "wait",
                    row["start_ns"],
                    row["start_ns"] + waited,
                    at,
                )

    def _links(self) -> Iterator[Event]:
        links = self.content.links
        if links is None:
            return
        for link in self.plan.network.wan:
            for way in link.directions:
                mine = links.filter(
                    (pl.col("link") == link.key) & (pl.col("source") == way.source)
                ).sort("time_ns")
                time = mine["time_ns"].to_list()
                sent, name = mine["bytes"].to_list(), f"{way.source} → {way.target}"
                if len(self._parallel(way.source, way.target)) > 1:
                    name += f" ({link.key})"
                used = [
                    round(
                        100 * 8e9 * (after - before) / self._carries(link.key, way, begin, end), 2
                    )
                    for before, after, begin, end in zip(
                        sent, sent[1:], time, time[1:], strict=False
                    )
                ]
                yield from _counter(f"{name}: used (% of rate)", time, [*used, 0.0])
                yield from _counter(f"{name}: queue (bytes)", time, mine["backlog_bytes"].to_list())
                if any(drops := (mine["drops"] - (mine["drops"].first() or 0)).to_list()):
                    yield from _counter(f"{name}: dropped (packets)", time, drops)

    def _carries(self, link: str, way: Direction, begin: int, end: int) -> float:
        """bit/s x ns that a direction can carry between two times; more than nothing."""
        history = self.content.history
        rate = (
            way.bottleneck.rate_bps
            if history is None
            else history.mean_rate_bps(link, way.source, begin, end)
        )
        return rate * max(end - begin, 1)

    def _parallel(self, source: str, target: str) -> list[str]:
        ways = ((link.key, way) for link in self.plan.network.wan for way in link.directions)
        return [key for key, way in ways if (way.source, way.target) == (source, target)]

    def _stages(self) -> Iterator[Event]:
        yield _thread(RUN, 1, "stages")
        begun: dict[str, int] = {}
        for record in self.records:
            name = str(record.get("stage"))
            if record.get("state") == "begin":
                begun[name] = record["time_ns"]
            elif record.get("state") == "end" and name in begun:
                yield _slice(
                    name, "stage", begun.pop(name), record["time_ns"], {"pid": RUN, "tid": 1}
                )

    def _instants(self) -> Iterator[Event]:
        """What events.jsonl tells beside the stages; the warnings of status.json, which have no
        time, at the end.
        """
        for record in self.records:
            if record.get("state") not in ("begin", "end", "total", "first", "completed"):
                name = " ".join(
                    str(record[key]) for key in ("stage", "state", "reason") if record.get(key)
                )
                yield _instant(
                    name, record["time_ns"], {k: v for k, v in record.items() if k != "time_ns"}
                )
        if self.content.history is not None:
            changes = zip(self.content.history.times_ns, self.plan.network.changes, strict=False)
            for time_ns, change in changes:
                yield _instant("; ".join(change.what), time_ns, {"at_s": change.at_ns / 1e9})
        last = max((record["time_ns"] for record in self.records), default=0)
        for warning in self.content.status.get("warnings") or []:
            if last:
                yield _instant(f"warning: {warning}", last, {"warning": warning})


def kernel_name(op: str, size: int, dtype: str) -> str:
    """Of an operation, as NCCL names its kernels: ``ncclDevKernel_AllReduce_f32 16 MiB (gloo)``."""
    known = KERNEL_NAMES.get(op) or "".join(word.capitalize() for word in op.split("_"))
    short = next(
        (dtype.replace(long, letter) for long, letter in DTYPES.items() if dtype.startswith(long)),
        dtype,
    )
    words = [
        f"ncclDevKernel_{known}{f'_{short}' if short else ''}",
        format_size(size, 4) if size else "",
        "(gloo)",
    ]
    return " ".join(word for word in words if word)


def _records(path: Path) -> list[Event]:
    try:
        return [record for record in read_records(path) if isinstance(record, dict)]
    except (OSError, UnicodeDecodeError):
        return []


def _process(pid: int, name: str, order: int) -> Iterator[Event]:
    yield {"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "args": {"name": name}}
    yield {
        "ph": "M",
        "name": "process_sort_index",
        "pid": pid,
        "tid": 0,
        "args": {"sort_index": order},
    }


def _thread(pid: int, tid: int, name: str) -> Event:
    return {"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": name}}


def _slice(name: str, category: str, start: int, end: int, at: Event, **args: object) -> Event:
    return {
        "ph": "X",
        "cat": category,
        "name": name,
        **at,
        "ts": start,
        "dur": max(end - start, 0),
        "args": args,
    }


def _instant(name: str, time_ns: int, args: Event) -> Event:
    return {
        "ph": "i",
        "s": "g",
        "cat": "event",
        "name": name,
        "pid": RUN,
        "tid": 1,
        "ts": time_ns,
        "args": args,
    }


def _counter(name: str, times: list[int], values: list[float]) -> Iterator[Event]:
    """A value holds until the next one; those that change nothing are left out."""
    last = None
    for time, value in zip(times, values, strict=True):
        if value != last:
            yield {
                "ph": "C",
                "cat": "counter",
                "name": name,
                "pid": WAN,
                "tid": 0,
                "ts": time,
                "args": {"value": value},
            }
        last = value
