"""A run as an event file of TensorBoard; the only module that imports tensorboardX.

Events carry the time on the run's clock, so that TensorBoard's "wall" axis is emulated time.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from testbed.analysis.link_samples import of_direction
from testbed.core.errors import MachineError
from testbed.plan.model import Direction, Plan
from testbed.report.export.scalars import run_scalars
from testbed.runfolder.folder import RunDir
from testbed.runfolder.status import read_status
from testbed.runfolder.summary import read_summary
from testbed.runfolder.tables import read_table

try:
    from tensorboardX import SummaryWriter
except ImportError as error:
    raise MachineError(
        "tensorboardX, which writes TensorBoard's files, is not installed\n"
        "  run `pip install --editable '.[tensorboard]'` in the folder of the project"
    ) from error

MOST_SAMPLES = 2000  # of a direction of a link; more are thinned


def write_tensorboard(folder: RunDir, target: Path) -> list[Path]:
    """Write the scalars of a run, of its steps, operations and links as an event file.

    Args:
        folder: The run folder.
        target: Existing folder for the file.

    Returns:
        Path of the file.

    Raises:
        OSError: A table cannot be read, or the file cannot be written.
    """
    before = set(target.iterdir())
    with SummaryWriter(str(target)) as writer:
        began_s = (folder.began_ns() or 0) / 1e9
        _add_scalars(writer, folder, began_s)
        if folder.train.is_file():
            _add_steps(writer, read_table(folder.train))
        if folder.ops.is_file():
            _add_operations(writer, read_table(folder.ops))
        if folder.links.is_file():
            _add_links(writer, folder.read_plan(), read_table(folder.links))
    return sorted(set(target.iterdir()) - before)


def _add_scalars(writer: SummaryWriter, folder: RunDir, time_s: float) -> None:
    status, _ = read_status(folder.status)
    summary, _ = read_summary(folder.summary)
    for name, value in run_scalars(status, summary).items():
        writer.add_scalar(_tag(name), value, 0, walltime=time_s)


def _add_steps(writer: SummaryWriter, steps: pl.DataFrame) -> None:
    """Add the time and the loss of each training step, as means over the ranks.

    Args:
        writer: The event file.
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
                time_s = row["end_ns"] / 1e9
                writer.add_scalar(f"steps/{name}", row[name], row["step"], walltime=time_s)


def _add_operations(writer: SummaryWriter, operations: pl.DataFrame) -> None:
    """Add the time of each measured operation of rank 0, in order.

    Args:
        writer: The event file.
        operations: Contents of ops.parquet (`testbed.runfolder.schemas.OPS`).
    """
    of_rank = operations.filter(pl.col("phase") != "warmup", rank=0).sort("start_ns")
    numbers: dict[str, int] = {}
    for row in of_rank.select("op", "bytes", "start_ns", "end_ns").iter_rows():
        op, size, start_ns, end_ns = row
        tag = _tag(f"operations/{op} {size} B/time_us")
        number = numbers.get(tag, 0)
        numbers[tag] = number + 1
        writer.add_scalar(tag, (end_ns - start_ns) / 1e3, number, walltime=end_ns / 1e9)


def _add_links(writer: SummaryWriter, plan: Plan, links: pl.DataFrame) -> None:
    """Add the rate and the queue of each direction of a WAN link over time, in ms.

    Args:
        writer: The event file.
        plan: The plan of the run.
        links: Contents of links.parquet (`testbed.runfolder.schemas.LINKS`).
    """
    if links.is_empty():
        return
    began_ns = int(links["time_ns"].min() or 0)  # type: ignore[arg-type]
    for link in plan.network.wan:
        for direction in link.directions:
            samples = of_direction(links, link.key, direction.source)
            _add_direction(writer, direction, samples, began_ns)


def _add_direction(
    writer: SummaryWriter, direction: Direction, samples: pl.DataFrame, began_ns: int
) -> None:
    """Add the samples of one direction; counters are cumulative, so thinning loses no bytes.

    Args:
        writer: The event file.
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
                time_s = row["time_ns"] / 1e9
                writer.add_scalar(f"{name}/{column}", row[column], time_ms, walltime=time_s)


def _tag(name: str) -> str:
    """Return a name in the characters that TensorBoard takes in tags."""
    return name.replace(" ", "_").replace(",", "-")
