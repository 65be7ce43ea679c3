"""Define the accelerators whose computation can be modelled.

Peaks are of dense products without sparsity, for one accelerator as its maker sells it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

NumberFormat = Literal["float32", "tf32", "bfloat16", "float16", "float8", "float4"]
FORMATS: tuple[NumberFormat, ...] = get_args(NumberFormat)
GB = 10**9
TERA = 10**12


@dataclass(frozen=True)
class Accelerator:
    """An accelerator, from its maker's data sheet.

    Attributes:
        tflops: Peak of dense products by number format, in 10^12 FLOP/s.
        memory_bytes: Size of the memory.
        memory_bytes_per_s: Bandwidth of the memory.
        source: Document with the figures.
    """

    tflops: Mapping[NumberFormat, float]
    memory_bytes: int
    memory_bytes_per_s: float
    source: str

    def peak_flops(self, number_format: NumberFormat) -> float | None:
        """Return the peak in FLOP/s; None if the accelerator lacks the number format."""
        tflops = self.tflops.get(number_format)
        return None if tflops is None else tflops * TERA

    @property
    def training_format(self) -> NumberFormat:
        """The number format that mixed precision uses: bfloat16, or float16 on older ones."""
        return "bfloat16" if "bfloat16" in self.tflops else "float16"


@dataclass(frozen=True)
class Device:
    """What torch.cuda shows of an accelerator, and how the accelerator is attached to its host.

    Attributes:
        device_name: Name that the driver reports.
        capability: Compute capability.
        multiprocessors: Number of multiprocessors.
        peer_bytes_per_s: Rate to the other accelerators of the host, each way.
        host_bytes_per_s: Rate of copies from and to main memory.
        kernel_ns: Least time from the start of a kernel to the start of the next one.
        source: Document with the rate to other accelerators.
        reported_bytes: Memory that torch.cuda reports; None: a part of the maker's figure.
        channels: Channels of NCCL's rings between the accelerators of a host, each of which holds
            a multiprocessor; 0: not known.
    """

    device_name: str
    capability: tuple[int, int]
    multiprocessors: int
    peer_bytes_per_s: float
    host_bytes_per_s: float = 25e9  # over PCIe 4.0 x16 they reach 25 of 31.5 GB/s
    # CUDA starts short kernels 3.8 us apart (NVIDIA, "Getting Started with CUDA Graphs", 2019).
    kernel_ns: float = 3800.0
    source: str = ""
    reported_bytes: int | None = None
    channels: int = 0


@dataclass(frozen=True)
class ModelledGpu:
    """A kind of GPU that hosts may have: one of `DEVICES`, or from a file of the user."""

    name: str
    accelerator: Accelerator
    device: Device

    @property
    def peak_flops(self) -> float:
        """Peak of mixed precision in FLOP/s."""
        return self.accelerator.peak_flops(self.accelerator.training_format) or 0.0

    def settings(self) -> dict[str, Any]:
        """Return the figures as JSON."""
        device = asdict(self.device)
        device["device_source"] = device.pop("source")
        return {**asdict(self.accelerator), **device}

    @classmethod
    def of_settings(cls, name: str, settings: Mapping[str, Any]) -> ModelledGpu:
        """Return the GPU whose `settings` were written."""
        accelerator = Accelerator(**{key: settings[key] for key in _names(Accelerator)})
        # plans of earlier versions have fewer values
        values = {key: settings[key] for key in _names(Device) if key in settings}
        values["capability"] = tuple(settings["capability"])
        values["source"] = settings["device_source"]
        return cls(name, accelerator, Device(**values))


def _names(kind: type[Accelerator] | type[Device]) -> list[str]:
    return [field.name for field in fields(kind)]


# NVIDIA's data sheets state most tensor peaks with sparsity; these are half of those.
ACCELERATORS = {
    "V100": Accelerator(
        tflops={"float32": 15.7, "float16": 125},
        memory_bytes=32 * GB,
        memory_bytes_per_s=900 * GB,
        source="NVIDIA V100 data sheet (SXM2, 32 GB)",
    ),
    "A100": Accelerator(
        tflops={"float32": 19.5, "tf32": 156, "bfloat16": 312, "float16": 312},
        memory_bytes=80 * GB,
        memory_bytes_per_s=2039 * GB,
        source="NVIDIA A100 data sheet (SXM, 80 GB)",
    ),
    "L40S": Accelerator(
        tflops={"float32": 91.6, "tf32": 183, "bfloat16": 362, "float16": 362, "float8": 733},
        memory_bytes=48 * GB,
        memory_bytes_per_s=864 * GB,
        source="NVIDIA L40S data sheet",
    ),
    "H100": Accelerator(
        tflops={"float32": 67, "tf32": 494, "bfloat16": 989, "float16": 989, "float8": 1979},
        memory_bytes=80 * GB,
        memory_bytes_per_s=3350 * GB,
        source="NVIDIA H100 data sheet (SXM)",
    ),
    "H200": Accelerator(
        tflops={"float32": 67, "tf32": 494, "bfloat16": 989, "float16": 989, "float8": 1979},
        memory_bytes=141 * GB,
        memory_bytes_per_s=4800 * GB,
        source="NVIDIA H200 data sheet (SXM)",
    ),
    "B200": Accelerator(
        tflops={
            "tf32": 1100,
            "bfloat16": 2250,
            "float16": 2250,
            "float8": 4500,
            "float4": 9000,
        },
        memory_bytes=180 * GB,
        memory_bytes_per_s=8000 * GB,
        source="NVIDIA DGX B200 data sheet, an eighth; Blackwell architecture brief",
    ),
    "GB200": Accelerator(
        tflops={
            "tf32": 1250,
            "bfloat16": 2500,
            "float16": 2500,
            "float8": 5000,
            "float4": 10000,
        },
        memory_bytes=186 * GB,
        memory_bytes_per_s=8000 * GB,
        source="NVIDIA GB200 NVL72 data sheet, one of its 72 GPUs",
    ),
    "MI300X": Accelerator(
        tflops={
            "float32": 163.4,
            "tf32": 653.7,
            "bfloat16": 1307,
            "float16": 1307,
            "float8": 2615,
        },
        memory_bytes=192 * GB,
        memory_bytes_per_s=5300 * GB,
        source="AMD Instinct MI300X data sheet",
    ),
    "MI325X": Accelerator(
        tflops={
            "float32": 163.4,
            "tf32": 653.7,
            "bfloat16": 1307,
            "float16": 1307,
            "float8": 2615,
        },
        memory_bytes=256 * GB,
        memory_bytes_per_s=6000 * GB,
        source="AMD Instinct MI325X data sheet",
    ),
    "TPUv4": Accelerator(
        tflops={"bfloat16": 275},
        memory_bytes=32 * GB,
        memory_bytes_per_s=1200 * GB,
        source="Google Cloud TPU documentation, v4",
    ),
    "TPUv5e": Accelerator(
        tflops={"bfloat16": 197},
        memory_bytes=16 * GB,
        memory_bytes_per_s=819 * GB,
        source="Google Cloud TPU documentation, v5e",
    ),
    "TPUv5p": Accelerator(
        tflops={"bfloat16": 459},
        memory_bytes=95 * GB,
        memory_bytes_per_s=2765 * GB,
        source="Google Cloud TPU documentation, v5p",
    ),
    "TPUv6e": Accelerator(
        tflops={"bfloat16": 918},
        memory_bytes=32 * GB,
        memory_bytes_per_s=1638 * GB,
        source="Google Cloud TPU documentation, v6e",
    ),
}

_AMD = "https://www.amd.com/content/dam/amd/en/documents/instinct-tech-docs"
# Pages of the sources: those whose figures were compared with this table.
SOURCE_PAGES = {
    "MI300X": f"{_AMD}/data-sheets/amd-instinct-mi300x-data-sheet.pdf",
    "MI325X": f"{_AMD}/product-briefs/instinct-mi325x-datasheet.pdf",
    "TPUv5p": "https://cloud.google.com/tpu/docs/v5p-training",
}

# Names, capabilities and multiprocessors as drivers report them. Rates of NVLink and Infinity
# Fabric are those of all links together, each way.
# Channels are those that NCCL 2.27 finds for eight GPUs behind NVSwitch, or for the links of a V100
# (src/graph/search.cc and connect.cc): the rings that use most of the links' rate (6 of 60 GB/s on
# an H100), twice as many if each has 25 GB/s or more (50 on GPUs after the A100), and two channels
# for each ring. Logs of NCCL show the same for A100 (24 channels, NVIDIA/nccl-tests issue 100) and
# V100 (6 rings, NVIDIA/nccl issue 713).
DEVICES = {
    "V100": Device(
        "Tesla V100-SXM2-32GB", (7, 0), 80, 150e9, source="V100 data sheet: NVLink 2", channels=12
    ),
    "A100": Device(
        "NVIDIA A100-SXM4-80GB", (8, 0), 108, 300e9, source="A100 data sheet: NVLink 3", channels=24
    ),
    "L40S": Device(
        "NVIDIA L40S", (8, 9), 142, 31.5e9, source="L40S data sheet: PCIe 4.0 x16", channels=2
    ),
    "H100": Device(
        "NVIDIA H100 80GB HBM3", (9, 0), 132, 450e9, source="H100 data sheet: NVLink 4", channels=24
    ),
    "H200": Device(
        "NVIDIA H200", (9, 0), 132, 450e9, source="H200 data sheet: NVLink 4", channels=24
    ),
    "B200": Device(
        "NVIDIA B200", (10, 0), 148, 900e9, source="DGX B200 data sheet: NVLink 5", channels=32
    ),
    "GB200": Device(
        "NVIDIA GB200", (10, 0), 148, 900e9, source="GB200 data sheet: NVLink 5", channels=32
    ),
    "MI300X": Device(
        "AMD Instinct MI300X",
        (9, 4),
        304,
        448e9,
        source="AMD Instinct MI300X data sheet: seven Infinity Fabric links of 64 GB/s each way",
    ),
    "MI325X": Device(
        "AMD Instinct MI325X",
        (9, 4),
        304,
        448e9,
        source="AMD Instinct MI325X data sheet: seven Infinity Fabric links of 64 GB/s each way",
    ),
    # A chip as torch.cuda would show it: scripts for CUDA run with the rates of the chip.
    "TPUv5p": Device(
        "TPU v5p",
        (9, 0),
        2,
        600e9,
        source="Google Cloud TPU documentation, v5p: 4800 Gbit/s between chips",
    ),
}


def modelled_gpu(name: str) -> ModelledGpu:
    """Return a kind of GPU by its name.

    Raises:
        KeyError: there is none of that name.
    """
    return ModelledGpu(name, ACCELERATORS[name], DEVICES[name])


# FLOP per parameter and token, forward and backward (arXiv 2001.08361), without the products of
# attention.
FLOPS_PER_PARAMETER = 6


def peak_flops(name: str, number_format: NumberFormat | None = None) -> float | None:
    """Return the peak of an accelerator in FLOP/s.

    Args:
        name: A name of `ACCELERATORS`.
        number_format: Format of the numbers that are multiplied; None: that of mixed precision.

    Returns:
        The peak; None if the accelerator is unknown or lacks the format.
    """
    accelerator = ACCELERATORS.get(name)
    if accelerator is None:
        return None
    return accelerator.peak_flops(number_format or accelerator.training_format)
