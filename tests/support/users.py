"""Commands of another user, for whom the interpreter of the tests and a copy of the project are
made reachable.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import testbed
from testbed.guest.kernel import Kernel

# nobody; without root's rights the tests run as a user anyway
USER = 65534 if os.geteuid() == 0 else None
PROJECT = Path(testbed.__file__).parent.parent
PARTS = ("testbed", "topologies", "workloads")

# In a separate mount namespace: the folder $1 becomes one that anybody may enter, in which only
# the others are left.
OPEN = """
set -e
closed=$1; shift
stage=$(mktemp -d /tmp/testbed-stage-XXXXXX)
mount -t tmpfs -o mode=755 tmpfs "$stage"
paths=""
while [ "$1" != -- ]; do
    mkdir -p "$stage$1"; mount --bind "$1" "$stage$1"; paths="$paths $1"; shift
done
shift
mount -t tmpfs -o mode=755 tmpfs "$closed"
for path in $paths; do mkdir -p "$path"; mount --bind "$stage$path" "$path"; done
umount -l "$stage"; rmdir "$stage"
exec "$@"
"""


def closed_to_others(path: Path) -> Path | None:
    """The topmost folder on the way to `path` that only its owner may enter."""
    ancestors = [*reversed(path.parents), path]
    return next((folder for folder in ancestors if not folder.stat().st_mode & 0o001), None)


def opened() -> list[str]:
    """The words that make the interpreter reachable for other users, if it is not."""
    interpreter = [Path(sys.prefix), Path(sys.base_prefix)]
    closed = {folder for path in interpreter if (folder := closed_to_others(path)) is not None}
    words: list[str] = []
    for folder in sorted(closed):
        inside = [str(path) for path in interpreter if path.is_relative_to(folder)]
        words += ["unshare", "--mount", "sh", "-c", OPEN, "sh", str(folder), *inside, "--"]
    return words


def as_user(
    words: Sequence[object], home: Path, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a command as `USER`."""
    who: list[str] = []
    if USER is not None:
        who = [*opened(), "setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
    return subprocess.run(
        [*who, *map(str, words)],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def copied_project(home: Path, kernel: Kernel) -> dict[str, str]:
    """Copy project and kernel to `home`, a folder of `USER`.

    Returns:
        The environment variables that make Python use the copies.
    """
    for part in PARTS:
        target = home / "project" / part
        shutil.copytree(PROJECT / part, target, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(kernel.path, home / "linux")
    return {
        "HOME": str(home),
        "PYTHONPATH": str(home / "project"),
        "TESTBED_CACHE": str(home / "cache"),
        "TESTBED_KERNEL": str(home / "linux"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
