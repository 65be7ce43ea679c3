"""What reaches a terminal: nothing that a run, a file or a stranger could command it with."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

import testbed
from testbed.core.plain_text import plain_text
from testbed.runfolder.folder import RunDir
from tests.support.synthetic import make_plan, two_dcs, write_run

TESTBED = [sys.executable, "-m", "testbed"]
EVIL = "\x1b]0;owned\x07\x1b[2J\x1b[1A\x9b2K\u202egnp\rok\x7f"
STYLE = re.compile(r"\x1b\[[0-9;]*m|\x1b\[\?25[lh]")
UNSHOWN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202e]")


def on_a_terminal(words: list[str]) -> str:
    """What a command sends to a terminal on which its output and errors appear."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ |= {"TERM": "xterm-256color", "COLUMNS": "300"}
        os.execv(words[0], words)
    parts: list[bytes] = []
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # the other end has gone
            break
        if not part:
            break
        parts.append(part)
    os.close(terminal)
    os.waitpid(pid, 0)
    return b"".join(parts).decode()


def in_a_pipe(words: list[str]) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run of a stranger, who has written a message to the terminal into the status."""
    folder = write_run(tmp_path / "run", make_plan(two_dcs()))
    status = json.loads(folder.status.read_text())
    status |= {"state": "failed", "reason": EVIL, "faithful": False}
    status["warnings"] = [{"code": "cpu-busy", "message": EVIL}]
    folder.status.write_text(json.dumps(status))
    return folder


def check(text: str, *, is_terminal: bool) -> None:
    if is_terminal:
        text = STYLE.sub("", text)
    assert not UNSHOWN.search(text), text
    # rich leaves out bells and carriage returns; Python writes keys as literals
    assert "␛]0;owned␛[2J␛[1A" in text or "\\x1b]0;owned\\x07\\x1b[2J\\x1b[1A" in text
    assert "\\x9b2K\\u202egnp" in text


@pytest.mark.parametrize("is_terminal", [False, True])
def test_status_of_a_stranger(run: RunDir, is_terminal: bool) -> None:
    words = [*TESTBED, "report", str(run.path)]
    text = on_a_terminal(words) if is_terminal else in_a_pipe(words)
    check(text, is_terminal=is_terminal)


@pytest.mark.parametrize("is_terminal", [False, True])
def test_key_of_a_file(tmp_path: Path, is_terminal: bool) -> None:
    file = tmp_path / "evil.yaml"
    file.write_text(json.dumps({"name": "evil", EVIL: 1}))
    words = [*TESTBED, "topo", "validate", str(file)]
    text = on_a_terminal(words) if is_terminal else in_a_pipe(words)
    check(text, is_terminal=is_terminal)


def test_help_keeps_its_styles() -> None:
    text = on_a_terminal([*TESTBED, "run", "--help"])
    assert "\x1b[1m" in text
    assert "␛" not in text


def test_text_without_control_characters_stays() -> None:
    text = "naïve Zürich → 東京 \t\n ▁▃ 🌍 5\u00a0% e\u0301"
    assert plain_text(text) == text
    assert plain_text("a\udcffb") == "a\\udcffb"


def test_output_that_the_locale_cannot_show(tmp_path: Path) -> None:
    file = tmp_path / "straße.yaml"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    done = subprocess.run(
        [*TESTBED, "topo", "validate", str(file)], env=environment, capture_output=True, check=False
    )
    assert done.returncode == 2
    assert b"stra\\xdfe" in done.stderr


def test_nothing_goes_another_way() -> None:
    """The module `terminal` alone makes consoles, and knows the streams of bytes."""
    other_ways = re.compile(r"\bConsole\(|std(out|err)\.buffer|secho\(")
    package = Path(testbed.__file__).parent
    found: list[str] = []
    for path in sorted(package.rglob("*.py")):
        if path.name != "terminal.py" and other_ways.search(path.read_text()):
            found.append(str(path.relative_to(package)))
    assert found == []
