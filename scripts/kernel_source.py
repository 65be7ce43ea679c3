#!/usr/bin/env python3
"""Download the source of Linux from which the guest kernel can be built, and print its path.

usage: scripts/kernel_source.py [-o FOLDER]     (default: ~/.cache/testbed)

The tarball's SHA-256 is compared with the checksum in the published `sha256sums.asc`, which detects
damaged downloads; HTTPS authenticates both files. TESTBED_KERNEL_SOURCE_SHA256 sets another
checksum, TESTBED_KERNEL_SOURCE_URL another download folder, such as a mirror. An earlier download
is checked again and reused.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import sys
import urllib.request
from pathlib import Path

FOLDER = "https://cdn.kernel.org/pub/linux/kernel/v6.x"
TARBALL = "linux-6.12.117.tar.xz"  # the project's edits apply to it
CHECKSUMS = "sha256sums.asc"
LONGEST_SILENCE_S = 60


class SourceError(Exception):
    """The source is not available."""


def checksum_of(name: str, checksums: str) -> str:
    """Return the SHA-256 of a file from the text of `sha256sums.asc`.

    Raises:
        SourceError: The file is not listed.
    """
    line = re.search(rf"^([0-9a-f]{{64}})  {re.escape(name)}$", checksums, re.MULTILINE)
    if line is None:
        raise SourceError(f"{CHECKSUMS} does not name {name}")
    return line[1]


def download(folder_url: str, name: str, checksum: str | None, folder: Path) -> Path:
    """Download a tarball unless `folder` has the file, and return the path.

    Args:
        folder_url: URL of the folder with the tarball.
        name: File name of the tarball.
        checksum: SHA-256 in hexadecimal digits; None: the checksum published in the same folder.
        folder: Local folder for the tarball.

    Raises:
        SourceError: The download failed, or the checksum differs; no file is kept.
    """
    tarball = folder / name
    try:
        if checksum is None:
            checksum = checksum_of(name, _read(f"{folder_url}/{CHECKSUMS}"))
        if tarball.is_file() and _sha256(tarball) == checksum:
            return tarball
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"{name}.{os.getpid()}.partial"
        try:
            _fetch(f"{folder_url}/{name}", partial)
            received = _sha256(partial)
            if received != checksum:
                raise SourceError(
                    f"{folder_url}/{name} has the SHA-256 {received}, not {checksum}; "
                    "it was removed"
                )
            partial.replace(tarball)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise SourceError(f"{folder_url}/{name} cannot be downloaded: {error}") from error
    return tarball


def _read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=LONGEST_SILENCE_S) as source:
        content: bytes = source.read()
    return content.decode()


def _fetch(url: str, path: Path) -> None:
    with urllib.request.urlopen(url, timeout=LONGEST_SILENCE_S) as source, path.open("wb") as file:
        shutil.copyfileobj(source, file)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path:
    """Return the cache folder of testbed, as testbed.core.paths does."""
    own = os.environ.get("TESTBED_CACHE")
    if own:
        return Path(own)
    user_cache = os.environ.get("XDG_CACHE_HOME")
    if user_cache:
        return Path(user_cache, "testbed")
    return Path.home() / ".cache/testbed"


def main() -> int:
    """Download the tarball and print its path; return exit status 3 if not available."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("-o", "--out", type=Path, default=cache_folder(), help="folder")
    folder: Path = parser.parse_args().out
    url = os.environ.get("TESTBED_KERNEL_SOURCE_URL", FOLDER)
    print(f"kernel source: {url}/{TARBALL}, 140 MB", file=sys.stderr)
    try:
        print(download(url, TARBALL, os.environ.get("TESTBED_KERNEL_SOURCE_SHA256"), folder))
    except SourceError as error:
        print(f"kernel source: {error}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
