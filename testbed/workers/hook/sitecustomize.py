"""Record torch.distributed in every Python process that has this folder on its PYTHONPATH.

Python's `site` module imports this file when the interpreter starts. A process pays nothing until
it imports torch.distributed; the first process group starts the recording.
"""

from __future__ import annotations

import faulthandler
import functools
import importlib.util
import signal
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

PROJECT = Path(__file__).parents[3]  # the folder of the package `testbed`
MODULE = "torch.distributed.distributed_c10d"


class _Finder(MetaPathFinder):
    """Import hook that finds `MODULE` as usual and wraps its `init_process_group`."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module
            spec.loader.exec_module = lambda module: _observed(module, execute)  # type: ignore[method-assign]
        return spec


def _observed(module: ModuleType, execute: Any) -> None:
    execute(module)
    initialise = module.init_process_group

    @functools.wraps(initialise)
    def init_process_group(*arguments: Any, **options: Any) -> None:
        if str(PROJECT) not in sys.path:  # a PYTHONPATH of the user's has replaced the testbed's
            sys.path.append(str(PROJECT))

        from testbed.workers.observer import observed  # noqa: PLC0415 (torch is complete only now)

        observed(initialise)(*arguments, **options)

    module.init_process_group = init_process_group  # type: ignore[attr-defined]


# As in `testbed.workers.stacks`, which a process of any Python version cannot import.
faulthandler.register(signal.SIGRTMIN + 11, file=2, all_threads=True, chain=False)
sys.meta_path.insert(0, _Finder())
