"""Two minutes of damaged files (scripts/fuzz.py); `make fuzz MINUTES=60` takes longer."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.shared import PROJECT

MINUTES = "2"
SEED = "1"


@pytest.mark.soak
def test_damaged_files(tmp_path: Path) -> None:
    script = PROJECT / "scripts/fuzz.py"
    words = ["--minutes", MINUTES, "--seed", SEED, "--folder", str(tmp_path / "fuzz")]
    done = subprocess.run(
        [sys.executable, script, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 wrong" in done.stdout


def test_the_check_finds_a_traceback(tmp_path: Path) -> None:
    """A case that goes wrong is reported, with the files to repeat it."""
    broken = tmp_path / "broken.py"
    broken.write_text(
        "import runpy, sys\n"
        "import testbed.cli.main as cli\n"
        "def main():\n"
        "    raise ZeroDivisionError\n"
        "cli.main = main\n"
        "words = ['--seed', '1', '--only', '3']\n"
        f"sys.argv = ['fuzz.py', *words, '--folder', {str(tmp_path / 'f')!r}]\n"
        f"runpy.run_path({str(PROJECT / 'scripts/fuzz.py')!r}, run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, broken], capture_output=True, text=True, check=False, cwd=PROJECT
    )
    assert done.returncode == 1, done.stderr
    assert "case 3: a traceback" in done.stdout
    assert (tmp_path / "f/case-3").is_dir()
