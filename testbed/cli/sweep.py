"""testbed sweep: run an experiment, and show its results."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from testbed.cli import sweep_results
from testbed.cli.options import (
    SWEEP_TARGETS,
    Format,
    FormatOption,
    Given,
    run_overrides,
    set_option,
    takes_run_options,
)
from testbed.cli.output import wide_console
from testbed.cli.plain_help import PlainGroup
from testbed.cli.progress import PlainDisplay
from testbed.cli.sweep_display import display
from testbed.core.csv_text import csv_text
from testbed.core.errors import InputError, Place
from testbed.core.units import format_size
from testbed.execution.requirements import require_packages
from testbed.guest.kernel import ensure_kernel, find_kernel
from testbed.spec.experiment import Experiment, value_text
from testbed.spec.options import experiment_options
from testbed.spec.overrides import Override, parse_overrides
from testbed.sweep.folder import SweepDir
from testbed.sweep.local_executor import capacity, side_by_side
from testbed.sweep.outcome import Outcome
from testbed.sweep.outputs import PointRows
from testbed.sweep.point_record import read_point_record
from testbed.sweep.points import PlannedPoint, check_size, unique
from testbed.sweep.progress import duration
from testbed.sweep.run_point import Limits
from testbed.sweep.scheduler import Policy, estimated_seconds
from testbed.sweep.sweep_run import (
    SweepOptions,
    SweepRun,
    check_records,
    default_folder,
    not_done,
    plan_sweep,
    points_forked,
)

RUN = "run"

OutOption = Annotated[
    Path | None,
    typer.Option(
        envvar="TESTBED_OUT",
        metavar="FOLDER",
        help="folder of the sweep \\[default: results/sweep-<name>]",
    ),
]
JobsOption = Annotated[
    str,
    typer.Option(
        envvar="TESTBED_JOBS",
        metavar="N",
        help="number of guests to run in parallel; auto: as many as CPUs and memory allow",
    ),
]
RetriesOption = Annotated[
    int,
    typer.Option(
        envvar="TESTBED_RETRIES", min=0, metavar="N", help="retry a failed point up to N times"
    ),
]
TimeoutOption = Annotated[
    float | None,
    typer.Option(
        envvar="TESTBED_TIMEOUT",
        min=1,
        metavar="SECONDS",
        help="abort a point after so many seconds of wall time",
    ),
]
FailFastOption = Annotated[
    bool, typer.Option("--fail-fast", help="start no more points after one has failed")
]
RayOption = Annotated[
    str | None,
    typer.Option(
        envvar="TESTBED_RAY",
        metavar="ADDRESS",
        help="run the points on a Ray cluster: an address, auto or local",
    ),
]
FailUnfaithfulOption = Annotated[
    bool,
    typer.Option("--fail-unfaithful", help="exit with status 5 if a point is not faithful"),
]
RetryDamagedOption = Annotated[
    bool,
    typer.Option("--retry-damaged", help="run points again if their files cannot be read"),
]
YesOption = Annotated[bool, typer.Option("--yes", help="confirm a sweep of more than 1000 points")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="list the points and exit")]


class SweepGroup(PlainGroup):
    """The group ``testbed sweep``; ``testbed sweep FILE`` means ``testbed sweep run FILE``."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Insert ``run`` unless the first word is a command of the group."""
        known = [*self.commands, "-h", "--help"]
        if args and args[0] not in known:
            args = [RUN, *args]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """Return the usage line with both forms."""
        return ["EXPERIMENT [OPTIONS] | table|plot|report|query FOLDER"]


app = typer.Typer(
    cls=SweepGroup,
    help="Run an experiment (many runs with varied settings, in parallel) and make tables and "
    "figures of its results. [bold]testbed sweep EXPERIMENT[/] resumes an interrupted sweep; for "
    "its options see [bold]testbed sweep run --help[/].",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
sweep_results.add_to(app)


@app.command(RUN)
@takes_run_options(experiment_options())
def run(
    experiment: Annotated[
        str, typer.Argument(metavar="EXPERIMENT", help="preset or experiment file")
    ],
    sets: Annotated[list[str], set_option(SWEEP_TARGETS)] = [],  # noqa: B006 (typer copies it)
    out: OutOption = None,
    jobs: JobsOption = "auto",
    retries: RetriesOption = 0,
    timeout: TimeoutOption = None,
    retry_damaged: RetryDamagedOption = False,
    fail_fast: FailFastOption = False,
    fail_unfaithful: FailUnfaithfulOption = False,
    *,
    given: Given,
    ray: RayOption = None,
    yes: YesOption = False,
    output: FormatOption = Format.TABLE,
    dry_run: DryRunOption = False,
) -> None:
    """Run all remaining points of an experiment, then make the table and the page.

    Run the same command again to resume an interrupted sweep. A point runs again only if its plan
    or a version has changed.
    """
    overrides = parse_overrides(sets, SWEEP_TARGETS)
    plan = Experiment.load(experiment, overrides["experiment"])
    check_size(plan, yes)
    job_count = parse_jobs(jobs)
    if not dry_run:
        require_packages()
    kernel = find_kernel() if dry_run else ensure_kernel(PlainDisplay().building)
    changes = changes_of_points(overrides, given)

    path = out or default_folder(plan)
    if dry_run:
        points = plan_sweep(plan, kernel, changes, ray)
        to_do = not_done(unique(points), SweepDir(path.resolve()), retry_damaged=retry_damaged)
        _print_points(points, to_do, SweepDir(path.resolve()), job_count, output)
        return

    options = SweepOptions(
        job_count, Limits(timeout), Policy(retries, fail_fast), ray, retry_damaged
    )
    outcomes: list[Outcome] = []

    def show(rows: PointRows) -> None:
        outcomes.append(Outcome.of(rows.columns, rows.rows))
        sweep_results.print_points(folder, rows, output)

    with points_forked(options):
        points = plan_sweep(plan, kernel, changes, ray)
        folder = SweepDir.create(path)
        sweep = SweepRun(plan, points, folder, options, command=sys.argv)
        records = sweep.carry_out(display, show)
    check_records(records, points)
    for outcome in outcomes:
        outcome.check_damaged()
    if fail_unfaithful:
        for outcome in outcomes:
            outcome.check_faithful()


def changes_of_points(overrides: Mapping[str, list[Override]], given: Given) -> list[Override]:
    """Return the changes of all points: by --set, without the experiment's own, and by options."""
    return [
        *overrides["topology"],
        *overrides["workload"],
        *overrides["run"],
        *run_overrides(given),
    ]


def parse_jobs(text: str) -> int | None:
    """Return the number of parallel guests; None: as many as CPUs and memory allow.

    Raises:
        InputError: The text is neither auto nor a positive number.
    """
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) == 0:
        what = f"{text!r} is not a valid number of guests"
        raise InputError(what, place=Place("--jobs"), remedy="use auto, or a number of at least 1")
    return int(text)


