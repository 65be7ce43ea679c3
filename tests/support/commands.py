"""Commands of the testbed in this process, or in one that gets signals."""

import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.support.shared import PROJECT

LONGEST_S = 60.0
CRASHED = 70  # exit status (sysexits.h: EX_SOFTWARE)


def be_command(words: Sequence[str]) -> int:
    """Carry out a command in this process, and return its exit status.

    A traceback is printed, and gives the status `CRASHED`.
    """
    from testbed.cli.main import main  # only a fork imports it, not its parent

    sys.argv = ["testbed", *words]
    status = CRASHED
    try:
        main()
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def environment_without_guest(folder: Path, kernel_says: str) -> dict[str, str]:
    """Return an environment with a cache in `folder`, and a kernel that boots no guest."""
    kernel = folder / "linux"
    kernel.write_text(f"#!/bin/sh\necho {kernel_says}\n")
    kernel.chmod(0o755)
    return {
        **os.environ,
        "PYTHONPATH": str(PROJECT),
        "TESTBED_CACHE": str(folder / "cache"),
        "TESTBED_KERNEL": str(kernel),
        "COLUMNS": "200",
    }


def outcomes_of(
    module: str, cases: list[tuple[str, str, int]], folder: Path, environment: dict[str, str]
) -> list[dict[str, Any]]:
    """Carry out cases of faults in a process of their own, and return what each has left.

    Args:
        module: `tests.support.faults`, or another module with such a command line.
        cases: arguments of `tests.support.faults.Case`.
        folder: folder for the files of the cases, created here.
        environment: environment of the process.
    """
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", module, str(folder), json.dumps(cases)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def begun(
    words: Sequence[str],
    environment: dict[str, str],
    has_begun: Callable[[], object],
    *,
    signals: str = "--default-signal=INT,HUP",
    seconds: float = 600,
) -> subprocess.Popen[str]:
    """Start a recorded command, and return it once its run has begun.

    Args:
        words: the command.
        environment: its environment.
        has_begun: whether the run has begun.
        signals: option of `env` that says what signals do.
        seconds: for how long the run goes on.
    """
    process = subprocess.Popen(
        ["env", signals, *words],
        env={**environment, "RECORDED_SECONDS": str(seconds)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + LONGEST_S
    while not has_begun():
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    return process
