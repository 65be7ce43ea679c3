"""The estimate of a rank's memory against a guest, by scripts/memory.py, which the docs name."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.runs import set_options

SCRIPT = Path(__file__).parents[2] / "scripts/memory.py"
SMALL = set_options({"sizes": "[4 KiB]", "warmup": 0, "iterations": 1})
TINY = ["collectives", "--isolation", "process", *SMALL]


@pytest.mark.usefixtures("kernel")
def test_estimate(command_environment: dict[str, str]) -> None:
    """A guest is large enough, and a rank more takes at least half of its estimate."""
    done = subprocess.run(
        [sys.executable, SCRIPT, "2", "12", *TINY],
        env=command_environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    _header, *lines = done.stdout.splitlines()
    assert [line.partition("  ")[0] for line in lines] == ["2", "12", "1 more"]
    for line in lines:
        touched, estimated = map(float, line.split()[-2:])
        assert 10 < touched <= estimated
    assert estimated <= 2 * touched
