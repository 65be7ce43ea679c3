"""The functions of `torch._C` that torch.cuda calls, which a torch for CPUs lacks."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from testbed.workers.gpu.cuda_graphs import graph_functions
from testbed.workers.gpu.cuda_memory import memory_functions
from testbed.workers.gpu.cuda_streams import CudaEventBase, CudaStreamBase
from testbed.workers.gpu.device_library import (
    check_cuda,
    device_library,
    gpu_figures,
    memory_figures,
)

CUDA = 1  # DeviceType::CUDA
CUDA_VERSION = "12.8"
NCCL_VERSION = 2 << 32 | 27 << 16 | 3  # 2.27.3, whose algorithms are modelled


@dataclass(frozen=True)
class CudaDeviceProperties:
    """What `torch.cuda.get_device_properties` returns."""

    name: str
    major: int
    minor: int
    total_memory: int
    multi_processor_count: int
    warp_size: int = 32
    regs_per_multiprocessor: int = 65536
    max_threads_per_multi_processor: int = 2048
    max_threads_per_block: int = 1024
    shared_memory_per_block: int = 49152
    shared_memory_per_block_optin: int = 232448
    shared_memory_per_multiprocessor: int = 233472
    L2_cache_size: int = 50 * 2**20
    is_multi_gpu_board: int = 0
    is_integrated: int = 0
    gcnArchName: str = ""
    uuid: str = str(uuid.UUID(int=0))
    pci_bus_id: int = 0
    pci_device_id: int = 0
    pci_domain_id: int = 0


def install(torch_c: ModuleType) -> None:
    """Add the functions to `torch._C`, before `torch.cuda` is imported."""
    for name, function in _functions().items():
        setattr(torch_c, name, function)


def properties(device: int) -> CudaDeviceProperties:
    """Return the properties of a device."""
    gpus = gpu_figures()
    major, minor = gpus.model.capability
    return CudaDeviceProperties(
        name=gpus.model.device_name,
        major=major,
        minor=minor,
        total_memory=gpus.memory_bytes,
        multi_processor_count=gpus.model.multiprocessors,
        pci_bus_id=device,
    )


def _functions() -> Mapping[str, Any]:
    # Python functions only: torch._dynamo puts them into sets, which those of ctypes do not allow.
    return {
        "_has_cuda": True,
        "_cudart": _CudaRuntime(),
        "_nvtx": _Ranges,
        "_CudaDeviceProperties": CudaDeviceProperties,
        "_CudaStreamBase": CudaStreamBase,
        "_CudaEventBase": CudaEventBase,
        "_cuda_init": _initialise,
        "_cuda_getDeviceCount": _device_count,
        "_cuda_getDevice": _current_device,
        "_cuda_setDevice": _set_device,
        "_cuda_exchangeDevice": _exchange_device,
        "_cuda_maybeExchangeDevice": _exchange_device,
        "_cuda_isInBadFork": _no,
        "_cuda_getArchFlags": _architectures,
        "_cuda_getCompiledVersion": _compiled_version,
        "_cuda_canDeviceAccessPeer": _can_access_peer,
        "_cuda_synchronize": _synchronize,
        "_cuda_getCurrentStream": _current_stream,
        "_cuda_getDefaultStream": _default_stream,
        "_cuda_setStream": _set_stream,
        "_cuda_getCurrentRawStream": _current_stream_number,
        **graph_functions(),
        "_cuda_getCurrentBlasHandle": _zero,
        "_cuda_getCurrentSolverHandle": _zero,
        "_cuda_ipc_collect": _nothing,
        "_cuda_sleep": _nothing,
        "_cuda_set_sync_debug_mode": _nothing,
        "_cuda_get_sync_debug_mode": _zero,
        **memory_functions(),
        "_cuda_clearCublasWorkspaces": _nothing,
        "_nccl_version": lambda: NCCL_VERSION,
        "_nccl_version_suffix": lambda: b"",
    }


def _nothing(*_arguments: object, **_options: object) -> None:
    return None


def _zero(*_arguments: object) -> int:
    return 0


def _no(*_arguments: object) -> bool:
    return False


def _device_count() -> int:
    """Return the number of devices that CUDA_VISIBLE_DEVICES leaves."""
    count = gpu_figures().count
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return count

    return min(count, len([part for part in visible.split(",") if part.strip()]))


def _initialise() -> None:
    import torch.cuda  # noqa: PLC0415  # torch calls this function later

    generators = []
    for device in range(_device_count()):
        generators.append(torch.Generator(device=f"cuda:{device}"))

    torch.cuda.default_generators = tuple(generators)  # type: ignore[assignment]
    torch.cuda._get_device_properties = properties  # type: ignore[attr-defined]


def _current_device() -> int:
    device: int = device_library().testbed_device()
    return device


def _current_stream_number(device: int) -> int:
    number: int = device_library().testbed_stream(device)
    return number


def _set_device(device: int) -> None:
    if device_library().testbed_set_device(device) != 0:
        raise RuntimeError(
            f"CUDA error: invalid device ordinal {device}: this host has {gpu_figures().count} "
            "modelled GPUs (--gpus-per-host)"
        )


def _exchange_device(device: int) -> int:
    before = _current_device()
    if device >= 0:
        _set_device(device)

    return before


def _architectures() -> str:
    major, minor = gpu_figures().model.capability
    return f"sm_{major}{minor}"


def _compiled_version() -> int:
    major, minor = CUDA_VERSION.split(".")
    return int(major) * 1000 + int(minor) * 10


def _can_access_peer(_device: int, _peer: int) -> bool:
    return True


def _synchronize() -> None:
    library = device_library()
    check_cuda(library.testbed_synchronize(library.testbed_device()))


def _current_stream(device: int) -> tuple[int, int, int]:
    return device_library().testbed_stream(device), device, CUDA


def _default_stream(device: int) -> tuple[int, int, int]:
    return 0, device, CUDA


def _set_stream(stream_id: int, device_index: int, device_type: int) -> None:
    del device_type
    device_library().testbed_set_stream(device_index, stream_id)


class _Ranges:
    """As `torch._C._nvtx`: ranges that a profiler of NVIDIA would show."""

    rangePushA = rangePop = rangeStartA = deviceRangeStart = staticmethod(_zero)
    rangeEnd = deviceRangeEnd = markA = staticmethod(_nothing)


class _CudaError:
    """As `torch._C._cudart.cudaError`."""

    success = 0


class _CudaRuntime:
    """As `torch._C._cudart`: functions of the CUDA runtime."""

    cudaError = _CudaError

    def cudaMemGetInfo(self, device: int) -> tuple[int, int]:
        """Return free and total memory of a device in bytes."""
        gpus = gpu_figures()
        used = memory_figures(device)["reserved_bytes"]["all"]["current"]
        return gpus.usable_bytes - used, gpus.memory_bytes

    def cudaGetErrorString(self, code: int) -> str:
        """Return a text."""
        return f"CUDA error {code}"

    def cudaProfilerStart(self) -> int:
        """Do nothing."""
        return 0

    def cudaProfilerStop(self) -> int:
        """Do nothing."""
        return 0

    def cudaHostRegister(self, *_arguments: int) -> int:
        """Do nothing."""
        return 0

    def cudaHostUnregister(self, *_arguments: int) -> int:
        """Do nothing."""
        return 0
