"""Commands of the testbed in this process, or in one that gets signals."""

import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence

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
