"""Ctrl-C and SIGTERM while the command line is still being imported, which takes most of a
second.
"""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import importlib.abc, os, sys
import testbed.__main__

class Interrupter(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "testbed.cli.run":
            os.kill(os.getpid(), int(sys.argv.pop(1)))

sys.meta_path.insert(0, Interrupter())
testbed.__main__.main()
"""

MET = """
import sys
import testbed.__main__
import testbed.cli.main

def run():
    try:
        exec("raise KeyboardInterrupt")
    except KeyboardInterrupt:
        sys.exit(130)

testbed.cli.main.main = run
testbed.__main__.main()
"""


def interrupted(number: int, how: str) -> subprocess.CompletedProcess[str]:
    words = ["env", f"--{how}-signal=INT", sys.executable, "-c", SCRIPT, number, "topo", "list"]
    return subprocess.run(
        [*map(str, words)], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("number", [2, 15])
def test_it_ends_with_a_word_and_its_status(number: int) -> None:
    done = interrupted(number, "default")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_what_runs_in_the_background_ignores_it() -> None:
    done = interrupted(2, "ignore")
    assert (done.returncode, done.stderr) == (0, "")
    assert "two-sites" in done.stdout


def test_it_has_its_status_wherever_it_was_met(tmp_path: Path) -> None:
    """In a dataclass's methods, say, which are made of a string: with -m Python would end itself by
    SIGINT then.
    """
    (tmp_path / "met.py").write_text(MET)
    words = [sys.executable, "-m", "met"]
    done = subprocess.run(
        words, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (130, "")
