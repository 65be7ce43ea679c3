"""Run a compiler."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence


def run_compiler(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a compiler, which ends with this process; its messages are in English.

    Args:
        command: the compiler and its arguments.

    Returns:
        The ended process, with its exit status and its output.
    """
    return subprocess.run(
        ["setpriv", "--pdeathsig", "KILL", *command],
        env={**os.environ, "LC_ALL": "C"},
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
