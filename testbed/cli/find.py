"""testbed find: the least or largest value of a setting for which a condition holds."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from testbed.cli.options import (
    SWEEP_TARGETS,
    Format,
    FormatOption,
    Given,
    set_option,
    takes_run_options,
)
from testbed.cli.output import wide_console
from testbed.cli.progress import PlainDisplay
from testbed.cli.sweep import (
    FailFastOption,
    FailUnfaithfulOption,
    JobsOption,
    RayOption,
    RetriesOption,
    RetryDamagedOption,
    TimeoutOption,
    changes_of_points,
    parse_jobs,
)
from testbed.cli.sweep_display import display
from testbed.cli.sweep_results import all_columns, cells_of, print_warning, table_of
from testbed.core.csv_text import csv_text
from testbed.core.errors import InputError, Place
from testbed.execution.requirements import require_packages
from testbed.guest.kernel import ensure_kernel, find_kernel
from testbed.spec.axis import values_of
from testbed.spec.experiment import Experiment, value_text
from testbed.spec.find import SUCH_THAT, FindBlock
from testbed.spec.options import experiment_options
from testbed.spec.overrides import Override, parse_overrides
from testbed.spec.question import is_question, question
from testbed.spec.yaml_reader import parse
from testbed.sweep.answers import (
    MEASURED,
    Answer,
    FindResult,
    answer_columns,
    answer_record,
    answer_row,
)
from testbed.sweep.bisection import most_questions
from testbed.sweep.find_run import (
    FindRun,
    check_answers,
    default_folder,
    find_planner,
    new_finder,
)
from testbed.sweep.folder import SweepDir
from testbed.sweep.outcome import Outcome
from testbed.sweep.outputs import PointRows
from testbed.sweep.run_point import Limits
from testbed.sweep.scheduler import Policy
from testbed.sweep.sweep_run import SweepOptions, points_forked

QuestionArgument = Annotated[
    str,
    typer.Argument(
        metavar="QUESTION",
        help="least KEY or largest KEY, in quotes, such as 'least wan.iowa-ohio.rate'; "
        "or an experiment file with find",
    ),
]
TopologyOfQuestion = Annotated[
    str | None, typer.Argument(metavar="TOPOLOGY", help="preset or file, for a question in words")
]
WorkloadOfQuestion = Annotated[
    str | None, typer.Argument(metavar="WORKLOAD", help="preset or file \\[default: collectives]")
]
SuchThatOption = Annotated[
    list[str],
    typer.Option(
        metavar="CONDITION",
        help="condition on a run's figures, such as 'compute_utilisation >= 90 %'; "
        "may be repeated: all must hold",
    ),
]
BetweenOption = Annotated[
    tuple[str, str] | None,
    typer.Option(metavar="LOW HIGH", help="least and largest value to try"),
]
PrecisionOption = Annotated[
    str | None,
    typer.Option(
        metavar="STEP",
        help="ratio of neighbouring values, or their difference, such as '1 ms' \\[default: 5 %]",
    ),
]
ForOption = Annotated[
    list[str],
    typer.Option(
        "--for",
        metavar="KEY=A,B,C",
        help="search separately for each value; may be repeated: a search for each combination",
    ),
]
RepeatsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="runs of each value, with different seeds; their medians decide \\[default: 1]",
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        envvar="TESTBED_OUT",
        metavar="FOLDER",
        help="folder of the search's runs \\[default: results/find-<name>]",
    ),
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="list the searches and their values, and exit")
]


@takes_run_options(experiment_options())
def find(
    asked: QuestionArgument,
    topology: TopologyOfQuestion = None,
    workload: WorkloadOfQuestion = None,
    such_that: SuchThatOption = [],  # noqa: B006 (typer copies it)
    between: BetweenOption = None,
    precision: PrecisionOption = None,
    for_each: ForOption = [],  # noqa: B006
    repeats: RepeatsOption = None,
    sets: Annotated[list[str], set_option(SWEEP_TARGETS)] = [],  # noqa: B006
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
    output: FormatOption = Format.TABLE,
    dry_run: DryRunOption = False,
) -> None:
    """Find the least or largest value of a setting for which a condition on a run's figures holds.

    Each search is a bisection. Its runs are points in the folder of a sweep. Run the same command
    again to resume.
    """
    overrides = parse_overrides(sets, SWEEP_TARGETS)
    words = _Words(asked, topology, workload, such_that, between, precision, for_each, repeats)
    experiment = _experiment(words, overrides["experiment"])
    changes = changes_of_points(overrides, given)
    job_count = parse_jobs(jobs)
    if dry_run:
        finder = new_finder(experiment, find_planner(experiment, find_kernel(), changes, ray))
        finder.begin()
        _print_searches(experiment, finder.answers(), output)
        return

    require_packages()
    kernel = ensure_kernel(PlainDisplay().building)
    options = SweepOptions(
        job_count, Limits(timeout), Policy(retries, fail_fast), ray, retry_damaged
    )
    outcomes: list[Outcome] = []
    with points_forked(options):
        finder = new_finder(experiment, find_planner(experiment, kernel, changes, ray))
        points = finder.begin()
        folder = SweepDir.create(out or default_folder(experiment))
        search = FindRun(experiment, points, folder, options, sys.argv, finder)

        def show(rows: PointRows) -> None:
            outcomes.append(Outcome.of(rows.columns, rows.rows))
            _print_answers(experiment, search.answers, outcomes[-1], folder, output)

        search.carry_out(display, show)
    check_answers(search.answers)
    if fail_unfaithful:
        for outcome in outcomes:
            outcome.check_faithful()


@dataclass(frozen=True)
class _Words:
    """The question of a command line."""

    asked: str
    topology: str | None
    workload: str | None
    such_that: list[str]
    between: tuple[str, str] | None
    precision: str | None
    for_each: list[str]
    repeats: int | None


def _experiment(words: _Words, overrides: list[Override]) -> Experiment:
    """Return the experiment of a question in words, or of a file.

    Raises:
        InputError: The question is incomplete, or the file is wrong.
    """
    if not is_question(words.asked):
        _refuse_words(words)
        experiment = Experiment.load(words.asked, overrides)
        if experiment.find is None:
            what = f"{words.asked} has no find"
            raise InputError(what, remedy="run it with `testbed sweep`")
        return experiment

    if words.topology is None:
        remedy = "write a preset or a topology file after the question"
        raise InputError("missing argument TOPOLOGY", remedy=remedy)
    if not words.such_that and not _varies_condition(words.for_each):
        remedy = "such as --such-that 'compute_utilisation >= 90 %'"
        raise InputError("a search needs a condition", place=Place("--such-that"), remedy=remedy)
    if words.between is None:
        remedy = "such as --between '100 Mbit/s' '400 Gbit/s'"
        raise InputError("a search needs two ends", place=Place("--between"), remedy=remedy)

    mapping = question(
        words.asked,
        topology=words.topology,
        workload=words.workload or "collectives",
        such_that=words.such_that,
        between=[parse(value, "--between") for value in words.between],
        precision=words.precision,
        for_each=_values_by_key(words.for_each),
        repeats=words.repeats,
    )
    return Experiment.from_mapping(mapping, overrides)


def _refuse_words(words: _Words) -> None:
    """Check that nothing of a question is given together with a file.

    Raises:
        InputError: An argument or an option belongs to a question in words.
    """
    given = {
        words.topology or "": words.topology is not None,
        "--such-that": bool(words.such_that),
        "--between": words.between is not None,
        "--precision": words.precision is not None,
        "--for": bool(words.for_each),
        "--repeats": words.repeats is not None,
    }
    for name, is_given in given.items():
        if is_given:
            remedy = f"write 'least KEY' instead of {words.asked}, or change the file's find"
            raise InputError("belongs to a question in words", place=Place(name), remedy=remedy)


def _varies_condition(for_each: Sequence[str]) -> bool:
    return any(text.partition("=")[0].strip() == SUCH_THAT for text in for_each)


def _values_by_key(texts: Sequence[str]) -> dict[str, list[Any]]:
    """Return the values of each key of ``--for``.

    Raises:
        InputError: A text is not KEY=A,B,C.
    """
    values: dict[str, list[Any]] = {}
    for text in texts:
        key, equals, listed = text.partition("=")
        if not equals or not key.strip() or not listed.strip():
            remedy = "such as --for workload.method=ddp,diloco"
            raise InputError(f"{text!r} is not KEY=A,B,C", place=Place("--for"), remedy=remedy)
        values[key.strip()] = list(parse(f"[{listed}]", f"--for {key}"))
    return values


def _print_searches(experiment: Experiment, answers: list[Answer], output: Format) -> None:
    """Print the searches before their runs, and the values that they may try."""
    assert experiment.find is not None
    if output is not Format.TABLE:
        _print_documents(experiment, answers, output)
        return
    console = wide_console()
    rows = [answer_row(answer) for answer in answers]
    goal = f"{answers[0].goal} {answers[0].name}"
    columns = [name for name in answer_columns(answers) if name not in (goal, *MEASURED)]
    if columns:
        console.print(table_of(columns, cells_of(columns, rows)))
    console.print(Text(_extent(experiment.find, len(answers))), soft_wrap=True)


def _extent(block: FindBlock, searches: int) -> str:
    """Return how many values or combinations there are, and how many runs at most."""
    if block.is_optimisation:
        combinations = math.prod(len(values_of(axis)) for axis in block.over.values())
        most = searches * block.runs
        return f"{searches} searches among {combinations} combinations, at most {most} runs"
    values = [value_text(value) for value in block.candidates]
    most = searches * block.repeats * most_questions(len(values), block.probes)
    return (
        f"{searches} searches among {len(values)} values from {values[0]} to {values[-1]}, "
        f"at most {most} runs if the condition turns once"
    )


def _print_answers(
    experiment: Experiment,
    answers: list[Answer],
    outcome: Outcome,
    folder: SweepDir,
    output: Format,
) -> None:
    print_warning(outcome, output)
    if output is not Format.TABLE:
        _print_documents(experiment, answers, output)
        return
    columns = answer_columns(answers)
    rows = [answer_row(answer) for answer in answers]
    console = wide_console()
    console.print(table_of(columns, cells_of(columns, rows, missing="-")))
    for answer in answers:
        console.print(Text(answer.sentence()), soft_wrap=True)
    files = Text(f"results: {folder.path}\nreport:  {folder.page}")
    console.print(files, soft_wrap=True)


def _print_documents(experiment: Experiment, answers: list[Answer], output: Format) -> None:
    """Print the answers as JSON or CSV."""
    if output is Format.JSON:
        result = FindResult(name=experiment.name, answers=answers)
        typer.echo(result.model_dump_json(indent=2))
        return
    rows = [answer_record(answer) for answer in answers]
    columns = all_columns(rows)
    typer.echo(csv_text(columns, cells_of(columns, rows, missing=None)))
