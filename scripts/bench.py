"""Times the testbed itself: wall seconds of whole commands and of their stages.

usage: scripts/bench.py [NAME ...]     the names are those of `CASES`; without any, all are run

Run it on a machine that does nothing else.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TESTBED = Path(__file__).resolve().parent.parent / ".venv/bin/testbed"
ONE_COLLECTIVE = [
    "--set", "workload.ops=[all_reduce]", "--set", "workload.sizes=[4 KiB]",
    "--set", "workload.warmup=0", "--set", "workload.iterations=1",
]  # fmt: skip
# name: seconds it should take at most with two cores, arguments of `testbed run`
CASES = {
    "two-sites": (12, ["two-sites", "collectives", "--isolation", "process"]),
    "ten-processes": (12, ["microsoft-openai-five", "collectives", "--isolation", "process", *ONE_COLLECTIVE]),
    "ten-containers": (60, ["microsoft-openai-five", "collectives", *ONE_COLLECTIVE]),
    "demo": (100, ["microsoft-openai-five", "collectives"]),
}


def measure(arguments: list[str]) -> tuple[float, list[dict[str, Any]]]:
    """Wall seconds of one run, and its stages."""
    with tempfile.TemporaryDirectory(prefix="testbed-bench-") as scratch:
        out = Path(scratch, "run")
        begin = time.monotonic()
        done = subprocess.run([TESTBED, "run", *arguments, "--out", out], capture_output=True, text=True, check=False)
        seconds = time.monotonic() - begin
        if done.returncode != 0:
            sys.exit(f"testbed run {' '.join(arguments)} failed with status {done.returncode}:\n{done.stderr}")
        return seconds, json.loads((out / "status.json").read_text())["stages"]


def main() -> None:
    """Run the cases and print a line for each."""
    unknown = set(sys.argv[1:]) - set(CASES)
    if unknown:
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; the names are {', '.join(CASES)}")
    print(f"{'case':<16}{'seconds':>8}{'goal':>6}  stages (seconds)")
    for name in sys.argv[1:] or CASES:
        goal, arguments = CASES[name]
        seconds, stages = measure(arguments)
        parts = "  ".join(f"{stage['stage']} {stage['wall_seconds']:.1f}" for stage in stages)
        print(f"{name:<16}{seconds:>8.1f}{goal:>6}  {parts}", flush=True)


if __name__ == "__main__":
    main()
