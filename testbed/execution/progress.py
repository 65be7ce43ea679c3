"""Provide progress displays of a run that call a function, or do nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from testbed.execution.script_watch import ScriptProgress
from testbed.execution.supervise import OPERATIONS, Progress

STAGE_TEXTS = {
    "modules": "collecting Python's modules",
    "gpus": "compiling the modelled GPUs",
    "machines": "preparing machines",
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
    """Progress of a run; `str()` gives a one-line summary.

    Attributes:
        stage: The current stage, such as boot, network or ops; kernel while the guest kernel is
            built.
        text: Description of the stage.
        done: Number of completed operations or steps of rank 0; in stage kernel, the percentage.
        total: Total number of operations or steps; 0 if unknown.
        unit: What `done` and `total` count: operation or step.
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
    """Progress display that shows nothing."""

    def building(self, what: str, part: float) -> None:
        """Ignore the progress of the kernel build."""

    def stage(self, name: str) -> None:
        """Ignore the start of a stage."""

    def advance(self, done: int, total: int, unit: str) -> None:
        """Ignore the number of completed operations or steps."""

    def measured(self) -> None:
        """Ignore that the results are written."""


class CallbackProgress:
    """Progress display that calls a function on every change.

    If the function raises an exception, the run ends, and the function is not called again.
    """

    def __init__(self, callback: Callable[[RunProgress], object]) -> None:
        self._callback = callback
        self._newest: RunProgress | None = None
        self._broken = False

    def building(self, what: str, part: float) -> None:
        """Report the current step and completed fraction of the kernel build."""
        percent = round(100 * part)
        self._pass_on(RunProgress(KERNEL, f"guest kernel: {what}", percent, 100))

    def stage(self, name: str) -> None:
        """Report the start of a stage."""
        self._pass_on(RunProgress(name, STAGE_TEXTS.get(name, name)))

    def advance(self, done: int, total: int, unit: str) -> None:
        """Report the number of completed operations or steps of rank 0."""
        self._pass_on(RunProgress(OPERATIONS, STAGE_TEXTS[OPERATIONS], done, total, unit))

    def output(self, line: str) -> None:
        """Ignore what rank 0 prints: logs/rank-0.log holds it."""

    def script(self, progress: ScriptProgress) -> None:
        """Report how far a script has come."""
        text = f"{STAGE_TEXTS[OPERATIONS]}: {progress}"
        done, unit = progress.operations, "operation"
        if progress.steps is not None:
            done, unit = progress.steps, "step"

        self._pass_on(RunProgress(OPERATIONS, text, done, 0, unit))

    def measured(self) -> None:
        """Ignore that the results are written, because the run is about to return the results."""

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
    """Return a progress display for a display, a callback or None."""
    if progress is None:
        return SilentProgress()
    if isinstance(progress, Progress):
        return progress
    return CallbackProgress(progress)
