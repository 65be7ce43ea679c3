"""Load the library of modelled devices into this process, before torch is imported.

Torch asks for CUDA once, when it is imported. The environment says where the library is, and which
GPUs to model.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from testbed.core.gpus import ModelledGpu
from testbed.workers.gpu import figures
from testbed.workers.gpu.figures import Figures, figures_of

LIBRARIES = "TESTBED_GPU_LIBRARIES"  # folder of the compiled libraries
VALUES = "TESTBED_GPU_VALUES"  # folder in which ranks exchange values (native/carried.cpp)
GPU = "TESTBED_MODELLED_GPU"  # JSON: name, number and figures of the GPUs of a host
SCALE = "TESTBED_SCALE_OF_BYTES"  # one of so many bytes of an operation crosses the network
CARD_RATE = "TESTBED_CARD_BPS"  # of this host's network card before scaling
COMMUNICATION = "TESTBED_COMM"  # the library that carries out operations: nccl or gloo
DEVICE_LIBRARY = "libtestbed-gpu.so"
TORCH_LIBRARIES = ("libc10.so", "libtorch_cpu.so")
# The figures of `testbed_memory` (native/caching.h): statistics of blocks, then counts.
MEMORY_QUANTITIES = (
    "allocated_bytes",
    "reserved_bytes",
    "active_bytes",
    "requested_bytes",
    "inactive_split_bytes",
    "allocation",
    "segment",
    "active",
    "inactive_split",
)
MEMORY_POOLS = ("all", "small_pool", "large_pool")
MEMORY_STATISTICS = ("current", "peak", "allocated", "freed")
MEMORY_COUNTS = (
    "num_alloc_retries",
    "num_ooms",
    "num_device_alloc",
    "num_device_free",
    "highest_allocated",
    "highest_reserved",
)


def gpu_environment(gpu: ModelledGpu, count: int) -> dict[str, str]:
    """Return the environment variable that describes the GPUs of a host."""
    return {GPU: json.dumps({"name": gpu.name, "count": count, **gpu.settings()})}


def planned_gpu_environment(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment variable for the settings of a plan; none without GPUs."""
    figures = settings.get("gpu_figures")
    if figures is None:
        return {}

    gpu = ModelledGpu.of_settings(settings["gpu"], figures)
    return {
        **gpu_environment(gpu, int(settings["gpus_per_host"])),
        COMMUNICATION: settings.get("comm", "nccl"),
        SCALE: str(settings.get("scale", 1)),
    }


def is_asked_for() -> bool:
    """Return whether this process is to have modelled GPUs."""
    return GPU in os.environ and LIBRARIES in os.environ


@cache
def gpu_figures() -> Figures:
    """Return the figures of the GPUs that the environment describes."""
    described = json.loads(os.environ[GPU])
    gpu = ModelledGpu.of_settings(described["name"], described)
    return figures_of(gpu, described["count"])


@cache
def device_library() -> ctypes.CDLL:
    """Load the library, and return it.

    Raises:
        ImportError: torch was imported before.
        OSError: the library was built for another torch.
    """
    if "torch" in sys.modules and "torch._C" in sys.modules:
        raise ImportError("modelled GPUs have to be loaded before torch")

    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise ImportError("torch is not installed")

    for name in TORCH_LIBRARIES:
        ctypes.CDLL(str(Path(spec.origin).parent / "lib" / name), ctypes.RTLD_GLOBAL)

    path = Path(os.environ[LIBRARIES]) / DEVICE_LIBRARY
    library = ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
    _declare(library)
    _configure(library, gpu_figures())
    return library


def _declare(library: ctypes.CDLL) -> None:
    """Declare the types of the library's functions (native/device.cpp)."""
    library.testbed_configure.argtypes = [
        ctypes.c_char_p,
        ctypes.c_int,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_double,
        ctypes.POINTER(ctypes.c_double),
        ctypes.c_double,
        ctypes.c_double,
        ctypes.c_double,
        ctypes.c_int,
    ]
    library.testbed_stream.restype = ctypes.c_int64
    library.testbed_set_stream.argtypes = [ctypes.c_int, ctypes.c_int64]
    library.testbed_busy_ns.restype = ctypes.c_int64
    library.testbed_kernels.restype = ctypes.c_int64
    library.testbed_products.restype = ctypes.c_double
    library.testbed_take_records.restype = ctypes.c_char_p
    library.testbed_limit_memory.argtypes = [ctypes.c_int, ctypes.c_double]
    library.testbed_resize_storage.argtypes = [ctypes.c_void_p, ctypes.c_int64]
    library.testbed_elapsed_ms.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    library.testbed_elapsed_ms.restype = ctypes.c_double
    library.testbed_memory.argtypes = [ctypes.c_int, ctypes.POINTER(ctypes.c_int64)]
    library.testbed_new_pool.restype = ctypes.c_uint64
    library.testbed_is_capturing.argtypes = [ctypes.c_int, ctypes.c_int64]
    library.testbed_begin_capture.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_uint64]
    library.testbed_end_capture.argtypes = [ctypes.POINTER(ctypes.c_int)]
    library.testbed_end_capture.restype = ctypes.c_void_p
    library.testbed_graph_nodes.argtypes = [ctypes.c_void_p]
    library.testbed_replay.argtypes = [ctypes.c_void_p, ctypes.c_int64]
    library.testbed_destroy_graph.argtypes = [ctypes.c_void_p]
    library.testbed_error_text.restype = ctypes.c_char_p


def _configure(library: ctypes.CDLL, gpus: Figures) -> None:
    rates = (ctypes.c_double * len(gpus.flops_per_ns))(*gpus.flops_per_ns)
    library.testbed_configure(
        gpus.model.device_name.encode(),
        gpus.count,
        gpus.memory_bytes,
        gpus.usable_bytes,
        gpus.bytes_per_ns,
        rates,
        figures.ATTENTION_EFFICIENCY / figures.PRODUCT_EFFICIENCY,
        gpus.model.host_bytes_per_s / figures.NS_PER_S,
        gpus.model.kernel_ns,
        gpus.model.multiprocessors,
    )


def check_cuda(code: int) -> None:
    """Raise torch's error for a code of the CUDA runtime other than 0."""
    if code == 0:
        return

    import torch  # noqa: PLC0415  # not before the library

    text = device_library().testbed_error_text(code).decode()
    error = torch.AcceleratorError(text)
    error.error_code = code  # type: ignore[attr-defined]
    raise error


def memory_figures(device: int) -> dict[str, Any]:
    """Return the statistics of a device's memory, by the names of `torch.cuda.memory_stats`.

    `highest_allocated` and `highest_reserved` are peaks in bytes that scripts cannot reset.
    """
    statistics = len(MEMORY_QUANTITIES) * len(MEMORY_POOLS) * len(MEMORY_STATISTICS)
    values = (ctypes.c_int64 * (statistics + len(MEMORY_COUNTS)))()
    device_library().testbed_memory(device, values)

    following = iter(values)
    figures: dict[str, Any] = {}
    for quantity in MEMORY_QUANTITIES:
        figures[quantity] = {}
        for pool in MEMORY_POOLS:
            figures[quantity][pool] = {name: next(following) for name in MEMORY_STATISTICS}
    for name in MEMORY_COUNTS:
        figures[name] = next(following)
    return figures
