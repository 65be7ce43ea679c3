"""What all tests share."""

import os
from collections.abc import Callable

import pytest

FORCE = "TESTBED_FORCE_TESTS"
Need = Callable[[object, str], None]


@pytest.fixture(scope="session")
def need() -> Need:
    """``need(condition, what)``: skip the test if the machine lacks `what`, or fail it where nothing may be skipped."""

    def check(condition: object, what: str) -> None:
        if condition:
            return
        if any(os.environ.get(name, "").lower() not in ("", "0", "false") for name in (FORCE, "CI")):
            pytest.fail(f"this machine lacks {what}", pytrace=False)
        pytest.skip(f"this machine lacks {what} ({FORCE}=1 makes this a failure)")

    return check
