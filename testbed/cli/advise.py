"""testbed run --advise: measure the changes that a run's main cause of time gives a reason for."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

from rich.console import Console
from rich.text import Text

from testbed.analysis.advice import Proposal, main_figure, proposals
from testbed.analysis.measured_changes import ChangedRun, MeasuredChange, measure_changes
from testbed.api import PreparedRun, Run
from testbed.cli.options import Format
from testbed.cli.output import print_csv_rows, print_json, print_unfaithful, wide_console
from testbed.cli.progress import display
from testbed.cli.terminal import new_console
from testbed.core.errors import TestbedError
from testbed.core.units import format_microseconds
from testbed.report.grid import NONE, Grid, GridColumn
from testbed.report.tables import render
from testbed.runfolder.folder import RunDir

ADVISE_FLAG = "--advise"
COLUMNS = (
    GridColumn("change", number=False),
    GridColumn("base"),
    GridColumn("changed"),
    GridColumn("change\n(%)"),
    GridColumn("faithful", number=False),
    GridColumn("run folder", number=False),
)
Prepare = Callable[[Sequence[str]], PreparedRun]  # of further words KEY=VALUE after --set


def advise(base: Run, prepare: Prepare, output: Format, *, quiet: bool) -> None:
    """Measure each proposed change as another run, and print the results.

    Changes that are measured when an error or Ctrl-C ends the command are printed, too.

    Args:
        base: the completed run.
        prepare: function that prepares the same run with further settings.
        output: a table for people; a row for each change as CSV; or run and changes as JSON.
        quiet: whether to hide what a script prints.
    """
    console = wide_console() if output is Format.TABLE else new_console(stderr=True)
    changes: list[MeasuredChange] = []
    total = len(proposals(base.plan, base.summary))
    if main_figure(base.summary) is None or not total:
        console.print(Text(_nothing_to_try(base)), soft_wrap=True)

    def carry_out(proposal: Proposal, path: Path) -> ChangedRun:
        words = shlex.join(_set_words(proposal))
        text = f"advice {len(changes) + 1} of {total}: {words} ({proposal.why})"
        console.print(Text(text), soft_wrap=True)
        return _try(proposal, prepare, path, quiet=quiet)

    try:
        for change in measure_changes(base.path, base.plan, base.summary, carry_out):
            changes.append(change)
    finally:
        _print(base, changes, output, console)


def _nothing_to_try(base: Run) -> str:
    dominant = base.summary.dominant
    reason = "no main cause of its time was found"
    if dominant is not None:
        reason = f"its main cause of time is {dominant.cause or dominant.what}"
    return f"advice: no change to try for this run: {reason}"


def _try(proposal: Proposal, prepare: Prepare, path: Path, *, quiet: bool) -> ChangedRun:
    """Carry out the run of a proposal in the folder `path`."""
    try:
        prepared = prepare(proposal.words)
        folder = prepared.new_folder(path)
    except TestbedError as error:
        return ChangedRun(None, str(error))

    try:
        with display(quiet=quiet) as progress:
            prepared.start(folder, progress, _command(proposal))
    except TestbedError as error:
        return ChangedRun(folder, str(error))
    return ChangedRun(folder)


def _print(base: Run, changes: Sequence[MeasuredChange], output: Format, console: Console) -> None:
    rows = [change.row() for change in changes]
    if output is not Format.TABLE:
        print_unfaithful(base.status, output)
    if output is Format.JSON:
        print_json(RunDir(base.path), advice=rows)
        return
    if output is Format.CSV:
        print_csv_rows([field.name for field in fields(MeasuredChange)], rows)
        return
    if not changes:
        return

    console.print(render(advice_grid(changes)))
    for change in changes:
        if change.error:
            console.print(Text(f"{shlex.join(change.words)}: {change.error}"), soft_wrap=True)


def _set_words(proposal: Proposal) -> list[str]:
    words: list[str] = []
    for word in proposal.words:
        words += ["--set", word]
    return words


def _command(proposal: Proposal) -> list[str]:
    """Return this process's command line with the change, and without --advise."""
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    own = [word for word in sys.argv[:end] if word != ADVISE_FLAG]
    return [*own, *_set_words(proposal), *sys.argv[end:]]


def _faithful(change: MeasuredChange) -> str:
    if change.faithful is None:
        return NONE
    if change.faithful:
        return "yes"
    return f"NO: {change.doubts}" if change.doubts else "NO"


def advice_grid(changes: Sequence[MeasuredChange]) -> Grid:
    """Return the table of changes: the base run's time, the changed one, and the difference.

    Args:
        changes: the measured changes of one run, at least one.
    """
    rows: list[list[str]] = []
    for change in changes:
        changed = NONE
        if change.error and change.folder is not None:
            changed = "failed"
        elif change.error:
            changed = "refused"
        elif change.changed_ms is not None:
            changed = format_microseconds(1000 * change.changed_ms)

        percent = NONE if change.change_percent is None else f"{change.change_percent:+.1f}"
        rows.append(
            [
                "\n".join(change.words),
                format_microseconds(1000 * change.base_ms),
                changed,
                percent,
                _faithful(change),
                NONE if change.folder is None else str(change.folder),
            ]
        )
    title = f"Measured changes: time of {changes[0].time_of}"
    return Grid(title=title, columns=COLUMNS, rows=rows)
