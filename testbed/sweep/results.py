"""The tables of a sweep, from the run folders of its points.

Columns of sweep.parquet (a row for each point): ``point`` (its name), ``state`` (completed | failed
| missing); for each swept key its short name with the value as written, and for a quantity the same
in base units as ``<name>_ns``, ``_bps``, ``_bytes`` or ``_share``; ``repeat``, ``seed``; what was
measured (null for other workloads); ``faithful``, ``wall_seconds``, ``cpu_seconds``,
``emulated_seconds``, ``attempt``, ``reason``, ``folder`` (relative to the sweep's), ``identity``.

What was measured:

- ``rtt_ms``: the longest planned round trip between two datacenters. ``wan_bytes``, ``wan_drops``:
  sums over all WAN directions; ``wan_utilisation``: of the busiest.
- collectives: ``op``, ``bytes``, ``time_us`` (median), ``max_us``, ``bound_us``, ``efficiency``,
  ``algbw_gbytes``, ``busbw_gbytes`` and the same at the bound (``algbw_bound_gbytes``,
  ``busbw_bound_gbytes``), ``wrong``; of the first operation at its largest size.
  collectives.parquet has all of them, a row for each point, operation and size.
- training: ``method``, ``step_ms`` (median), ``compute_ms``, ``utilisation``, ``tokens_per_s``,
  ``wan_bytes_per_step``, ``final_loss``, ``training_s``, ``time_to_loss_s`` and
  ``compute_to_loss_s``: run's time until the mean loss of the last five steps was at most the
  experiment's ``target_loss``, and the modelled computation in it (null: never).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from testbed.core.errors import InputError
from testbed.runfolder.folder import RunDir, read_json
from testbed.spec.condition import measure, quantity_of
from testbed.spec.experiment import value_text
from testbed.sweep.folder import SweepDir, read_record

SUFFIXES = {"time": "_ns", "rate": "_bps", "size": "_bytes", "percentage": "_share"}
LAST = (
    "wall_seconds",
    "cpu_seconds",
    "emulated_seconds",
    "attempt",
    "reason",
    "folder",
    "identity",
)
LOSS_STEPS = 5
FROM_TRAINING = {
    "method": "method",
    "compute_ms": "compute_ms",
    "utilisation": "compute_utilisation",
    "tokens_per_s": "tokens_per_s",
    "wan_bytes_per_step": "wan_bytes_per_step",
    "final_loss": "final_loss",
    "training_s": "seconds",
}

Row = dict[str, Any]


def gather(folder: SweepDir) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Write sweep.parquet and collectives.parquet anew, and return both.

    Raises:
        OSError: they cannot be written.
    """
    index = read_json(folder.index, [])
    done, failed = folder.done(), folder.failures()
    rows: list[Row] = []
    collectives: list[Row] = []
    for point in index.get("points", []):
        found = done.get(point["identity"]) or failed.get(point["identity"])
        base = {"point": point["name"], "state": "missing"} | _axis_columns(point["values"])
        base |= {"repeat": point["repeat"], "seed": point["seed"]}
        row = base | _outcome(folder, found) | {"identity": point["identity"]}
        if found is not None:
            summary = read_json(RunDir(found).summary, [])
            measured = [_collective(each) for each in summary.get("collectives") or []]
            collectives += [base | {"state": row["state"]} | each for each in measured]
            row |= _wan(summary) | _headline(measured)
            row |= _training(RunDir(found), summary, index.get("target_loss"))
        rows.append(row)
    return _table(rows, folder.table), _table(collectives, folder.collectives)


def _axis_columns(values: Mapping[str, Any]) -> Row:
    row: Row = {}
    for name, value in values.items():
        kind = quantity_of(value)
        plain = isinstance(value, int | float) and not isinstance(value, bool)
        row[name] = value if plain else value_text(value)
        if kind is not None:
            row[name + SUFFIXES[kind.name]] = float(measure(value).number) / (
                100 if kind.name == "percentage" else 1
            )
    return row


def _outcome(folder: SweepDir, found: Path | None) -> Row:
    if found is None:
        return {}
    record, status = read_record(found), read_json(RunDir(found).status, [])
    return {
        "state": record.state if record else "failed",
        "faithful": status.get("faithful"),
        "wall_seconds": record.wall_seconds if record else None,
        "cpu_seconds": record.cpu_seconds if record else None,
        "emulated_seconds": status.get("emulated_seconds"),
        "attempt": record.attempt if record else None,
        "reason": record.reason if record else "",
        "folder": str(found.relative_to(folder.path)),
    }


