"""CUDA graphs of modelled devices: the base of `torch.cuda.CUDAGraph` (native/graphs.cpp)."""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Mapping
from typing import Any, NoReturn, Self

from testbed.workers.gpu.device_library import check_cuda, device_library

PoolHandle = tuple[int, int]
MODES = ("global", "thread_local", "relaxed")


def graph_functions() -> Mapping[str, Any]:
    """Return the functions and classes by their names in `torch._C`."""
    return {
        "_CUDAGraph": CudaGraphBase,
        "_graph_pool_handle": new_pool,
        "_cuda_isCurrentStreamCapturing": is_capturing,
        "_host_emptyCache": _nothing,
    }


def new_pool() -> PoolHandle:
    """Return a handle of memory that graphs may share."""
    return 0, device_library().testbed_new_pool()


def is_capturing() -> bool:
    """Return whether the current stream is captured."""
    library = device_library()
    device = library.testbed_device()
    return bool(library.testbed_is_capturing(device, library.testbed_stream(device)))


def _nothing(*_arguments: object) -> None:
    return None


class CudaGraphBase:
    """As `torch._C._CUDAGraph`."""

    def __new__(cls, keep_graph: bool = False) -> Self:
        """Return a graph without work."""
        del keep_graph
        graph = super().__new__(cls)
        graph._graph = None
        graph._pool = None
        graph._origin = None
        return graph

    _graph: int | None  # address of the graph in the library
    _pool: PoolHandle | None
    _origin: tuple[int, int] | None  # device and stream, during the capture

    def capture_begin(
        self, pool: PoolHandle | None = None, capture_error_mode: str = "global"
    ) -> None:
        """Capture the work of the current stream instead of running it."""
        if self._graph is not None or self._origin is not None:
            raise RuntimeError(
                "This CUDAGraph instance already owns a captured graph. To capture a new graph, "
                "create a new instance."
            )

        if capture_error_mode not in MODES:
            raise RuntimeError(
                "Unknown capture error mode. Expected `global`, `thread_local`, or `relaxed`, "
                f"got {capture_error_mode}"
            )

        library = device_library()
        device = library.testbed_device()
        stream = library.testbed_stream(device)
        if stream == 0:
            raise RuntimeError(
                "CUDA graphs must be captured on a non-default stream. (However, after capture, "
                "it's ok to replay them on the default stream.)"
            )

        self._pool = pool or new_pool()
        check_cuda(library.testbed_begin_capture(device, stream, self._pool[1]))
        self._origin = (device, stream)

    def capture_end(self) -> None:
        """End the capture."""
        library = device_library()
        device = library.testbed_device()
        if self._origin != (device, library.testbed_stream(device)):
            raise RuntimeError("Capture must end on the same stream it began on.")

        self._origin = None
        code = ctypes.c_int()
        self._graph = library.testbed_end_capture(ctypes.byref(code))
        check_cuda(code.value)
        if library.testbed_graph_nodes(self._graph) == 0:
            warnings.warn(
                "The CUDA Graph is empty. This usually means that the graph was attempted to be "
                "captured on wrong device or stream.",
                stacklevel=3,
            )

    def instantiate(self) -> None:
        """Do nothing: the graph is ready."""

    def register_generator_state(self, _generator: object) -> None:
        """Do nothing: modelled numbers have no values."""

    def replay(self) -> None:
        """Put the work of the graph on the current stream."""
        if self._graph is None:
            raise RuntimeError("Called CUDAGraph::replay without a preceding successful capture.")

        library = device_library()
        stream = library.testbed_stream(library.testbed_device())
        check_cuda(library.testbed_replay(self._graph, stream))

    def reset(self) -> None:
        """Forget the graph, and release its memory."""
        if self._graph is not None:
            device_library().testbed_destroy_graph(self._graph)
            self._graph = None

    def pool(self) -> PoolHandle:
        """Return the handle of the graph's memory."""
        if self._pool is None:
            raise RuntimeError("Called CUDAGraph::pool() without a preceding successful capture.")

        return self._pool

    def enable_debug_mode(self) -> None:
        """Do nothing."""

    def debug_dump(self, _path: str) -> NoReturn:
        """Refuse: there is no graph of CUDA's."""
        raise NotImplementedError("testbed: the modelled GPU does not write CUDA graphs to files")

    def raw_cuda_graph(self) -> NoReturn:
        """Refuse: there is no graph of CUDA's."""
        raise NotImplementedError("testbed: a modelled CUDA graph has no handle")

    raw_cuda_graph_exec = raw_cuda_graph

    def __del__(self) -> None:
        self.reset()
