"""Give this process modelled GPUs: change parts of torch as they are imported."""

from __future__ import annotations

import atexit
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from testbed.core.compat import torch_sharding
from testbed.core.compat.python_locks import leave_out_cuda_lock, leave_out_property_locks
from testbed.core.compat.torch_imports import quick_imports
from testbed.workers.gpu.device_library import device_library, gpu_figures

USED_BY_GPUS = ("torch._dynamo", "torch.distributed.fsdp", "torch.distributed.tensor")
CUDA_MODULE = "torch.cuda"
GROUPS_MODULE = "torch.distributed.distributed_c10d"
PARALLEL_MODULE = "torch.distributed.tensor.parallel.api"
Change = Callable[[ModuleType], None]


class _Finder:
    """Import hook that finds modules as usual, and changes them before or after they are loaded."""

    def __init__(self, before: Mapping[str, Change], after: Mapping[str, Change]) -> None:
        self._before = dict(before)
        self._after = dict(after)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec that other finders return, with a changed loader."""
        before = self._before.pop(name, None)
        after = self._after.pop(name, None)
        if before is None and after is None:
            return None

        for finder in [finder for finder in sys.meta_path if finder is not self]:
            spec = finder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                _wrap(spec.loader, before, after)
                return spec

        return None


def _wrap(loader: Any, before: Change | None, after: Change | None) -> None:
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        if before is not None:
            before(module)
        execute(module)
        if after is not None:
            after(module)

    loader.exec_module = exec_module


def install() -> None:
    """Load the modelled devices, and change torch while it is imported.

    Raises:
        ImportError: torch was imported before.
    """
    _load_devices()
    _change_imports({})


def import_what_gpus_use() -> None:
    """Import what torch imports in the first step on GPUs, once for all ranks."""
    with quick_imports():
        for name in USED_BY_GPUS:
            importlib.import_module(name)


def install_later() -> None:
    """Do as `install` once torch is imported: a process without torch pays nothing."""
    _change_imports({"torch": _before_torch})


def _change_imports(before: Mapping[str, Change]) -> None:
    after = {
        CUDA_MODULE: leave_out_cuda_lock,
        GROUPS_MODULE: _after_groups,
        PARALLEL_MODULE: _after_parallel,
        torch_sharding.PROPAGATION: torch_sharding.look_once,
        torch_sharding.EXPANSION: torch_sharding.expand_once,
        "torch": _after_torch,
    }
    finder: Any = _Finder({**before, CUDA_MODULE: _before_cuda}, after)
    sys.meta_path.insert(0, finder)


def _before_torch(_module: ModuleType) -> None:
    _load_devices()


def _load_devices() -> None:
    """Do what has to be done before torch is imported."""
    device_library()
    leave_out_property_locks()


def _before_cuda(_module: ModuleType) -> None:
    from testbed.workers.gpu import cuda_functions  # noqa: PLC0415  # needs torch

    cuda_functions.install(sys.modules["torch._C"])


def _after_groups(module: ModuleType) -> None:
    from testbed.workers.gpu.nccl import offer_nccl  # noqa: PLC0415  # needs torch

    offer_nccl(module)


def _after_parallel(module: ModuleType) -> None:
    from testbed.workers.gpu.steps import count_tokens_once  # noqa: PLC0415  # needs torch

    count_tokens_once(module)


def _after_torch(module: ModuleType) -> None:
    from testbed.workers.gpu import torch_changes  # noqa: PLC0415  # needs torch

    torch_changes.apply(module)
    atexit.register(_finish)


def _finish() -> None:
    """Wait for the work of all devices, as a script on GPUs that reads its last results."""
    library = device_library()
    for device in range(gpu_figures().count):
        library.testbed_synchronize(device)

    from testbed.workers.gpu.steps import WATCH  # noqa: PLC0415  # needs torch

    WATCH.finish()
