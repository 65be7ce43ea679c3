"""Import torch in a guest in a fraction of the usual time."""

from __future__ import annotations

import gc
import importlib
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

CHECKED = {"torch": ("2.13",), "python": ("3.11", "3.12", "3.13", "3.14")}
# A quarter of the time of `import torch` (torch 2.13): operators for tensors without storage, and
# their users. They must be imported before torch._dynamo, which torch.optim imports.
POSTPONED = (
    "torch._meta_registrations",
    "torch.distributed._meta_registrations",
    "torch.export",
    "torch.distributions",
)
REQUIRED = "torch._prims.rng_prims"  # torch.Generator() raises without this module


@contextmanager
def quick_imports() -> Iterator[None]:
    """Speed up imports within the block; the first import of torch leaves out `POSTPONED`.

    Within the block, garbage collection is disabled, and the module of a stack frame is not
    searched for among all modules: during its import, torch 2.13 asks inspect for the source lines
    of its operators, which takes 18 000 stat calls, 0.5 s in a guest.
    """
    getmodule = inspect.getmodule
    stand_ins: dict[str, ModuleType] = {}
    if "torch" not in sys.modules:
        stand_ins = {name: ModuleType(name) for name in POSTPONED}

    def quick_getmodule(thing: Any, filename: str | None = None) -> ModuleType | None:
        if inspect.isframe(thing):
            return sys.modules.get(thing.f_globals.get("__name__", ""))
        if inspect.iscode(thing):
            return None

        return getmodule(thing, filename)

    inspect.getmodule = quick_getmodule  # type: ignore[assignment]
    sys.modules.update(stand_ins)
    gc.disable()

    try:
        yield
        if stand_ins and "torch" in sys.modules:
            importlib.import_module(REQUIRED)
    finally:
        for name, stand_in in stand_ins.items():
            _forget(name, stand_in)

        gc.freeze()  # imported modules stay alive: exclude them from collections
        gc.enable()
        inspect.getmodule = getmodule


def import_postponed() -> None:
    """Import the parts of torch that `quick_imports` has postponed."""
    with quick_imports():
        for name in POSTPONED:
            importlib.import_module(name)


def _forget(name: str, stand_in: ModuleType) -> None:
    """Remove a stand-in, as if its module had never been imported."""
    sys.modules.pop(name, None)
    package_name, _, attribute = name.rpartition(".")
    package = sys.modules.get(package_name)
    if package is not None and getattr(package, attribute, None) is stand_in:
        delattr(package, attribute)
