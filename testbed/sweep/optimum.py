"""A search of `testbed find` over several keys: Optuna chooses the runs; the only user of Optuna.

Runs are chosen some at a time, and the next ones when all of those have ended. So the same outcomes
lead to the same runs, and an interrupted search resumes as it was. The study is also written to a
file of the folder, for the tools of Optuna; the search itself does not read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from testbed.core.errors import MachineError
from testbed.core.units import UnitError
from testbed.runfolder.files import replacing
from testbed.spec.axis import values_of
from testbed.spec.condition import Measure, measure
from testbed.spec.condition_parts import names_in
from testbed.spec.figures import measures, run_figures
from testbed.spec.find import FindBlock, check_condition
from testbed.spec.short_names import short_names
from testbed.sweep.answers import Answer, State
from testbed.sweep.outcome_of_point import PointOutcome

try:
    import optuna
    from optuna.distributions import CategoricalDistribution, IntDistribution
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import TrialState
except ImportError as error:
    raise MachineError(
        "Optuna, which searches over several keys, is not installed\n"
        "  run `pip install --editable '.[optuna]'` in the folder of the project"
    ) from error

SEED = 0
RANDOM_RUNS = 8  # before the sampler learns from them


class Optimum:
    """A search for the best value of an objective, among the values of several keys."""

    def __init__(self, block: FindBlock, values: Mapping[str, Any], such_that: list[str]) -> None:
        """Begin a search; arguments as for `testbed.sweep.search.Search`."""
        self._block = block
        self._values = dict(values)
        self._such_that = such_that
        self._conditions = [check_condition(text) for text in such_that]
        self._objective = block.objective
        self._short = short_names([*block.axes, *block.over])
        self._choices = {key: values_of(axis) for key, axis in block.over.items()}
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        sampler = optuna.samplers.TPESampler(seed=SEED, n_startup_trials=RANDOM_RUNS)
        direction = "minimize" if block.goal == "minimise" else "maximize"
        self._study = optuna.create_study(sampler=sampler, direction=direction)
        self._trials: list[Any] = []
        self._outcomes: dict[int, PointOutcome] = {}
        self._best: dict[int, float] = {}  # values of the objective, where the conditions hold
        self._problems: list[str] = []

    def ask(self) -> list[int]:
        """Return the next positions to run; empty while runs are missing, and at the end."""
        if len(self._outcomes) < len(self._trials):
            return []
        number = min(self._block.at_once, self._block.most_points - len(self._trials))
        distributions: dict[str, Any] = {}
        for key, choices in self._choices.items():
            distributions[self._short[key]] = _distribution(choices)
        first = len(self._trials)
        for _number in range(number):
            self._trials.append(self._study.ask(distributions))
        return list(range(first, first + number))

    def values_at(self, position: int) -> dict[str, Any]:
        """Return the values of all keys of the point at a position."""
        values = dict(self._values)
        for key, choices in self._choices.items():
            values[key] = choices[self._trials[position].params[self._short[key]]]
        return values

    def take(self, position: int, outcome: PointOutcome) -> None:
        """Take the outcome of the point at a position."""
        self._outcomes[position] = outcome
        trial = self._trials[position]
        for key, value in self.values_at(position).items():
            trial.set_user_attr(self._short[key], str(value))
        problem = outcome.problem
        if not problem:
            try:
                self._judge(position, outcome)
                return
            except UnitError as error:
                problem = str(error)
        self._problems.append(f"the run at {self._text(position)} has no value: {problem}")
        self._study.tell(trial, state=TrialState.FAIL)

    def _judge(self, position: int, outcome: PointOutcome) -> None:
        """Tell the study the value of a run, or that the run does not meet the conditions.

        Raises:
            UnitError: The run lacks a figure.
        """
        values = measures(run_figures(), outcome.row)
        if not all(condition(values) for condition in self._conditions):
            self._study.tell(self._trials[position], state=TrialState.PRUNED)
            return
        settings: dict[str, Any] = {}
        for key, value in self.values_at(position).items():
            settings[self._short[key]] = value
        value = self._objective.value(outcome.row, settings)
        self._best[position] = value
        self._study.tell(self._trials[position], value)

    def answer(self) -> Answer:
        """Return the answer as far as it is known."""
        sign = 1 if self._block.goal == "minimise" else -1
        position = min(self._best, key=lambda known: sign * self._best[known], default=None)
        best: dict[str, Any] = {}
        figures: dict[str, float | None] = {}
        if position is not None:
            values = self.values_at(position)
            best = {self._short[key]: values[key] for key in self._choices}
            known = run_figures()
            row = self._outcomes[position].row
            figures = {name: row.get(known[name].column) for name in self.names}
        distinct = {str(self.values_at(position)) for position in self._outcomes}
        return Answer(
            goal=self._block.goal,
            key=self._objective.text,
            name=self._objective.text,
            such_that=self._such_that,
            values={self._short[key]: value for key, value in self._values.items()},
            state=self._state(),
            value=None if position is None else self._best[position],
            best=best,
            figures=figures,
            repeats=self._block.repeats,
            runs=len(distinct) * self._block.repeats,
            notes=self._notes(),
        )

    def _state(self) -> State:
        if len(self._outcomes) < self._block.most_points:
            return "open"
        if self._best:
            return "found"
        return "failed" if self._problems else "nowhere"

    def _notes(self) -> list[str]:
        notes = list(self._problems)
        for position, outcome in self._outcomes.items():
            if outcome.doubts:
                reasons = ", ".join(outcome.doubts)
                notes.append(f"the run at {self._text(position)} is NOT FAITHFUL: {reasons}")
        return list(dict.fromkeys(notes))

    def _text(self, position: int) -> str:
        values = self.values_at(position)
        return ", ".join(f"{self._short[key]} {values[key]}" for key in self._choices)

    @property
    def names(self) -> list[str]:
        """Return the figures that the objective and the conditions name, each column once."""
        known = run_figures()
        names: dict[str, str] = {}
        for name in self._objective.figures:
            names.setdefault(known[name].column, name)
        for condition in self._conditions:
            for name in names_in(condition):
                names.setdefault(known[name].column, name)
        return list(names.values())

    def write_study(self, path: Path, name: str) -> None:
        """Write the study in Optuna's journal format, for its own tools.

        Raises:
            OSError: The file cannot be written.
        """
        with replacing(path) as new:
            storage = JournalStorage(JournalFileBackend(str(new)))
            study = optuna.create_study(
                storage=storage, study_name=name, direction=self._study.direction
            )
            study.add_trials([trial for trial in self._study.trials if trial.state.is_finished()])


def _distribution(choices: list[Any]) -> Any:
    """Return the distribution of a position in a list; values that are quantities have an order."""
    numbers = [measure(choice) for choice in choices]
    if len(choices) > 1 and all(isinstance(number, Measure) for number in numbers):
        in_order = [number.number for number in numbers]
        if in_order == sorted(in_order):
            return IntDistribution(0, len(choices) - 1)
    return CategoricalDistribution(list(range(len(choices))))
