"""Versions of everything that a run's results depend on."""

from __future__ import annotations

import platform
from importlib.metadata import version

import testbed

PACKAGES = ("torch", "mininet", "scapy", "pyroute2", "docker")


def versions(kernel_version: str) -> dict[str, str]:
    """Give versions by name: of the testbed, Python, the kernel (as given) and packages."""
    result = {
        "testbed": testbed.__version__,
        "python": platform.python_version(),
        "kernel": kernel_version,
    }
    for package in PACKAGES:
        result[package] = version(package)
    return result
