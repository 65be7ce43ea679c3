"""Tables of modelled GPUs: the parts of a step, what steps wait for, and the memory of ranks."""

from __future__ import annotations

from testbed.core.units import format_figure, format_size
from testbed.report.grid import NONE, Grid, GridColumn
from testbed.runfolder.summary import ExposedRow, GpuSummary, Summary

MOST_WAITS = 12  # rows on a terminal
GPU_NOTE = (
    "steps: without the first one. step: time / steps; from the end of an optimizer's step to the "
    "end of the next one, on the GPU. compute: the optimizer's stream ran kernels; exposed: it "
    "waited for communication; streams: it waited for kernels of other streams; idle: it had "
    "nothing to run. Together they are the step; all are means over the ranks. MFU: FLOPs of the "
    "model / (time x a peak of {peak} FLOP/s); HFU: with recomputed FLOPs. tokens/s: of all ranks. "
    "memory: the most that tensors of a rank had."
)
WAITS_NOTE = (
    "Time of a step in which the optimizer's stream waits for operations of torch.distributed, "
    "the mean over the ranks. over: the slowest link on the operation's paths."
)
MEMORY_NOTE = "The most memory of each rank's tensors, and the most that torch's allocator held."


def gpu_grid(summary: Summary) -> Grid:
    """Return the table of the steps on modelled GPUs, with one row."""
    columns = [
        GridColumn("GPU", number=False),
        GridColumn("ranks"),
        GridColumn("steps"),
        GridColumn("step\n(ms)"),
        GridColumn("compute\n(ms)"),
        GridColumn("exposed\n(ms)"),
        GridColumn("streams\n(ms)"),
        GridColumn("idle\n(ms)"),
        GridColumn("median\n(ms)"),
        GridColumn("p95\n(ms)"),
        GridColumn("MFU\n(%)"),
        GridColumn("HFU\n(%)"),
        GridColumn("tokens/s"),
        GridColumn("memory"),
    ]
    gpu = summary.gpu
    if gpu is None:
        return Grid("Modelled GPUs", columns, [])

    note = GPU_NOTE.format(peak=f"{gpu.peak_flops:.3g}")
    return Grid("Modelled GPUs", columns, [_cells(gpu)], note)


def _cells(gpu: GpuSummary) -> list[str]:
    spread = gpu.step_ms
    peak_bytes = max((row.peak_bytes for row in gpu.memory), default=None)
    return [
        gpu.gpu,
        str(gpu.ranks),
        str(gpu.steps),
        _ms(gpu.time_per_step_ms),
        _ms(gpu.compute_ms),
        _ms(gpu.exposed_ms),
        _ms(gpu.streams_ms),
        _ms(gpu.launch_ms),
        _ms(None if spread is None else spread.median),
        _ms(None if spread is None else spread.p95),
        _percent(gpu.mfu),
        _percent(gpu.hfu),
        NONE if gpu.tokens_per_s is None else format_figure(gpu.tokens_per_s, 4),
        NONE if peak_bytes is None else format_size(peak_bytes, 4),
    ]


def waits_grid(summary: Summary, most: int | None = None) -> Grid:
    """Return the table of what steps on modelled GPUs wait for.

    Args:
        summary: the summary of a run.
        most: number of rows at most; None: all.
    """
    columns = [
        GridColumn("waits for", number=False),
        GridColumn("over", number=False),
        GridColumn("per step\n(ms)"),
        GridColumn("of step\n(%)"),
    ]
    rows = [] if summary.gpu is None else summary.gpu.exposed[:most]
    return Grid("Exposed communication", columns, [_wait_cells(row) for row in rows], WAITS_NOTE)


def _wait_cells(row: ExposedRow) -> list[str]:
    return [row.op, row.where, _ms(row.ms), _percent(row.share)]


def memory_grid(summary: Summary) -> Grid:
    """Return the table of the memory of each rank's modelled GPU."""
    columns = [
        GridColumn("rank"),
        GridColumn("tensors\n(GiB)"),
        GridColumn("reserved\n(GiB)"),
        GridColumn("tensors\n(B)"),
        GridColumn("reserved\n(B)"),
    ]
    rows = []
    for row in [] if summary.gpu is None else summary.gpu.memory:
        reserved_bytes = row.reserved_bytes
        reserved_gib = NONE if reserved_bytes is None else f"{reserved_bytes / 2**30:.3f}"
        reserved = NONE if reserved_bytes is None else str(reserved_bytes)
        tensors_gib = f"{row.peak_bytes / 2**30:.3f}"
        rows.append([str(row.rank), tensors_gib, reserved_gib, str(row.peak_bytes), reserved])

    return Grid("Memory of modelled GPUs", columns, rows, MEMORY_NOTE)


def _ms(value: float | None) -> str:
    """Return a time in ms, with three decimals below 100 ms, one above."""
    if value is None:
        return NONE
    return f"{value:.3f}" if value < 100 else f"{value:.1f}"


def _percent(share: float | None) -> str:
    return NONE if share is None else f"{100 * share:.1f}"
