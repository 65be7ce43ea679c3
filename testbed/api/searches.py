"""Search for the value at which a condition holds, and read the folder of a search."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from testbed.api.arguments import (
    as_experiment,
    check_jobs,
    prepare_points,
    sort_settings,
)
from testbed.api.sweeps import Sweep
from testbed.api.unfaithful import warn_unfaithful
from testbed.core.errors import InputError, Place
from testbed.execution.cleanup import reap
from testbed.spec.experiment import Experiment
from testbed.spec.question import is_question, question
from testbed.spec.topology import Topology
from testbed.sweep import find_run, sweep_run
from testbed.sweep.answers import Answer, answer_record, read_answers
from testbed.sweep.find_run import FindRun
from testbed.sweep.folder import SweepDir
from testbed.sweep.progress import PointProgress, shown_by
from testbed.sweep.run_point import Limits
from testbed.sweep.scheduler import Policy
from testbed.sweep.sweep_run import SweepOptions

if TYPE_CHECKING:
    import plotly.graph_objects as go
    import polars as pl


class Found:
    """The answers of searches, and the folder of their runs.

    Notebooks display the answers as sentences, a table and the path of the page.

    Example:
        ```python
        found = testbed.open_find("results/find-least-rate")
        print(found.answers[0].value, found)
        ```

    Attributes:
        path: The folder, which is that of a sweep.
        sweep: All runs of the searches.
    """

    def __init__(self, folder: SweepDir) -> None:
        """Read the answers from the folder of their runs."""
        self._folder = folder
        self.path = folder.path
        self.sweep = Sweep(folder)

    def __repr__(self) -> str:
        return f"Found({str(self.path)!r})"

    def __str__(self) -> str:
        return "\n".join(answer.sentence() for answer in self.answers)

    def _repr_html_(self) -> str:
        from testbed.report import notebook  # noqa: PLC0415 (only notebooks)

        parts = [notebook.paragraph(answer.sentence()) for answer in self.answers]
        parts.append(notebook.rows_html(self.table.columns, self.table.rows()))
        parts.append(notebook.files({"report": self._folder.page}))
        return notebook.box(parts)

    def plot(self, figure: int = 1) -> go.Figure:
        """Return a figure of the runs; without `plots` in the question, a condition's figure.

        Args:
            figure: Number of the figure, from 1.

        Raises:
            InputError: There is no such figure, or no complete run has its values.

        Example:
            ```python
            found.plot().write_html("found.html")
            ```
        """
        return self.sweep.plot(figure)

    @cached_property
    def answers(self) -> list[Answer]:
        """The answer of each search (find.json).

        Raises:
            InputError: The file is missing or damaged.
        """
        return read_answers(self._folder.answers).answers

    @cached_property
    def table(self) -> pl.DataFrame:
        """One row per search: its values, the answer, the nearest other value, and figures."""
        import polars as pl  # noqa: PLC0415 (0.3 s)

        records = [answer_record(answer) for answer in self.answers]
        return pl.DataFrame(records, infer_schema_length=None, strict=False)


def open_find(path: str | Path) -> Found:
    """Open the folder of earlier searches.

    Args:
        path: The folder of `testbed find` or `find`.

    Returns:
        The answers.

    Raises:
        InputError: `path` is not the folder of a search.

    Example:
        ```python
        found = testbed.open_find("results/find-least-rate")
        ```
    """
    return Found(SweepDir.open(Path(path)))


def find(
    asked: str | Path | Mapping[str, Any] | Experiment,
    topology: str | Path | Mapping[str, Any] | Topology | None = None,
    workload: str | Path = "collectives",
    *,
    such_that: str | Sequence[str] = (),
    between: Sequence[Any] = (),
    precision: Any = None,
    for_each: Mapping[str, Sequence[Any]] | None = None,
    repeats: int | None = None,
    out: str | Path | None = None,
    jobs: int | None = None,
    settings: Mapping[str, Any] | None = None,
    retries: int = 0,
    timeout_s: float | None = None,
    fail_fast: bool = False,
    retry_damaged: bool = False,
    ray: str | None = None,
    check: bool = True,
    progress: Callable[[PointProgress], object] | None = None,
    **options: Any,
) -> Found:
    """Find the least or largest value of a setting for which a condition on a run's figures holds.

    Each search is a bisection; its runs are points of a sweep's folder. Repeat the same call to
    resume.

    Args:
        asked: ``least KEY`` or ``largest KEY``, such as ``least wan.iowa-ohio.rate``. Or an
            experiment with ``find``: a path, or the contents of such a file as a dict. The five
            arguments after `workload` are for questions in words.
        topology: Topology of all points, as for `run`; None: the experiment's.
        workload: Name of a preset, or path of a file; for a question in words.
        such_that: Conditions on the figures of a run, such as ``compute_utilisation >= 90 %``;
            all must hold.
        between: Least and largest value to try.
        precision: Ratio of neighbouring values as a percentage, or their difference; None: 5 %.
        for_each: Values of further keys; a search for each combination.
        repeats: Runs of each value, with different seeds, whose medians decide; None: 1.
        out: The folder; None: ``results/find-<name>``.
        jobs: Number of guests that run in parallel; None: as many as CPUs and memory allow.
        settings: Values to change, as for `sweep`.
        retries: Number of further attempts after a point has failed.
        timeout_s: Limit on the wall time of a point, in seconds; None: no limit.
        fail_fast: Whether to start no further point after one has failed.
        retry_damaged: Whether to run complete points again whose files cannot be read.
        ray: Address of the Ray cluster that runs the points, auto, or local; None: this machine.
        check: Whether a search without an answer, because a run failed, raises an exception.
        progress: As for `sweep`.
        **options: Options of every run, such as ``isolation="process"``.

    Returns:
        The answers.

    Raises:
        InputError: The question or an argument is wrong; no point has run.
        MachineError: This machine lacks a requirement of the runs, or its disk is full.
        TestbedError: A run of a search failed, and `check` is true.
        KeyboardInterrupt: Ctrl-C; completed points are kept.

    Example:
        ```python
        found = testbed.find(
            "least wan.iowa-ohio.rate",
            "two-sites",
            such_that="time <= 100 ms",
            between=["100 Mbit/s", "100 Gbit/s"],
            settings={"workload.ops": ["all_reduce"], "workload.sizes": ["16 MiB"]},
            isolation="process",
        )
        print(found.answers[0].value, found)
        ```
    """
    reap()
    overrides = sort_settings(settings or {}, ["topology", "workload", "run", "experiment"])
    if isinstance(asked, str) and is_question(asked):
        asked = question(
            asked,
            topology="",
            workload=str(workload),
            such_that=[such_that] if isinstance(such_that, str) else such_that,
            between=between,
            precision=precision,
            for_each=for_each,
            repeats=repeats,
        )
        if topology is None:
            raise InputError("a question needs a topology", place=Place("topology"))
    plan, topology_text = as_experiment(asked, topology, overrides["experiment"])
    check_jobs(jobs)
    path = Path(out) if out is not None else find_run.default_folder(plan)
    prepared = prepare_points(plan, topology_text, overrides, options, path)
    sweep_options = SweepOptions(
        jobs, Limits(timeout_s), Policy(retries, fail_fast), ray, retry_damaged
    )
    with sweep_run.points_forked(sweep_options):
        plan = prepared.experiment
        planner = find_run.find_planner(plan, prepared.kernel, prepared.overrides, ray)
        finder = find_run.new_finder(plan, planner)
        points = finder.begin()
        folder = SweepDir.create(path)
        started = FindRun(plan, points, folder, sweep_options, sys.argv, finder)
        started.carry_out(shown_by(progress), lambda rows: None)
    if check:
        find_run.check_answers(started.answers)
    found = Found(folder)
    if found.sweep.unfaithful:
        warn_unfaithful(repr(found.sweep))
    return found
