"""Print docs/commands.md, the reference of every command of testbed (`make docs` writes the page).

usage: scripts/commands_page.py
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import typer

from testbed.cli.main import app

HEAD = """# Commands

`make docs` writes this page from the help texts of the program. `testbed COMMAND --help` prints the
same texts.

| exit status | meaning |
|--:|---|
| 0 | the command succeeded |
| 1 | a run failed |
| 2 | the input is wrong |
| 3 | this machine lacks a requirement, or a disk is full |
| 4 | the guest ended without a result |
| 5 | results are not faithful, and `--fail-unfaithful` is given |
| 130 | the command was interrupted |

An option takes precedence over its environment variable.
"""

RICH_TAG = re.compile(r"(?<!\\)\[/?(bold|dim|italic)?\]")


def page() -> str:
    """Return the page as Markdown."""
    program = typer.main.get_command(app)
    sections = [_section(context) for context in _contexts(program, "testbed", None)]
    return "\n".join([HEAD, *sections])


def _contexts(command: Any, name: str, parent: Any) -> Iterator[Any]:
    """Yield the context of a command, then those of its visible subcommands.

    typer brings click along under a name that differs between its versions, hence `Any`.
    """
    context = command.context_class(command, info_name=name, parent=parent)
    yield context
    for subcommand_name, subcommand in getattr(command, "commands", {}).items():
        if not subcommand.hidden:
            yield from _contexts(subcommand, subcommand_name, context)


def _section(context: Any) -> str:
    """Return the heading, help text, usage and tables of a command."""
    command = context.command
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    level = "##" if context.parent is None or context.parent.parent is None else "###"
    lines = [f"{level} {context.command_path}", "", _escape(command.help or ""), ""]
    lines += ["```text", usage, "```", ""]
    arguments: list[tuple[str, str]] = []
    options: list[tuple[str, str]] = []
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is None:
            continue
        if record[0].endswith("--help"):
            continue
        if parameter.param_type_name == "argument":
            arguments.append(record)
        else:
            options.append(record)
    lines += _table("argument", arguments)
    lines += _table("option", options)
    return "\n".join(lines)


def _table(title: str, records: list[tuple[str, str]]) -> list[str]:
    """Return the lines of a table of arguments or options; empty for no records."""
    if not records:
        return []
    lines = [f"| {title} | meaning |", "|---|---|"]
    for name, meaning in records:
        cell = name.replace("|", "\\|")
        text = _escape(" ".join(meaning.split()))
        lines.append(f"| `{cell}` | {text} |")
    return [*lines, ""]


def _escape(text: str) -> str:
    """Remove the markup of Rich, and escape characters that are markup in Markdown."""
    text = RICH_TAG.sub("", text).replace("\\[", "[")
    for character in "\\|<*[":
        text = text.replace(character, f"\\{character}")
    return text


if __name__ == "__main__":
    print(page(), end="")
