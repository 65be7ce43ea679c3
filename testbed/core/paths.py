"""The user's cache folder: guest kernels, and one folder per guest that runs."""

from __future__ import annotations

import os
from pathlib import Path

from testbed.core.errors import InputError, MachineError


def cache_dir() -> Path:
    """``$TESTBED_CACHE``, or ``testbed`` below ``$XDG_CACHE_HOME`` (``~/.cache``). Made if missing.

    Raises:
        InputError: its path has a blank, which the guest kernel's command line cannot carry.
        MachineError: it cannot be written.
    """
    base = os.environ.get("TESTBED_CACHE")
    path = (
        Path(base)
        if base
        else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "testbed"
    )
    path = path.absolute()
    if any(character.isspace() for character in str(path)):
        raise InputError(
            f"the cache folder's path has a blank: {path}", remedy="name another with TESTBED_CACHE"
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MachineError(
            f"cannot make the cache folder {path}: {error.strerror}\n  name a folder you can write with TESTBED_CACHE"
        ) from error
    if not os.access(path, os.W_OK):
        raise MachineError(
            f"cannot write to the cache folder {path}\n  name another with TESTBED_CACHE"
        )
    return path
