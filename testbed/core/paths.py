"""Locate the user's cache folder, and check names of folders that hosts see.

The cache folder holds guest kernels and the folders of running guests.
"""

from __future__ import annotations

import os
from pathlib import Path

from testbed.core.errors import InputError, MachineError

COMMON = Path("/run/testbed-common")  # in each of several guests: a folder that all can change


def cache_dir() -> Path:
    """Return the cache folder; create the folder if missing.

    The folder is ``$TESTBED_CACHE``, or ``testbed`` below ``$XDG_CACHE_HOME`` (``~/.cache``).

    Raises:
        InputError: The path contains a space, which the guest kernel's command line cannot carry.
        MachineError: The folder is not writable.
    """
    path = _configured_path().absolute()
    if any(character.isspace() for character in str(path)):
        what = f"the path of the cache folder contains a space: {path}"
        raise InputError(what, remedy="set another folder with TESTBED_CACHE")

    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"cannot make the cache folder {path}: {error.strerror}"
        remedy = "set a writable folder with TESTBED_CACHE"
        raise MachineError(f"{what}\n  {remedy}") from error

    if not os.access(path, os.W_OK):
        what = f"cannot write to the cache folder {path}"
        raise MachineError(f"{what}\n  set another folder with TESTBED_CACHE")

    return path


def _configured_path() -> Path:
    own = os.environ.get("TESTBED_CACHE")
    if own:
        return Path(own)

    user_cache = os.environ.get("XDG_CACHE_HOME")
    if user_cache:
        return Path(user_cache, "testbed")
    return Path.home() / ".cache" / "testbed"


def absolute_path(path: str | Path) -> Path:
    """Return `path` from the root, with its symbolic links, which ``..`` may not follow."""
    absolute = Path(path).absolute()
    if ".." in absolute.parts:
        return absolute.parent.resolve() / absolute.name
    return absolute


def why_not_shared(path: Path) -> str:
    """Return why hosts could not use `path` as the name of a folder; empty if they can."""
    text = str(path)
    if not text.isprintable():
        return f"the name {text!r} has a line break or another character that cannot be printed"

    return ""
