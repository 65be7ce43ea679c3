"""Compile the library with which a bridge works on the memory of guests, once, into the cache."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from pathlib import Path

from testbed.core.compiler import run_compiler
from testbed.core.errors import MachineError
from testbed.core.paths import cache_dir
from testbed.core.seals import is_whole, remove_sealed, seal

SOURCE = Path(__file__).with_name("memory.c")
COMPILER = "gcc"
FLAGS = ("-O2", "-shared", "-fPIC")
VARIABLE = "TESTBED_BRIDGE"  # names a library that was compiled on another machine
LAST_LINES = 5  # quoted from the compiler's errors


def bridge_library() -> Path:
    """Return the library, which is compiled if it is missing or damaged.

    Raises:
        MachineError: the library cannot be compiled.
    """
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named)

    folder = cache_dir() / "bridge"
    folder.mkdir(exist_ok=True)
    identity = "\n".join([*FLAGS, SOURCE.read_text()])
    path = folder / f"{hashlib.sha256(identity.encode()).hexdigest()[:16]}.so"
    if is_whole(path):
        return path

    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_whole(path):  # another process may have compiled it meanwhile
            remove_sealed(path)
            _compile(path)
            seal(path)
    return path


def _compile(path: Path) -> None:
    if shutil.which(COMPILER) is None:
        raise MachineError(
            f"a run on several machines needs {COMPILER} on the machine that starts it\n"
            f"  apt-get install --no-install-recommends {COMPILER} libc6-dev"
        )
    result = run_compiler([COMPILER, *FLAGS, "-o", str(path), str(SOURCE)])
    if result.returncode != 0:
        path.unlink(missing_ok=True)
        quoted = "\n".join(f"    {line}" for line in result.stderr.splitlines()[:LAST_LINES])
        raise MachineError(f"cannot compile {SOURCE}:\n{quoted}")
