"""The tables of a run as files of comma-separated values."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from testbed.report.export.scalars import run_scalars
from testbed.runfolder.files import replace_bytes
from testbed.runfolder.folder import RunDir
from testbed.runfolder.status import read_status
from testbed.runfolder.summary import read_summary
from testbed.runfolder.tables import collectives_table, read_table


def write_csv(folder: RunDir, target: Path) -> list[Path]:
    """Write a file for each table of a run, and scalars.csv with the single figures.

    Columns have the names and units of the run folder's tables (docs/run-folder.md). The items of
    a list are separated by blanks.

    Args:
        folder: The run folder.
        target: Existing folder for the files.

    Returns:
        Paths of the files.

    Raises:
        OSError: A table cannot be read, or a file cannot be written.
    """
    written: list[Path] = []
    for name, table in _tables(folder):
        path = target / f"{name}.csv"
        flat = table.with_columns(_texts_of_lists(table))
        replace_bytes(path, flat.write_csv().encode())
        written.append(path)
    return written


def _tables(folder: RunDir) -> Iterator[tuple[str, pl.DataFrame]]:
    """Yield each table of the run with its name."""
    status, _ = read_status(folder.status)
    summary, _ = read_summary(folder.summary)
    scalars = run_scalars(status, summary)
    columns = {"name": list(scalars), "value": list(scalars.values())}
    yield "scalars", pl.DataFrame(columns, schema={"name": pl.String, "value": pl.Float64})
    yield "collectives", collectives_table(summary)
    files = {
        "operations": folder.ops,
        "links": folder.links,
        "steps": folder.train,
        "flows": folder.flows,
        "throughput": folder.throughput,
        "flow_operations": folder.flow_ops,
    }
    for name, path in files.items():
        if path.is_file():
            yield name, read_table(path)


def _texts_of_lists(table: pl.DataFrame) -> list[pl.Expr]:
    """Return the columns of lists as texts."""
    expressions: list[pl.Expr] = []
    for name, dtype in table.schema.items():
        if isinstance(dtype, pl.List):
            texts = pl.col(name).cast(pl.List(pl.String)).list.join(" ")
            expressions.append(texts.alias(name))
    return expressions
