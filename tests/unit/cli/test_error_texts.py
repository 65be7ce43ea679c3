"""Error messages, as `python -m tests.support.write_help` stores them."""

from __future__ import annotations

import pytest

from tests.support.shown_texts import ERRORS, ErrorCase, error_cases, error_text

CASES = error_cases()
STORED = dict(enumerate(ERRORS.read_text().split("\n\n$ ")))


@pytest.mark.parametrize(
    ("number", "case"), list(enumerate(CASES)), ids=[case.arguments for case in CASES]
)
def test_error(number: int, case: ErrorCase) -> None:
    stored = STORED[number].removeprefix("$ ").rstrip("\n")
    assert f"testbed {case.arguments}\n{error_text(case)}".rstrip("\n") == stored


def test_every_stored_error_is_checked() -> None:
    assert len(STORED) == len(CASES) >= 30
