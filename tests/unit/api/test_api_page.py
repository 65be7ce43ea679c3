"""docs/api.md shows every function and class of the Python interface for runs."""

from pathlib import Path

import testbed

PAGE = Path(__file__).parents[3] / "docs/api.md"


def test_every_name_is_shown() -> None:
    page = PAGE.read_text()
    modules = {name: getattr(testbed, name).__module__ for name in testbed.__all__}
    names = [name for name, module in modules.items() if module == "testbed.api"]
    assert "run" in names
    assert [name for name in names if f"::: testbed.api.{name}\n" not in page] == []
