"""Warn the caller of the API that results are not faithful."""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path

from testbed.core.errors import UnfaithfulWarning

API = Path(__file__).parent


def warn_unfaithful(text: str) -> None:
    """Warn that results are not faithful, at the line that called the API."""
    level = 1
    frame = inspect.currentframe()
    while frame is not None and API in Path(frame.f_code.co_filename).parents:
        frame = frame.f_back
        level += 1
    warnings.warn(text, UnfaithfulWarning, stacklevel=level)
