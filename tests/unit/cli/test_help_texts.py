"""The help of every command, as `python -m tests.support.write_help` stores it."""

from __future__ import annotations

import pytest

from tests.support.shown_texts import HELP, WIDTH, commands, file_of_help, help_text

COMMANDS = commands()


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help(words: tuple[str, ...]) -> None:
    assert help_text(words) == file_of_help(words).read_text()


def test_width() -> None:
    for path in HELP.glob("*.txt"):
        longest = max(path.read_text().splitlines(), key=len)
        assert len(longest) <= WIDTH, path.name


def test_no_stale_files() -> None:
    assert {file_of_help(words) for words in COMMANDS} == set(HELP.glob("*"))


def test_help_ignores_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TESTBED_ISOLATION", "process")
    assert help_text(("run",)) == file_of_help(("run",)).read_text()
