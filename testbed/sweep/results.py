"""The tables of a sweep, from the run folders of its points.

sweep.parquet has one row per point, with these columns:

- ``point`` (its name), ``state`` (completed | failed | damaged | missing), ``in_grid`` (false for a
  complete point that the experiment had before it was changed; figures leave such points out);
- for each swept key its short name, with the value as written, and for a quantity the same in base
  units as ``<name>_ns``, ``_bps``, ``_bytes`` or ``_share``;
- ``repeat``, ``seed``;
- the measurements listed below (null for other workloads);
- ``faithful``, ``wall_seconds``, ``cpu_seconds``, ``emulated_seconds``, ``attempt``, ``doubts``
  (why the run is not faithful), ``reason``, ``folder`` (relative to the sweep's), ``identity``.

Measurements:

- ``rtt_ms``: the longest planned round trip between two datacenters. ``wan_bytes``, ``wan_drops``:
  sums over all WAN directions; ``wan_utilisation``: of the busiest.
- collectives: ``op``, ``bytes``, ``time_us`` (median), ``max_us``, ``bound_us``, ``efficiency``,
  ``algbw_gbytes``, ``busbw_gbytes`` and the same at the bound (``algbw_bound_gbytes``,
  ``busbw_bound_gbytes``), ``wrong``, ``group`` and ``root`` (of a script's process groups),
  ``settled`` (yes, or trend or swing: the median stands for no iteration), ``calls`` (measured
  iterations), ``median_within`` (of ``iterations: auto``: how far the median may be off, as a
  share); of the first operation at its largest size, in the slowest group.
- training: ``method``, ``step_ms`` (time / steps, over whole periods of methods that exchange every
  few steps), ``median_step_ms``, ``compute_ms``, ``utilisation``, ``tokens_per_s``,
  ``wan_bytes_per_step``, ``final_loss``, ``training_s``, ``time_to_loss_s`` and
  ``compute_to_loss_s``: the time until the mean loss of the last five steps was at most the
  experiment's ``target_loss``, and the modelled computation in it (null: never).
- several jobs: ``jobs_s``, from the first operation or step to the last one's end; ``slowdown``, of
  the job that the others slow down most: how many times as long it takes as alone. Of each job
  NAME ``seconds_NAME`` and ``slowdown_NAME``.

collectives.parquet has one row per point, operation and size, with the columns of collectives and
``faithful``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from testbed.core.errors import InputError, reading
from testbed.runfolder.folder import RunDir
from testbed.runfolder.status import read_status
from testbed.runfolder.summary import (
    CollectiveRow,
    JobRow,
    Summary,
    TrainingSummary,
    read_summary,
)
from testbed.runfolder.tables import read_table, write_table
from testbed.spec.columns import SUFFIXES
from testbed.spec.condition import measure, quantity_of
from testbed.spec.experiment import value_text
from testbed.sweep.folder import SweepDir
from testbed.sweep.index import IndexedPoint, SweepIndex
from testbed.sweep.outcome import SEPARATOR
from testbed.sweep.point_record import read_point_record

LAST_COLUMNS = (
    "wall_seconds",
    "cpu_seconds",
    "emulated_seconds",
    "attempt",
    "doubts",
    "reason",
    "folder",
    "identity",
)
INT64_END = 2**63
LOSS_STEPS = 5  # number of steps over which the loss is averaged

# A table row by column name; the columns depend on the experiment and the workload.
Row = dict[str, Any]


class SweepTables(NamedTuple):
    """The tables of a sweep, as in sweep.parquet and collectives.parquet."""

    points: pl.DataFrame
    collectives: pl.DataFrame


def in_present_grid(table: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of the points that the experiment has in its present form."""
    return table.filter("in_grid") if "in_grid" in table.columns else table


def gather(folder: SweepDir) -> SweepTables:
    """Make the tables of a sweep from the completed points, and write them.

    Raises:
        InputError: Sweep.json cannot be read.
        OSError: The tables cannot be written.
    """
    tables = make_tables(folder)
    write_table(tables.points, folder.table)
    write_table(tables.collectives, folder.collectives)
    return tables


def make_tables(folder: SweepDir) -> SweepTables:
    """Make the tables of a sweep as `gather` does, without writing them."""
    index = folder.read_index()
    with reading(folder.index):
        return _tables(folder, index)


def _tables(folder: SweepDir, index: SweepIndex) -> SweepTables:
    run_folders = folder.failures()
    run_folders.update(folder.done())
    damages = folder.damages(index.points)
    rows: list[Row] = []
    collective_rows: list[Row] = []

    for point in index.points:
        row = _point_columns(point)
        run_folder = run_folders.get(point.identity)
        damage = damages.get(point.identity, "")
        if run_folder is not None and not damage:
            row.update(_outcome(folder, run_folder))
            run_columns, damage = sound_columns(run_folder, index.target_loss)
            row.update(run_columns.columns)
            for collective in run_columns.collectives:
                collective_row = _point_columns(point, row["state"])
                collective_row.update(collective)
                collective_row["faithful"] = row["faithful"]
                collective_rows.append(collective_row)
        if damage:
            path = folder.points / point.folder
            row.update(state="damaged", reason=damage, folder=str(path.relative_to(folder.path)))
        row["identity"] = point.identity
        rows.append(row)

    return SweepTables(_table(rows), _table(collective_rows))


