"""Read and write files of a run folder, some of which a host of the run may have written."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from pydantic import BaseModel

MOST_BYTES = 64 * 2**20  # of a document; the largest are plans of thousands of hosts
MOST_AT_A_TIME = 16 * 2**20  # of a growing file
LONGEST_END = 2**20  # bytes at the end of a log that are read
NEW = ".new"  # ending of files that are about to replace others


def replace_text(path: Path, text: str, *, durably: bool = False) -> None:
    """Write a file so that a reader sees either the old file or the complete new file.

    A symbolic link at `path` is replaced, not followed.

    Args:
        path: the file.
        text: its content.
        durably: whether the same holds after a crash of the machine, which takes time on the disk.

    Raises:
        OSError: the file cannot be written; the old file is unchanged.
    """
    replace_bytes(path, text.encode(), durably=durably)


def replace_bytes(path: Path, content: bytes, *, durably: bool = False) -> None:
    """Write a file as `replace_text` does.

    Raises:
        OSError: the file cannot be written; the old file is unchanged.
    """
    with replacing(path, durably=durably) as new, new.open("xb") as file:
        file.write(content)


@contextmanager
def replacing(path: Path, *, durably: bool = False) -> Iterator[Path]:
    """Provide a path for a new file, which replaces `path` once the block has written the file.

    If the block fails, `path` keeps its old content. Several processes may replace a file at the
    same time.

    Args:
        path: the file.
        durably: as of `replace_text`.
    """
    token = secrets.token_hex(4)
    new = path.with_name(f"{path.name}.{os.getpid()}-{token}{NEW}")
    try:
        yield new
        if durably:
            sync(new)
        new.replace(path)
    except BaseException:
        with suppress(OSError):
            new.unlink(missing_ok=True)
        raise
    if durably:
        sync(path.parent)


@contextmanager
def replacing_alone(folder: Path) -> Iterator[None]:
    """Replace files in a folder within the block while no other process does.

    Files that a killed process was writing are removed first. Where a folder cannot be locked, as
    on some network file systems, the block runs without the lock.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            for left in folder.glob(f"*{NEW}"):
                left.unlink(missing_ok=True)
        yield
    finally:
        os.close(descriptor)


def write_json(path: Path, document: object, *, durably: bool = False) -> None:
    """Write a document as indented JSON, as `replace_text` writes texts.

    Args:
        path: the file.
        document: a model, which is written with the aliases of its fields, or what JSON consists
            of.
        durably: as of `replace_text`.

    Raises:
        OSError: the file cannot be written; the old file is unchanged.
    """
    if isinstance(document, BaseModel):
        document = document.model_dump(mode="json", by_alias=True)
    replace_text(path, json.dumps(document, indent=2) + "\n", durably=durably)


def sync(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on the disk.

    Raises:
        OSError: the data cannot be written, or the path cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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


def read_plain(path: Path, *, most_bytes: int = MOST_BYTES) -> str:
    """Read the text of a plain file.

    Args:
        path: the file.
        most_bytes: largest size of the file; a damaged or hostile file may have any size.

    Raises:
        OSError: as `open_plain`, or the file is larger.
        UnicodeDecodeError: the file is not UTF-8.
    """
    with open_plain(path) as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise OSError(errno.EINVAL, f"larger than {most_bytes // 2**20} MiB", str(path))
    return content.decode()


def last_lines(path: Path, lines: int) -> str:
    """Return the last lines of a plain file of any size.

    Raises:
        OSError: as `open_plain`.
    """
    with open_plain(path) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - LONGEST_END))
        text = file.read(LONGEST_END).decode(errors="replace")
    return "\n".join(text.splitlines()[-lines:])


class FollowedFile:
    """Reader of a growing file, which returns each complete part once."""

    def __init__(
        self, path: Path, *, ends: Sequence[bytes] = (b"\n",), most_bytes: int = MOST_AT_A_TIME
    ) -> None:
        r"""Follow a file from its beginning.

        Args:
            path: the file, which need not exist yet.
            ends: what ends a part, such as ``\n``.
            most_bytes: number of bytes to read at a time. A part that is longer is left out.
        """
        self._path = path
        self._ends = ends
        self._most_bytes = most_bytes
        self._offset = 0
        self._rest = b""

    def new(self) -> bytes:
        """Return the parts completed since the last call; empty if the file does not exist."""
        try:
            file = open_plain(self._path)
        except OSError:
            return b""
        with file:
            file.seek(self._offset)
            data = file.read(self._most_bytes)

        self._offset += len(data)
        data = self._rest + data
        end = max(_end_of_last(data, mark) for mark in self._ends)
        self._rest = data[end:]
        if len(self._rest) > MOST_AT_A_TIME:
            self._rest = b""
        return data[:end]

    def new_lines(self) -> list[bytes]:
        """Return the lines completed since the last call, without their ends."""
        return self.new().splitlines()

    def rest(self) -> bytes:
        """Return the last part, if nothing has ended it, and forget it."""
        rest, self._rest = self._rest, b""
        return rest


def _end_of_last(data: bytes, mark: bytes) -> int:
    """Return the position after the last `mark` in `data`; 0 if there is none."""
    begin = data.rfind(mark)
    return 0 if begin < 0 else begin + len(mark)
