"""Every error that a user can meet.

    TestbedError                      status 1: the run failed
    ├── InputError                    status 2: what the user wrote is wrong
    ├── MachineError                  status 3: this machine lacks something; says what and how to
    get it ├── RunError                      status 1: a stage of the run failed
    │   └── WorkerError               a rank failed; says which, with the end of its output
    └── GuestLost                     status 4: the guest ended without a result, or had to be ended

The message states the fact, then the consequence or the remedy. ``cli`` prints it and exits with
``exit_status``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


class TestbedError(Exception):
    """Base of all errors that are shown to the user without a traceback."""

    __test__ = False  # not a test class, whatever pytest thinks of the name
    exit_status = 1


class RunError(TestbedError):
    """A stage of a run failed; what was measured until then is kept."""


class WorkerError(RunError):
    """A rank failed."""


class MachineError(TestbedError):
    """This machine lacks something that the command needs."""

    exit_status = 3


class GuestLost(TestbedError):
    """The guest kernel ended without a result, or was ended because its clock stood still."""

    exit_status = 4


@dataclass(frozen=True)
class Place:
    """Where in the user's input something is: a file, a dotted key and a line (each may be
    unknown).
    """

    file: str | Path | None = None
    key: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        where = str(self.file) if self.file is not None else ""
        if self.line is not None:
            where += f":{self.line}"
        return ", ".join(part for part in (where, self.key or "") if part)


class InputError(TestbedError):
    """What the user wrote is wrong: ``<place>: <what>. <remedy>``."""

    exit_status = 2

    def __init__(self, what: str, *, place: Place | None = None, remedy: str = "") -> None:
        self.what, self.place, self.remedy = what, place or Place(), remedy
        head = f"{self.place}: " if str(self.place) else ""
        super().__init__(head + what + (f"\n  {remedy}" if remedy else ""))
