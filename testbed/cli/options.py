"""Options that several commands share; each has an environment variable."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

import typer
from pydantic import ValidationError

from testbed.core.errors import InputError, Place
from testbed.core.units import format_size, parse_size
from testbed.spec.base import input_error
from testbed.spec.options import (
    LEAST_MEMORY,
    Option,
    RunOptions,
    experiment_options,
    run_options,
)
from testbed.spec.overrides import Override
from testbed.spec.yaml_reader import Loc


class Format(StrEnum):
    """Output format of a command."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


Clock = Literal["virtual", "real"]

TopologyArgument = Annotated[
    str,
    typer.Argument(metavar="TOPOLOGY", help="preset (see `testbed topo list`) or topology file"),
]
# What --set can set: the allowed first parts of a key.
TOPOLOGY_TARGETS = ("topology",)
RUN_TARGETS = ("topology", "workload")
SWEEP_TARGETS = ("topology", "workload", "run", "experiment")


def set_option(targets: Sequence[str]) -> Any:
    """Return the option ``--set`` of a command, whose help text lists the targets."""
    *others, last = [f"{target}.KEY" for target in targets]
    keys = f"{', '.join(others)} or {last}" if others else last
    text = f"set one value: {keys}; may be repeated"
    return typer.Option("--set", metavar="KEY=VALUE", help=text)


TopologySetOption = Annotated[list[str], set_option(TOPOLOGY_TARGETS)]
FormatOption = Annotated[
    Format, typer.Option("-f", "--format", envvar="TESTBED_FORMAT", help="output format")
]
ClockOption = Annotated[Clock, typer.Option(envvar="TESTBED_CLOCK", help="clock of the guest")]

PLAIN_TYPES = {"INTEGER": int, "NUMBER": float, "PATH": Path}  # other types are read as texts
Given = Mapping[str, Any]  # values of the given options, by name
Command = Callable[..., None]


def takes_run_options(options: Iterable[Option]) -> Callable[[Command], Command]:
    """Return a decorator that replaces a command's parameter ``given`` by the flags of `options`.

    The decorated command receives in ``given`` the values from the command line, by option name.
    """
    shown = list(options)

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def with_options(**values: Any) -> None:
            given: dict[str, Any] = {}
            for option in shown:
                value = values.pop(option.name)
                if value not in (None, []):
                    given[option.name] = value
            command(**values, given=given)

        signature = inspect.signature(command, eval_str=True)
        parameters: list[inspect.Parameter] = []
        for parameter in signature.parameters.values():
            if parameter.name == "given":
                parameters += [_parameter(option) for option in shown]
            else:
                parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

        # typer reads a command's parameters from these two attributes.
        with_options.__annotations__ = {
            parameter.name: parameter.annotation for parameter in parameters
        }
        with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return with_options

    return decorate


def _parameter(option: Option) -> inspect.Parameter:
    """Return the typer parameter of an option; its value is None or [] if not given."""
    text = option.help
    if option.default:
        text += f" \\[default: {option.default}]"

    is_choice = get_origin(option.type) is Literal
    info = typer.Option(
        option.flag,
        envvar=option.variable,
        metavar=None if is_choice else option.value,
        min=option.minimum,
        help=text,
    )

    given_type = _given_type(option)
    repeated = get_origin(given_type) is list
    return inspect.Parameter(
        option.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=[] if repeated else None,
        annotation=Annotated[given_type if repeated else given_type | None, info],
    )


def _given_type(option: Option) -> Any:
    """Return the type for parsing an option on the command line; `RunOptions` checks texts."""
    container = get_origin(option.type)
    if container is dict:
        return list[str]
    if container is tuple:
        return list[Path]
    if container is Literal:
        return option.type
    return PLAIN_TYPES.get(option.value, str)


def run_options_of(given: Given) -> RunOptions:
    """Check the given options of the command line, and return them as `RunOptions`.

    Raises:
        InputError: A value is wrong; the message names the flag.
    """
    values = dict(given)
    if "environment" in values:
        values["environment"] = _environment(values["environment"])
    flags = {option.name: option.flag for option in run_options()}

    def locate(loc: Loc) -> Place:
        return Place(key=flags[str(loc[0])])

    try:
        return RunOptions.model_validate(values)
    except ValidationError as error:
        raise input_error(error, RunOptions, locate) from error


def run_overrides(given: Given) -> list[Override]:
    """Return the given options of the command line as settings ``run.NAME`` of a sweep."""
    overrides: list[Override] = []
    for option in experiment_options():
        if option.name not in given:
            continue
        value = given[option.name]
        if option.name == "environment":
            value = _environment(value)
        place = Place(option.flag)
        overrides.append(Override(f"run.{option.name}", (option.name,), value, place))
    return overrides


def _environment(texts: Iterable[str]) -> dict[str, str]:
    variables: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise InputError(
                f"{name!r} is not NAME=VALUE",
                place=Place(key="--env"),
                remedy="use the form --env LEVEL=debug",
            )
        variables[name] = value
    return variables


def memory_size(text: str, option: str) -> int:
    """Return the bytes of a size with a unit, the value of `option`.

    Raises:
        InputError: `text` is not a size with a unit, or too small for a guest.
    """
    place = Place(key=option)
    try:
        size = parse_size(text)
    except ValueError as error:
        raise InputError(str(error), place=place) from error
    least = LEAST_MEMORY["guest_memory"]
    if size < least:
        remedy = f"use at least {format_size(least)}"
        raise InputError(f"{text} is too little memory for a guest", place=place, remedy=remedy)
    return size
