"""Copy files and folders between this machine and the hosts of a deployment, as tar archives."""

from __future__ import annotations

import io
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from testbed.core.errors import InputError, RunError
from testbed.deployments.client import call, exec_request, known_nodes
from testbed.deployments.folder import Deployment
from testbed.deployments.input_source import FileSource

# Unpack the archive on standard input next to the target, then move it there: arguments are the
# target and the name in the archive. An existing folder receives the copy, as with cp.
UNPACK = """
target=$1
[ -d "$target" ] && target=${target%/}/$2
folder=$(dirname -- "$target")
[ -d "$folder" ] || { echo "no folder $folder" >&2; exit 1; }
new=$(mktemp -d -p "$folder" .testbed-cp-XXXXXX) || exit 1
tar -x -f - -C "$new" && if [ -d "$new/$2" ] && [ -d "$target" ]; then
    cp -a "$new/$2/." "$target/"
else
    mv -fT -- "$new/$2" "$target"
fi
status=$?
rm -rf "$new"
exit $status
"""
PACK = 'cd -- "$1" && exec tar -c -f - -- "$2"'


@dataclass(frozen=True)
class CopyEnd:
    """One end of a copy: a path on a host, or on this machine if `host` is empty."""

    host: str
    path: str

    def __str__(self) -> str:
        return f"{self.host}:{self.path}" if self.host else self.path


def parse_end(text: str, deployment: Deployment) -> CopyEnd:
    """Read ``HOST:PATH``, or a path on this machine.

    Raises:
        InputError: the host does not exist, or its path is empty.
    """
    host, colon, path = text.partition(":")
    if not colon or "/" in host:
        return CopyEnd("", text)
    if not path:
        raise InputError(f"{text!r} has no path", remedy="use the form HOST:PATH")
    if host not in known_nodes(deployment):
        exec_request(deployment, host, ["tar"])  # raises, and suggests the nearest name
    return CopyEnd(host, path)


def copy(deployment: Deployment, source: CopyEnd, target: CopyEnd) -> None:
    """Copy a file or a folder; an existing folder `target` receives the copy.

    Raises:
        InputError: not exactly one end is a host, or the source does not exist on this machine.
        RunError: the copy failed.
        GuestLost: the deployment has ended.
    """
    if bool(source.host) == bool(target.host):
        remedy = "write exactly one of the two as HOST:PATH"
        raise InputError(f"cannot copy from {source} to {target}", remedy=remedy)
    name = _name(source)
    with tempfile.TemporaryFile() as archive:
        descriptor = archive.fileno()
        if target.host:
            _pack_here(source, descriptor)
            archive.seek(0)
            words = ["sh", "-c", UNPACK, "sh", target.path, name]
            _call(deployment, target.host, words, FileSource(descriptor), io.BytesIO())
        else:
            folder = PurePosixPath(source.path).parent
            words = ["sh", "-c", PACK, "sh", str(folder), name]
            with open(descriptor, "wb", closefd=False) as output:
                _call(deployment, source.host, words, None, output)
            archive.seek(0)
            _unpack_here(descriptor, name, target)


def _name(source: CopyEnd) -> str:
    """Return the name of the copied file or folder.

    Raises:
        InputError: the path has no name.
    """
    name = PurePosixPath(source.path).name
    if name in ("", ".."):
        raise InputError(f"{source} has no name", remedy="name a file or a folder")
    return name


def _pack_here(source: CopyEnd, archive: int) -> None:
    path = Path(source.path)
    if not path.exists():
        raise InputError(f"{source}: no such file or folder")
    _tar(["tar", "-c", "-f", "-", "-C", str(path.absolute().parent), "--", _name(source)], archive)


def _unpack_here(archive: int, name: str, target: CopyEnd) -> None:
    words = ["sh", "-c", UNPACK, "sh", target.path, name]
    done = subprocess.run(words, stdin=archive, capture_output=True, text=True, check=False)
    _check(done.returncode, done.stderr)


def _tar(words: Sequence[str], archive: int) -> None:
    if shutil.which(words[0]) is None:
        raise RunError("tar is not installed")
    done = subprocess.run(words, stdout=archive, stderr=subprocess.PIPE, text=True, check=False)
    _check(done.returncode, done.stderr)


def _call(
    deployment: Deployment,
    host: str,
    words: Sequence[str],
    source: FileSource | None,
    out: io.BytesIO | io.BufferedWriter,
) -> None:
    request = exec_request(deployment, host, words, has_input=source is not None)
    err = io.BytesIO()
    status = call(deployment, request, out, err, source)
    _check(status, err.getvalue().decode(errors="replace"))


def _check(status: int, message: str) -> None:
    """Raise RunError unless the exit status is 0."""
    if status != 0:
        raise RunError(f"the copy failed: {message.strip() or f'exit status {status}'}")
