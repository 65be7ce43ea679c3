"""Figures of a modelled GPU: what torch.cuda reports, and the rates that kernels reach.

The efficiencies are the same for all models and GPUs, from published measurements of kernels. They
are never adjusted to a script. docs/gpus.md compares them with published training speeds.
"""

from __future__ import annotations

from dataclasses import dataclass

from testbed.core.gpus import TERA, Accelerator, Device, ModelledGpu

GIB = 2**30
NS_PER_S = 1e9
# Part of the peak that products of the shapes of a large language model's training reach: 720 of
# 989.5 TFLOP/s on an H100 and an H200 (SemiAnalysis, "MI300X vs H100 vs H200 Benchmark Part 1:
# Training", 2024). torch's own estimate of times takes 0.75 (torch/utils/_runtime_estimation.py).
# The best of all shapes reaches 0.80 (S. Bekman, Machine Learning Engineering).
PRODUCT_EFFICIENCY = 0.73
# FlashAttention-2, which torch uses, reaches 35 % of an H100's peak (arXiv 2407.08608, abstract).
ATTENTION_EFFICIENCY = 0.35
# Part of the bandwidth that large copies reach: 0.92 on an H100 (STREAM triad, 3.08 of 3.35 TB/s).
MEMORY_EFFICIENCY = 0.92
# Part of the memory that the driver reports: 79.1 of 80 GiB on an A100 and an H100.
REPORTED_MEMORY = 0.989
CONTEXT_BYTES = GIB // 2  # of a CUDA context with its libraries' kernels
# Between two GPUs of a host, each way: NVLink's rate, of which NCCL's rings reach 80 % (nccl-tests
# report 360 of 450 GB/s on eight H100).
LOCAL_EFFICIENCY = 0.80
VECTOR_FORMATS = 16  # tensor cores multiply tf32 so many times as fast as vectors multiply float32


FORMATS: tuple[str, ...] = ("float64", "float32", "tf32", "float16", "float8")


@dataclass(frozen=True)
class Figures:
    """The modelled GPUs of one host, in base units.

    Attributes:
        model: what torch.cuda reports.
        count: number of GPUs.
        memory_bytes: memory that torch.cuda reports.
        usable_bytes: memory for tensors.
        bytes_per_ns: rate of the memory.
        flops_per_ns: rate of products for each of `FORMATS`.
    """

    model: Device
    count: int
    memory_bytes: int
    usable_bytes: int
    bytes_per_ns: float
    flops_per_ns: tuple[float, ...]

    @property
    def local_bytes_per_ns(self) -> float:
        """Rate of a ring between GPUs of one host."""
        return self.model.peer_bytes_per_s * LOCAL_EFFICIENCY / NS_PER_S


def figures_of(gpu: ModelledGpu, count: int) -> Figures:
    """Return the figures of `count` GPUs of a kind."""
    accelerator = gpu.accelerator
    memory_gb = accelerator.memory_bytes / 10**9  # makers write GB for GiB
    memory_bytes = gpu.device.reported_bytes or int(memory_gb * GIB * REPORTED_MEMORY)
    rates = []
    for number_format in FORMATS:
        rates.append(_peak(accelerator, number_format) * PRODUCT_EFFICIENCY / NS_PER_S)

    return Figures(
        model=gpu.device,
        count=count,
        memory_bytes=memory_bytes,
        usable_bytes=memory_bytes - CONTEXT_BYTES,
        bytes_per_ns=accelerator.memory_bytes_per_s * MEMORY_EFFICIENCY / NS_PER_S,
        flops_per_ns=tuple(rates),
    )


def _peak(accelerator: Accelerator, number_format: str) -> float:
    """Return the peak of a format, or of the nearest format that the data sheet has, in FLOP/s."""
    tflops = accelerator.tflops
    half = tflops[accelerator.training_format]
    tensor32 = tflops.get("tf32") or half / 2
    float32 = tflops.get("float32") or tensor32 / VECTOR_FORMATS
    peaks: dict[str, float] = {
        "float64": float32 / 2,
        "float32": float32,
        "tf32": tflops.get("tf32") or float32,
        "float16": half,
        "float8": tflops.get("float8") or half,
    }
    return peaks[number_format] * TERA
