"""docs/api.md shows every function and class of the Python interface for runs."""

from pathlib import Path

import testbed

PAGE = Path(__file__).parents[3] / "docs/api.md"
OTHER_PAGES = ("testbed.core.errors", "testbed.spec.")  # shown as a whole, and in the reference


def test_every_name_is_shown() -> None:
    page = PAGE.read_text()
    names: list[str] = []
    for name in testbed.__all__:
        home = getattr(getattr(testbed, name), "__module__", "testbed.api")
        if not home.startswith(OTHER_PAGES):
            names.append(name)
    assert {"run", "sweep", "deploy", "Run", "RunProgress"} <= set(names)
    assert [name for name in names if f"::: testbed.api.{name}\n" not in page] == []
