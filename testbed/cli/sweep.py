"""testbed sweep: run an experiment, and look at what it measured."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperGroup

from testbed.cli import sweep_results
from testbed.cli.options import Format, FormatOption, Given, run_overrides, takes_run_options
from testbed.cli.output import wide_console
from testbed.cli.progress import PlainDisplay
from testbed.cli.sweep_display import display, duration
from testbed.core.csv_text import csv_text
from testbed.core.errors import InputError, Place, TestbedError
from testbed.core.units import format_size
from testbed.execution.guest_backend import guest_kernel_version
from testbed.execution.versions import versions
from testbed.guest.kernel import ensure_kernel, find_kernel
from testbed.spec.experiment import Experiment, value_text
from testbed.spec.options import experiment_options
from testbed.spec.overrides import parse_overrides
from testbed.sweep.folder import SweepDir
from testbed.sweep.fork_server import fork_server
from testbed.sweep.local_executor import LocalExecutor, capacity, side_by_side
from testbed.sweep.outputs import write_outputs, write_outputs_in_fork
from testbed.sweep.point_record import PointRecord, read_point_record
from testbed.sweep.points import PlannedPoint, check_size, index_of, plan_points, unique
from testbed.sweep.run_point import Limits
from testbed.sweep.scheduler import Executor, Policy, Scheduler, estimated_seconds

if TYPE_CHECKING:
    from testbed.sweep.results import Row

RUN = "run"
HUGE = 2**60  # memory of a machine that is not this one


class SweepGroup(TyperGroup):
    """``testbed sweep FILE`` means ``testbed sweep run FILE``."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Put in ``run`` unless a command of the group is named."""
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = [RUN, *args]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """Both forms."""
        return ["EXPERIMENT [OPTIONS] | table|plot|report|query FOLDER"]


app = typer.Typer(
    cls=SweepGroup,
    help="Run an experiment: many runs whose settings vary, side by side, and tables and figures of all of them. "
    "[bold]testbed sweep EXPERIMENT[/] goes on where it stopped; its options: testbed sweep run --help.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
sweep_results.add_to(app)


@app.command(RUN)
@takes_run_options(experiment_options())
def run(
    experiment: Annotated[str, typer.Argument(help="a preset or the path of an experiment file")],
    sets: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="change one value: topology.KEY, workload.KEY, run.KEY or experiment.KEY",
        ),
    ] = [],  # noqa: B006 (typer copies it)
    out: Annotated[
        Path | None,
        typer.Option(
            envvar="TESTBED_OUT", help="the sweep's folder \\[default: results/sweep-<name>]"
        ),
    ] = None,
    jobs: Annotated[
        str,
        typer.Option(
            envvar="TESTBED_JOBS",
            help="guests side by side: a number, or auto: as CPUs and memory allow",
        ),
    ] = "auto",
    retries: Annotated[
        int,
        typer.Option(envvar="TESTBED_RETRIES", min=0, help="further attempts of a failed point"),
    ] = 0,
    timeout: Annotated[
        float | None,
        typer.Option(envvar="TESTBED_TIMEOUT", min=1, help="wall seconds that a point may take"),
    ] = None,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="start no further point once one has failed")
    ] = False,
    *,
    given: Given,
    ray: Annotated[
        str | None,
        typer.Option(
            envvar="TESTBED_RAY",
            help="run the points on a Ray cluster: its address, auto, or local",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="more than 1000 points are meant")] = False,
    output: FormatOption = Format.TABLE,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="list the points, start nothing")
    ] = False,
) -> None:
    """Run every point of an experiment that is not done yet, then make the table and the page.

    The same command goes on where it stopped. A point is run again only if its plan or a version
    has changed.
    """
    overrides = parse_overrides(sets, ["topology", "workload", "run", "experiment"])
    plan = Experiment.load(experiment, overrides["experiment"])
    check_size(plan, yes)
    count = _jobs(jobs)
    kernel = find_kernel() if dry_run else ensure_kernel(PlainDisplay().building)
    changes = [
        *overrides["topology"],
        *overrides["workload"],
        *overrides["run"],
        *run_overrides(given),
    ]
    path = out or Path("results", f"sweep-{plan.name}")
    with nullcontext() if dry_run or ray is not None else fork_server():
        points = plan_points(plan, versions(guest_kernel_version(kernel)), changes, None if ray is None else HUGE)
        if dry_run:
            _print_points(points, SweepDir(path.resolve()), count, output)
            return
        records = _carry_out(
            plan,
            points,
            SweepDir.create(path),
            count,
            Limits(timeout),
            Policy(retries, fail_fast),
            ray,
            output,
        )
    bad = [record for record in records.values() if record.state != "completed"]
    if bad:
        raise TestbedError(
            f"{len(bad)} of {len(unique(points))} points failed; the first is {bad[0].name}: {bad[0].reason}"
        )


