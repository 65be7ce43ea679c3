"""The parent of ranks: imports torch once, waits for its orders, forks the ranks and tells how each
one ended.

usage: python -m testbed.workers.zygote RUN_FOLDER ORDERS_FIFO

One parent serves all hosts: after the fork each rank joins its host, as ``docker exec`` would (a
container's namespaces, control group, user and rights) or the network namespace and control group
of process isolation. A fork costs 0.1 s in the guest, an import of torch 5 s. With an image of the
user's there is a parent in each container, for its ranks.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import inspect
import json
import os
import select
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from testbed.core import code_bundle
from testbed.core.linux import die_with_parent

if TYPE_CHECKING:
    from testbed.plan.model import Plan

CLONE_NEWUTS, CLONE_NEWNET = 0x04000000, 0x40000000
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 24, 38
CAPABILITIES = 64  # more than any kernel has
# A quarter of what `import torch` takes (torch 2.13): operators for tensors without storage, and
# what needs them. They have to be there before anything imports torch._dynamo, as torch.optim does.
POSTPONED = (
    "torch._meta_registrations",
    "torch.distributed._meta_registrations",
    "torch.export",
    "torch.distributions",
)
SPARING = {
    "collectives"
}  # workloads that use tensors and torch.distributed, and no other part of torch
# On the virtual clock ranks begin one after another, at times that do not depend on how long it
# took them to enter their hosts; the kernel joins timers up to 50 us apart. Rank 0 begins well
# before the others, who find its store open then: a TCPStore whose first try is refused tries again
# after waits that it draws from the processor's random numbers (torch 2.13).
HEAD_START_NS, STEP_NS = 10**9, 100_000
LINUX_CAPABILITY_VERSION_3 = 0x20080522
libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Order:
    """Start one rank. What is None is left as the parent has it."""

    rank: int
    host: str
    cgroup: str | None = None  # the folder of the host's control group
    netns_pid: int | None = None  # process isolation: a process in the host's network namespace
    container_pid: int | None = None  # the first process of the host's container
    user: tuple[int, int] | None = None  # the container's user and group


def encode_orders(orders: list[Order]) -> str:
    """Orders as they go through the FIFO."""
    return json.dumps([asdict(order) for order in orders]) + "\n"


def main(run_folder: str, fifo: str) -> int:
    """Serve one run: 0 if every rank ended well."""
    die_with_parent()
    with quick_imports():
        from testbed.runfolder.folder import RunDir, append_record  # noqa: PLC0415 (what is imported here is shared by all ranks)
        from testbed.workers import rank as rank_module  # noqa: PLC0415
    run = RunDir(Path(run_folder))
    plan = run.read_plan()
    prepare_torch(plan.workers.workload)
    with (
        quick_imports(),
        contextlib.suppress(Exception),
    ):  # which the ranks will meet again, and tell
        rank_module.load_workload(plan.workers.workload)  # what it imports is shared too
    orders = _decoded(Path(fifo).read_text())
    # a collection in a rank would write to, and so copy, every page of objects that it shares with
    # us
    gc.freeze()

    def rank(order: Order, begins_ns: int = 0) -> int:
        code_bundle.remove()
        _enter(order, run.rank_log(order.rank))
        _wait_until(begins_ns)
        return rank_module.run_rank(run, plan, order.rank)

    begins_ns = _begins(plan)
    ranks = {forked(partial(rank, order, begins_ns(order.rank))): order.rank for order in orders}
    more = More(Path(fifo)) if any(change.started for change in plan.network.changes) else None
    failed = 0
    while ranks or more is not None:
        for order in more.orders(list(ranks)) if more is not None else ():
            ranks[forked(partial(rank, order))] = order.rank
        for pid, status in _ended(wait=more is None):
            if pid in ranks:
                failed += status != 0
                append_record(run.rank_exits, {"rank": ranks.pop(pid), "status": status})
    return 1 if failed else 0


def _begins(plan: Plan) -> Callable[[int], int]:
    """The time at which a rank begins, in Unix ns; one that has passed on the real clock, where
    nothing repeats.
    """
    if plan.clock == "real":
        return lambda rank: 0
    start_ns = time.time_ns() // HEAD_START_NS * HEAD_START_NS + HEAD_START_NS
    return lambda rank: start_ns + (rank > 0) * HEAD_START_NS + rank * STEP_NS


def _wait_until(time_ns: int) -> None:
    while (left := time_ns - time.time_ns()) > 0:
        time.sleep(left / 1e9)


def forked(work: Callable[[], int]) -> int:
    """Carry out `work` in a child, whose PID this is, and whose exit status is what `work`
    gives.
    """
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = work()
        except BaseException:  # the log must hold it, whatever it is
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return pid


def _ended(*, wait: bool) -> Iterator[tuple[int, int]]:
    """Children that have ended, with their exit status; if it is to `wait`, the next one."""
    if wait:
        pid, status = os.wait()
        yield pid, os.waitstatus_to_exitcode(status)
        return
    with contextlib.suppress(ChildProcessError):  # there are none
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            yield found[0], os.waitstatus_to_exitcode(found[1])


class More:
    """Orders that come while ranks run: hosts that crashed start theirs again."""

    def __init__(self, fifo: Path) -> None:
        self._fd = os.open(
            fifo, os.O_RDWR | os.O_NONBLOCK
        )  # for writing too: it never comes to its end
        self._text = ""

    def orders(self, children: Sequence[int]) -> list[Order]:
        """What has come, once something has, or one of `children` has ended."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        ends = []
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                ends.append(os.pidfd_open(pid))
                poll.register(ends[-1], select.POLLIN)
        readable = [fd for fd, _ in poll.poll()]
        for end in ends:
            os.close(end)
        if self._fd in readable:
            self._text += os.read(self._fd, 1 << 16).decode()
        *lines, self._text = self._text.split("\n")
        return [order for line in lines for order in _decoded(line)]


