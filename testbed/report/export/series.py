"""The values of a run over time, for tools that draw curves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import polars as pl

from testbed.analysis.link_samples import of_direction
from testbed.plan.model import Direction, Plan
from testbed.report.export.scalars import run_scalars
from testbed.runfolder.folder import RunDir
from testbed.runfolder.status import read_status
from testbed.runfolder.summary import read_summary
from testbed.runfolder.tables import read_table

MOST_SAMPLES = 2000  # of a direction of a link; more are thinned


class Sample(NamedTuple):
    """A value of a curve: its name, its position, and its time on the run's clock in Unix s."""

    tag: str
    value: float
    step: int
    time_s: float


def run_samples(folder: RunDir) -> Iterator[Sample]:
    """Yield the single figures of a run, then the values of its steps, operations and links.

    Raises:
        OSError: A table cannot be read.
    """
    began_s = (folder.began_ns() or 0) / 1e9
    status, _ = read_status(folder.status)
    summary, _ = read_summary(folder.summary)
    for name, value in run_scalars(status, summary).items():
        yield Sample(tag_of(name), value, 0, began_s)
    yield from curves(folder)


def curves(folder: RunDir) -> Iterator[Sample]:
    """Yield the values of a run's steps, operations and links, by curve in order.

    Raises:
        OSError: A table cannot be read.
    """
    if folder.train.is_file():
        yield from _steps(read_table(folder.train))
    if folder.ops.is_file():
        yield from _operations(read_table(folder.ops))
    if folder.links.is_file():
        yield from _links(folder.read_plan(), read_table(folder.links))


def _steps(steps: pl.DataFrame) -> Iterator[Sample]:
    """Yield the time and the loss of each training step, as means over the ranks.

    Args:
        steps: Contents of train.parquet (`testbed.runfolder.schemas.TRAIN`).
    """
    duration_ms = (pl.col("end_ns") - pl.col("start_ns")) / 1e6
    by_step = (
        steps.group_by("step")
        .agg(
            end_ns=pl.col("end_ns").max(),
            step_ms=duration_ms.mean(),
            compute_ms=(pl.col("compute_ns") / 1e6).mean(),
            loss=pl.col("loss").mean(),
        )
        .sort("step")
    )
    for row in by_step.iter_rows(named=True):
        for name in ("step_ms", "compute_ms", "loss"):
            if row[name] is not None:
                yield Sample(f"steps/{name}", row[name], row["step"], row["end_ns"] / 1e9)


def _operations(operations: pl.DataFrame) -> Iterator[Sample]:
    """Yield the time of each measured operation of rank 0, in order.

    Args:
        operations: Contents of ops.parquet (`testbed.runfolder.schemas.OPS`).
    """
    of_rank = operations.filter(pl.col("phase") != "warmup", rank=0).sort("start_ns")
    numbers: dict[str, int] = {}
    for row in of_rank.select("op", "bytes", "start_ns", "end_ns").iter_rows():
        op, size, start_ns, end_ns = row
        tag = tag_of(f"operations/{op} {size} B/time_us")
        number = numbers.get(tag, 0)
        numbers[tag] = number + 1
        yield Sample(tag, (end_ns - start_ns) / 1e3, number, end_ns / 1e9)


def _links(plan: Plan, links: pl.DataFrame) -> Iterator[Sample]:
    """Yield the rate and the queue of each direction of a WAN link over time, in ms.

    Args:
        plan: The plan of the run.
        links: Contents of links.parquet (`testbed.runfolder.schemas.LINKS`).
    """
    if links.is_empty():
        return
    began_ns = int(links["time_ns"].min() or 0)  # type: ignore[arg-type]
    for link in plan.network.wan:
        for direction in link.directions:
            samples = of_direction(links, link.key, direction.source)
            yield from _direction(direction, samples, began_ns)


def _direction(direction: Direction, samples: pl.DataFrame, began_ns: int) -> Iterator[Sample]:
    """Yield the samples of one direction; counters are cumulative, so thinning loses no bytes.

    Args:
        direction: The direction.
        samples: Its rows of links.parquet, by time.
        began_ns: Unix ns of the first sample of the run.
    """
    step = 1 + samples.height // MOST_SAMPLES
    thinned = samples.gather_every(step)
    rate_gbps = 8 * pl.col("bytes").diff() / pl.col("time_ns").diff()
    series = thinned.with_columns(rate_gbps=rate_gbps, drops=pl.col("drops").diff())
    name = f"links/{direction.source}-{direction.target}"
    columns = ("rate_gbps", "backlog_bytes", "drops")
    for row in series.select("time_ns", *columns).iter_rows(named=True):
        time_ms = (row["time_ns"] - began_ns) // 10**6
        for column in columns:
            if row[column] is not None:
                yield Sample(f"{name}/{column}", row[column], time_ms, row["time_ns"] / 1e9)


def tag_of(name: str) -> str:
    """Return a name in the characters that tools take in tags."""
    return name.replace(" ", "_").replace(",", "-")
