"""Turns the raw records of a run into ops.parquet, links.parquet and summary.json. Needs no privilege and no guest.

Time of an operation. All ranks share one clock, so times of different ranks can be compared.

- ``time_us`` is the duration that rank 0 sees, which is what benchmarks of torch and gloo print. Where the data leave
  rank 0 (broadcast, scatter) rank 0 is done once its kernel has taken the data, which says nothing about the network;
  there it is the time from rank 0's start to the last rank's end.
- ``slowest_us`` is the median over the iterations of the longest duration that any rank sees (never less than the
  median of ``time_us``).
- Ranks start within the skew of the barrier before the operation, at most a one-way delay.
- ``efficiency`` is ``bound_us`` / median of ``time_us`` (see `testbed.bounds`).
- ``algbw_gbytes`` is bytes / median time in 10^9 bytes/s; ``busbw_gbytes`` that times the factor of nccl-tests
  (its doc/PERFORMANCE.md).

Only iterations that every rank finished count; iterations of the warm-up do not. Of the user's own script, every
collective counts; its sends and receives are in ops.parquet only.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import ValidationError

from testbed.bounds import FROM_ROOT, Bounds
from testbed.measure.packets import Capture, read_totals
from testbed.plan import Direction, Plan, WanLink
from testbed.rundir import RunDir, read_records

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
SAME_OP = ["op", "bytes", "group_size", "dtype"]

Problems = list[str]


def collect(run: RunDir) -> None:
    """Write the tables and the summary of `run`; what is missing or damaged becomes a line of summary.json `problems`.

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
    summary = {
        "collectives": collectives(ops, plan, problems),
        "wan": wan(run, plan, ops, links, problems),
        "training": None,
        "fidelity": _fidelity(run, problems) if has_wan else [],
        "stages": stages(read_lines(run.events, problems), problems),
        "problems": problems,
    }
    run.write_json(run.summary, summary)


def _read_plan(run: RunDir, problems: Problems) -> Plan | None:
    try:
        return run.read_plan()
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        problems.append(f"plan.json cannot be read ({type(error).__name__}): no rates, bounds or names of hosts")
        return None


def read_lines(path: Path, problems: Problems) -> list[dict[str, Any]]:
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
    if len(records) < lines:
        problems.append(f"{name} is damaged: {lines - len(records)} of {lines} lines are left out")
    return [record for record in records if isinstance(record, dict)]


def _table(
    records: list[dict[str, Any]], schema: dict[str, type[pl.DataType]], name: str, problems: Problems
) -> pl.DataFrame:
    """The records that have every column with the right type, as a table."""
    kinds = {column: str if kind is pl.String else int for column, kind in schema.items()}
    good = [record for record in records if all(isinstance(record.get(c), kind) for c, kind in kinds.items())]
    if len(good) < len(records):
        problems.append(f"{name}: {len(records) - len(good)} records lack a column and are left out")
    return pl.DataFrame({column: [record[column] for record in good] for column in schema}, schema=schema)


def _ops(run: RunDir, plan: Plan | None, problems: Problems) -> pl.DataFrame:
    """ops.parquet: what the ranks recorded, with their places."""
    records: list[dict[str, Any]] = []
    if plan is not None:
        silent = plan.workers.once_per_host  # a command need not have anything to do with torch
        for rank in plan.workers.ranks:
            if silent and not run.rank_ops(rank.rank).exists():
                continue
            place = {"rank": rank.rank, "host": rank.host, "dc": plan.network.host(rank.host).dc}
            records += [{**record, **place} for record in read_lines(run.rank_ops(rank.rank), problems)]
    return _table(records, OPS_SCHEMA, "raw/ops-*.jsonl", problems).sort("start_ns", "rank")


def collectives(ops: pl.DataFrame, plan: Plan | None, problems: Problems) -> list[dict[str, Any]]:
    """A row per operation, size, group size and type over the measured iterations, in the order of execution."""
    message = pl.col("op").is_in(["send", "recv"])
    measured = ops.filter((pl.col("phase") == "measure") | ((pl.col("phase") == "script") & ~message))
    if measured.is_empty():
        if plan is None or plan.workers.workload != "script":
            problems.append("no measured operation was recorded")
        return []
    iterations = _iterations(measured)
    whole = iterations.filter(pl.col("ranks_seen") >= pl.col("group_size"))
    if whole.height < iterations.height:
        problems.append(f"{iterations.height - whole.height} iterations lack the record of a rank and are left out")
    bounds = _bounds(plan, problems)
    rows = []
    for key, group in whole.group_by(SAME_OP, maintain_order=True):
        op, size, members = str(key[0]), int(key[1]), int(key[2])
        known = bounds if plan is not None and members == len(plan.workers.ranks) else None
        rows.append({**_timing(op, size, members, group, known), "dtype": key[3]})
    return rows


