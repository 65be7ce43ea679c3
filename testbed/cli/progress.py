"""Live progress of a run on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    Progress,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from testbed.cli.terminal import new_console
from testbed.execution.progress import STAGE_TEXTS
from testbed.execution.script_watch import ScriptProgress
from testbed.execution.supervise import OPERATIONS

OUTPUT_MARK = "rank 0: "


def show_nothing() -> None:
    """Show no results."""


class LiveDisplay:
    """A progress line: the current stage, then operations with the estimated time left."""

    def __init__(
        self, progress: Progress, show_results: Callable[[], None], *, quiet: bool = False
    ) -> None:
        """Show the line with `progress`; call `show_results` once the results are written.

        Args:
            progress: The line.
            show_results: Called once the results are written.
            quiet: Show nothing of a script while it runs.
        """
        self._quiet = quiet
        self._progress = progress
        self._show_results = show_results
        self._task: TaskID = progress.add_task("preparing", total=None)

    def building(self, what: str, part: float) -> None:
        """Show the current step of the kernel build, and the fraction `part` that is done."""
        description = f"guest kernel: {what}"
        self._progress.update(self._task, description=description, total=1.0, completed=part)

    def stage(self, name: str) -> None:
        """Show the start of a stage."""
        description = STAGE_TEXTS.get(name, name)
        self._progress.reset(self._task, description=description, total=None)

    def advance(self, done: int, total: int, unit: str) -> None:
        """Show how many operations or steps of rank 0 are done.

        Args:
            done: Number of completed operations or steps.
            total: Number of all operations or steps.
            unit: Plural noun for the counted items.
        """
        self._progress.update(
            self._task,
            description=f"running, {unit} {done} of {total}",
            total=total or None,
            completed=done,
        )

    def output(self, line: str) -> None:
        """Print a line of rank 0 above the progress line."""
        if not self._quiet:
            self._progress.console.print(Text(OUTPUT_MARK + line), soft_wrap=True)

    def script(self, progress: ScriptProgress) -> None:
        """Show how far a script has come."""
        if not self._quiet:
            self._progress.update(self._task, description=_running(progress))

    def notice(self, text: str) -> None:
        """Print a message above the line."""
        self._progress.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def measured(self) -> None:
        """Print the results, before the page is written."""
        self._progress.stop()
        self._show_results()


class PlainDisplay:
    """One line per stage, for a standard error that is not a terminal."""

    def __init__(
        self, show_results: Callable[[], None] = show_nothing, *, quiet: bool = False
    ) -> None:
        """Call `show_results` once the results are written; `quiet` as in `LiveDisplay`."""
        self._quiet = quiet
        self._last_text = ""
        self.measured = show_results

    def _print(self, text: str) -> None:
        if text == self._last_text:
            return
        self._last_text = text
        now = time.strftime("%H:%M:%S")
        print(f"{now} {text}", file=sys.stderr, flush=True)

    def notice(self, text: str) -> None:
        """Print a message."""
        self._print(text)

    def building(self, what: str, part: float) -> None:
        """Print the current step of the kernel build, every 10 %."""
        percent = _in_tens(part)
        self._print(f"guest kernel: {what} {percent} %")

    def stage(self, name: str) -> None:
        """Print the start of a stage."""
        self._print(STAGE_TEXTS.get(name, name))

    def advance(self, done: int, total: int, unit: str) -> None:
        """Print how many operations or steps of rank 0 are done, every 10 %.

        Args:
            done: Number of completed operations or steps.
            total: Number of all operations or steps.
            unit: Plural noun for the counted items.
        """
        percent = _in_tens(done / max(total, 1))
        self._print(f"{unit}s: {percent} % of {total}")

    def output(self, line: str) -> None:
        """Print a line of rank 0."""
        if not self._quiet:
            print(OUTPUT_MARK + line, file=sys.stderr, flush=True)

    def script(self, progress: ScriptProgress) -> None:
        """Print how far a script has come."""
        if not self._quiet:
            self._print(_running(progress))


def _running(progress: ScriptProgress) -> str:
    figures = str(progress)
    return f"{STAGE_TEXTS[OPERATIONS]}: {figures}" if figures else STAGE_TEXTS[OPERATIONS]


def _in_tens(part: float) -> int:
    """Return a fraction from 0 to 1 as percent, in multiples of ten."""
    return int(10 * part) * 10


class TimeLeftColumn(TimeRemainingColumn):
    """The estimated time left, empty without an estimate."""

    def render(self, task: Task) -> Text:
        """Format the estimate as ``0:00:42 left``."""
        if task.time_remaining is None:
            return Text()
        return Text.assemble(super().render(task), " left")


@contextmanager
def display(
    show_results: Callable[[], None] = show_nothing,
    *,
    quiet: bool = False,
) -> Iterator[LiveDisplay | PlainDisplay]:
    """Show progress on standard error: a live line on a terminal, plain lines elsewhere.

    Args:
        show_results: Called after the results are written, before the page is.
        quiet: Show nothing of a script while it runs.
    """
    console = new_console(stderr=True)
    if not console.is_terminal:
        yield PlainDisplay(show_results, quiet=quiet)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeLeftColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        yield LiveDisplay(progress, show_results, quiet=quiet)
