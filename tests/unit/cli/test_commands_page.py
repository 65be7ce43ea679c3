"""docs/commands.md is what the program's help texts say."""

import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[3]


def test_page_is_current() -> None:
    done = subprocess.run(
        [sys.executable, PROJECT / "scripts/commands_page.py"],
        capture_output=True,
        text=True,
        check=True,
        cwd=PROJECT,
    )
    page = (PROJECT / "docs/commands.md").read_text()
    assert page == done.stdout, "docs/commands.md is stale: `make docs` writes the page"
    assert "## testbed run" in page
