"""Run one command in this machine's own kernel, in namespaces and a control group of its own.

    with start_here(command, writable=folder, console=log) as running:
        while running.status() is None:
            running.cpu_seconds()

What the command makes (interfaces, network namespaces, mounts, containers, what lies in /tmp, /run
and /dev/shm) exists only inside those namespaces, and ends with the first process in them. That
ends with its starter, however that ends. Of the files of this machine only the run folder can be
changed. A control group, named after the run, is all that others can see; one that a killed starter
left is removed by `remove_stale`, by its name.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from testbed.core.errors import MachineError
from testbed.core.paths import cache_dir
from testbed.core.sandbox import CONFINE

CGROUPS = Path("/sys/fs/cgroup")
CONTROLLERS = ("cpu", "io", "memory", "pids")
LONGEST_END_S = 10.0
CPU_FIELDS = 8  # of /proc/stat: user nice system idle iowait irq softirq steal (proc(5))
IDLE_FIELDS = (3, 4)
OWN = ("/tmp", "/run", "/dev/shm")  # a run has its own, empty ones
KEPT_WRITABLE = (*OWN, "/etc", "/proc", "/sys/fs/cgroup")  # for the run, and its own
# $1: the control group; $2...: folders below those of OWN that the command needs; then --, and the
# command. The first process of the namespaces waits for the command, and for whatever loses its
# parent. /etc is a copy-on-write layer (Docker's daemon leaves a key there), and AppArmor is
# hidden, into which it would load a profile.
INSIDE = r"""
set -e
echo 0 >"$1/cgroup.procs"
shift
exec unshare --cgroup -- bash -ec '
    fd=10 folders=()
    while [ "$1" != -- ]; do folders+=("$1"); eval "exec $fd<\"\$1\""; fd=$((fd + 1)); shift; done
    shift
    for place in /run /tmp /dev/shm; do mount -t tmpfs -o mode=1777 tmpfs $place; done
    fd=10
    for folder in "${folders[@]}"; do
        mkdir -p "$folder"
        mount --no-canonicalize --bind "/proc/self/fd/$fd" "$folder"
        eval "exec $fd<&-"
        fd=$((fd + 1))
    done
    umount --lazy /sys/fs/cgroup
    mount -t cgroup2 none /sys/fs/cgroup
    mkdir -m 755 -p /run/etc/upper /run/etc/work
    mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work /etc || true
    umount --lazy /sys/kernel/security 2>/dev/null || true
    status=0
    "$@" || status=$?
    exit $status
' here "$@"
"""


@dataclass
class Running:
    """A command that runs here."""

    process: subprocess.Popen[bytes]

    def status(self) -> int | None:
        """None while it runs; else its exit status."""
        return self.process.poll()

    def clock(self) -> None:
        """This machine's clock, of which there is nothing to tell."""

    def cpu_seconds(self) -> float:
        """Time for which this machine's CPUs were busy, on average over the CPUs, whoever kept them
        so.
        """
        if self.process.poll() is not None:
            return 0.0
        fields = [
            int(value) for value in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
        ][:CPU_FIELDS]
        busy = sum(value for number, value in enumerate(fields) if number not in IDLE_FIELDS)
        return busy / os.sysconf("SC_CLK_TCK") / (os.cpu_count() or 1)


@contextmanager
def start_here(
    command: Sequence[str],
    *,
    writable: Path,
    console: Path,
    readable: Sequence[Path],
    environment: Mapping[str, str],
) -> Iterator[Running]:
    """Run `command` as root of this kernel.

    Args:
        writable: the folder that the command writes to, noted for `remove_stale`.
        console: file for what the command prints.
        readable: folders that it needs although they lie below /tmp or /run, of which it has its
            own.

    Raises:
        MachineError: control groups cannot be made.
    """
    folder = cache_dir() / "here" / f"{os.getpid()}-{secrets.token_hex(3)}"
    folder.mkdir(parents=True)
    try:
        (folder / "writable").symlink_to(writable)
        group = CGROUPS / f"testbed-{folder.name}"
        with _control_group(group), console.open("ab") as out:
            process = subprocess.Popen(
                _words(group, command, writable, readable),
                env={**_environment(), **environment},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                yield Running(process)
            finally:
                process.kill()
                process.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _environment() -> dict[str, str]:
    """Variables as a guest has them: none of the caller's."""
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {"PATH": path, "HOME": "/tmp", "LANG": "C.UTF-8"}


def _words(
    group: Path, command: Sequence[str], writable: Path, readable: Sequence[Path]
) -> list[str]:
    namespaces = [
        "unshare",
        "--mount",
        "--net",
        "--uts",
        "--ipc",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ]
    places = [writable, *readable]
    hidden = sorted(
        {str(place) for place in places if any(place.is_relative_to(own) for own in OWN)}
    )
    first_process, memory = "1", "0"  # see confine.py
    confined = [
        sys.executable,
        "-IS",
        str(CONFINE),
        first_process,
        memory,
        *KEPT_WRITABLE,
        str(writable),
        "--",
    ]
    inside = ["bash", "-c", INSIDE, "here", str(group), *hidden, "--", *confined, *command]
    return ["setpriv", "--pdeathsig", "KILL", "--", *namespaces, "--", *inside]


@contextmanager
def _control_group(group: Path) -> Iterator[None]:
    """The group, below the root of this machine's; with the controllers that its hosts are limited
    by.
    """
    switch = CGROUPS / "cgroup.subtree_control"
    try:
        lacking = [name for name in CONTROLLERS if name not in switch.read_text().split()]
        if lacking:
            switch.write_text(" ".join(f"+{name}" for name in lacking))
        group.mkdir()
    except OSError as error:
        raise MachineError(
            f"control groups cannot be made in {CGROUPS}: {error.strerror}"
        ) from error
    try:
        yield
    finally:
        _remove_group(group)
        with suppress(OSError):  # somebody else has come to use them
            if lacking:
                switch.write_text(" ".join(f"-{name}" for name in lacking))


def _remove_group(group: Path) -> None:
    """End what is in the group, and remove it with those below it."""
    if not group.is_dir():
        return
    (group / "cgroup.kill").write_text("1")
    deadline = time.monotonic() + LONGEST_END_S
    while "populated 1" in (group / "cgroup.events").read_text() and time.monotonic() < deadline:
        time.sleep(0.005)
    for below in sorted(group.rglob("*/"), reverse=True):
        below.rmdir()
    group.rmdir()


def remove_stale() -> list[Path]:
    """Remove what runs whose starter is gone left here, and return their run folders; nothing if
    this is not root.
    """
    runs = cache_dir() / "here"
    left: list[Path] = []
    if os.geteuid() != 0:
        return left
    for folder in runs.iterdir() if runs.is_dir() else ():
        starter = folder.name.partition("-")[0]
        if starter.isdigit() and not Path("/proc", starter).exists():
            with suppress(OSError):  # others have put something into the group
                _remove_group(CGROUPS / f"testbed-{folder.name}")
            writable = folder / "writable"
            if writable.is_symlink():
                left.append(writable.readlink())
            shutil.rmtree(folder, ignore_errors=True)
    return left
