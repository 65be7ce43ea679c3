"""Turn an experiment into many runs, carried out side by side, and into tables and a page.

The package is also the function `testbed.api.sweep`, because both are called ``testbed.sweep``.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

# Environment variable with the process number of the sweep that a fork server belongs to.
OWNER_VARIABLE = "TESTBED_SWEEP_PID"


class _CallablePackage(ModuleType):
    """This package, which calls `testbed.api.sweep` when it is called."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _function()(*args, **kwargs)

    @property
    def __signature__(self) -> Any:
        """The signature that editors and notebooks show."""
        return import_module("inspect").signature(_function())


def _function() -> Any:
    return import_module("testbed.api").sweep


sys.modules[__name__].__class__ = _CallablePackage
