"""Collect the versions of all software that the results of a run depend on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import testbed

PACKAGES = ("torch", "mininet", "scapy", "pyroute2", "docker")


def versions(kernel_version: str) -> dict[str, str]:
    """Return the versions of the testbed, Python, the kernel (as given) and packages, by name.

    A package that is not installed, as on a machine that only plans runs, has the version "none".
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
