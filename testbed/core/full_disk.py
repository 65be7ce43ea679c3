"""Recognize a full disk, and explain what it left unwritten."""

from __future__ import annotations

import errno
import os
import secrets
from pathlib import Path

from testbed.core.errors import DiskFull, StorageError

DISK_FULL_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LEAST_SPACE = 2**20  # bytes; a disk with less free space counts as full


def is_disk_full(error: BaseException) -> bool:
    """Return whether a write failed because the disk, or the user's quota, is full."""
    return isinstance(error, OSError) and error.errno in DISK_FULL_ERRORS


def has_space(folder: Path) -> bool:
    """Return whether a file of `LEAST_SPACE` bytes can be written below `folder`."""
    probe = folder / f".space-{secrets.token_hex(4)}"
    try:
        with probe.open("xb") as file:
            os.posix_fallocate(file.fileno(), 0, LEAST_SPACE)
    except OSError as error:
        return not is_disk_full(error)
    finally:
        probe.unlink(missing_ok=True)
    return True


def write_failure(error: OSError, doing: str, remedy: str) -> StorageError:
    """Return the error that reports a failed read or write on this machine.

    Args:
        error: the failure.
        doing: what failed, such as "cannot write the run folder results/x".
        remedy: what is kept, what is missing, and how to go on.
    """
    reason = error.strerror or str(error)
    if error.filename is not None:
        reason += f": {error.filename}"
    kind = DiskFull if is_disk_full(error) else StorageError
    return kind(f"{doing}: {reason}\n  {remedy}")
