"""Help without the types of flags and arguments, and without braces around arguments."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup

from testbed.cli.terminal import help_styled


class PlainCommand(TyperCommand):
    """Command with plain help."""

    def get_params(self, ctx: typer.Context) -> list[Any]:  # type: ignore[override]
        """Return the parameters without types that repeat their names or metavars."""
        return _without_types(super().get_params(ctx))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help, with typer's styles."""
        with help_styled():
            super().format_help(ctx, formatter)

    def collect_usage_pieces(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """Return the usage with required arguments as ``NAME`` instead of ``{NAME}``."""
        return _without_braces(super().collect_usage_pieces(ctx))


class PlainGroup(TyperGroup):
    """Group of commands with plain help."""

    def get_params(self, ctx: typer.Context) -> list[Any]:  # type: ignore[override]
        """Return the parameters without types that repeat their names."""
        return _without_types(super().get_params(ctx))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help, with typer's styles."""
        with help_styled():
            super().format_help(ctx, formatter)


def use_plain_help(app: typer.Typer) -> None:
    """Use plain help for commands and groups below `app` that have no special class."""
    app.info.cls = _group_class(app)
    for command in app.registered_commands:
        if command.cls in (None, TyperCommand):
            command.cls = PlainCommand
    for group in app.registered_groups:
        if group.typer_instance is not None:
            use_plain_help(group.typer_instance)


def _group_class(app: typer.Typer) -> type[TyperGroup]:
    given = app.info.cls
    if isinstance(given, type) and given is not TyperGroup:
        return given
    return PlainGroup


def _without_types(parameters: list[Any]) -> list[Any]:
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
        elif isinstance(parameter, TyperArgument) and not parameter.type_descriptor.is_choice:
            parameter.display_type_rich = _no_type  # type: ignore[method-assign]
    return parameters


def _no_type(ctx: object) -> str:
    return ""


def _without_braces(pieces: list[str]) -> list[str]:
    return [piece.replace("{", "").replace("}", "") for piece in pieces]
