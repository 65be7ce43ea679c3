"""Numbers read from modelled tensors, which have no values: zeros that know where they come from.

A script may print such a number. If it decides by such a number what to do next, the run may differ
from a run on GPUs: the first such place is reported.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch

from testbed.workers.gpu.device_library import device_library

OPERATORS = ("__add__", "__radd__", "__sub__", "__rsub__", "__mul__", "__rmul__", "__neg__")
DIVISIONS = ("__truediv__", "__pow__", "__abs__")
COMPARISONS = ("__lt__", "__le__", "__gt__", "__ge__", "__eq__", "__ne__", "__bool__")
PACKAGES = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
STANDARD_LIBRARY = os.path.dirname(os.__file__) + os.sep  # noqa: PTH120

Report = Callable[[str, int], None]


class ModelledFloat(float):
    """A zero in place of a modelled tensor's value."""

    __hash__ = float.__hash__


class ModelledInt(int):
    """A zero in place of a modelled tensor's value."""

    __hash__ = int.__hash__


class _Reporter:
    """Caller of `report` for the first decision of the script."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._has_reported = False

    def decided(self, frame: FrameType) -> None:
        """Report the line of `frame`, unless it belongs to a package or to Python."""
        file = frame.f_code.co_filename
        is_package = file.startswith(("<frozen", STANDARD_LIBRARY))
        is_package |= any(part in file for part in PACKAGES)
        if is_package or self._has_reported:
            return

        self._has_reported = True
        self._report(file, frame.f_lineno)


def watch_values(report: Report) -> None:
    """Let numbers that are read from modelled tensors report the first decision.

    Args:
        report: called with the file and the line.
    """
    reporter = _Reporter(report)
    for kind in (ModelledFloat, ModelledInt):
        for name in (*OPERATORS, *DIVISIONS):
            setattr(kind, name, _kept(kind, name))
        for name in COMPARISONS:
            setattr(kind, name, _reported(getattr(kind.__mro__[1], name), reporter))

    _watch_tensors(reporter)


def _watch_tensors(reporter: _Reporter) -> None:
    """Watch the methods by which Python reads the value of a tensor."""
    tensor_class: Any = torch.Tensor
    item = tensor_class.item
    truth = tensor_class.__bool__
    is_known = device_library().testbed_last_value_is_known

    def watched_item(tensor: torch.Tensor) -> Any:
        value = item(tensor)
        if not tensor.is_cuda or is_known():
            return value

        if isinstance(value, float):
            return ModelledFloat(value)

        if isinstance(value, int) and not isinstance(value, bool):
            return ModelledInt(value)

        return value

    def watched_truth(tensor: torch.Tensor) -> bool:
        value: bool = truth(tensor)
        if tensor.is_cuda and not is_known():
            reporter.decided(sys._getframe(1))

        return value

    tensor_class.item = watched_item
    tensor_class.__bool__ = watched_truth


def _kept(kind: type, name: str) -> Callable[..., Any]:
    """Return an operator whose result still knows where it comes from."""
    base = kind.__mro__[1]
    operator: Callable[..., Any] = getattr(base, name)

    def kept(*operands: Any) -> Any:
        result = operator(*operands)
        if type(result) is float:
            return ModelledFloat(result)

        return ModelledInt(result) if type(result) is int else result

    return kept


def _reported(comparison: Callable[..., Any], reporter: _Reporter) -> Callable[..., Any]:
    """Return a comparison that reports its caller."""

    def reported(*operands: Any) -> Any:
        reporter.decided(sys._getframe(1))
        return comparison(*operands)

    return reported
