"""Compare installed versions with the versions that a patch was checked against."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.metadata import version

Checked = Mapping[str, tuple[str, ...]]  # "major.minor" versions by distribution name, or "python"


def unchecked(checked: Checked) -> list[str]:
    """Return a message line for each installed version that is not in `checked`."""
    lines = []
    for name, versions in checked.items():
        installed = installed_version(name)
        if installed not in versions:
            lines.append(f"{name} {installed} is installed; checked: {', '.join(versions)}")

    return lines


def installed_version(name: str) -> str:
    """Return the version "major.minor" of a distribution, or of Python."""
    if name == "python":
        return f"{sys.version_info.major}.{sys.version_info.minor}"

    major, minor, *_ = version(name).split(".")
    return f"{major}.{minor}"
