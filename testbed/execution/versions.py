"""Collect the versions of all software that the results of a run depend on."""

from __future__ import annotations

import platform
import socket
from collections.abc import Mapping
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


def version_mismatch(wanted: Mapping[str, str], present: Mapping[str, str]) -> str:
    """Return a description of versions on this machine that affect results; empty if none.

    Args:
        wanted: versions of the machine that asks, as `versions` returns them.
        present: those of this machine.
    """
    differences: list[str] = []
    for name, wanted_version in wanted.items():
        present_version = present.get(name)
        if present_version != wanted_version:
            differences.append(f"{name} {present_version} instead of {wanted_version}")
    if not differences:
        return ""
    node = socket.gethostname()
    return f"the node {node} has {', '.join(differences)}; install the same version there"
