"""docs/tutorial.md: its files and commands, in order, in one folder."""

import math
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.shared import PROJECT, Command

PAGE = (PROJECT / "docs/tutorial.md").read_text(encoding="utf-8")
WRITTEN = re.compile(r"^Write `([\w.-]+)`:\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TOLERANCE = 0.02  # of shown figures: versions of torch and of the guest kernel differ


def commands() -> Iterator[tuple[list[str], list[str]]]:
    """Yield the words of each command, and the lines of output that the page shows."""
    for block in CONSOLE.findall(PAGE):
        for text in block.split("$ ")[1:]:
            command, *output = text.splitlines()
            yield shlex.split(command), output


def same(shown: str, printed: str) -> bool:
    """Whether two words are equal, or numbers within the tolerance."""
    if shown.isdigit() and printed.isdigit():
        return math.isclose(int(shown), int(printed), rel_tol=TOLERANCE)
    return shown == printed


def test_tutorial(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in WRITTEN.findall(PAGE):
        (tmp_path / name).write_text(text)

    programs = set()
    for (program, *words), output in commands():
        programs.add(program)
        done = command(*words)
        shown = " ".join(output).split()
        printed = done.stdout.split()
        assert not shown or len(shown) == len(printed), done.stdout
        assert all(map(same, shown, printed)), done.stdout

    assert programs == {"testbed"}
    promised = ["lab.svg", "near/report.html", "script/logs/rank-0.log", "distance/sweep.html"]
    assert [name for name in promised if f"`{name}`" not in PAGE] == []
    assert [name for name in promised if not (tmp_path / name).is_file()] == []
    assert (tmp_path / "script/logs/rank-0.log").read_text().splitlines()[-1] == "done"
