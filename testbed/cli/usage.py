"""Errors of command lines in the testbed's words: what is wrong, where, what to do."""

from __future__ import annotations

import re
from typing import Any

from pydantic import ValidationError

from testbed.core.errors import InputError, Place
from testbed.core.suggestions import nearest_text
from testbed.spec.base import explain_value
from testbed.spec.presets import EXPERIMENTS

# What to do about a missing argument, by its name in the usage line.
_MISSING = {
    "TOPOLOGY": "`testbed topo list` lists the presets; a topology file is written as its path",
    "RUN": "a run folder, such as results/…; `testbed run` prints its path",
    "FOLDER": "the folder of a sweep, such as results/sweep-…",
    "KEY=VALUE": "such as wan.iowa-ohio.delay='20 ms'",
    "QUESTION": "such as 'least wan.iowa-ohio.rate', or an experiment file with find",
    "HOST": "`testbed topo inspect NAME` lists the hosts of a deployment",
}


def usage_error(error: Any) -> InputError:
    """Return an error of click or typer as an error of input.

    Args:
        error: A usage error; its class belongs to click or typer, depending on typer's version.
    """
    kind = type(error).__name__
    if kind == "MissingParameter":
        return _missing(error)
    if kind == "NoSuchOption":
        remedy = _option_meant(error.option_name, error.ctx)
        return InputError(f"unknown option {error.option_name!r}", remedy=remedy)
    if kind == "BadParameter":
        return _bad_value(error)

    return _other(str(error.format_message()), error.ctx)


def _other(message: str, context: Any) -> InputError:
    """Return the error of a message that typer has no class for."""
    command = re.match(r"No such command '([^']*)'", message)
    if command is not None:
        return _unknown_command(command[1], context)
    without_value = re.match(r"Option '([^']*)' requires an argument", message)
    if without_value is not None:
        return InputError("a value is missing", place=Place(without_value[1]))
    extra = re.match(r"Got unexpected extra argument(?:s|\(s\))? \((.*)\)", message)
    if extra is not None:
        remedy = f"usage: {_usage(context)}" if context else ""
        return InputError(f"unexpected argument: {extra[1]}", remedy=remedy)
    return InputError(message.rstrip("."))


def _missing(error: Any) -> InputError:
    parameter = error.param
    name = str(getattr(parameter, "metavar", None) or getattr(parameter, "human_readable_name", ""))
    remedy = _MISSING.get(name, "")
    if name == "EXPERIMENT":
        names = ", ".join(preset.name for preset in EXPERIMENTS.presets())
        remedy = f"presets: {names}; an experiment file is written as its path"
    if not remedy and error.ctx:
        remedy = f"usage: {_usage(error.ctx)}"
    return InputError(f"missing argument {name}", remedy=remedy)


def _bad_value(error: Any) -> InputError:
    """Return the error of a value; typer wraps pydantic's, which has all details."""
    place = Place(_flag(error.param))
    what = str(error.message).rstrip(".")
    remedy = ""
    cause = error.__cause__
    if isinstance(cause, ValidationError):
        what, remedy = explain_value(cause.errors(include_url=False)[0])

    choice = re.match(r"'([^']*)' is not one of (.*)", what)
    if choice is not None:
        remedy = nearest_text(choice[1], re.findall("'([^']*)'", choice[2]))
    return InputError(what, place=place, remedy=remedy)


def _flag(parameter: Any) -> str | None:
    """Return the longest spelling of an option, or the name of an argument."""
    spellings = getattr(parameter, "opts", None) or [""]
    longest = max(spellings, key=len)
    if longest.startswith("-"):
        return str(longest)
    return getattr(parameter, "metavar", None) or longest or None


def _option_meant(name: str, context: Any) -> str:
    """Return the remedy for an unknown option; empty if no option is similar."""
    if context is None:
        return ""
    for command_name, command in getattr(context.command, "commands", {}).items():
        if name in _options(command, context):
            return f"write {name} after the command: {context.command_path} {command_name} …"
    return nearest_text(name, _options(context.command, context))


def _options(command: Any, context: Any) -> list[str]:
    """Return all long options of a command."""
    spellings: list[str] = []
    for parameter in command.get_params(context):
        spellings += [*parameter.opts, *parameter.secondary_opts]
    return [spelling for spelling in spellings if spelling.startswith("--")]


def _unknown_command(name: str, context: Any) -> InputError:
    commands = list(getattr(context.command, "commands", {})) if context else []
    remedy = nearest_text(name, commands) or f"commands: {', '.join(commands)}"
    return InputError(f"unknown command {name!r}", remedy=remedy)


def _usage(context: Any) -> str:
    pieces = context.command.collect_usage_pieces(context)
    return " ".join([context.command_path, *pieces])
