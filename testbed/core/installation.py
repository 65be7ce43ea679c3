"""Where this installation of the testbed comes from."""

from __future__ import annotations

from pathlib import Path

PROJECT = Path(__file__).parents[2]  # in a clone, its folder


def is_clone() -> bool:
    """Whether this is a clone of the project; else it was installed from a wheel."""
    return (PROJECT / "pyproject.toml").is_file() and (PROJECT / "scripts/setup").is_file()
