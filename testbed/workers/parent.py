"""The parent of ranks: imports torch once, waits for its orders, forks the ranks and tells how each one ended.

usage: python -m testbed.workers.parent RUN_FOLDER ORDERS_FIFO

In a container it forks the ranks of that host. In process isolation one parent serves all hosts: each rank joins its
host's namespaces and control group after the fork. A fork costs 0.07 s in the guest, an import of torch 2.4 s.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import socket
import sys
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path

CLONE_NEWUTS, CLONE_NEWNET = 0x04000000, 0x40000000


@dataclass(frozen=True)
class Order:
    """Start one rank; in process isolation with the host's namespace, name and control group."""

    rank: int
    host: str
    netns_pid: int | None = None
    cgroup: str | None = None


def encode_orders(orders: list[Order]) -> str:
    """Orders as they go through the FIFO."""
    return json.dumps([asdict(order) for order in orders])


def main(run_folder: str, fifo: str) -> int:
    """Serve one run: 0 if every rank ended well."""
    from testbed.rundir import RunDir, append_record  # noqa: PLC0415 (what is imported here is shared by all ranks)
    from testbed.workers import rank as rank_module  # noqa: PLC0415

    _die_with_starter()
    run = RunDir(Path(run_folder))
    plan = run.read_plan()
    orders = [Order(**order) for order in json.loads(Path(fifo).read_text())]
    gc.freeze()  # a collection in a rank would write to, and so copy, every page of objects that it shares with us
    pids: dict[int, int] = {}
    for order in orders:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                _enter(order, run.rank_log(order.rank))
                rank_module.run_rank(run, plan, order.rank)
                status = 0
            except BaseException:  # noqa: BLE001 (the log must hold it, whatever it is)
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        pids[pid] = order.rank
    failed = 0
    while pids:
        pid, wait_status = os.wait()
        if pid in pids:
            status = os.waitstatus_to_exitcode(wait_status)
            failed += status != 0
            append_record(run.rank_exits, {"rank": pids.pop(pid), "status": status})
    return 1 if failed else 0


def _die_with_starter() -> None:
    """End when the process that started us does, even if it is killed."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _enter(order: Order, log: Path) -> None:
    """Become a process of the order's host, with its output in the rank's log."""
    _die_with_starter()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    libc = ctypes.CDLL(None, use_errno=True)
    if order.cgroup is not None:
        Path(order.cgroup, "cgroup.procs").write_text(str(os.getpid()))
    if order.netns_pid is not None:
        fd = os.open(f"/proc/{order.netns_pid}/ns/net", os.O_RDONLY)
        if libc.setns(fd, CLONE_NEWNET) != 0 or libc.unshare(CLONE_NEWUTS) != 0:
            raise OSError(ctypes.get_errno(), f"cannot join the namespaces of {order.host}")
        os.close(fd)
        socket.sethostname(order.host)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
