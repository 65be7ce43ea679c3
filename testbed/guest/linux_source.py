"""Find and patch the kernel source, which is the distribution's or chosen by the user."""

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
from testbed.runfolder.files import write_json

LINUX = ("6.12", "7.2")  # with patches, each also for the versions up to the next
DISTRIBUTION_PACKAGE = f"linux-source-{LINUX[0]}"  # the package that installs a source in SOURCES
SOURCES = Path("/usr/src")
PARTS = Path(__file__).parent / "kernel_source"
UNBUILT = shutil.ignore_patterns(".git", "*.o", "*.a", "*.cmd")
VERSION_FIELDS = ("VERSION", "PATCHLEVEL", "SUBLEVEL")  # variables of the Makefile
# In the output of patch(1): a file that is followed neither by the next file nor by a success.
FAILED_FILE = re.compile(r"patching file (\S+)\n(?!patching|Hunk.*succeeded)")


@dataclass(frozen=True)
class Source:
    """Kernel source, a tarball or a folder; `fingerprint` changes with the content."""

    path: Path
    fingerprint: str

    def unpack(self, tree: Path) -> None:
        """Copy the source to `tree`, an empty folder.

        Raises:
            InputError: the source no longer exists, or is not a kernel source.
        """
        place = Place(file=self.path)
        if not self.path.exists():
            raise InputError(
                "the kernel source no longer exists",
                place=place,
                remedy="choose another with --source, or return to the default with: testbed "
                f"guest build ({_choice_file()} holds the choice)",
            )
        if self.path.is_dir():
            _check_is_kernel_source(self.path, place)
            shutil.copytree(self.path, tree, symlinks=True, ignore=UNBUILT, dirs_exist_ok=True)
            return
        command = ["tar", "xf", str(self.path), "--strip-components=1", "-C", str(tree)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise InputError(f"tar cannot unpack the file: {result.stderr.strip()}", place=place)
        _check_is_kernel_source(tree, place)

    def patch(self, tree: Path) -> None:
        """Apply the project's patches to the copy at `tree`.

        The patches are those for the version of the source, or for the closest older version.

        Raises:
            InputError: a patch does not apply.
        """
        for patch in edits(linux_version(tree)):
            command = ["patch", "-p1", "--fuzz=0", "--forward", "--batch", "-i", str(patch)]
            result = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
            if result.returncode != 0:
                raise self._does_not_apply(patch, tree, result.stdout)

    def _does_not_apply(self, patch: Path, tree: Path, output: str) -> InputError:
        failed = FAILED_FILE.search(output)
        location = f" (at {failed[1]})" if failed else ""
        return InputError(
            f"the project's {patch.name} does not apply to this source of Linux "
            f"{linux_version(tree)}{location}",
            place=Place(file=self.path),
            remedy=f"use a source of Linux {' or '.join(LINUX)}",
        )


def find_source() -> Source | None:
    """Find the chosen source, or the newest version of `LINUX` that the distribution has installed.

    Returns:
        The source; None if there is none.
    """
    chosen = chosen_source()
    if chosen is not None:
        return chosen
    for version in reversed(LINUX):
        tarballs = sorted(SOURCES.glob(f"linux-source-{version}*.tar.*"))
        if tarballs:
            newest = tarballs[-1]
            return Source(newest, _fingerprint_of_tarball(newest))
    return None


def edits(version: str | None) -> list[Path]:
    """Return the project's patches for a version of Linux, in the order of application.

    For an older or unknown version, return the patches for the oldest of `LINUX`.
    """
    folder = LINUX[0]
    for linux in LINUX:
        if _numbers(linux) <= _numbers(version or ""):
            folder = linux
    return sorted((PARTS / f"linux-{folder}").glob("*.patch"))


def chosen_source() -> Source | None:
    """Return the source that was passed to `choose`, which may no longer exist; None if unset."""
    try:
        chosen = json.loads(_choice_file().read_text())
        return Source(Path(chosen["path"]), chosen["fingerprint"])
    except (OSError, ValueError, KeyError):
        return None


def named_source(path: Path) -> Source:
    """Return the kernel source at `path`, a folder or a tarball.

    Raises:
        InputError: `path` is neither.
    """
    path = path.absolute()
    place = Place(file=path, key="--source")
    try:
        if path.is_dir():
            return Source(path, _fingerprint_of_folder(path))
        if tarfile.is_tarfile(path):
            return Source(path, _fingerprint_of_tarball(path))
    except OSError as error:
        raise InputError(f"cannot read the file: {error.strerror}", place=place) from error
    raise InputError("not a folder or tarball", place=place)


def choose(source: Source | None) -> None:
    """Use `source` from now on; None selects the distribution's source."""
    choice = _choice_file()
    if source is None:
        choice.unlink(missing_ok=True)
        return
    choice.parent.mkdir(parents=True, exist_ok=True)
    fields = {name: str(value) for name, value in asdict(source).items()}
    write_json(choice, fields)


def linux_version(tree: Path) -> str | None:
    """Return the version, such as 6.12.94, from the top-level Makefile of a kernel source."""
    try:
        text = (tree / "Makefile").read_text(errors="replace")
    except OSError:
        return None
    numbers: list[str] = []
    for field in VERSION_FIELDS:
        setting = re.search(rf"^{field} = (\d+)$", text, re.MULTILINE)
        if setting is None:
            return None
        numbers.append(setting[1])
    return ".".join(numbers)


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


def _check_is_kernel_source(tree: Path, place: Place) -> None:
    if linux_version(tree) is None or not (tree / "arch/um").is_dir():
        raise InputError(
            "not a Linux source: no kernel Makefile or no arch/um",
            place=place,
            remedy="choose the folder or tarball with the kernel's Makefile at its top",
        )


def _choice_file() -> Path:
    return cache_dir() / "kernel" / "source.json"


def _fingerprint_of_tarball(path: Path) -> str:
    stat = path.stat()
    return f"{path.name} {stat.st_size} {int(stat.st_mtime)}"


def _fingerprint_of_folder(path: Path) -> str:
    """Return a hash of the names, sizes and modification times of all files."""
    digest = hashlib.sha256()
    for folder, subfolders, files in os.walk(path):
        subfolders[:] = sorted(name for name in subfolders if name != ".git")
        for name in sorted(files):
            # For 80 000 files pathlib would take three times as long.
            stat = os.lstat(os.path.join(folder, name))  # noqa: PTH118
            line = f"{folder}/{name} {stat.st_size} {stat.st_mtime_ns}\n"
            digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()
