"""Ctrl-C and SIGTERM while the command line is still being imported, for most of a second."""

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


def interrupt(number: int, disposition: str) -> subprocess.CompletedProcess[str]:
    """Send a signal to a command that was started with SIGINT's disposition default or ignore."""
    python = [sys.executable, "-c", SCRIPT, str(number), "topo", "list"]
    return subprocess.run(
        ["env", f"--{disposition}-signal=INT", *python],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("number", [2, 15])
def test_message_and_status(number: int) -> None:
    result = interrupt(number, "default")
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "interrupted\n")


def test_background_command_ignores_it() -> None:
    result = interrupt(2, "ignore")
    assert (result.returncode, result.stderr) == (0, "")
    assert "two-sites" in result.stdout


def test_status_in_code_made_of_a_string(tmp_path: Path) -> None:
    """As in a dataclass's methods: with -m Python would end itself by SIGINT then."""
    (tmp_path / "met.py").write_text(MET)
    result = subprocess.run(
        [sys.executable, "-m", "met"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stderr) == (130, "")
