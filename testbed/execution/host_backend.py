"""Carry out a plan in this machine's kernel, in separate namespaces and a control group.

Everything that the run creates (interfaces, network namespaces, mounts, containers, files in /tmp,
/run and /dev/shm) exists only inside those namespaces, and ends with the first process in the
namespaces. The first process ends with its starter, even if the starter is killed. The run can
change only the run folder on this machine. The only visible trace outside is a control group, named
after the starter's note (see testbed.core.leftovers).
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from testbed.core.errors import MachineError
from testbed.core.leftovers import Kind, Note, note
from testbed.core.sandbox import CONFINE
from testbed.execution.guest_code import code_for_guests, plan_folders, with_gpus
from testbed.execution.requirements import require_host_runs, require_packages, require_programs
from testbed.execution.supervise import Progress
from testbed.plan.model import Plan
from testbed.runfolder.folder import RunDir

CGROUPS = Path("/sys/fs/cgroup")
CONTROLLERS = ("cpu", "io", "memory", "pids")
LONGEST_END_S = 10.0
END_POLL_S = 0.005
CPU_FIELDS = 8  # of /proc/stat: user nice system idle iowait irq softirq steal (proc(5))
IDLE_FIELDS = (3, 4)
OWN_FOLDERS = ("/tmp", "/run", "/dev/shm")  # the run has separate, empty ones
# Writable folders of a run besides the run folder; all of them are private to the run.
KEPT_WRITABLE = (*OWN_FOLDERS, "/etc", "/proc", "/sys/fs/cgroup")
NAMESPACES = (
    "unshare",
    "--mount",
    "--net",
    "--uts",
    "--ipc",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
)
# The same environment as in a guest, without the caller's variables.
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
}
# $1: the control group; $2...: folders below OWN_FOLDERS that the command needs; then -- and the
# command. The first process of the namespaces waits for the command and for orphaned processes.
# /etc is a copy-on-write layer (Docker's daemon writes a key there). AppArmor is hidden, because
# Docker would load a profile.
INSIDE = r"""
set -e
echo 0 >"$1/cgroup.procs"
shift
exec unshare --cgroup -- bash -ec '
    fd=10 folders=()
    while [ "$1" != -- ]; do folders+=("$1"); eval "exec $fd<\"\$1\""; fd=$((fd + 1)); shift; done
    shift
    for folder in /run /tmp /dev/shm; do mount -t tmpfs -o mode=1777 tmpfs $folder; done
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
    layers=lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work
    mount -t overlay overlay -o $layers /etc || true
    umount --lazy /sys/kernel/security 2>/dev/null || true
    status=0
    "$@" || status=$?
    exit $status