def _collective(each: Row) -> Row:
    time, bound = each["time_us"]["median"], each.get("bound_us")
    growth = time / bound if bound else None
    return {
        "op": each["op"],
        "bytes": each["bytes"],
        "ranks": each["ranks"],
        "dtype": each.get("dtype"),
        "time_us": time,
        "max_us": each["time_us"]["max"],
        "bound_us": bound,
        "efficiency": each.get("efficiency"),
        "algbw_gbytes": each["algbw_gbytes"],
        "busbw_gbytes": each["busbw_gbytes"],
        "algbw_bound_gbytes": growth and each["algbw_gbytes"] * growth,
        "busbw_bound_gbytes": growth and each["busbw_gbytes"] * growth,
        "wrong": each.get("wrong"),
    }


def _headline(measured: Sequence[Row]) -> Row:
    if not measured:
        return {}
    first = [each for each in measured if each["op"] == measured[0]["op"]]
    return max(first, key=lambda each: int(each["bytes"]))


def _wan(summary: Mapping[str, Any]) -> Row:
    wan, pairs = summary.get("wan") or [], summary.get("fidelity") or []
    return {
        "rtt_ms": max((pair["rtt_ms_expected"] for pair in pairs), default=None),
        "wan_bytes": sum(way["bytes"] or 0 for way in wan) if wan else None,
        "wan_drops": sum(way["drops"] or 0 for way in wan) if wan else None,
        "wan_utilisation": max((way["mean_utilisation"] or 0.0 for way in wan), default=None),
    }


def _training(run: RunDir, summary: Mapping[str, Any], target: float | None) -> Row:
    found = summary.get("training")
    if not found:
        return {}
    row = {name: found.get(key) for name, key in FROM_TRAINING.items()} | {
        "step_ms": found["step_ms"]["median"]
    }
    if target is not None and run.train.is_file():
        row |= time_to_loss(pl.read_parquet(run.train), target, found["compute_ms"] / 1000)
    return row


def time_to_loss(steps: pl.DataFrame, target: float, compute_s: float) -> Row:
    """When the mean over ranks and the last five steps was at most `target`, and how much of that
    was computation.

    Args:
        steps: train.parquet of a run.
        target: nats per token.
        compute_s: modelled computation of a step.
    """
    begin = steps["start_ns"].min()
    curve = (
        steps.group_by("step")
        .agg(seconds=(pl.col("end_ns").max() - begin) / 1e9, loss=pl.col("loss").mean())
        .drop_nulls()
        .sort("step")
        .with_columns(pl.col("loss").rolling_mean(LOSS_STEPS))
        .filter(pl.col("loss") <= target)
    )
    if curve.is_empty():
        return {"time_to_loss_s": None, "compute_to_loss_s": None}
    step, seconds = int(curve["step"][0]), float(curve["seconds"][0])
    return {"time_to_loss_s": seconds, "compute_to_loss_s": (step + 1) * compute_s}


def _table(rows: Sequence[Row], path: Path) -> pl.DataFrame:
    """The rows as a table, written to `path`; columns in the order in which rows first have
    them.
    """
    found = dict.fromkeys(name for row in rows for name in row)
    names = [name for name in found if name not in LAST] + [name for name in LAST if name in found]
    columns = {
        name: _uniform([row.get(name) for row in rows]) for name in names or ("point", "state")
    }
    table = pl.DataFrame(
        [pl.Series(name, values, strict=False) for name, values in columns.items()]
    )
    new = path.with_name(path.name + ".new")
    table.write_parquet(new)
    new.replace(path)
    return table


def _uniform(values: list[Any]) -> list[Any]:
    """Values of one type: numbers if all are, else text."""
    known = [value for value in values if value is not None]
    if all(isinstance(value, bool) for value in known) or all(
        isinstance(value, str) for value in known
    ):
        return values
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in known):
        whole = all(isinstance(value, int) for value in known)
        return values if whole else [None if value is None else float(value) for value in values]
    return [None if value is None else str(value) for value in values]


def query(folder: SweepDir, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Columns and rows of an SQL query (DuckDB's dialect) over the tables `points` and
    `collectives`.

    Raises:
        InputError: DuckDB cannot do it.
    """
    import duckdb  # noqa: PLC0415 (only this needs it)

    with duckdb.connect() as database:
        for name, path in (("points", folder.table), ("collectives", folder.collectives)):
            database.read_parquet(str(path)).create_view(name)
        try:
            found = database.execute(sql)
            return [column[0] for column in found.description or []], found.fetchall()
        except duckdb.Error as error:
            raise InputError(
                f"DuckDB: {error}", remedy="the tables are points and collectives"
            ) from error
