"""testbed run --advise: measure the changes that a run's main cause of time gives a reason for."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.text import Text

from testbed.analysis.advice import JudgedTime, Proposal, figures, main_figure, proposals
from testbed.api import PreparedRun, Run
from testbed.cli.output import wide_console
from testbed.cli.progress import display
from testbed.core.errors import TestbedError
from testbed.core.units import format_microseconds
from testbed.report.compare import faithful_text
from testbed.report.tables import NONE, Grid, GridColumn, render

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


@dataclass(frozen=True)
class Tried:
    """A proposal and its run.

    Attributes:
        proposal: the change.
        run: the completed run; None if it failed.
        folder: the run's folder; None if the change was refused.
        error: why the run failed.
    """

    proposal: Proposal
    run: Run | None = None
    folder: Path | None = None
    error: str = ""


def advise(base: Run, prepare: Prepare, *, quiet: bool) -> None:
    """Measure each proposed change as another run, and print a table of the results.

    Args:
        base: the completed run.
        prepare: function that prepares the same run with further settings.
        quiet: whether to hide what a script prints.
    """
    console = wide_console()
    figure = main_figure(base.summary)
    found = proposals(base.plan, base.summary)
    if figure is None or not found:
        dominant = base.summary.dominant
        reason = "no main cause of its time was found"
        if dominant is not None:
            reason = f"its main cause of time is {dominant.cause or dominant.what}"
        console.print(Text(f"advice: no change to try for this run: {reason}"), soft_wrap=True)
        return

    tried: list[Tried] = []
    for number, proposal in enumerate(found, start=1):
        words = _set_words(proposal)
        text = f"advice {number} of {len(found)}: {shlex.join(words)} ({proposal.why})"
        console.print(Text(text), soft_wrap=True)
        folder = base.path.with_name(f"{base.path.name}-advice-{number}")
        tried.append(_try(proposal, prepare, folder, quiet=quiet))

    console.print(render(advice_grid(figure, tried)))
    for one in tried:
        if one.error:
            words = _set_words(one.proposal)
            console.print(Text(f"{shlex.join(words)}: {one.error}"), soft_wrap=True)


def _try(proposal: Proposal, prepare: Prepare, path: Path, *, quiet: bool) -> Tried:
    """Carry out the run of a proposal in the folder `path`."""
    try:
        prepared = prepare(proposal.words)
        folder = prepared.new_folder(path)
    except TestbedError as error:
        return Tried(proposal, error=str(error))

    try:
        with display(quiet=quiet) as progress:
            run = prepared.start(folder, progress, _command(proposal))
    except TestbedError as error:
        return Tried(proposal, folder=folder.path, error=str(error))
    return Tried(proposal, run, folder.path)


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


def advice_grid(figure: JudgedTime, tried: Sequence[Tried]) -> Grid:
    """Return the table of changes: the base run's figure, the changed one, and the difference.

    Args:
        figure: the time by which the base run is judged.
        tried: the changes with their runs.
    """
    rows: list[list[str]] = []
    for one in tried:
        changed_ms = None if one.run is None else figures(one.run.summary).get(figure.what)
        changed, percent, faithful = NONE, NONE, NONE
        if one.run is not None:
            faithful = faithful_text(one.run.status)
        elif one.error:
            changed = "failed"
        if changed_ms is not None:
            changed = format_microseconds(1000 * changed_ms)
            percent = f"{100 * (changed_ms / figure.ms - 1):+.1f}" if figure.ms else NONE

        rows.append(
            [
                "\n".join(one.proposal.words),
                format_microseconds(1000 * figure.ms),
                changed,
                percent,
                faithful,
                NONE if one.folder is None else str(one.folder),
            ]
        )
    return Grid(title=f"Measured changes: time of {figure.what}", columns=COLUMNS, rows=rows)