def _print_points(
    points: list[PlannedPoint],
    to_do: list[PlannedPoint],
    folder: SweepDir,
    jobs: int | None,
    output: Format,
) -> None:
    """Print the points, their memory, and the estimated wall time of those that are to be run."""
    waiting = {point.identity for point in to_do}
    damages = folder.damages(points)
    rows: list[dict[str, Any]] = []
    for point in points:
        state = "done"
        if point.identity in waiting:
            state = "to do"
        elif point.identity in damages:
            state = f"damaged: {damages[point.identity]}"
        rows.append(_point_row(point, state))
    columns = sweep_results.all_columns(rows)
    cells: list[list[str]] = []
    for row in rows:
        cells.append([str(row.get(column, "")) for column in columns])
    if output is Format.CSV:
        typer.echo(csv_text(columns, cells))
        return

    estimate = _estimate(points, to_do, folder, jobs)
    if output is Format.JSON:
        document: dict[str, Any] = {"points": rows}
        document.update(asdict(estimate))
        typer.echo(json.dumps(document, indent=2))
        return

    console = wide_console()
    console.print(sweep_results.table_of(columns, cells))
    console.print(estimate.sentence(), highlight=False)


def _point_row(point: PlannedPoint, state: str) -> dict[str, Any]:
    row: dict[str, Any] = {"point": point.name}
    for name, value in point.point.shown.items():
        row[name] = value_text(value)

    row["seed"] = point.run.seed
    row["guest_memory"] = format_size(point.plan.guest_memory_bytes, 3)
    row["state"] = state
    return row


@dataclass(frozen=True)
class Estimate:
    """Estimated resources of a sweep.

    Attributes:
        count: Number of points.
        distinct: Number of different points.
        to_do: Number of points that are not done.
        jobs: Number of points that run in parallel.
        memory_bytes: Maximum memory of the parallel guests.
        seconds: Wall time; None without completed points to estimate from.
    """

    count: int
    distinct: int
    to_do: int
    jobs: int
    memory_bytes: int
    seconds: float | None

    def sentence(self) -> str:
        """Return the estimate as text for people."""
        text = f"{self.count} points"
        if self.distinct < self.count:
            text += f" ({self.distinct} distinct)"
        text += f", {self.to_do} to do"
        if not self.to_do:
            return text

        memory = format_size(self.memory_bytes, 3)
        text += f", {self.jobs} in parallel with at most {memory} of memory"
        if self.seconds is None:
            return f"{text}; time unknown until the first point is done"
        return f"{text}; about {duration(self.seconds)}"


def _estimate(
    points: list[PlannedPoint], waiting: list[PlannedPoint], folder: SweepDir, jobs: int | None
) -> Estimate:
    distinct = unique(points)
    together = 0
    seconds: float | None = 0.0
    if waiting:
        together = side_by_side(waiting, capacity(jobs))
        seconds = estimated_seconds(_wall_seconds(distinct, folder), len(waiting), together)
    largest_bytes = max((point.memory_bytes for point in waiting), default=0)
    return Estimate(
        count=len(points),
        distinct=len(distinct),
        to_do=len(waiting),
        jobs=together,
        memory_bytes=together * largest_bytes,
        seconds=seconds,
    )


def _wall_seconds(points: list[PlannedPoint], folder: SweepDir) -> dict[str, float]:
    """Return the wall time in seconds of each completed point, by identity."""
    done = folder.done()
    wall_seconds: dict[str, float] = {}
    for point in points:
        if point.identity not in done:
            continue
        record = read_point_record(done[point.identity])
        if record is not None:
            wall_seconds[record.identity] = record.wall_seconds
    return wall_seconds