@dataclass(frozen=True)
class RunColumns:
    """Measurements of a run: columns of the point's row, and one row per collective."""

    columns: Row
    collectives: list[Row]


def sound_columns(run_folder: Path, target_loss: float | None) -> tuple[RunColumns, str]:
    """Return the measurements of a run, and why they are damaged; empty if they are sound.

    Args:
        run_folder: The run folder.
        target_loss: As in the experiment.
    """
    try:
        columns = _run_columns(run_folder, target_loss)
    except (OSError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        return RunColumns({}, []), f"cannot read the results ({type(error).__name__}: {error})"
    except pl.exceptions.PolarsError as error:
        return RunColumns({}, []), f"cannot read train.parquet ({type(error).__name__})"
    for row in (columns.columns, *columns.collectives):
        for name, value in row.items():
            if isinstance(value, int) and abs(value) >= INT64_END:
                return RunColumns({}, []), f"summary.json: {name} is out of range"
    return columns, ""


def _run_columns(run_folder: Path, target_loss: float | None) -> RunColumns:
    run = RunDir(run_folder)
    summary, _problems = read_summary(run.summary)
    collectives = [_collective(collective) for collective in summary.collectives]
    columns = _wan(summary)
    if collectives:
        columns.update(_headline(collectives))
    if summary.jobs:
        columns.update(_jobs(summary.jobs))
    if summary.training is not None:
        columns.update(_training(summary.training))
        if target_loss is not None and run.train.is_file():
            steps = read_table(run.train)
            compute_s = summary.training.compute_ms / 1000
            columns.update(time_to_loss(steps, target_loss, compute_s))

    return RunColumns(columns, collectives)


def _point_columns(point: IndexedPoint, state: str = "missing") -> Row:
    row: Row = {"point": point.name, "state": state}
    for name, value in point.values.items():
        row.update(_axis_columns(name, value))
    row["repeat"] = point.repeat
    row["seed"] = point.seed
    row["in_grid"] = point.in_grid
    return row


def _axis_columns(name: str, value: Any) -> Row:
    """Return the column of an axis, and for a quantity also its column in base units."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {name: value}

    row: Row = {name: value_text(value)}
    quantity = quantity_of(value)
    if quantity is None:
        return row

    number = float(measure(value).number)
    if quantity.name == "percentage":
        number /= 100

    column = name + SUFFIXES[quantity.name]
    row[column] = number
    return row


def _outcome(folder: SweepDir, run_folder: Path) -> Row:
    record = read_point_record(run_folder)
    status, _ = read_status(RunDir(run_folder).status)
    row: Row = {"state": "failed", "faithful": None, "emulated_seconds": None, "reason": ""}
    if record is not None:
        row["state"] = record.state
        row["wall_seconds"] = record.wall_seconds
        row["cpu_seconds"] = record.cpu_seconds
        row["attempt"] = record.attempt
        row["reason"] = record.reason

    if status is not None:
        row["faithful"] = status.faithful
        row["doubts"] = SEPARATOR.join(status.doubts) or None
        row["emulated_seconds"] = status.emulated_seconds

    row["folder"] = str(run_folder.relative_to(folder.path))
    return row


def _collective(collective: CollectiveRow) -> Row:
    algbw, busbw = collective.algbw_gbytes, collective.busbw_gbytes
    algbw_bound = busbw_bound = None
    if collective.bound_us:
        time_ratio = collective.time_us.median / collective.bound_us
        algbw_bound, busbw_bound = algbw * time_ratio, busbw * time_ratio

    return {
        "op": collective.op,
        "bytes": collective.bytes,
        "ranks": collective.ranks,
        "dtype": collective.dtype or None,
        "time_us": collective.time_us.median,
        "max_us": collective.time_us.max,
        "bound_us": collective.bound_us,
        "efficiency": collective.efficiency,
        "algbw_gbytes": algbw,
        "busbw_gbytes": busbw,
        "algbw_bound_gbytes": algbw_bound,
        "busbw_bound_gbytes": busbw_bound,
        "wrong": collective.wrong,
        "group": collective.group_name or None,
        "root": collective.root,
        "settled": collective.settled,
        "calls": collective.iterations,
        "median_within": collective.median_within,
    }


def _headline(collectives: Sequence[Row]) -> Row:
    """Return the columns of the first operation at its largest size, in the slowest group."""
    operation = collectives[0]["op"]
    of_operation = [collective for collective in collectives if collective["op"] == operation]
    return max(of_operation, key=lambda row: (int(row["bytes"]), float(row["time_us"])))


def _wan(summary: Summary) -> Row:
    row: Row = {"rtt_ms": None, "wan_bytes": None, "wan_drops": None, "wan_utilisation": None}
    for pair in summary.fidelity:
        rtt_ms = pair.rtt_ms_expected
        if rtt_ms is not None:
            row["rtt_ms"] = max(rtt_ms, row["rtt_ms"] or 0.0)

    if not summary.wan:
        return row

    total_bytes = total_drops = 0
    utilisation = 0.0
    for direction in summary.wan:
        total_bytes += direction.bytes or 0
        total_drops += direction.drops or 0
        utilisation = max(utilisation, direction.mean_utilisation or 0.0)

    row["wan_bytes"] = total_bytes
    row["wan_drops"] = total_drops
    row["wan_utilisation"] = utilisation
    return row


def _jobs(jobs: Sequence[JobRow]) -> Row:
    ends = [job.start_s + job.seconds for job in jobs if job.start_s is not None and job.seconds]
    slowdowns = [job.slowdown for job in jobs if job.slowdown is not None]
    row: Row = {"jobs_s": max(ends, default=None), "slowdown": max(slowdowns, default=None)}
    for job in jobs:
        row[f"seconds_{job.job}"] = job.seconds
        row[f"slowdown_{job.job}"] = job.slowdown
    return row


def _training(training: TrainingSummary) -> Row:
    return {
        "method": training.method,
        "compute_ms": training.compute_ms,
        "utilisation": training.compute_utilisation,
        "tokens_per_s": training.tokens_per_s,
        "wan_bytes_per_step": training.wan_bytes_per_step,
        "final_loss": training.final_loss,
        "training_s": training.seconds,
        "step_ms": training.mean_step_ms,
        "median_step_ms": training.step_ms.median,
    }


def time_to_loss(
    steps: pl.DataFrame, target_loss: float, compute_s: float
) -> dict[str, float | None]:
    """Return the time until the loss, averaged over ranks and `LOSS_STEPS` steps, met a target.

    Args:
        steps: Contents of train.parquet: one row per step and rank, with columns step, start_ns,
            end_ns (Unix ns on the run's clock) and loss (nats per token).
        target_loss: Target in nats per token.
        compute_s: Modelled computation time of a step in seconds.

    Returns:
        ``time_to_loss_s``: seconds from the first step's start; ``compute_to_loss_s``: the modelled
        computation in it. Both are None if the loss was always larger.
    """
    begin_ns = steps["start_ns"].min()
    step_ends = (pl.col("end_ns").max() - begin_ns) / 1e9
    losses = (
        steps.group_by("step")
        .agg(seconds=step_ends, loss=pl.col("loss").mean())
        .drop_nulls()
        .sort("step")
        .with_columns(pl.col("loss").rolling_mean(LOSS_STEPS))
    )

    reached = losses.filter(pl.col("loss") <= target_loss)
    if reached.is_empty():
        return {"time_to_loss_s": None, "compute_to_loss_s": None}

    steps_done = int(reached["step"][0]) + 1
    return {
        "time_to_loss_s": float(reached["seconds"][0]),
        "compute_to_loss_s": steps_done * compute_s,
    }


def _table(rows: Sequence[Row]) -> pl.DataFrame:
    """Return a table of rows, with columns in order of first appearance."""
    columns: list[pl.Series] = []
    for name in _column_names(rows):
        values = _uniform([row.get(name) for row in rows])
        columns.append(pl.Series(name, values, strict=False))
    return pl.DataFrame(columns)


def _column_names(rows: Sequence[Row]) -> list[str]:
    """Return the column names in order of first appearance, then those of `LAST_COLUMNS`."""
    if not rows:
        return ["point", "state"]
    present: dict[str, None] = {}
    for row in rows:
        present.update(dict.fromkeys(row))
    names = [name for name in present if name not in LAST_COLUMNS]
    last_names = [name for name in LAST_COLUMNS if name in present]
    return names + last_names


def _uniform(values: list[Any]) -> list[Any]:
    """Return values of one type: numbers if all are numbers, otherwise texts; None stays None."""
    types = {type(value) for value in values}
    types.discard(type(None))
    if len(types) <= 1:
        return values
    convert = float if types == {int, float} else str
    return [None if value is None else convert(value) for value in values]


def query(folder: SweepDir, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Run an SQL query over the tables ``points`` and ``collectives``.

    Args:
        folder: The sweep folder, with its tables written.
        sql: Query in DuckDB's SQL dialect.

    Returns:
        Column names and rows.

    Raises:
        InputError: DuckDB rejects the query.
    """
    import duckdb  # noqa: PLC0415 (nothing else needs it)

    with duckdb.connect() as database:
        for name, path in (("points", folder.table), ("collectives", folder.collectives)):
            database.read_parquet(str(path)).create_view(name)
        try:
            result = database.execute(sql)
            names = [column[0] for column in result.description or []]
            return names, result.fetchall()
        except duckdb.Error as error:
            raise InputError(
                f"DuckDB: {error}", remedy="the tables are points and collectives"
            ) from error
