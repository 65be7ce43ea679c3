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
        "_cuda_resetPeakMemoryStats": _reset_peak,
        "_cuda_resetAccumulatedMemoryStats": _nothing,
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


def _reset_peak(device: int) -> None:
    device_library().testbed_reset_peak(device)


_fractions: dict[int, float] = {}


def _memory_fraction(device: int) -> float:
    return _fractions.get(device, 1.0)


def _empty_cache() -> None:
    library = device_library()
    library.testbed_release_unused(library.testbed_device())


def _set_memory_fraction(fraction: float, device: int) -> None:
    _fractions[device] = fraction
    device_library().testbed_limit_memory(device, fraction)


def _statistic(current: int, peak: int) -> dict[str, dict[str, int]]:
    values = {"current": current, "peak": peak, "allocated": peak, "freed": peak - current}
    nothing = dict.fromkeys(values, 0)
    return {"all": values, "small_pool": nothing, "large_pool": values}


def _memory_stats(device: int) -> dict[str, Any]:
    """Return statistics with the names of torch's caching allocator."""
    use = memory_figures(device)
    allocated = _statistic(use["allocated"], use["peak_allocated"])
    reserved = _statistic(use["reserved"], use["peak_reserved"])
    blocks = _statistic(use["blocks"], use["blocks"])
    nothing = _statistic(0, 0)
    return {
        "allocation": blocks,
        "segment": nothing,
        "active": blocks,
        "inactive_split": nothing,
        "allocated_bytes": allocated,
        "reserved_bytes": reserved,
        "active_bytes": allocated,
        "inactive_split_bytes": nothing,
        "requested_bytes": _statistic(use["requested"], use["peak_allocated"]),
        "oversize_allocations": nothing["all"],
        "oversize_segments": nothing["all"],
        "num_alloc_retries": 0,
        "num_ooms": use["out_of_memory_errors"],
        "num_sync_all_streams": 0,
        "num_device_alloc": use["allocations"],
        "num_device_free": 0,
        "max_split_size": -1,
    }
