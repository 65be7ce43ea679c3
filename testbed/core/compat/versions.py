"""Whether installed versions are among those that a patch was checked with."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.metadata import version

Checked = Mapping[str, tuple[str, ...]]  # a distribution, or "python": versions "major.minor"


def unchecked(checked: Checked) -> list[str]:
    """Return a line for each installed version that is not in `checked`."""
    lines = []
    for name, versions in checked.items():
        installed = installed_version(name)
        if installed not in versions:
            lines.append(f"{name} {installed} is installed; checked: {', '.join(versions)}")

    return lines


def installed_version(name: str) -> str:
    """Return major and minor version of a distribution, or of Python."""
    if name == "python":
        return f"{sys.version_info.major}.{sys.version_info.minor}"

    major, minor, *_ = version(name).split(".")
    return f"{major}.{minor}"
