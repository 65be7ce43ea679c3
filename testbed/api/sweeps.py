"""Run the points of an experiment, and read the folder of a sweep."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from testbed.api.arguments import (
    as_experiment,
    check_jobs,
    prepare_points,
    sort_settings,
)
from testbed.api.completed_run import Run, open_run
from testbed.api.unfaithful import warn_unfaithful
from testbed.core.errors import InputError, Place
from testbed.core.suggestions import suggest
from testbed.execution.cleanup import reap
from testbed.spec.experiment import Experiment
from testbed.spec.topology import Topology
from testbed.sweep import sweep_run
from testbed.sweep.folder import SweepDir
from testbed.sweep.index import IndexedPoint, key_columns
from testbed.sweep.outcome import Outcome, is_unfaithful
from testbed.sweep.points import check_size
from testbed.sweep.progress import PointProgress, shown_by
from testbed.sweep.run_point import Limits
from testbed.sweep.scheduler import Policy
from testbed.sweep.sweep_run import SweepOptions, SweepRun

if TYPE_CHECKING:
    import plotly.graph_objects as go
    import polars as pl

    from testbed.sweep.results import SweepTables


class Sweep:
    """The folder of a sweep, read on demand.

    Notebooks display a sweep as its number of points, its points table and the path of its page.

    Example:
        ```python
        sweep = testbed.open_sweep("results/sweep-allreduce-rtt-rate")
        print(sweep.points.select("delay", "rate", "time_us", "bound_us"))
        ```

    Attributes:
        path: The sweep folder.
    """

    def __init__(self, folder: SweepDir) -> None:
        """Read the sweep from its folder."""
        self._folder = folder
        self.path = folder.path

    def __repr__(self) -> str:
        warning = self._outcome.warning()
        if not warning:
            return f"Sweep({str(self.path)!r})"
        return f"Sweep({str(self.path)!r}, {warning})"

    @property
    def _outcome(self) -> Outcome:
        return Outcome.of(self.points.columns, self.points.rows())

    @property
    def unfaithful(self) -> list[str]:
        """Names of the complete points that are not faithful; `points` says why (``doubts``)."""
        rows = self.points.rows(named=True)
        return [row["point"] for row in rows if is_unfaithful(row)]

    def check_faithful(self) -> None:
        """Check that no complete point is known to be unfaithful.

        Raises:
            Unfaithful: Points are not faithful; the message says how many and why.
        """
        self._outcome.check_faithful()

    def _repr_html_(self) -> str:
        from testbed.report import notebook  # noqa: PLC0415 (only notebooks)

        index = self._folder.read_index()
        table = self.points
        outcome = self._outcome
        has_doubts = outcome.unfaithful > 0
        columns = ["point", *key_columns(table.columns, index, has_doubts=has_doubts)]
        counts: list[str] = []
        for state, count in (
            ("completed", outcome.completed),
            ("failed", outcome.failed),
            ("damaged", outcome.damaged),
            ("missing", outcome.missing),
        ):
            if count:
                counts.append(f"{count} {state}")
        sentence = f"{index.name}: {table.height} points, {', '.join(counts)}"
        parts = [
            notebook.warning(outcome.warning()),
            notebook.paragraph(sentence),
            notebook.rows_html(columns, table.select(columns).rows()),
            notebook.files({"report": self._folder.page}),
        ]
        return notebook.box(parts)

    @cached_property
    def _tables(self) -> SweepTables:
        from testbed.sweep.results import gather  # noqa: PLC0415 (polars: 0.3 s)

        return gather(self._folder)

    @property
    def points(self) -> pl.DataFrame:
        """One row per point, complete or not; `testbed.sweep.results` lists the columns.

        Each swept key has a column under its short name with the value as written. A quantity also
        has a column in base units (``delay_ns``). ``state`` is completed, failed,
        damaged or missing.
        """
        return self._tables.points

    @property
    def collectives(self) -> pl.DataFrame:
        """One row per point, operation and size; `testbed.sweep.results` lists the columns."""
        return self._tables.collectives

    def plot(
        self,
        figure: int = 1,
        *,
        x: str | None = None,
        y: str | None = None,
        series: str | None = None,
        facet: str | None = None,
        heat: bool = False,
    ) -> go.Figure:
        """Return a figure of the sweep, which notebooks show.

        Args:
            figure: Number of the figure of the experiment, from 1.
            x: Column of the horizontal axis. With any of `x`, `y`, `series`, `facet` and `heat`,
                the figure shows these columns instead, as `testbed sweep plot` does.
            y: Column of numbers.
            series: Column with a line for each value.
            facet: Column with a panel for each value.
            heat: Whether to draw a heat map.

        Raises:
            InputError: There is no such figure or column, or no complete point has its values.

        Example:
            ```python
            sweep.plot(x="delay", y="time_us", series="algorithm")
            ```
        """
        from testbed.report.figures.white import on_white  # noqa: PLC0415 (plotly)
        from testbed.sweep.figures import draw  # noqa: PLC0415
        from testbed.sweep.plots import PlotRequest, choose_plots  # noqa: PLC0415

        request = PlotRequest(x=x, y=y, series=series, facet=facet, heat=heat)
        plots = choose_plots(self._folder.read_index(), self.points, request)
        if not 1 <= figure <= len(plots):
            titles = ", ".join(f"{number}: {plot.heading}" for number, plot in enumerate(plots, 1))
            raise InputError(f"there is no figure {figure}", remedy=f"choose one of: {titles}")
        drawn = draw(plots[figure - 1], self.points, self.collectives)
        if drawn is None:
            raise InputError("nothing to draw: no complete point has these values")
        return on_white(drawn)

    def report(self) -> Path:
        """Return the path of sweep.html, and regenerate the page if the file is missing.

        Returns:
            Path of sweep.html, a page that works offline.

        Example:
            ```python
            webbrowser.open(sweep.report().as_uri())
            ```
        """
        if not self._folder.page.is_file():
            from testbed.sweep.outputs import write_outputs  # noqa: PLC0415

            write_outputs(self._folder)
        return self._folder.page

    def run(self, point: str | int) -> Run:
        """Open the run of a point.

        Args:
            point: Name of the point, or the number of its row in `points`.

        Returns:
            The run of the point, completed or failed.

        Raises:
            InputError: The point does not exist or has not run.

        Example:
            ```python
            run = sweep.run("delay-20ms")
            ```
        """
        indexed = self._indexed(point)
        folders = self._folder.failures()
        folders.update(self._folder.done())
        if indexed.identity not in folders:
            raise InputError(
                f"the point {indexed.name} has not been run",
                place=Place(self.path),
                remedy="run the sweep again to resume it",
            )
        return open_run(folders[indexed.identity])

    def _indexed(self, point: str | int) -> IndexedPoint:
        """Find a point by its name or its row number.

        Raises:
            InputError: The point does not exist.
        """
        points = self._folder.read_index().points
        if isinstance(point, int):
            if -len(points) <= point < len(points):
                return points[point]
            raise InputError(f"unknown point {point}: the sweep has {len(points)}")
        for indexed in points:
            if indexed.name == point:
                return indexed
        remedy = suggest(point, [indexed.name for indexed in points], "points")
        raise InputError(f"unknown point {point!r}", remedy=remedy)


def open_sweep(path: str | Path) -> Sweep:
    """Open the folder of a sweep, complete or not.

    Args:
        path: The sweep folder.

    Returns:
        The sweep; each file is read on first access.

    Raises:
        InputError: `path` is not the folder of a sweep.

    Example:
        ```python
        sweep = testbed.open_sweep("results/sweep-allreduce-rtt-rate")
        ```
    """
    return Sweep(SweepDir.open(Path(path)))


def sweep(
    experiment: str | Path | Mapping[str, Any] | Experiment,
    *,
    topology: str | Path | Mapping[str, Any] | Topology | None = None,
    out: str | Path | None = None,
    jobs: int | None = None,
    settings: Mapping[str, Any] | None = None,
    retries: int = 0,
    timeout_s: float | None = None,
    fail_fast: bool = False,
    retry_damaged: bool = False,
    ray: str | None = None,
    confirmed: bool = False,
    check: bool = True,
    progress: Callable[[PointProgress], object] | None = None,
    **options: Any,
) -> Sweep:
    """Run the remaining points of an experiment, then make the tables and the page.

    Repeat the same call to resume an interrupted sweep. A point runs again only if its plan or a
    version has changed.

    Args:
        experiment: Name of a preset, path of a file, or the contents of such a file as a dict. In
            a dict, ``topology`` may be whatever `run` accepts.
        topology: Topology of all points, as for `run`; None: the experiment's.
        out: The sweep folder; None: ``results/sweep-<name>``.
        jobs: Number of guests that run in parallel; None: as many as CPUs and memory allow.
        settings: Values to change, as after ``--set``, with keys that begin with topology.,
            workload., run. or experiment.
        retries: Number of further attempts after a point has failed.
        timeout_s: Limit on the wall time of a point, in seconds; None: no limit.
        fail_fast: Whether to start no further point after one has failed.
        retry_damaged: Whether to run complete points again whose files cannot be read.
        ray: Address of the Ray cluster that runs the points, auto, or local; None: this machine.
        confirmed: Whether to accept a sweep of more than 1000 points.
        check: Whether failed points raise an exception, after the tables and the page are written.
        progress: A function that is called with a `PointProgress` whenever a point starts or ends,
            such as ``print``; an exception in the function ends the sweep.
        **options: Options of every run, such as ``isolation="process"``.

    Returns:
        The sweep.

    Raises:
        InputError: The experiment or an argument is wrong; no point has run.
        MachineError: This machine lacks a requirement of the sweep, or its disk is full.
        TestbedError: Points failed, and `check` is true.
        KeyboardInterrupt: Ctrl-C; completed points are kept.

    Example:
        ```python
        iowa = testbed.Datacenter(hosts=4)
        ohio = testbed.Datacenter(hosts=4)
        link = testbed.Wan(between=("iowa", "ohio"), rate="10 Gbit/s", delay="8 ms")
        topology = testbed.Topology(datacenters={"iowa": iowa, "ohio": ohio}, wan=[link])
        sweep = testbed.sweep(
            {
                "topology": topology,
                "settings": {"run.isolation": "process", "workload.sizes": ["4 KiB"]},
                "sweep": {"grid": {"topology.wan.iowa-ohio.delay": ["1 ms", "20 ms"]}},
            },
            out="results/distance",
            progress=print,
        )
        print(sweep.points.select("delay", "time_us"))
        ```
    """
    reap()
    overrides = sort_settings(settings or {}, ["topology", "workload", "run", "experiment"])
    plan, topology_text = as_experiment(experiment, topology, overrides["experiment"])
    check_size(plan, confirmed)
    check_jobs(jobs)
    path = Path(out) if out is not None else sweep_run.default_folder(plan)
    prepared = prepare_points(plan, topology_text, overrides, options, path)
    sweep_options = SweepOptions(
        jobs, Limits(timeout_s), Policy(retries, fail_fast), ray, retry_damaged
    )
    with sweep_run.points_forked(sweep_options):
        plan = prepared.experiment
        points = sweep_run.plan_sweep(plan, prepared.kernel, prepared.overrides, ray)
        folder = SweepDir.create(path)
        started = SweepRun(plan, points, folder, sweep_options, command=sys.argv)
        records = started.carry_out(shown_by(progress), lambda rows: None)
    if check:
        sweep_run.check_records(records, points)
    finished = Sweep(folder)
    if finished.unfaithful:
        warn_unfaithful(repr(finished))
    return finished
