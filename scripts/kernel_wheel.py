#!/usr/bin/env python3
"""Make a wheel of the guest kernel: one static x86-64 program that needs no compiler and no root.

usage: scripts/kernel_wheel.py [-o FOLDER]     (`make kernel-wheel`; default: dist)

The wheel installs the package `testbed_kernel`: the program, its configuration, the project's edits
and the origin of the source (GPL-2.0-only). `testbed` uses the program if the wheel is installed.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from testbed.guest.kernel import Kernel, ensure_kernel  # noqa: E402
from testbed.guest.linux_source import PARTS, find_source  # noqa: E402

PYPROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "wan-training-testbed-kernel"
version = "{version}"
description = "The guest kernel of wan-training-testbed: User-Mode Linux with virtual time"
license = "GPL-2.0-only"
license-files = ["COPYING"]
requires-python = ">=3.11"

[tool.setuptools]
packages = ["testbed_kernel"]

[tool.setuptools.package-data]
testbed_kernel = ["*", "*/*"]
"""
SETUP_CFG = "[bdist_wheel]\nplat_name = manylinux2014_x86_64\n"
SOURCE = """\
# Source of this program

Linux {version}, User-Mode Linux (ARCH=um), from {source}: the upstream source is
https://cdn.kernel.org/pub/linux/kernel/v{major}.x/linux-{version}.tar.xz.
`guest.config` is what was configured beyond `make ARCH=um allnoconfig`, the patches in this folder
are the edits that were applied. To build the program from them:

    testbed guest build --source linux-{version}.tar.xz
"""


def write_package(folder: Path, kernel: Kernel) -> None:
    """Write the sources of the wheel into an empty folder.

    Raises:
        OSError: A file cannot be written.
    """
    package = folder / "testbed_kernel"
    package.mkdir()
    (folder / "pyproject.toml").write_text(PYPROJECT.format(version=kernel.version))
    (folder / "setup.cfg").write_text(SETUP_CFG)
    shutil.copy(PARTS / "COPYING", folder / "COPYING")
    docstring = (
        '"""The guest kernel of wan-training-testbed, as a program: `linux` in this folder."""\n'
    )
    (package / "__init__.py").write_text(docstring)
    shutil.copy(kernel.path, package / "linux")
    (package / "linux").chmod(0o755)
    shutil.copy(PARTS / "guest.config", package / "guest.config")
    for edits in PARTS.glob("linux-*"):
        shutil.copytree(edits, package / edits.name)
    source = find_source()
    origin = source.path.name if source is not None else "an unknown source"
    major = kernel.version.partition(".")[0]
    text = SOURCE.format(version=kernel.version, source=origin, major=major)
    (package / "SOURCE.md").write_text(text)


def is_static(program: Path) -> bool:
    """Return whether a program needs no shared library (has no ELF interpreter)."""
    done = subprocess.run(
        ["readelf", "--program-headers", program], capture_output=True, text=True, check=True
    )
    return "INTERP" not in done.stdout


def main() -> int:
    """Build the kernel if necessary, and the wheel; print the path of the wheel."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("-o", "--out", type=Path, default=PROJECT / "dist", help="folder")
    out: Path = parser.parse_args().out
    kernel = ensure_kernel()
    if not is_static(kernel.path):
        sys.exit(f"{kernel.path} needs libraries of this machine; build it with guest.config")
    with tempfile.TemporaryDirectory(prefix="kernel-wheel-") as folder:
        write_package(Path(folder), kernel)
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
        subprocess.run([*command, "--wheel-dir", str(out), folder], check=True)
    for wheel in out.glob("wan_training_testbed_kernel-*.whl"):
        print(wheel)
    return 0


if __name__ == "__main__":
    sys.exit(main())
