"""What all tests share."""

import os
import subprocess
import sys

import pytest

from testbed.core.errors import MachineError
from testbed.guest.kernel import Kernel, ensure_kernel
from tests.support.shared import PROJECT, Command, Need

FORCE = "TESTBED_FORCE_TESTS"
KEPT_SETTINGS = (
    "TESTBED_CACHE",
    "TESTBED_KERNEL",
)  # of the user's; all other TESTBED_ variables would change results
# What commands called in the tests' process print must not depend on the terminal of the tests.
for name in ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR"):
    os.environ.pop(name, None)


@pytest.fixture(scope="session")
def need() -> Need:
    """``need(condition, what)``: skip the test if the machine lacks `what`, or fail it where
    nothing may be skipped.
    """

    def check(condition: object, what: str) -> None:
        if condition:
            return
        if any(
            os.environ.get(name, "").lower() not in ("", "0", "false") for name in (FORCE, "CI")
        ):
            pytest.fail(f"this machine lacks {what}", pytrace=False)
        pytest.skip(f"this machine lacks {what} ({FORCE}=1 makes this a failure)")

    return check


@pytest.fixture(scope="session")
def kernel(need: Need) -> Kernel:
    """The guest kernel with a virtual clock; built if this machine has what that takes."""
    try:
        found = ensure_kernel()
    except MachineError as error:
        need(False, f"a guest kernel: {error}")
        raise
    need(found.virtual_time, f"a guest kernel with a virtual clock ({found.path} has none)")
    return found


@pytest.fixture(scope="session")
def command_environment() -> dict[str, str]:
    """The environment of a command of the testbed, without settings of the user's that would change
    its results.
    """
    kept = {
        n: v for n, v in os.environ.items() if not n.startswith("TESTBED_") or n in KEPT_SETTINGS
    }
    return {**kept, "PYTHONPATH": str(PROJECT), "COLUMNS": "200"}


@pytest.fixture(scope="session")
def command(kernel: Kernel, command_environment: dict[str, str]) -> Command:
    """``command(word, ..., status=0)``: run a command of the testbed to its end, which must be that
    exit status; `input` is its standard input.
    """
    del kernel

    def run(
        *words: object, status: int = 0, timeout_s: float = 300, input: str = ""
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "testbed", *map(str, words)],
            env=command_environment,
            capture_output=True,
            text=True,
            input=input,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == status, (
            f"exit status {done.returncode}:\n{done.stdout}\n{done.stderr}"
        )
        return done

    return run
