"""Determine the origin of this installation of the testbed: a clone or a wheel."""

from __future__ import annotations

from pathlib import Path

PROJECT = Path(__file__).parents[2]  # the project folder, in a clone


def is_clone() -> bool:
    """Return whether this installation is a clone of the project, not a wheel."""
    return (PROJECT / "pyproject.toml").is_file() and (PROJECT / "scripts/setup").is_file()
