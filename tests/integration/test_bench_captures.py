"""scripts/bench_captures.py, which docs/captures.md names, at a small size."""

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts/bench_captures.py"


def test_a_small_capture() -> None:
    """16 directions of 8 connections; lost packets are sent again."""
    command = [sys.executable, str(SCRIPT), "20000"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    counts = re.search(r"flows (\d+), retransmissions (\d+), lost (\d+)", result.stdout)
    assert counts is not None, result.stdout
    flows, retransmissions, lost = map(int, counts.groups())
    assert flows == 16
    assert retransmissions == lost > 0
    assert re.search(r"iowa-ohio@iowa\.pcapng 199\d\d,", result.stdout)
    assert re.search(
        r"[\d.]+ s per million records \(goal 20 s\); peak memory \d+ MiB", result.stdout
    )
