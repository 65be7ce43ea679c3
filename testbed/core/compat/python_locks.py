"""Leave out locks of Python and torch that models take thousands of times while they are built.

Python 3.11 reads the clock whenever a lock is taken (PyThread_acquire_lock_timed). A thread that
reads the clock hundreds of times without a wait is taken to wait for the time to come, and moves
virtual time for all ranks (docs/virtual-time.md). The locks left out protect work that may be done
twice: Python 3.12 has removed that of `functools.cached_property`, and that of torch.cuda is for
threads that initialise CUDA at the same time.
"""

from __future__ import annotations

import contextlib
import functools
from types import ModuleType
from typing import Any

CHECKED = {"torch": ("2.13",), "python": ("3.11", "3.12", "3.13", "3.14")}


def leave_out_property_locks() -> None:
    """Let each `functools.cached_property` that is made from now on have no lock."""
    module: Any = functools
    if hasattr(module.cached_property(len), "lock"):
        module.RLock = contextlib.nullcontext


def leave_out_cuda_lock(cuda: ModuleType) -> None:
    """Let the module torch.cuda, which has been imported, have no lock."""
    module: Any = cuda
    assert hasattr(module, "_initialization_lock")
    module._initialization_lock = contextlib.nullcontext()
