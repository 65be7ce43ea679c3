"""Turns the raw records of a run into its tables and summary.json. Needs no privilege and no guest.

A row of summary.json `collectives` tells of all iterations of an operation
(`testbed.analysis.operations` has their times):

- ``slowest_us`` is the median of the iterations' slowest ranks (never less than the median of
  ``time_us``).
- ``efficiency`` is ``bound_us`` / median of ``time_us`` (see `testbed.analysis.lower_bounds`).
- ``algbw_gbytes`` is bytes / median time in 10^9 bytes/s; ``busbw_gbytes`` that times the factor of
  nccl-tests (its doc/PERFORMANCE.md).

Only iterations that every rank finished count; iterations of the warm-up do not. Of the user's own
script, every collective counts; its sends and receives are in ops.parquet only. What training adds
is in `testbed.workloads.train.summary`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import ValidationError

from testbed.analysis.bottleneck import dominant
from testbed.analysis.capture_tables import Captured, read_captures
from testbed.analysis.event_periods import periods
from testbed.analysis.fidelity import rates
from testbed.analysis.lower_bounds import Bounds, concurrent_us
from testbed.analysis.network_history import History, happened
from testbed.analysis.operations import SAME_OP, iterations
from testbed.core.leftovers import temporary_folder
from testbed.plan.model import Direction, Plan, WanLink
from testbed.runfolder.folder import RunDir, read_records
from testbed.workloads.train.summary import steps_table, training

OPS_SCHEMA: dict[str, type[pl.DataType]] = {
    "op": pl.String,
    "bytes": pl.Int64,
    "group_size": pl.Int32,
    "iteration": pl.Int32,
    "phase": pl.String,
    "rank": pl.Int32,
    "host": pl.String,
    "dc": pl.String,
    "start_ns": pl.Int64,
    "end_ns": pl.Int64,
    "dtype": pl.String,
    "wrong": pl.Int64,
    "group": pl.String,
    "algorithm": pl.String,
}
LINKS_SCHEMA: dict[str, type[pl.DataType]] = {
    "time_ns": pl.Int64,
    "source": pl.String,
    "target": pl.String,
    "link": pl.String,
    "bytes": pl.Int64,
    "packets": pl.Int64,
    "drops": pl.Int64,
    "backlog_bytes": pl.Int64,
}
UNSAID = {"group": "", "algorithm": "gloo"}  # where a record leaves it out

Problems = list[str]


def collect(run: RunDir) -> None:
    """Write the tables and the summary of `run`; what is missing or damaged becomes a line of
    summary.json `problems`.

    Raises:
        OSError: the run folder cannot be written.
    """
    problems: Problems = []
    plan = _read_plan(run, problems)
    ops = _ops(run, plan, problems)
    has_wan = plan is None or bool(plan.network.wan)
    samples = read_lines(run.link_samples, problems) if has_wan else []
    links = _table(samples, LINKS_SCHEMA, "raw/links.jsonl", problems)
    ops.write_parquet(run.ops)
    links.write_parquet(run.links)
    trains = plan is not None and plan.workers.workload == "train"
    steps = _steps(run, plan, problems) if plan is not None and trains else None
    if steps is not None:
        steps.write_parquet(run.train)
    history = None if plan is None else History.of(plan, run)
    captured = (
        _captures(run, plan, ops, problems) if plan is not None and plan.capture != "none" else None
    )
    measures = not ops.filter(pl.col("phase") == "measure").is_empty() or not trains
    timed = ops if steps is None or steps.is_empty() else steps
    summary: dict[str, Any] = {
        "collectives": collectives(ops, plan, problems) if measures else [],
        "wan": wan(history, timed, links, captured, problems),
        "transfers": transfers(run),
        "periods": []
        if plan is None
        else periods(plan.network.changes, happened(plan, run), ops, steps),
        "captures": [] if captured is None else captured.points,
        "training": None
        if plan is None or steps is None
        else training(plan, steps, ops, links, problems),
        "fidelity": _fidelity(run, problems) if has_wan else [],
        "rates": rates(history, links)
        if history is not None and plan is not None and plan.clock == "real"
        else [],
        "stages": stages(read_lines(run.events, problems), problems),
        "problems": problems,
    }
    summary["dominant"] = dominant(
        history, summary, ops, steps, links, None if captured is None else captured.flows
    )
    run.write_json(run.summary, summary)


def _read_plan(run: RunDir, problems: Problems) -> Plan | None:
    try:
        return run.read_plan()
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        problems.append(
            f"plan.json cannot be read ({type(error).__name__}): no rates, bounds or names of hosts"
        )
        return None


def read_lines(path: Path, problems: Problems, may_be_empty: bool = False) -> list[dict[str, Any]]:
    """The records of `path`; says so in `problems` if it is missing or damaged."""
    name = f"{path.parent.name}/{path.name}"
    if not path.exists():
        problems.append(f"{name} is missing")
        return []
    try:
        records = read_records(path)
        lines = sum(1 for line in path.read_text().splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{name} cannot be read ({type(error).__name__})")
        return []
    if not lines and not may_be_empty:
        problems.append(f"{name} is empty")
    if len(records) < lines:
        problems.append(f"{name} is damaged: {lines - len(records)} of {lines} lines are left out")
    return [record for record in records if isinstance(record, dict)]


def _table(
    records: list[dict[str, Any]],
    schema: dict[str, type[pl.DataType]],
    name: str,
    problems: Problems,
) -> pl.DataFrame:
    """The records that have every column with the right type, as a table."""
    kinds = {column: str if kind is pl.String else int for column, kind in schema.items()}
    good = [
        record
        for record in records
        if all(isinstance(record.get(c), kind) for c, kind in kinds.items())
    ]
    if len(good) < len(records):
        problems.append(
            f"{name}: {len(records) - len(good)} records lack a column and are left out"
        )
    return pl.DataFrame(
        {column: [record[column] for record in good] for column in schema}, schema=schema
    )


def _ops(run: RunDir, plan: Plan | None, problems: Problems) -> pl.DataFrame:
    """ops.parquet: what the ranks recorded, with their places."""
    records: list[dict[str, Any]] = []
    idle: Problems = []
    if plan is not None:
        silent = plan.workers.once_per_host  # a command need not have anything to do with torch
        for rank in plan.workers.ranks:
            if silent and not run.rank_ops(rank.rank).exists():
                continue
            place = {"rank": rank.rank, "host": rank.host, "dc": plan.network.host(rank.host).dc}
            mine = read_lines(run.rank_ops(rank.rank), problems, may_be_empty=True)
            records += [{**UNSAID, **record, **place} for record in mine]
            if not mine:
                idle.append(
                    f"raw/{run.rank_ops(rank.rank).name} holds no operation, those of other ranks do"
                )
        if records and plan.workers.workload != "script":
            problems += idle
    return _table(records, OPS_SCHEMA, "raw/ops-*.jsonl", problems).sort("start_ns", "rank")


def _steps(run: RunDir, plan: Plan, problems: Problems) -> pl.DataFrame:
    """train.parquet: what the ranks recorded, with their places."""
    records: list[dict[str, Any]] = []
    for rank in plan.workers.ranks:
        place = {"rank": rank.rank, "host": rank.host, "dc": plan.network.host(rank.host).dc}
        records += [
            {**record, **place} for record in read_lines(run.rank_train(rank.rank), problems)
        ]
    return steps_table(records, problems)


def collectives(ops: pl.DataFrame, plan: Plan | None, problems: Problems) -> list[dict[str, Any]]:
    """A row per operation, size, group size and type over the measured iterations, in the order of
    execution.
    """
    message = pl.col("op").is_in(["send", "recv"])
    measured = ops.filter(
        (pl.col("phase") == "measure") | ((pl.col("phase") == "script") & ~message)
    )
    if measured.is_empty():
        if plan is None or plan.workers.workload != "script":
            problems.append("no measured operation was recorded")
        return []
    found = iterations(measured)
    whole = found.filter(pl.col("whole"))
    if whole.height < found.height:
        problems.append(
            f"{found.height - whole.height} iterations lack the record of a rank and are left out"
        )
    kind = "all" if plan is None else plan.workers.settings.get("groups", "all")
    bound = _bound(measured, plan, problems)
    rows = []
    for key, group in whole.group_by(SAME_OP, maintain_order=True):
        op, size, members, dtype, algorithm = str(key[0]), int(key[1]), int(key[2]), *key[3:]
        timing = _timing(op, size, members, group, bound(op, size, members))
        rows.append({**timing, "dtype": dtype, "algorithm": algorithm, "groups": kind})
    return rows


def _bound(
    measured: pl.DataFrame, plan: Plan | None, problems: Problems
) -> Callable[[str, int, int], float | None]:
    """From an operation, bytes and the ranks of a group to the lower bound in us; None where it is
    not known.
    """
    groups: dict[int, list[Bounds]] = {}
    try:
        if plan is not None:
            members = measured.select("group", "group_size", "rank").unique().sort("rank")
            for (_, size), table in members.group_by("group", "group_size", maintain_order=True):
                ranks = [plan.workers.ranks[rank] for rank in table["rank"]]
                if len(ranks) == size:  # not so where groups have no names
                    groups.setdefault(int(size), []).append(Bounds(plan.network, ranks))
    except (ValueError, KeyError, StopIteration):
        problems.append("plan.json has no path between two ranks: no lower bounds")
        groups = {}

    def bound(op: str, size: int, ranks: int) -> float | None:
        try:
            return concurrent_us(groups[ranks], op, size)
        except (KeyError, ValueError):
            return None

    return bound


def _timing(
    op: str, size: int, ranks: int, group: pl.DataFrame, bound: float | None
) -> dict[str, Any]:
    times = group["time_us"]
    median = float(times.median())  # type: ignore[arg-type]
    algbw = size / median / 1000 if median > 0 else 0.0
    return {
        "op": op,
        "bytes": size,
        "ranks": ranks,
        "iterations": group.height,
        "time_us": {
            "min": times.min(),
            "median": median,
            "p95": times.quantile(0.95, "linear"),
            "max": times.max(),
        },
        "slowest_us": group["slowest_us"].median(),
        "algbw_gbytes": algbw,
        "busbw_gbytes": algbw * bus_factor(op, ranks),
        "bound_us": bound,
        "efficiency": bound / median if bound is not None and median > 0 else None,
        "wrong": int(group["wrong"].sum()) if group["checked"].any() else None,
    }


def bus_factor(op: str, ranks: int) -> float:
    """busbw / algbw as nccl-tests defines it."""
    if op == "all_reduce":
        return 2 * (ranks - 1) / ranks
    if op in {"all_gather", "reduce_scatter", "all_to_all", "gather", "scatter"}:
        return (ranks - 1) / ranks
    return 1.0


def _captures(run: RunDir, plan: Plan, ops: pl.DataFrame, problems: Problems) -> Captured | None:
    """The tables of packet captures, written; None if the plan is damaged."""
    try:
        with temporary_folder("testbed-captures-") as scratch:
            captured = read_captures(run, plan, ops, scratch)
    except ValueError as error:
        problems.append(f"the captures cannot be read by plan.json: {error}")
        return None
    captured.flows.write_parquet(run.flows)
    captured.throughput.write_parquet(run.throughput)
    captured.operations.write_parquet(run.flow_ops)
    problems += captured.problems
    return captured


def wan(
    history: History | None,
    timed: pl.DataFrame,
    links: pl.DataFrame,
    captured: Captured | None,
    problems: Problems,
) -> list[dict[str, Any]]:
    """A row per WAN direction of the plan: the counters' growth from the first sample to the last.

    ``mean_utilisation`` is 8 bytes / (rate x time from the first start to the last end of all that
    was `timed`: operations or steps of training, warm-up included), and ``rate_bps`` the mean over
    this time. ``captured_*`` count whole frames at the sending router, or at the receiving one
    without that capture.
    """
    if history is None:
        return []
    begin, end = (0, 0) if timed.is_empty() else (min(timed["start_ns"]), max(timed["end_ns"]))
    seconds, rows = (end - begin) / 1e9, []
    for link in history.states[0].wan:
        for way in link.directions:
            row = _growth(links, link, way)
            if row["bytes"] is None:
                problems.append(
                    f"no sample of WAN link {link.key} from {way.source} to {way.target}"
                )
            known = row["bytes"] is not None and seconds > 0
            rate = history.mean_rate_bps(link.key, way.source, begin, end)
            row |= {
                "rate_bps": round(rate),
                "mean_utilisation": row["bytes"] * 8 / (rate * seconds) if known else None,
            }
            totals = None if captured is None else captured.sent.get((link.key, way.source))
            if totals is not None:
                row |= {"captured_bytes": totals.wire_bytes, "captured_packets": totals.packets}
            rows.append(row)
    return rows


def _growth(links: pl.DataFrame, link: WanLink, way: Direction) -> dict[str, Any]:
    mine = links.filter((pl.col("link") == link.key) & (pl.col("source") == way.source)).sort(
        "time_ns"
    )
    row: dict[str, Any] = {"from": way.source, "to": way.target, "link": link.key}
    for column in ("bytes", "packets", "drops"):
        row[column] = None if mine.is_empty() else int(mine[column][-1] - mine[column][0])
    return row


def transfers(run: RunDir) -> list[dict[str, Any]]:
    """A row per transfer beside the job: its hosts, bytes, those received, seconds, and bit/s of
    what was received.
    """
    rows: list[dict[str, Any]] = []
    first = run.began_ns()
    for record in read_records(run.transfers):
        try:
            seconds, received = (
                (record["end_ns"] - record["start_ns"]) / 1e9,
                int(record["received"]),
            )
            row = {"from": record["source"], "to": record["target"], "bytes": int(record["bytes"])}
            row |= {
                "received": received,
                "seconds": seconds,
                "bps": 8 * received / seconds if seconds > 0 else None,
            }
            at_s = None if first is None else (record["start_ns"] - first) / 1e9
            rows.append(
                row | {"at_s": at_s, "start_ns": record["start_ns"], "error": record.get("error")}
            )
        except (KeyError, TypeError, ValueError):
            continue
    return sorted(rows, key=lambda row: int(row["start_ns"]))


def _fidelity(run: RunDir, problems: Problems) -> list[dict[str, Any]]:
    try:
        rows = json.loads(run.fidelity.read_text())
    except FileNotFoundError:
        problems.append("raw/fidelity.json is missing: the network was not verified before the run")
        return []
    except (OSError, ValueError) as error:
        problems.append(f"raw/fidelity.json cannot be read ({type(error).__name__})")
        return []
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def stages(events: list[dict[str, Any]], problems: Problems) -> list[dict[str, Any]]:
    """Durations of the stages in order: real seconds, and seconds on the run's clock (None:
    unknown).
    """
    begun: dict[str, dict[str, Any]] = {}
    rows: dict[str, dict[str, Any]] = {}
    for event in events:
        name, state = str(event.get("stage")), event.get("state")
        if state == "begin":
            begun[name] = event
            rows[name] = {"stage": name, "wall_seconds": None, "emulated_seconds": None}
        elif state == "end" and name in begun:
            begin = begun.pop(name)
            rows[name]["wall_seconds"] = _elapsed(begin, event, "wall_s", 1)
            rows[name]["emulated_seconds"] = _elapsed(begin, event, "time_ns", 1e9)
    problems += [f"the stage {name!r} did not end" for name in begun]
    return list(rows.values())


def _elapsed(
    begin: dict[str, Any], end: dict[str, Any], key: str, per_second: float
) -> float | None:
    first, last = begin.get(key), end.get(key)
    return (
        (last - first) / per_second
        if isinstance(first, int | float) and isinstance(last, int | float)
        else None
    )
