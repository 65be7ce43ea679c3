"""Carry out `testbed find`: a sweep whose next points follow from the outcome of earlier ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from testbed.core.errors import InputError, TestbedError
from testbed.execution.guest_backend import guest_kernel_version
from testbed.execution.versions import versions
from testbed.guest.kernel import Kernel
from testbed.spec.experiment import Experiment, Plot
from testbed.spec.figures import run_figures
from testbed.spec.overrides import Override
from testbed.spec.short_names import short_names
from testbed.sweep.answers import Answer, FindResult, write_answers
from testbed.sweep.folder import SweepDir
from testbed.sweep.outcome_of_point import PointOutcome, median_outcome
from testbed.sweep.point_record import PointRecord, read_point_record
from testbed.sweep.points import PlannedPoint, PointPlanner
from testbed.sweep.progress import ShowSweep
from testbed.sweep.scheduler import Scheduler
from testbed.sweep.search import AnySearch, searches_of
from testbed.sweep.sweep_run import CLUSTER_MEMORY, SweepRun, not_done

PlanPoint = Callable[[Mapping[str, Any], int], PlannedPoint]


class Searches:
    """Chooses the points of all searches; searches share points with equal plans."""

    def __init__(self, searches: Sequence[AnySearch], plan: PlanPoint, repeats: int = 1) -> None:
        """Choose points.

        Args:
            searches: The searches, none of them begun.
            plan: Returns the planned point for the values of all keys and the number of a repeat.
            repeats: Number of runs of each position, with different seeds.
        """
        self._searches = searches
        self._plan = plan
        self._repeats = repeats
        self._planned: dict[str, PlannedPoint] = {}  # by the values and the repeat
        self._askers: dict[str, list[tuple[AnySearch, int]]] = {}  # by the point's identity
        self._outcomes: dict[str, PointOutcome] = {}
        self._asked: dict[str, PlannedPoint] = {}

    @property
    def points(self) -> list[PlannedPoint]:
        """All points that the searches have needed until now, by search and value."""
        return list(self._asked.values())

    def begin(self) -> list[PlannedPoint]:
        """Return the first points to run: those at both ends of each search."""
        return self._advance(self._searches)

    def conclude(self, point: PlannedPoint, outcome: PointOutcome) -> list[PlannedPoint]:
        """Take the outcome of a point, and return the next points to run.

        Args:
            point: A point that this object has returned.
            outcome: The point's figures, or its failure.
        """
        self._outcomes[point.identity] = outcome
        searches: list[AnySearch] = []
        for search, position in self._askers.pop(point.identity, []):
            self._take(search, position)
            searches.append(search)
        return self._advance(searches)

    def answers(self) -> list[Answer]:
        """Return the answers of all searches as far as they are known."""
        return [search.answer() for search in self._searches]

    def write_studies(self, folder: SweepDir, name: str) -> None:
        """Write the studies of searches over several keys into the folder.

        Raises:
            OSError: A file cannot be written.
        """
        for number, search in enumerate(self._searches, 1):
            write_study = getattr(search, "write_study", None)
            if write_study is not None:
                write_study(folder.study(number), f"{name}-{number}")

    def _advance(self, searches: Sequence[AnySearch]) -> list[PlannedPoint]:
        """Return the points that searches ask for and that were not returned before."""
        new: list[PlannedPoint] = []
        for search in searches:
            while positions := search.ask():
                for position in positions:
                    new += self._request(search, position)
        return new

    def _request(self, search: AnySearch, position: int) -> list[PlannedPoint]:
        """Return the points of a position that were not returned before."""
        new: list[PlannedPoint] = []
        points = self._points(search, position)
        for identity, point in points.items():
            if identity not in self._asked:
                new.append(point)
            self._asked.setdefault(identity, point)
            if identity not in self._outcomes:
                self._askers.setdefault(identity, []).append((search, position))
        if points.keys() <= self._outcomes.keys():
            self._take(search, position)
        return new

    def _take(self, search: AnySearch, position: int) -> None:
        """Give a search the outcome of a position, if all its runs have one."""
        identities = self._points(search, position)
        if identities.keys() <= self._outcomes.keys():
            outcomes = [self._outcomes[identity] for identity in identities]
            search.take(position, median_outcome(outcomes))

    def _points(self, search: AnySearch, position: int) -> dict[str, PlannedPoint]:
        """Return the runs of a position by their identity; equal plans are one run."""
        values = search.values_at(position)
        points: dict[str, PlannedPoint] = {}
        for repeat in range(self._repeats):
            key = f"{values!r} {repeat}"
            if key not in self._planned:
                self._planned[key] = self._plan(values, repeat)
            points[self._planned[key].identity] = self._planned[key]
        return points


def find_planner(
    experiment: Experiment,
    kernel: Kernel | None,
    overrides: Sequence[Override],
    ray_address: str | None,
) -> PointPlanner:
    """Return the planner of an experiment with `find`; arguments as for `plan_sweep`.

    Raises:
        InputError: The experiment is a sweep, or an override sets a key that the searches vary.
    """
    if experiment.find is None:
        raise InputError(
            "this experiment is a sweep, not a search",
            place=experiment.place("sweep"),
            remedy="run it with `testbed sweep`",
        )
    memory_bytes = None if ray_address is None else CLUSTER_MEMORY
    kernel_version = guest_kernel_version(kernel)
    return PointPlanner(experiment, versions(kernel_version), overrides, memory_bytes)


def new_finder(experiment: Experiment, planner: PointPlanner) -> Searches:
    """Return the searches of an experiment, none of them begun.

    Args:
        experiment: An experiment with `find`.
        planner: The planner of its points.
    """

    assert experiment.find is not None

    def plan(values: Mapping[str, Any], repeat: int) -> PlannedPoint:
        return planner.plan(experiment.point_of(values, repeat))

    return Searches(searches_of(experiment), plan, experiment.find.repeats)


@dataclass(frozen=True)
class FindRun(SweepRun):
    """New or resumed searches, to be carried out within `points_forked`.

    Attributes:
        finder: The searches; `points` are those at the ends of the searches.
        answers: The answers, after `carry_out`.
    """

    finder: Searches
    answers: list[Answer] = field(default_factory=list)

    def run_points(self, stack: ExitStack, display: ShowSweep) -> dict[str, PointRecord]:
        """Run the points that the searches need and that are not done; then write the answers.

        Args:
            stack: Ends the guests at its end.
            display: Shows the progress.
        """
        self.write_experiment()
        records: dict[str, PointRecord] = {}
        waiting = self._resume(list(self.points))
        self._write(done=False)
        if waiting:
            records = self._run(waiting, stack, display)
        self.answers.extend(self.finder.answers())
        self._write(done=True)
        return records

    def _run(
        self, waiting: list[PlannedPoint], stack: ExitStack, display: ShowSweep
    ) -> dict[str, PointRecord]:
        executor = self.new_executor()
        stack.callback(executor.close)
        done_before = len(self.finder.points) - len(waiting)
        with display(len(self.finder.points), done_before) as progress:

            def follow(point: PlannedPoint, record: PointRecord) -> list[PlannedPoint]:
                run_folder = self.folder.points / point.folder
                outcome = self._outcome(point, record, run_folder)
                new = self._resume(self.finder.conclude(point, outcome))
                progress.total += len(new)
                self._write(done=False)
                return new

            scheduler = Scheduler(self.folder, executor, self.options.policy, progress, follow)
            return scheduler.run(waiting, prepared=self.points)

    def _resume(self, points: list[PlannedPoint]) -> list[PlannedPoint]:
        """Give the searches the outcome of points that are done, and return those to run."""
        waiting: list[PlannedPoint] = []
        done = self.folder.done()
        while points:
            point = points.pop(0)
            if not_done([point], self.folder, retry_damaged=self.options.retry_damaged):
                waiting.append(point)
                continue
            run_folder = done.get(point.identity, self.folder.points / point.folder)
            outcome = self._outcome(point, read_point_record(run_folder), run_folder)
            points += self.finder.conclude(point, outcome)
        return waiting

    def _outcome(
        self, point: PlannedPoint, record: PointRecord | None, run_folder: Path
    ) -> PointOutcome:
        """Return the figures of a settled point, or why it has none."""
        from testbed.sweep.results import sound_columns  # noqa: PLC0415 (polars: 0.3 s)

        if record is None:
            return PointOutcome(problem="its folder is damaged; try --retry-damaged")
        if record.state != "completed":
            return PointOutcome(problem=f"it failed: {record.reason.splitlines()[0]}")
        measured, damage = sound_columns(run_folder, self.experiment.target_loss)
        return PointOutcome(measured.columns, damage, record.shown_doubts)

    def _write(self, *, done: bool) -> None:
        """Write sweep.json, and at the end the answers."""
        plots = self.experiment.plots or [_plot(self.experiment)]
        sentences = [answer.sentence() for answer in self.answers] if done else []
        self.write_index(self.finder.points, plots=plots, answers=sentences)
        if done:
            result = FindResult(name=self.experiment.name, answers=self.answers)
            write_answers(self.folder.answers, result)
            self.finder.write_studies(self.folder, self.experiment.name)


def check_answers(answers: Sequence[Answer]) -> None:
    """Check that no search has failed.

    Raises:
        TestbedError: A search has failed; the message names the first one.
    """
    failed = [answer for answer in answers if answer.state == "failed"]
    if failed:
        first = failed[0].notes[0]
        raise TestbedError(f"{len(failed)} of {len(answers)} searches failed; the first: {first}")


def _plot(experiment: Experiment) -> Plot:
    """Return the figure of the searches: the first figure of the conditions against the key."""
    block = experiment.find
    assert block is not None
    sought = list(block.sought.values())
    names = short_names([*block.axes, *sought])
    x = names[sought[0]]
    others = [names[key] for key in (*sought[1:], *block.axes)]
    series, facet, *_ = [*others, None, None]
    first = searches_of(experiment)[0].names[0]
    column = run_figures()[first].column
    title = f"{first} against {x}"
    return Plot(x=x, y=column, series=series, facet=facet, title=title)


def default_folder(experiment: Experiment) -> Path:
    """Return the default folder of a search, below ``results``."""
    return Path("results", f"find-{experiment.name}")
