"""Kernel source: the distribution's, or a folder or tarball that the user has named; and the
project's edits to it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tarfile
from dataclasses import asdict, dataclass
from pathlib import Path

from testbed.core.errors import InputError, Place
from testbed.core.paths import cache_dir

LINUX = ("6.12", "7.2")  # the versions that there are edits for: from each on, up to the next
SOURCES = Path("/usr/src")
PARTS = Path(__file__).parent / "kernel_source"
UNBUILT = shutil.ignore_patterns(".git", "*.o", "*.a", "*.cmd")


@dataclass(frozen=True)
class Source:
    """A tarball or a folder; `fingerprint` changes when its content does."""

    path: Path
    fingerprint: str

    def unpack(self, tree: Path) -> None:
        """Put a copy at `tree`, an empty folder.

        Raises:
            InputError: it is gone, or it is no kernel source.
        """
        place = Place(file=self.path)
        if not self.path.exists():
            raise InputError(
                "the kernel source is not there any more",
                place=place,
                remedy=f"name another with --source, or forget it: testbed guest build ({_choice()} remembers it)",
            )
        if self.path.is_dir():
            _check(self.path, place)
            shutil.copytree(self.path, tree, symlinks=True, ignore=UNBUILT, dirs_exist_ok=True)
        else:
            words = ["tar", "xf", str(self.path), "--strip-components=1", "-C", str(tree)]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise InputError(f"tar cannot unpack it: {done.stderr.strip()}", place=place)
            _check(tree, place)

    def patch(self, tree: Path) -> None:
        """Apply the project's edits to the copy at `tree`: those for its version, or for the next
        older one.

        Raises:
            InputError: one does not apply.
        """
        for patch in edits(linux_version(tree)):
            words = ["patch", "-p1", "--fuzz=0", "--forward", "--batch", "-i", str(patch)]
            done = subprocess.run(words, cwd=tree, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                where = re.search(r"patching file (\S+)\n(?!patching|Hunk.*succeeded)", done.stdout)
                raise InputError(
                    f"the project's {patch.name} does not apply to this source, which is Linux {linux_version(tree)}"
                    + (f" (at {where[1]})" if where else ""),
                    place=Place(file=self.path),
                    remedy=f"the edits are for Linux {' and '.join(LINUX)}: name a source of such a version",
                )


def find_source() -> Source | None:
    """The source that was chosen, else the newest of `LINUX` that the distribution has put here, or
    None.
    """
    if chosen := chosen_source():
        return chosen
    for version in reversed(LINUX):
        for tarball in sorted(SOURCES.glob(f"linux-source-{version}*.tar.*"), reverse=True):
            return Source(tarball, _of_tarball(tarball))
    return None


def edits(version: str | None) -> list[Path]:
    """The project's edits for Linux `version`, in their order; those of the oldest in `LINUX` for
    one that is older.
    """
    fit = [linux for linux in LINUX if _numbers(linux) <= _numbers(version or "")]
    return sorted((PARTS / f"linux-{fit[-1] if fit else LINUX[0]}").glob("*.patch"))


def chosen_source() -> Source | None:
    """The source that was given to `choose`, which may be gone, or None."""
    try:
        chosen = json.loads(_choice().read_text())
        return Source(Path(chosen["path"]), chosen["fingerprint"])
    except (OSError, ValueError, KeyError):
        return None


def named_source(path: Path) -> Source:
    """The source at `path`, a folder or a tarball.

    Raises:
        InputError: it is neither.
    """
    path = path.absolute()
    place = Place(file=path, key="--source")
    try:
        if path.is_dir():
            return Source(path, _of_folder(path))
        if tarfile.is_tarfile(path):
            return Source(path, _of_tarball(path))
    except OSError as error:
        raise InputError(f"it cannot be read: {error.strerror}", place=place) from error
    raise InputError("it is no folder and no tarball", place=place)


def choose(source: Source | None) -> None:
    """Use `source` from now on; None: the distribution's."""
    choice = _choice()
    if source is None:
        choice.unlink(missing_ok=True)
        return
    choice.parent.mkdir(parents=True, exist_ok=True)
    new = choice.with_name(f"{choice.name}.{os.getpid()}")
    new.write_text(json.dumps({name: str(value) for name, value in asdict(source).items()}) + "\n")
    new.replace(choice)


def linux_version(tree: Path) -> str | None:
    """As the Makefile at the top of a kernel's source has it, such as 6.12.94."""
    try:
        text = (tree / "Makefile").read_text(errors="replace")
    except OSError:
        return None
    found = [
        re.search(rf"^{name} = (\d+)$", text, re.MULTILINE)
        for name in ("VERSION", "PATCHLEVEL", "SUBLEVEL")
    ]
    return ".".join(match[1] for match in found if match) if all(found) else None


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


def _check(tree: Path, place: Place) -> None:
    if linux_version(tree) is None or not (tree / "arch/um").is_dir():
        raise InputError(
            "this is no source of Linux: it has no Makefile of a kernel, or no arch/um",
            place=place,
            remedy="name the folder or tarball whose top holds the kernel's Makefile",
        )


def _choice() -> Path:
    return cache_dir() / "kernel" / "source.json"


def _of_tarball(path: Path) -> str:
    stat = path.stat()
    return f"{path.name} {stat.st_size} {int(stat.st_mtime)}"


def _of_folder(path: Path) -> str:
    """Of the names, sizes and times of its files."""
    digest = hashlib.sha256()
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if name != ".git")
        for name in sorted(files):
            stat = os.lstat(os.path.join(folder, name))  # noqa: PTH118 (80 000 files: three times as fast)
            digest.update(
                f"{folder}/{name} {stat.st_size} {stat.st_mtime_ns}\n".encode(
                    errors="surrogateescape"
                )
            )
    return digest.hexdigest()
