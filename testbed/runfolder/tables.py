"""Tables of a summary's rows."""

from __future__ import annotations

import polars as pl

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
    "below_bound": pl.Boolean,
}


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
