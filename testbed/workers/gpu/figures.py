"""Figures of a modelled GPU: what torch.cuda reports, and the rates that kernels reach.

The efficiencies are the same for all models and GPUs, from published measurements. They are never
adjusted to a script. docs/gpus.md compares them with published training speeds.
"""

from __future__ import annotations

from dataclasses import dataclass

from testbed.core.gpus import ACCELERATORS, TERA, Accelerator

GIB = 2**30
NS_PER_S = 1e9
# Part of the peak that large matrix products reach: 0.80 on an H100, 0.86 on an A100 (S. Bekman,
# Machine Learning Engineering, "Maximum Achievable Matmul FLOPS").
PRODUCT_EFFICIENCY = 0.80
# FlashAttention-2, which torch uses, reaches 35 % of an H100's peak (arXiv 2407.08608, abstract).
ATTENTION_EFFICIENCY = 0.35
# Part of the bandwidth that large copies reach: 0.92 on an H100 (STREAM triad, 3.08 of 3.35 TB/s).
MEMORY_EFFICIENCY = 0.92
# CUDA starts short kernels 3.8 us apart (NVIDIA, "Getting Started with CUDA Graphs", 2019).
LEAST_KERNEL_NS = 3800.0
# Part of the memory that the driver reports: 79.1 of 80 GiB on an A100 and an H100.
REPORTED_MEMORY = 0.989
CONTEXT_BYTES = GIB // 2  # of a CUDA context with its libraries' kernels
# Copies from and to pinned memory over PCIe 4.0 x16 reach 25 of 31.5 GB/s.
HOST_BYTES_PER_S = 25e9
# Between two GPUs of a host, each way: NVLink's rate, of which NCCL's rings reach 80 % (nccl-tests
# report 360 of 450 GB/s on eight H100).
LOCAL_EFFICIENCY = 0.80
PCIE_BYTES_PER_S = 31.5e9
VECTOR_FORMATS = 16  # tensor cores multiply tf32 so many times as fast as vectors multiply float32


@dataclass(frozen=True)
class Model:
    """What torch.cuda reports of a GPU, apart from the memory.

    Attributes:
        device_name: its name.
        capability: its compute capability.
        multiprocessors: number of its multiprocessors.
        local_bytes_per_s: rate to other GPUs of the host, each way.
    """

    device_name: str
    capability: tuple[int, int]
    multiprocessors: int
    local_bytes_per_s: float


# Makers' data sheets, and the names that their drivers report.
MODELS = {
    "V100": Model("Tesla V100-SXM2-32GB", (7, 0), 80, 150e9),
    "A100": Model("NVIDIA A100-SXM4-80GB", (8, 0), 108, 300e9),
    "L40S": Model("NVIDIA L40S", (8, 9), 142, PCIE_BYTES_PER_S),
    "H100": Model("NVIDIA H100 80GB HBM3", (9, 0), 132, 450e9),
    "H200": Model("NVIDIA H200", (9, 0), 132, 450e9),
    "B200": Model("NVIDIA B200", (10, 0), 148, 900e9),
    "GB200": Model("NVIDIA GB200", (10, 0), 148, 900e9),
}
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

    model: Model
    count: int
    memory_bytes: int
    usable_bytes: int
    bytes_per_ns: float
    flops_per_ns: tuple[float, ...]

    @property
    def local_bytes_per_ns(self) -> float:
        """Rate of a ring between GPUs of one host."""
        return self.model.local_bytes_per_s * LOCAL_EFFICIENCY / NS_PER_S


def figures_of(name: str, count: int) -> Figures:
    """Return the figures of `count` GPUs with a name of `MODELS`."""
    accelerator = ACCELERATORS[name]
    memory_gb = accelerator.memory_bytes / 10**9  # makers write GB for GiB
    memory_bytes = int(memory_gb * GIB * REPORTED_MEMORY)
    rates = []
    for number_format in FORMATS:
        rates.append(_peak(accelerator, number_format) * PRODUCT_EFFICIENCY / NS_PER_S)

    return Figures(
        model=MODELS[name],
        count=count,
        memory_bytes=memory_bytes,
        usable_bytes=memory_bytes - CONTEXT_BYTES,
        bytes_per_ns=accelerator.memory_bytes_per_s * MEMORY_EFFICIENCY / NS_PER_S,
        flops_per_ns=tuple(rates),
    )


def _peak(accelerator: Accelerator, number_format: str) -> float:
    """Return the peak of a format, or of the nearest format that the data sheet has, in FLOP/s."""
    tflops = accelerator.tflops
    float32 = tflops.get("float32") or tflops["tf32"] / VECTOR_FORMATS
    half = tflops.get("float16") or tflops["bfloat16"]
    peaks: dict[str, float] = {
        "float64": float32 / 2,
        "float32": float32,
        "tf32": tflops.get("tf32") or float32,
        "float16": half,
        "float8": tflops.get("float8") or half,
    }
    return peaks[number_format] * TERA
