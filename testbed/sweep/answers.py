"""The answers of `testbed find` (find.json), with their sentences and table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from testbed.core.errors import InputError
from testbed.core.units import format_cell
from testbed.runfolder.files import read_plain, write_json
from testbed.spec.experiment import value_text
from testbed.spec.figures import RunFigure, run_figures
from testbed.spec.find import Goal

FORMAT: Literal[1] = 1
GOAL_WORDS = {"minimise": "least", "maximise": "largest"}  # of expressions, in sentences
MEASURED = ("figures", "not at", "figures there", "runs", "state")  # columns of `answer_row`
State = Literal["found", "everywhere", "nowhere", "open", "failed"]


class Answer(BaseModel):
    """The answer of one search.

    Attributes:
        goal: What was sought: the least or largest value of a key, or of an expression (minimise,
            maximise).
        key: The key whose value was sought, or the expression.
        name: Short name of the key, or the expression.
        such_that: The conditions.
        values: Values of the other keys that differ between searches, by short name.
        state: found: `value` meets the conditions, and `beyond`, the next value to try, does not.
            everywhere: all values that were tried meet the conditions. nowhere: none does. open:
            the largest number of runs was reached, and the answer lies between `beyond` and
            `value`. failed: a run failed.
        value: The least or largest value that meets the conditions, as written; null: none.
        best: Of an expression: the values at which it has this value, by the key's short name.
        beyond: The nearest value that does not meet the conditions, as written; null: none.
        figures: Figures of the conditions at `value`, in the units of the sweep's table.
        figures_beyond: Figures of the conditions at `beyond`.
        repeats: Number of runs of each value, with different seeds; figures are their medians.
        spread: Least and largest value of each figure among the runs at `value`, if there are
            several.
        spread_beyond: The same at `beyond`.
        runs: Number of runs that the search needed, those included that other searches need, too.
        monotone: Whether no value beyond `beyond` was seen to meet the conditions.
        notes: Reasons to distrust the answer, for people.
    """

    model_config = ConfigDict(defer_build=True, frozen=True, extra="ignore")

    goal: Goal
    key: str
    name: str
    such_that: list[str]
    values: dict[str, Any] = {}
    state: State
    value: Any = None
    best: dict[str, Any] = {}
    beyond: Any = None
    figures: dict[str, float | None] = {}
    figures_beyond: dict[str, float | None] = {}
    repeats: int = 1
    spread: dict[str, list[float]] = {}
    spread_beyond: dict[str, list[float]] = {}
    runs: int = 0
    monotone: bool = True
    notes: list[str] = []

    def sentence(self) -> str:
        """Return the answer with its bracket, for people."""
        sought = f"the {GOAL_WORDS.get(self.goal, self.goal)} {self.name}"
        if self.such_that:
            sought += f" such that {' and '.join(self.such_that)}"
        with_values = [f"{name} {value_text(value)}" for name, value in self.values.items()]
        start = f"With {', '.join(with_values)}, {sought}" if with_values else _capital(sought)
        text = f"{start} {self._outcome()} ({_runs(self.runs)})."
        for note in self.notes:
            text += f" {_capital(note)}."
        return text

    def _outcome(self) -> str:
        if self.goal in GOAL_WORDS:
            return self._outcome_of_expression()
        value, beyond = value_text(self.value), value_text(self.beyond)
        there = figures_text(self.figures, self.spread)
        not_there = figures_text(self.figures_beyond, self.spread_beyond)
        if self.state == "found":
            return f"is {value}: {there} there, {not_there} at {beyond}"
        if self.state == "everywhere":
            bound = "at most" if self.goal == "least" else "at least"
            return f"is {bound} {value}, the end of the values to try: {there} there"
        if self.state == "nowhere":
            return f"does not exist: {not_there} at {beyond}, the end of the values to try"
        if self.state == "open" and self.value is not None and self.beyond is not None:
            return f"lies between {beyond} and {value}: the limit of runs was reached"
        return "is not known"

    def _outcome_of_expression(self) -> str:
        if self.state == "nowhere":
            return "does not exist: no run meets the conditions"
        if self.value is None:
            return "is not known"
        at = ", ".join(f"{name} {value_text(value)}" for name, value in self.best.items())
        there = figures_text(self.figures)
        return f"among the runs is {format_cell(self.value)}, with {at}: {there} there"


class FindResult(BaseModel):
    """Contents of find.json."""

    model_config = ConfigDict(defer_build=True, frozen=True, extra="ignore")

    format: Literal[1] = FORMAT
    name: str
    answers: list[Answer]


def write_answers(path: Path, result: FindResult) -> None:
    """Write find.json durably.

    Raises:
        OSError: The file cannot be written.
    """
    write_json(path, result, durably=True)


def read_answers(path: Path) -> FindResult:
    """Read find.json.

    Raises:
        InputError: The file cannot be read, or does not hold answers.
    """
    remedy = "run the search again; complete points are kept"
    try:
        return FindResult.model_validate_json(read_plain(path))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", remedy=remedy) from error
    except (ValidationError, UnicodeDecodeError) as error:
        what = f"{path} is damaged, or written by another version of testbed"
        raise InputError(what, remedy=remedy) from error


def answer_columns(answers: Sequence[Answer]) -> list[str]:
    """Return the columns of the table of answers: those of `answer_row`, without empty ones."""
    columns: dict[str, None] = {}
    for answer in answers:
        columns.update(dict.fromkeys(answer_row(answer)))
    conditions = [answer.such_that for answer in answers]
    if all(condition == conditions[0] for condition in conditions):
        columns.pop("such_that", None)
    return list(columns)


def answer_row(answer: Answer) -> dict[str, str]:
    """Return an answer as the cells of a table for people, by column."""
    row = {name: value_text(value) for name, value in answer.values.items()}
    row["such_that"] = " and ".join(answer.such_that)
    if answer.goal in GOAL_WORDS:
        is_known = answer.value is not None
        row[f"{answer.goal} {answer.name}"] = format_cell(answer.value) if is_known else "-"
        row.update({name: value_text(value) for name, value in answer.best.items()})
        row["figures"] = figures_text(answer.figures) if answer.figures else "-"
        row["runs"] = str(answer.runs)
        row["state"] = answer.state
        return row
    row[f"{answer.goal} {answer.name}"] = _value(answer.value)
    row["figures"] = figures_text(answer.figures, answer.spread) or "-"
    row["not at"] = _value(answer.beyond)
    row["figures there"] = figures_text(answer.figures_beyond, answer.spread_beyond) or "-"
    row["runs"] = str(answer.runs)
    row["state"] = answer.state if answer.monotone else f"{answer.state}, NOT MONOTONE"
    return row


def answer_record(answer: Answer) -> dict[str, Any]:
    """Return an answer as a row for programs, by column."""
    record: dict[str, Any] = dict(answer.values)
    record["such_that"] = " and ".join(answer.such_that)
    record["goal"] = answer.goal
    record["key"] = answer.key
    record["state"] = answer.state
    record["value"] = answer.value
    record.update(answer.best)
    record["beyond"] = answer.beyond
    for name, value in answer.figures.items():
        record[name] = value
    for name, value in answer.figures_beyond.items():
        record[f"{name}_beyond"] = value
    for place, spread in (("", answer.spread), ("_beyond", answer.spread_beyond)):
        for name, (least, largest) in spread.items():
            record[f"{name}{place}_least"], record[f"{name}{place}_largest"] = least, largest
    record["runs"] = answer.runs
    record["monotone"] = answer.monotone
    record["notes"] = "; ".join(answer.notes)
    return record


def figures_text(
    figures: Mapping[str, float | None], spread: Mapping[str, Sequence[float]] | None = None
) -> str:
    """Return figures with their names and units, such as ``utilisation 90.4 % (89.9 % to 91 %)``.

    Args:
        figures: Values by name.
        spread: Least and largest value of several runs, by name.
    """
    known = run_figures()
    texts: list[str] = []
    for name, value in figures.items():
        figure = known.get(name, RunFigure(name))  # a file of another version may have others
        text = f"{name} {figure.text(value)}"
        if spread and len(spread.get(name, ())) == 2:
            least, largest = spread[name]
            text += f" ({figure.text(least)} to {figure.text(largest)})"
        texts.append(text)
    return ", ".join(texts)


def _value(value: Any) -> str:
    return "-" if value is None else value_text(value)


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
