"""How far a run is: as an object for callbacks, and as nothing where nobody follows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from testbed.execution.supervise import OPERATIONS, Progress

STAGE_TEXTS = {
    "modules": "collecting Python's modules",
    "boot": "starting",
    "workers": "starting workers",
    "network": "building the network",
    "verify": "measuring RTTs",
    "measurement": "starting captures",
    "import": "importing torch",
    "ops": "running",
    "report": "writing the report",
}
KERNEL = "kernel"  # the stage in which the guest kernel is built


@dataclass(frozen=True)
class RunProgress:
    """How far a run is; `str()` gives a line for people.

    Attributes:
        stage: The present stage, such as boot, network or ops; kernel: the guest kernel is built.
        text: The stage in words.
        done: Number of operations or steps of rank 0 that have ended; of kernel: percent.
        total: Number of operations or steps in all; 0: not known.
        unit: What is counted: operation or step.
    """

    stage: str
    text: str
    done: int = 0
    total: int = 0
    unit: str = ""

    def __str__(self) -> str:
        if self.stage == KERNEL:
            return f"{self.text}, {self.done} %"
        if not self.total:
            return self.text
        return f"{self.text}, {self.unit} {self.done} of {self.total}"


class SilentProgress:
    """The progress of a run, shown nowhere."""

    def building(self, what: str, part: float) -> None:
        """Ignore that the guest kernel is being built."""

    def stage(self, name: str) -> None:
        """Ignore that a stage begins."""

    def advance(self, done: int, total: int, unit: str) -> None:
        """Ignore how many operations or steps are done."""

    def measured(self) -> None:
        """Ignore that the results are written."""


class CallbackProgress:
    """The progress of a run, given to a function whenever it changes.

    Once the function has raised an exception, which ends the run, it is not called again.
    """

    def __init__(self, callback: Callable[[RunProgress], object]) -> None:
        self._callback = callback
        self._newest: RunProgress | None = None
        self._broken = False

    def building(self, what: str, part: float) -> None:
        """Pass on which step of building the guest kernel is under way, and how far it is."""
        percent = round(100 * part)
        self._pass_on(RunProgress(KERNEL, f"guest kernel: {what}", percent, 100))

    def stage(self, name: str) -> None:
        """Pass on that a stage begins."""
        self._pass_on(RunProgress(name, STAGE_TEXTS.get(name, name)))

    def advance(self, done: int, total: int, unit: str) -> None:
        """Pass on how many operations or steps of rank 0 are done."""
        self._pass_on(RunProgress(OPERATIONS, STAGE_TEXTS[OPERATIONS], done, total, unit))

    def measured(self) -> None:
        """Ignore that the results are written: the run is about to return them."""

    def _pass_on(self, progress: RunProgress) -> None:
        if self._broken or progress == self._newest:
            return
        self._newest = progress
        try:
            self._callback(progress)
        except BaseException:
            self._broken = True
            raise


def as_progress(progress: Progress | Callable[[RunProgress], object] | None) -> Progress:
    """Make a display of what a caller follows a run with: a display, a function or nothing."""
    if progress is None:
        return SilentProgress()
    if isinstance(progress, Progress):
        return progress
    return CallbackProgress(progress)
