"""Read and write files of a run folder, some of which a host of the run may have written."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def replace_text(path: Path, text: str) -> None:
    """Write a file so that a reader sees either the old file or the complete new file.

    A symbolic link at `path` is replaced, not followed.

    Raises:
        OSError: the file cannot be written.
    """
    replace_bytes(path, text.encode())


def replace_bytes(path: Path, content: bytes) -> None:
    """Write a file as `replace_text` does.

    Raises:
        OSError: the file cannot be written.
    """
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    new.unlink(missing_ok=True)
    with new.open("xb") as file:
        file.write(content)
    new.replace(path)


def open_plain(path: Path) -> BinaryIO:
    """Open a plain file for reading, without following symbolic links.

    Raises:
        OSError: the file is missing, cannot be read, or is not a plain file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    file = os.fdopen(descriptor, "rb")
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "not a plain file", str(path))
    return file


def read_plain(path: Path) -> str:
    """Read the text of a plain file.

    Raises:
        OSError: as `open_plain`.
        UnicodeDecodeError: the file is not UTF-8.
    """
    with open_plain(path) as file:
        return file.read().decode()


class FollowedLines:
    """Reader of a growing file, which returns each whole line once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def new(self) -> list[bytes]:
        """Return the lines completed since the last call; empty if the file does not exist."""
        try:
            file = open_plain(self._path)
        except OSError:
            return []
        with file:
            file.seek(self._offset)
            data = file.read()
        whole_lines = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole_lines)
        return whole_lines.splitlines()
