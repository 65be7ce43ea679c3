"""The interpreter of the tests, made reachable for users without privileges."""

import sys
from pathlib import Path

# In a mount namespace of its own: the folder $1 becomes one that anybody may enter, in which only
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
