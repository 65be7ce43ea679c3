"""Move a forked process into a host: namespaces, control group, user, rights, log."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import suppress
from pathlib import Path

from testbed.core import linux
from testbed.workers.orders import HostView, Order

SHM = "/dev/shm"
CONTAINER_NAMESPACES = ("net", "ipc", "uts", "cgroup", "pid", "mnt")


def enter_host(order: Order, log: Path) -> None:
    """Move this process into the order's host, with the process's output in `log`.

    Raises:
        OSError: the host has ended, or the kernel refuses a call.
    """
    linux.die_with_parent()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if order.cgroup is not None:
        Path(order.cgroup, "cgroup.procs").write_text(str(os.getpid()))

    if order.container_pid is not None:
        _enter_container(order.container_pid, order.user or (0, 0))
    elif order.netns_pid is not None:
        _join_namespaces(order.netns_pid, ("net",))
        linux.unshare(linux.CLONE_NEWUTS)
        socket.sethostname(order.host)
        if order.shm is not None or order.view is not None:
            linux.unshare(linux.CLONE_NEWNS)
            linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
        if order.shm is not None:
            linux.mount(order.shm, SHM, None, linux.MS_BIND)
        if order.view is not None:
            _limit_run_folder(order.view)

    os.setsid()  # a script may signal its process group


def _limit_run_folder(view: HostView) -> None:
    """Let this process and its children write to their own part of the run folder only."""
    linux.mount(view.run_folder, view.run_folder, None, linux.MS_BIND)
    linux.set_read_only(view.run_folder, True)
    linux.mount(view.pipes, view.records, None, linux.MS_BIND)
    linux.set_read_only(view.records, True)
    if view.work is not None:
        linux.mount(view.work, view.work, None, linux.MS_BIND)
        linux.set_read_only(view.work, False)


def _join_namespaces(pid: int, kinds: tuple[str, ...]) -> None:
    """Join namespaces of process `pid`; all are opened before the first is joined."""
    namespaces = [os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY) for kind in kinds]

    for fd in namespaces:
        linux.setns(fd)
        os.close(fd)


def _enter_container(pid: int, user: tuple[int, int]) -> None:
    """Continue as a process of a container, without capabilities.

    A PID namespace applies only to children: this process forks once, and the parent exits with the
    child's status.

    Args:
        pid: a process of the container.
        user: the user and group to become.
    """
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY)
    _join_namespaces(pid, CONTAINER_NAMESPACES)
    os.fchdir(root)
    os.chroot(".")
    os.close(root)
    child = os.fork()
    if child:
        _end_as(child)

    linux.die_with_parent()
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    linux.drop_bounding_set()
    user_id, group_id = user
    os.setgroups([])
    os.setgid(group_id)
    os.setuid(user_id)
    linux.capset_none()
    os.environ["HOME"] = "/tmp"


def _end_as(child: int) -> None:
    """Wait for a child, and end this process with the child's exit status or signal."""
    _pid, wait_status = os.waitpid(child, 0)
    status = os.waitstatus_to_exitcode(wait_status)
    if status < 0:
        with suppress(OSError):  # SIGKILL, as by the memory limit, has no handler
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)

    os._exit(status)
