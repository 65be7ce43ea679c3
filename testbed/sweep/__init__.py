"""Turn an experiment into runs in parallel, and their results into tables and a page.

The package is callable as `testbed.api.sweep`, because ``testbed.sweep`` names both.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

# Environment variable with the PID of the sweep that started a fork server.
OWNER_VARIABLE = "TESTBED_SWEEP_PID"


class _CallablePackage(ModuleType):
    """This package as a callable that calls `testbed.api.sweep`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _function()(*args, **kwargs)

    @property
    def __signature__(self) -> Any:
        """The signature of `testbed.api.sweep`, for editors and notebooks."""
        return import_module("inspect").signature(_function())


def _function() -> Any:
    return import_module("testbed.api").sweep


sys.modules[__name__].__class__ = _CallablePackage
