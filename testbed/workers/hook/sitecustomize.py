"""Record torch.distributed in every Python process that has this folder on its PYTHONPATH.

Python's `site` module imports this file when the interpreter starts. A process pays nothing until
it imports torch.distributed; the first process group starts the recording.

Torch's RPC gets options with which it does not poll (`testbed.core.compat.torch_rpc`).

The process sees neither this folder in `sys.path` nor this module, and gets the next
`sitecustomize` if there is one. This file imports what is built into Python, or what Python has
imported at its start: a program may have a module with the same name.
"""
# ruff: noqa: PTH100, PTH118, PTH120

from __future__ import annotations

import faulthandler
import os
import sys
from _signal import SIGRTMIN  # type: ignore[import-not-found]  # `signal` imports enum
from importlib import import_module
from importlib.machinery import PathFinder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

GROUPS_MODULE = "torch.distributed.distributed_c10d"
RPC_MODULE = "torch.distributed.rpc.options"
HOOK = os.path.dirname(os.path.abspath(__file__))
PROJECT = os.path.abspath(os.path.join(HOOK, "..", "..", ".."))


class _Finder:
    """Import hook that finds the modules of `CHANGES` as usual, and changes them when loaded."""

    def __init__(self) -> None:
        self._changes = dict(CHANGES)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        change = self._changes.pop(name, None)
        if change is None:
            return None
        if not self._changes:
            sys.meta_path.remove(self)
        for finder in [finder for finder in sys.meta_path if finder is not self]:
            spec = finder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                _wrap(spec.loader, change)
                return spec
        return None


class _TestbedFinder:
    """Import hook, the last one, that finds the testbed where it is not installed."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return PathFinder.find_spec(name, [PROJECT]) if name == "testbed" else None


def _wrap(loader: Any, change: Callable[[ModuleType], None]) -> None:
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        execute(module)
        change(module)

    loader.exec_module = exec_module


def _observe(module: ModuleType) -> None:
    initialise = module.init_process_group

    def init_process_group(*arguments: Any, **options: Any) -> None:
        observer = _import("testbed.workers.observer")  # torch is complete only now
        observer.observed(initialise)(*arguments, **options)

    _copy_names(initialise, init_process_group)
    module.init_process_group = init_process_group  # type: ignore[attr-defined]


def _stop_polling(module: ModuleType) -> None:
    options_class = module.TensorPipeRpcBackendOptions
    initialise = options_class.__init__

    def __init__(*arguments: Any, **options: Any) -> None:
        torch_rpc = _import("testbed.core.compat.torch_rpc")
        torch_rpc.without_polling(initialise)(*arguments, **options)

    _copy_names(initialise, __init__)
    options_class.__init__ = __init__


CHANGES = {GROUPS_MODULE: _observe, RPC_MODULE: _stop_polling}


def _copy_names(original: Any, function: Any) -> None:
    for name in ("__module__", "__name__", "__qualname__", "__doc__", "__annotations__"):
        setattr(function, name, getattr(original, name))

    function.__wrapped__ = original


def _import(name: str) -> Any:
    """Import a module whose imports must not meet modules of the program with the same names."""
    program_path = list(sys.path)
    program_folders = [folder for folder in program_path if folder not in _installed_path]
    imported = set(sys.modules)
    set_aside = {}
    for other, loaded in list(sys.modules.items()):
        if other != "__main__" and _is_of_program(loaded, program_folders):
            set_aside[other] = sys.modules.pop(other)

    sys.path[:] = [*_installed_path, PROJECT]
    try:
        module = import_module(name)
    finally:
        sys.path[:] = program_path
        for new in set(sys.modules) - imported:
            package = new.partition(".")[0]
            spec = PathFinder.find_spec(package, program_folders)
            if package in set_aside or (spec is not None and spec.origin is not None):
                del sys.modules[new]

        sys.modules.update(set_aside)

    return module


def _is_of_program(module: object, folders: Sequence[str]) -> bool:
    """Return whether a module comes from `folders`, and not from an environment inside of them."""
    file = getattr(module, "__file__", None) or ""
    return _is_below(file, folders) and not _is_below(file, _installed_path)


def _is_below(file: str, folders: Sequence[str]) -> bool:
    return any(file.startswith(f"{os.path.abspath(folder)}{os.sep}") for folder in folders)


_python_path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
_installed_path = [folder for folder in sys.path if folder not in _python_path]
sys.path[:] = [folder for folder in sys.path if os.path.abspath(folder) != HOOK]
if "TESTBED_MODELLED_GPU" in os.environ and "TESTBED_GPU_LIBRARIES" in os.environ:
    _import("testbed.workers.gpu.install").install_later()
# As in `testbed.workers.stacks`, which a process of any Python version cannot import.
faulthandler.register(SIGRTMIN + 11, file=2, all_threads=True, chain=False)
sys.meta_path.insert(0, _Finder())
sys.meta_path.append(_TestbedFinder())
del sys.modules[__name__]
# Another one; `site` ignores that there is none.
import sitecustomize  # type: ignore[import-not-found]  # noqa: E402, F401
