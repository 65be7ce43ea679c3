"""Files of the project that its pages name exist."""

import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *(PROJECT / "docs").glob("*.md"),
        *(PROJECT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    ]
)
PATH = re.compile(
    r"(?<![\w/.-])((?:testbed|tests|scripts|workloads|examples|experiments|topologies|docs)"
    r"/[\w/.-]*\w)"
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_exist(page: Path) -> None:
    text = re.sub(r"https?://\S+", "", page.read_text(encoding="utf-8"))
    assert [path for path in PATH.findall(text) if not (PROJECT / path).exists()] == []


def test_the_readme_is_short() -> None:
    lines = (PROJECT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
