"""The functions of `torch._C` about the memory of devices, which a torch for CPUs lacks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from testbed.workers.gpu.device_library import device_library, memory_figures


def memory_functions() -> Mapping[str, Any]:
    """Return the functions by their names in `torch._C`."""
    return {
        "_cuda_emptyCache": _empty_cache,
        "_cuda_memoryStats": _memory_stats,
        "_cuda_resetPeakMemoryStats": _reset_peaks,
        "_cuda_resetAccumulatedMemoryStats": _reset_sums,
        "_cuda_hostMemoryStats": dict,
        "_cuda_resetPeakHostMemoryStats": _nothing,
        "_cuda_resetAccumulatedHostMemoryStats": _nothing,
        "_cuda_setMemoryFraction": _set_memory_fraction,
        "_cuda_getMemoryFraction": _memory_fraction,
        "_cuda_getAllocatorBackend": lambda: "native",
        "_cuda_cudaCachingAllocator_is_enabled": lambda: True,
        "_cuda_cudaCachingAllocator_enable": _nothing,
        "_cuda_cudaCachingAllocator_set_allocator_settings": _nothing,
        "_cuda_record_memory_history": _nothing,
        "_cuda_record_memory_history_legacy": _nothing,
        "_cuda_memorySnapshot": lambda *_: {"segments": [], "device_traces": []},
        "_cuda_getMemoryMetadata": lambda: "",
        "_cuda_setMemoryMetadata": _nothing,
    }


def _nothing(*_arguments: object, **_options: object) -> None:
    return None


def _reset_peaks(device: int) -> None:
    device_library().testbed_reset_peaks(device)


def _reset_sums(device: int) -> None:
    device_library().testbed_reset_sums(device)


_fractions: dict[int, float] = {}


def _memory_fraction(device: int) -> float:
    return _fractions.get(device, 1.0)


def _empty_cache() -> None:
    library = device_library()
    library.testbed_release_unused(library.testbed_device())


def _set_memory_fraction(fraction: float, device: int) -> None:
    _fractions[device] = fraction
    device_library().testbed_limit_memory(device, fraction)


def _memory_stats(device: int) -> dict[str, Any]:
    """Return statistics with the names of torch's caching allocator."""
    figures = memory_figures(device)
    del figures["highest_allocated"], figures["highest_reserved"]
    nothing = {"current": 0, "peak": 0, "allocated": 0, "freed": 0}
    return {
        **figures,
        "oversize_allocations": nothing,
        "oversize_segments": nothing,
        "num_sync_all_streams": 0,
        "max_split_size": -1,
    }
