"""Versions of everything that a run's results depend on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import testbed

PACKAGES = ("torch", "mininet", "scapy", "pyroute2", "docker")


def versions(kernel_version: str) -> dict[str, str]:
    """Give versions by name: of the testbed, Python, the kernel (as given) and packages.

    A package that is not installed, as where runs are only planned, has the version "none".
    """
    result = {
        "testbed": testbed.__version__,
        "python": platform.python_version(),
        "kernel": kernel_version,
    }
    for package in PACKAGES:
        try:
            result[package] = version(package)
        except PackageNotFoundError:
            result[package] = "none"
    return result
