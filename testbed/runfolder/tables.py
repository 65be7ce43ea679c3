"""Tables of a summary's rows, and how tables are written."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import polars as pl

from testbed.runfolder.files import open_plain, replacing
from testbed.runfolder.schemas import Schema
from testbed.runfolder.summary import Summary

COLLECTIVES: Schema = {
    "op": pl.String,
    "bytes": pl.Int64,
    "ranks": pl.Int64,
    "iterations": pl.Int64,
    "time_us": pl.Float64,
    "min_us": pl.Float64,
    "p95_us": pl.Float64,
    "max_us": pl.Float64,
    "slowest_us": pl.Float64,
    "algbw_gbytes": pl.Float64,
    "busbw_gbytes": pl.Float64,
    "bound_us": pl.Float64,
    "efficiency": pl.Float64,
    "wrong": pl.Int64,
    "dtype": pl.String,
    "algorithm": pl.String,
    "groups": pl.String,
    "group": pl.String,
    "group_ranks": pl.List(pl.Int64),
    "root": pl.Int64,
    "unequal": pl.Boolean,
    "timed": pl.String,
    "settled": pl.String,
    "median_within": pl.Float64,
    "below_bound": pl.Boolean,
}

CHANGES: Schema = {
    "settings": pl.String,
    "why": pl.String,
    "time_of": pl.String,
    "base_ms": pl.Float64,
    "changed_ms": pl.Float64,
    "change_percent": pl.Float64,
    "faithful": pl.Boolean,
    "doubts": pl.String,
    "folder": pl.String,
    "error": pl.String,
}


def changes_table(rows: Iterable[Mapping[str, object]]) -> pl.DataFrame:
    """Return the table of measured changes, of rows with the keys of `CHANGES`."""
    return pl.DataFrame(list(rows), schema=dict(CHANGES))


def collectives_table(summary: Summary) -> pl.DataFrame:
    """Return the table of collectives.

    Returns:
        A row for each `testbed.runfolder.summary.CollectiveRow`, with columns of the same names and
        units. `time_us` is the median over the iterations; `min_us`, `p95_us` and `max_us` are the
        other figures of the same spread.
    """
    rows: list[dict[str, object]] = []
    for collective in summary.collectives:
        row = collective.model_dump()
        spread = row.pop("time_us")
        row["time_us"] = spread["median"]
        for name in ("min", "p95", "max"):
            row[f"{name}_us"] = spread[name]
        rows.append(row)
    return pl.DataFrame(rows, schema=dict(COLLECTIVES))


def write_table(table: pl.DataFrame, path: Path) -> None:
    """Write a Parquet table so that a reader sees either the old file or the complete new file.

    Raises:
        OSError: the file cannot be written.
    """
    with replacing(path) as new:
        try:
            with new.open("xb") as file:  # polars itself cannot open paths that are not UTF-8
                table.write_parquet(file)
        except pl.exceptions.PolarsError as error:
            raise _as_os_error(error, path) from error


def read_table(path: Path) -> pl.DataFrame:
    """Read a Parquet table, without following symbolic links.

    Raises:
        OSError: the file is missing, cannot be read, or is damaged.
    """
    with open_plain(path) as file:
        try:
            return pl.read_parquet(file)
        except pl.exceptions.PolarsError as error:
            raise OSError(f"damaged ({type(error).__name__}: {error})") from error
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # of Rust; it has no class to import
                raise
            raise OSError("damaged (polars gave up)") from error


def _as_os_error(error: pl.exceptions.PolarsError, path: Path) -> OSError:
    """Return the error of the system that polars reports as text."""
    number = re.search(r"\(os error (\d+)\)", str(error))
    if number is None:
        return OSError(f"cannot write {path}: {error}")
    code = int(number[1])
    return OSError(code, os.strerror(code), str(path))
