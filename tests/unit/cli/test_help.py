"""What --help says is what the options say, and every option has its own word."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import testbed
from testbed.cli.main import app


def commands(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command and every group with its words; `testbed sweep EXPERIMENT` is `testbed sweep
    run EXPERIMENT`.
    """
    yield words, command
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, (*words, name))


COMMANDS = list(commands(typer.main.get_command(app)))
each_command = pytest.mark.parametrize(
    ("words", "command"),
    COMMANDS,
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)


def plain(text: str) -> str:
    """Without the boxes, and with every blank left out, since lines are broken anywhere."""
    return re.sub(r"[\s│╭╮╰╯─]", "", text)


@each_command
def test_every_word_of_an_option_is_shown(
    words: tuple[str, ...], command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rich takes what is in brackets for markup, and leaves it out, unless it is escaped."""
    monkeypatch.setenv("COLUMNS", "500")
    shown = CliRunner().invoke(app, [*words, "--help"], catch_exceptions=False)
    assert shown.exit_code == 0
    for parameter in command.params:
        text = getattr(parameter, "help", "") or ""
        assert text, f"{parameter.name} has no help"
        assert plain(text.replace("\\[", "[")) in plain(shown.stdout), parameter.name


NO_BEGINNINGS = {
    *("a", "an", "the", "this", "that", "these", "those", "it", "its", "they", "who", "whoever"),
    *("what", "whatever", "which", "when", "where", "whether", "why", "how", "if", "as", "also"),
    *("because", "for", "of", "to", "with", "without"),
}


@each_command
def test_every_help_text_begins_with_a_verb_or_a_noun(words: tuple[str, ...], command: Any) -> None:
    texts = {"": command.help}
    for parameter in command.params:
        texts[parameter.name] = parameter.help
    for name, text in texts.items():
        first = re.split(r"[^\w-]", text, maxsplit=1)[0]
        assert first.lower() not in NO_BEGINNINGS, (words, name, text)


def test_the_version_is_told() -> None:
    told = CliRunner().invoke(app, ["--version"], catch_exceptions=False)
    assert (told.exit_code, told.stdout) == (0, f"testbed {testbed.__version__}\n")
