"""A separate world for a command: what it starts, mounts and makes can be counted, whatever else
this machine does.

Its processes, network, mounts, /tmp, /run and /dev/shm are private; files elsewhere are this
machine's.
"""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

# $1...: folders that stay as they are although they lie in /tmp, /run or /dev/shm; then --, and the
# command.
SCRIPT = r"""
export INHERITED_MOUNTS=$(cut -d " " -f 1 /proc/self/mountinfo)
fd=10 folders=()
while [ "$1" != -- ]; do folders+=("$1"); eval "exec $fd<\"\$1\""; fd=$((fd + 1)); shift; done
shift
for place in /tmp /run /dev/shm; do mount -t tmpfs -o mode=1777 tmpfs "$place"; done
fd=10
for folder in "${folders[@]}"; do
    mkdir -p "$folder"
    mount --no-canonicalize --bind "/proc/self/fd/$fd" "$folder"
    eval "exec $fd<&-"
    fd=$((fd + 1))
done
mkdir -p /run/mount
ip link set lo up
"$@"
"""
HIDDEN = ("/tmp", "/run", "/dev/shm")
NAMESPACES = ("--mount", "--net", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc")


def in_a_world(command: Sequence[object], kept: Sequence[Path]) -> list[str]:
    """The words that run `command` in a world in which the folders `kept` are there, wherever they
    lie.
    """
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    hidden: set[str] = set()
    for path in kept:
        if any(path.is_relative_to(place) for place in HIDDEN):
            hidden.add(str(path))
    script = ["bash", "-ec", SCRIPT, "world", *sorted(hidden), "--", *map(str, command)]
    return ["unshare", *user, *NAMESPACES, "--", *script]


def can_make_worlds() -> bool:
    """Whether this machine lets us."""
    return (
        subprocess.run(in_a_world(["true"], []), capture_output=True, check=False).returncode == 0
    )
