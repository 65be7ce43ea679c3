"""The bundle of modules that guests of this installation import, in the cache; made anew when one
has changed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from testbed.core.code_bundle import BUNDLE, is_fresh
from testbed.core.errors import MachineError
from testbed.core.paths import cache_dir


def bundles() -> Path:
    """The folder that they are in."""
    folder = cache_dir() / "modules"
    folder.mkdir(exist_ok=True)
    return folder


def python_for_guests(environment: Mapping[str, str], making: Callable[[], None]) -> list[str]:
    """The words that run a module, whose name and arguments follow, as ``python -m`` does.

    Args:
        environment: that of the guest's programs.
        making: called if the bundle has to be made, which takes seconds.

    Raises:
        MachineError: it cannot be made, because something cannot be imported.
    """
    folder = bundles()
    key = hashlib.sha256("\n".join([sys.executable, sys.version, str(BUNDLE)]).encode())
    path = folder / key.hexdigest()[:16]
    if not is_fresh(path):
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not is_fresh(path):
                making()
                _make(path, environment)
    return [sys.executable, str(BUNDLE), str(path)]


def _make(path: Path, environment: Mapping[str, str]) -> None:
    done = subprocess.run(
        [
            "setpriv",
            "--pdeathsig",
            "KILL",
            sys.executable,
            "-m",
            "testbed.execution.inside",
            "--bundle",
            str(path),
        ],
        env={"PATH": os.defpath, **environment},
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode != 0:
        end = "\n".join(f"    {line}" for line in done.stderr.splitlines()[-5:])
        raise MachineError(f"the modules that a guest needs cannot be imported here:\n{end}")
