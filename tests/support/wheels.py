"""Environments with the wheel of this checkout, made without downloads."""

import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

from tests.support.shared import PROJECT

PROGRAM = """#!{environment}/bin/python
import sys
from testbed.__main__ import main
if __name__ == "__main__":  # as pip writes it
    sys.exit(main())
"""


def build_wheel(folder: Path) -> Path:
    """Build the wheel of this checkout into a folder."""
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", folder, str(PROJECT)], check=True)
    (wheel,) = folder.glob("wan_training_testbed-*.whl")
    return wheel


def make_environment(environment: Path, wheel: Path) -> tuple[Path, Path]:
    """Make a virtual environment that has the wheel and nothing else.

    Returns:
        Its program ``testbed``, and its folder of packages.
    """
    venv.create(environment, with_pip=False)
    packages = next(environment.glob("lib/python3*/site-packages"))
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, "--target", packages, str(wheel)], check=True)
    program = environment / "bin/testbed"
    program.write_text(PROGRAM.format(environment=environment))
    program.chmod(0o755)
    return program, packages


def add_dependencies(packages: Path) -> None:
    """Add the packages of this environment to another.

    They are found through a folder below /tmp, which a guest sees only if it is told to.
    """
    dependencies = Path(tempfile.mkdtemp(dir=packages.parents[3])) / "dependencies"
    dependencies.symlink_to(sysconfig.get_path("purelib"))
    dependencies.parent.chmod(0o755)
    (packages / "dependencies.pth").write_text(f"{dependencies}\n")