def _carry_out(
    experiment: Experiment,
    points: list[PlannedPoint],
    folder: SweepDir,
    jobs: int | None,
    limits: Limits,
    policy: Policy,
    ray: str | None,
    output: Format,
) -> dict[str, PointRecord]:
    """Run what is not done, and make the table and the page."""
    with folder.locked(), folder.full_disk_reported(), ExitStack() as ends:
        end = write_outputs_in_fork if ray is None else write_outputs
        try:
            records = _run_points(experiment, points, folder, jobs, limits, policy, ray, ends)
        except BaseException:
            with suppress(
                Exception
            ):  # the table can be made later; why the sweep ended is what must be said
                end(folder)
            raise
        sweep_results.show(folder, end(folder), output)
    return records


def _run_points(
    experiment: Experiment,
    points: list[PlannedPoint],
    folder: SweepDir,
    jobs: int | None,
    limits: Limits,
    policy: Policy,
    ray: str | None,
    ends: ExitStack,
) -> dict[str, PointRecord]:
    """Run what is not done; guests end within `ends`, beside what comes after the last point."""
    folder.experiment.write_text(experiment.to_yaml())
    folder.write_index(index_of(experiment, points, sys.argv))
    done = folder.done()
    waiting = [point for point in unique(points) if point.identity not in done]
    if not waiting:
        return {}
    executor: Executor
    if ray is not None:
        from testbed.sweep.ray_executor import RayExecutor  # noqa: PLC0415 (an extra)

        executor = RayExecutor(folder, ray, limits)
    else:
        executor = LocalExecutor(folder, capacity(jobs), limits)
    ends.callback(executor.close)
    with display(len(unique(points)), len(unique(points)) - len(waiting)) as progress:
        return Scheduler(folder, executor, policy, progress).run(waiting)


def _jobs(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) == 0:
        raise InputError(
            f"{text!r} is not a number of guests",
            place=Place("--jobs"),
            remedy="write auto, or 1 or more",
        )
    return int(text)


def _print_points(
    points: list[PlannedPoint], folder: SweepDir, jobs: int | None, output: Format
) -> None:
    """The points, what they need, and how long they will take."""
    done = folder.done()
    rows: list[Row] = [
        {
            "point": point.name,
            **{name: value_text(value) for name, value in point.point.shown.items()},
            "seed": point.run.seed,
            "guest_memory": format_size(point.plan.guest_memory_bytes, 3),
            "state": "done" if point.identity in done else "to do",
        }
        for point in points
    ]
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[str(row.get(name, "")) for name in names] for row in rows]
    if output is Format.CSV:
        typer.echo(csv_text(names, cells))
        return
    waiting = [point for point in unique(points) if point.identity not in done]
    estimate = _estimate(points, waiting, folder, jobs)
    if output is Format.JSON:
        typer.echo(json.dumps({"points": rows, **estimate}, indent=2))
        return
    console = wide_console()
    console.print(sweep_results.table_of(names, cells))
    console.print(_in_words(estimate), highlight=False)


def _estimate(
    points: list[PlannedPoint], waiting: list[PlannedPoint], folder: SweepDir, jobs: int | None
) -> Row:
    """Numbers of points, memory in bytes, and seconds (null if nothing is done yet to go by)."""
    done = folder.done()
    records = [
        read_point_record(done[point.identity])
        for point in unique(points)
        if point.identity in done
    ]
    walls = {record.identity: record.wall_seconds for record in records if record is not None}
    together = side_by_side(waiting, capacity(jobs)) if waiting else 0
    largest = max((point.memory_bytes for point in waiting), default=0)
    return {
        "count": len(points),
        "distinct": len(unique(points)),
        "to_do": len(waiting),
        "jobs": together,
        "memory_bytes": together * largest,
        "seconds": estimated_seconds(walls, len(waiting), together) if waiting else 0.0,
    }


def _in_words(estimate: Row) -> str:
    text = f"{estimate['count']} points"
    if estimate["distinct"] < estimate["count"]:
        text += f" ({estimate['distinct']} distinct)"
    text += f", {estimate['to_do']} to do"
    if not estimate["to_do"]:
        return text
    text += f", {estimate['jobs']} side by side in at most {format_size(estimate['memory_bytes'], 3)} of memory"
    seconds = estimate["seconds"]
    guess = "unknown until one is done" if seconds is None else f"about {duration(seconds)}"
    return f"{text}; time: {guess}"