def _iterations(measured: pl.DataFrame) -> pl.DataFrame:
    """A row per iteration with time_us, slowest_us, ranks_seen and wrong.

    The n-th record of a rank with the same operation and iteration belongs to the n-th of the other ranks.
    """
    once = [*SAME_OP, "iteration"]
    duration = (pl.col("end_ns") - pl.col("start_ns")) / 1000
    first_rank = pl.col("rank").arg_min()
    from_root = (pl.col("end_ns").max() - pl.col("start_ns").get(first_rank)) / 1000
    rooted = pl.col("op").is_in(list(FROM_ROOT))
    return (
        measured.with_columns(repeat=pl.int_range(pl.len()).over([*once, "rank"]))
        .group_by([*once, "repeat"], maintain_order=True)
        .agg(
            time_us=pl.when(rooted.first()).then(from_root).otherwise(duration.get(first_rank)),
            slowest_us=pl.when(rooted.first()).then(from_root).otherwise(duration.max()),
            ranks_seen=pl.len(),
            wrong=pl.col("wrong").filter(pl.col("wrong") >= 0).sum(),
            checked=(pl.col("wrong") >= 0).any(),
        )
    )


def _bounds(plan: Plan | None, problems: Problems) -> Bounds | None:
    if plan is None:
        return None
    try:
        return Bounds(plan.network, plan.workers.ranks)
    except (ValueError, KeyError, StopIteration):
        problems.append("plan.json has no path between two ranks: no lower bounds")
        return None


def _timing(op: str, size: int, ranks: int, group: pl.DataFrame, bounds: Bounds | None) -> dict[str, Any]:
    times = group["time_us"]
    median = float(times.median())  # type: ignore[arg-type]
    try:
        bound = bounds.us(op, size) if bounds else None
    except ValueError:
        bound = None
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


def wan(
    run: RunDir, plan: Plan | None, ops: pl.DataFrame, links: pl.DataFrame, problems: Problems
) -> list[dict[str, Any]]:
    """A row per WAN direction of the plan: the counters' growth from the first sample to the last.

    ``mean_utilisation`` is 8 bytes / (rate x time from the first start to the last end of all operations, warm-up
    included). ``captured_*`` count whole frames at the sending router, or at the receiving one without that capture.
    """
    if plan is None:
        return []
    seconds = 0.0 if ops.is_empty() else (max(ops["end_ns"]) - min(ops["start_ns"])) / 1e9
    captured = _captures(run, plan, problems)
    rows = []
    for link in plan.network.wan:
        for way in link.directions:
            row = _growth(links, link, way)
            if row["bytes"] is None:
                problems.append(f"no sample of WAN link {link.key} from {way.source} to {way.target}")
            known = row["bytes"] is not None and seconds > 0
            used = row["bytes"] * 8 / (way.bottleneck.rate_bps * seconds) if known else None
            row |= {"rate_bps": way.bottleneck.rate_bps, "mean_utilisation": used}
            rows.append(row | _captured(captured, link, way))
    return rows


def _growth(links: pl.DataFrame, link: WanLink, way: Direction) -> dict[str, Any]:
    mine = links.filter((pl.col("link") == link.key) & (pl.col("source") == way.source)).sort("time_ns")
    row: dict[str, Any] = {"from": way.source, "to": way.target, "link": link.key}
    for column in ("bytes", "packets", "drops"):
        row[column] = None if mine.is_empty() else int(mine[column][-1] - mine[column][0])
    return row


def _captures(run: RunDir, plan: Plan, problems: Problems) -> dict[tuple[str, str], Capture]:
    """Totals of each capture that can be read, by link and datacenter."""
    captures: dict[tuple[str, str], Capture] = {}
    if plan.capture == "none":
        return captures
    for link in plan.network.wan:
        for way in link.directions:
            path = run.capture(link.key, way.source)
            try:
                capture = captures[link.key, way.source] = read_totals(path, plan.network.mtu)
            except OSError as error:
                problems.append(f"captures/{path.name} cannot be read: {error.strerror}")
                continue
            if capture.truncated:
                problems.append(f"captures/{path.name} is cut short: its totals are those of the readable part")
    return captures


def _captured(captures: dict[tuple[str, str], Capture], link: WanLink, way: Direction) -> dict[str, int]:
    capture = captures.get((link.key, way.source)) or captures.get((link.key, way.target))
    if capture is None:
        return {}
    totals = capture.sent_by(way.mac)
    return {"captured_bytes": totals.wire_bytes, "captured_packets": totals.packets}


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
    """Durations of the stages in order: real seconds, and seconds on the run's clock (None: unknown)."""
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


def _elapsed(begin: dict[str, Any], end: dict[str, Any], key: str, per_second: float) -> float | None:
    first, last = begin.get(key), end.get(key)
    return (last - first) / per_second if isinstance(first, int | float) and isinstance(last, int | float) else None
