"""docs/api.md shows every function and class of the Python interface for runs."""

from pathlib import Path

import testbed
from testbed import api

PAGE = Path(__file__).parents[3] / "docs/api.md"


def test_every_name_is_shown() -> None:
    page = PAGE.read_text()
    names = [name for name in testbed.__all__ if name in api.__all__]
    assert {"run", "sweep", "deploy", *api.__all__} == set(names)
    assert [name for name in names if f"::: testbed.api.{name}\n" not in page] == []