def _decoded(text: str) -> list[Order]:
    return [Order(**order) for order in json.loads(text)]


@contextmanager
def quick_imports() -> Iterator[None]:
    """Without collections of garbage, without a search through all modules for that of a stack
    frame, and with torch's `POSTPONED` left for whoever asks for them.

    torch 2.13 asks inspect for its operators' source lines while it is imported: 18 000 file
    states, 0.5 s in a guest.
    """
    getmodule = inspect.getmodule
    missing = {} if "torch" in sys.modules else {name: ModuleType(name) for name in POSTPONED}

    def quick(thing: Any, filename: str | None = None) -> ModuleType | None:
        if inspect.isframe(thing):
            return sys.modules.get(thing.f_globals.get("__name__", ""))
        return None if inspect.iscode(thing) else getmodule(thing, filename)

    inspect.getmodule = quick  # type: ignore[assignment]
    sys.modules.update(missing)
    gc.disable()
    try:
        yield
        if missing and "torch" in sys.modules:
            importlib.import_module("torch._prims.rng_prims")  # without it torch.Generator() raises
    finally:
        for name, stand_in in missing.items():
            _forget(name, stand_in)
        gc.freeze()  # what was imported stays: the next collection need not look at it
        gc.enable()
        inspect.getmodule = getmodule


def prepare_torch(workload: str) -> None:
    """Import what `quick_imports` has postponed, unless `workload` is one that does without."""
    if workload not in SPARING:
        with quick_imports():
            for name in POSTPONED:
                importlib.import_module(name)


def _forget(name: str, stand_in: ModuleType) -> None:
    """As if the module had never been imported."""
    sys.modules.pop(name, None)
    package, _, last = name.rpartition(".")
    if getattr(sys.modules.get(package), last, None) is stand_in:
        delattr(sys.modules[package], last)


def _enter(order: Order, log: Path) -> None:
    """Become a process of the order's host, with its output in the rank's log."""
    die_with_parent()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if order.cgroup is not None:
        Path(order.cgroup, "cgroup.procs").write_text(str(os.getpid()))
    if order.container_pid is not None:
        _join_container(order.container_pid, order.user or (0, 0))
    elif order.netns_pid is not None:
        _join(order.netns_pid, "net")
        _check(libc.unshare(CLONE_NEWUTS), "unshare")
        socket.sethostname(order.host)


def _join(pid: int, *kinds: str) -> None:
    namespaces = [os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY) for kind in kinds]
    for fd in namespaces:
        _check(libc.setns(fd, 0), "setns")
        os.close(fd)


def _join_container(pid: int, user: tuple[int, int]) -> None:
    """Go on as a process of a container without capabilities. Its PID namespace holds for children
    only: fork once.
    """
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY)
    _join(pid, "net", "ipc", "uts", "cgroup", "pid", "mnt")
    os.fchdir(root)
    os.chroot(".")
    os.close(root)
    child = os.fork()
    if child:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status < 0:
            signal.signal(-status, signal.SIG_DFL)
            os.kill(os.getpid(), -status)
        os._exit(status)
    die_with_parent()
    _check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    for capability in range(CAPABILITIES):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    os.setgroups([])
    os.setgid(user[1])
    os.setuid(user[0])
    header = struct.pack("=Ii", LINUX_CAPABILITY_VERSION_3, 0)
    _check(libc.capset(header, bytes(24)), "capset")
    os.environ["HOME"] = "/tmp"


def _check(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), what)


if __name__ == "__main__":
    exit_status = main(*sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_status)  # torch would tidy up for 0.3 s
