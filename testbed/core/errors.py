"""Define the errors that are reported to the user without a traceback.

    TestbedError         status 1  base class
    ├── InputError       status 2  invalid user input
    ├── MachineError     status 3  missing requirement on this machine, with the remedy
    │   └── StorageError status 3  a file could not be written or read
    │       └── DiskFull status 3  the disk is full
    ├── RunError         status 1  a stage of the run failed
    │   └── WorkerError  status 1  a rank failed; names the rank and quotes its last output
    ├── GuestLost        status 4  the guest ended without a result, or had to be ended
    └── Unfaithful       status 5  the results are not those of the plan (--fail-unfaithful)

The message states the fact, then the consequence or the remedy. The command line prints the message
and exits with the error's ``exit_status``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


class TestbedError(Exception):
    """Base class of all errors that are shown to the user without a traceback."""

    __test__ = False  # keeps pytest from collecting this class
    exit_status = 1


class RunError(TestbedError):
    """Failure of a stage of a run; earlier measurements are kept."""


class WorkerError(RunError):
    """Failure of a rank; names the rank and quotes its last output."""


class MachineError(TestbedError):
    """Missing requirement of the command on this machine."""

    exit_status = 3


class StorageError(MachineError):
    """A file of the testbed that could not be written or read."""


class DiskFull(StorageError):
    """A file that could not be written because the disk, or the user's quota, is full."""


class GuestLost(TestbedError):
    """Loss of the guest kernel, which ended without a result or was ended after a clock stall."""

    exit_status = 4


class Unfaithful(TestbedError):
    """Complete results that are not faithful to their plan, if the user asked to fail on them."""

    exit_status = 5


class UnfaithfulWarning(UserWarning):
    """Warning of the Python API: the results are not faithful to their plan."""


@dataclass(frozen=True)
class Place:
    """Position in the user's input: a file, a dotted key and a line, each optional."""

    file: str | Path | None = None
    key: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        file_and_line = ""
        if self.file is not None:
            file_and_line = str(self.file)
        if self.line is not None:
            file_and_line += f":{self.line}"

        parts = [file_and_line, self.key]
        return ", ".join(part for part in parts if part)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong while a file is read into an InputError that names the file.

    Args:
        path: The file.
    """
    try:
        yield
    except TestbedError:
        raise
    except RecursionError as error:
        raise InputError("nested too deeply", place=Place(path)) from error
    except BaseException as error:
        expected = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
        # polars, which takes long to import, raises its own errors; its panics are not Exceptions.
        of_polars = type(error).__module__.split(".")[0] in ("polars", "pyo3_runtime")
        if not isinstance(error, expected) and not of_polars:
            raise
        raise InputError(
            f"cannot make sense of the file: {type(error).__name__}: {error}",
            place=Place(path),
            remedy="look for impossible values; if there are none, report this with the file",
        ) from error


class InputError(TestbedError):
    """Invalid user input: ``PLACE: WHAT``, with the remedy on the next line."""

    exit_status = 2

    def __init__(self, what: str, *, place: Place | None = None, remedy: str = "") -> None:
        self.what = what
        self.place = place or Place()
        self.remedy = remedy

        message = what
        if str(self.place):
            message = f"{self.place}: {what}"
        if remedy:
            message += f"\n  {remedy}"
        super().__init__(message)