' host-run "$@"
"""


class HostBackend:
    """Backend that carries out plans in this machine's kernel."""

    subject = "the run"

    def check(self, plan: Plan) -> None:
        """Check the packages, rights, kernel features and programs that the plan needs.

        Raises:
            MachineError: a requirement is missing.
        """
        if any(host.cpu is not None for host in plan.network.hosts):
            raise MachineError(
                "only a guest can model the CPU of hosts\n"
                "  remove cpu from the topology, or leave out --where here"
            )
        require_packages()
        require_programs(plan.workers.isolation, plan.capture)
        require_host_runs()

    def prepare(self, progress: Progress) -> None:
        """Do nothing, because the kernel exists already."""

    def heal(self) -> str:
        """Do nothing: the run uses nothing of the cache."""
        return ""

    def kernel_version(self) -> str:
        """Return the version of this machine's kernel."""
        return f"Linux {platform.release()}"

    @contextmanager
    def start(self, plan: Plan, run: RunDir, progress: Progress) -> Iterator[HostRun]:
        """Carry out the plan within the block.

        Args:
            plan: the plan of the run.
            run: the run folder.
            progress: the display.

        Raises:
            MachineError: control groups cannot be created.
        """
        code = code_for_guests(lambda: progress.stage("modules"), bundled=False)
        code = with_gpus(code, plan, lambda: progress.stage("gpus"))
        command = [*code.python, "testbed.execution.inside", str(run.path)]
        readable = [*code.readable, *plan_folders(plan)]
        environment = {**ENVIRONMENT, **code.environment}
        with (
            note(Kind.RUN, run.path) as written,
            _control_group(written) as group,
            run.console.open("ab") as out,
        ):
            progress.stage("boot")
            process = subprocess.Popen(
                _confined(command, group, run.path, readable),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                yield HostRun(process)
            finally:
                process.kill()
                process.wait()

    @staticmethod
    def clean_up(left: Note) -> None:
        """Remove the control group that a killed process left behind, and end its processes."""
        with suppress(OSError):  # another process has been put into the group
            _remove_group(_group_of(left))


@dataclass
class HostRun:
    """A run in this machine's kernel."""

    process: subprocess.Popen[bytes]

    def status(self) -> int | None:
        """Return the exit status; None while the run is in progress."""
        return self.process.poll()

    def clock(self) -> None:
        """Return None, because this machine's clock is real."""

    def cpu_seconds(self) -> float:
        """Return the busy time of this machine's CPUs in s, by any process.

        The result is the mean over the CPUs; 0 once the run has ended.
        """
        if self.process.poll() is not None:
            return 0.0
        all_cpus, _, _each_cpu = Path("/proc/stat").read_text().partition("\n")
        _name, *fields = all_cpus.split()
        ticks = [int(field) for field in fields[:CPU_FIELDS]]
        idle = sum(ticks[number] for number in IDLE_FIELDS)
        busy = sum(ticks) - idle
        cpus = os.cpu_count() or 1
        return busy / os.sysconf("SC_CLK_TCK") / cpus


def _confined(
    command: Sequence[str], group: Path, writable: Path, readable: Sequence[Path]
) -> list[str]:
    """Return the command line that runs a command in new namespaces and in the control group.

    Args:
        command: the command and its arguments.
        group: the folder of the control group.
        writable: the only folder shared with this machine that the command can change.
        readable: folders that the command needs and that may lie below `OWN_FOLDERS`.
    """
    hidden = set()
    for folder in (writable, *readable):
        if any(folder.is_relative_to(own_folder) for own_folder in OWN_FOLDERS):
            hidden.add(str(folder))
    first_process = "1"
    shm_bytes = "0"  # /dev/shm is private to the run already
    sandbox = [sys.executable, "-IS", str(CONFINE), first_process, shm_bytes]
    sandbox += [*KEPT_WRITABLE, str(writable), "--"]
    inside = ["bash", "-c", INSIDE, "host-run", str(group), *sorted(hidden), "--"]
    starter = ["setpriv", "--pdeathsig", "KILL", "--", *NAMESPACES, "--"]
    return [*starter, *inside, *sandbox, *command]


def _group_of(written: Note) -> Path:
    return CGROUPS / f"testbed-{written.name}"


@contextmanager
def _control_group(written: Note) -> Iterator[Path]:
    """Create a control group below the root, with the controllers that limit hosts."""
    group = _group_of(written)
    switch = CGROUPS / "cgroup.subtree_control"
    try:
        enabled = switch.read_text().split()
        missing = [name for name in CONTROLLERS if name not in enabled]
        if missing:
            switch.write_text(" ".join(f"+{name}" for name in missing))
        group.mkdir()
    except OSError as error:
        raise MachineError(
            f"cannot create control groups in {CGROUPS}: {error.strerror}"
        ) from error
    try:
        yield group
    finally:
        _remove_group(group)
        with suppress(OSError):  # another process uses the controllers by now
            if missing:
                switch.write_text(" ".join(f"-{name}" for name in missing))


def _remove_group(group: Path) -> None:
    """End the processes in a control group, and remove the group with its subgroups."""
    if not group.is_dir():
        return
    (group / "cgroup.kill").write_text("1")
    deadline = time.monotonic() + LONGEST_END_S
    events = group / "cgroup.events"
    while "populated 1" in events.read_text() and time.monotonic() < deadline:
        time.sleep(END_POLL_S)
    for below in sorted(group.rglob("*/"), reverse=True):
        below.rmdir()
    group.rmdir()
