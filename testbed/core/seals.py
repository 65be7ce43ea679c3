"""Checksums of files in the cache, to notice and replace damaged ones.

A sealed file has a second file next to it, with its size, its time of modification and its hash.
Size and time are compared at each use; the hash only if these differ, or after a failure.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from pydantic import BaseModel, ConfigDict

ENDING = ".seal"


class Seal(BaseModel):
    """Content of the second file."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    size: int
    time_ns: int
    sha256: str


def seal(path: Path) -> None:
    """Seal a file that has just been made.

    Raises:
        OSError: the file cannot be read, or the seal cannot be written.
    """
    state = path.stat()
    sealed = Seal(size=state.st_size, time_ns=state.st_mtime_ns, sha256=_hash(path))
    new = seal_of(path).with_name(f"{path.name}{ENDING}.new")
    new.write_text(sealed.model_dump_json() + "\n")
    new.replace(seal_of(path))


def is_whole(path: Path, *, thoroughly: bool = False) -> bool:
    """Return whether a file exists and is as it was sealed; one without a seal counts as whole.

    Args:
        path: the file.
        thoroughly: whether to compare the hash although size and time are as before.
    """
    try:
        state = path.stat()
        sealed = Seal.model_validate_json(seal_of(path).read_text())
    except FileNotFoundError:
        return path.is_file()
    except (OSError, ValueError):
        return False
    same = (sealed.size, sealed.time_ns) == (state.st_size, state.st_mtime_ns)
    if same and not thoroughly:
        return True
    return sealed.size == state.st_size and _hash(path) == sealed.sha256


def is_seal(path: Path) -> bool:
    """Return whether a file is the second file of a sealed file that exists."""
    return path.name.endswith(ENDING) and path.with_name(path.name.removesuffix(ENDING)).exists()


def remove_sealed(path: Path) -> None:
    """Remove a file and its seal."""
    path.unlink(missing_ok=True)
    seal_of(path).unlink(missing_ok=True)


def seal_of(path: Path) -> Path:
    """Return the second file of a sealed file, which may be missing."""
    return path.with_name(path.name + ENDING)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, hashlib.sha256).hexdigest()
