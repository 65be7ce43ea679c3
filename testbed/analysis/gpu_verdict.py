"""Summarize steps of training on modelled GPUs in one sentence: what the steps wait for."""

from __future__ import annotations

from testbed.core.units import format_figure, format_microseconds, format_share
from testbed.runfolder.summary import GpuSummary

LEAST_SHARE = 0.01  # of a step, to be mentioned


def of_gpu_steps(gpu: GpuSummary) -> str:
    """Return a sentence about what a step waits for, and its time, use of the GPU, and tokens.

    Args:
        gpu: a summary with at least one step.
    """
    assert gpu.time_per_step_ms is not None
    time = format_microseconds(1000 * gpu.time_per_step_ms)
    parts = [f"a GPU computes for {format_share(gpu.share(gpu.compute_ms))}"]
    for part_ms, text in (
        (gpu.exposed_ms, "waits for communication for"),
        (gpu.streams_ms, "waits for its other streams for"),
        (gpu.launch_ms, "has nothing to run for"),
    ):
        share = gpu.share(part_ms)
        if share >= LEAST_SHARE:
            parts.append(f"{text} {format_share(share)}")

    doing = " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
    ranks = f"{gpu.ranks} {gpu.gpu}"
    figures = []
    if gpu.mfu is not None:
        figures.append(f"MFU {format_share(gpu.mfu)}")
    if gpu.tokens_per_s is not None:
        figures.append(f"{format_figure(gpu.tokens_per_s, 4)} tokens/s")

    text = f"{_waits_for(gpu)}: a step takes {time} on {ranks}, of which {doing}"
    return "; ".join([text, *figures]) + "."


def _waits_for(gpu: GpuSummary) -> str:
    """Return what a step waits for above all, or that it computes."""
    exposed = gpu.share(gpu.exposed_ms)
    launch = gpu.share(gpu.launch_ms)
    computes = gpu.share(gpu.compute_ms) + gpu.share(gpu.streams_ms)
    if computes >= max(exposed, launch):
        return "Computation dominates"
    if launch >= exposed or not gpu.exposed:
        return "The GPUs wait for the script"

    longest = gpu.exposed[0]
    return f"The step waits for {longest.op} over {longest.where}"
