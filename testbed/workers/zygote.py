"""Zygote, the parent of ranks: import torch once, wait for orders, fork ranks, record their exits.

usage: python -m testbed.workers.zygote RUN_FOLDER ORDERS_FIFO

One zygote serves all hosts. After the fork each rank joins its host: a container's namespaces,
control group, user and rights, as with ``docker exec``, or the network namespace and control group
of process isolation. A fork costs 0.1 s in the guest, an import of torch 5 s. With a user's image
each container has a separate zygote for its ranks.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from testbed.core import code_bundle
from testbed.core.compat.torch_imports import import_postponed, quick_imports
from testbed.core.linux import die_with_parent
from testbed.plan.model import Plan
from testbed.runfolder.folder import RunDir
from testbed.runfolder.records import RankExit, append
from testbed.workers.gpu.device_library import planned_gpu_environment
from testbed.workers.gpu.install import import_what_gpus_use, install
from testbed.workers.host_entry import enter_host
from testbed.workers.orders import LaterOrders, Order, decode_orders
from testbed.workers.stacks import answer_requests
from testbed.workers.workload import load_workload, workload_traits

# On the virtual clock ranks begin one after another, at times that do not depend on how long each
# rank took to enter its host; the kernel joins timers up to 50 us apart. Rank 0 begins well before
# the others, so that its store is open by then: a TCPStore whose first attempt is refused tries
# again after waits drawn from the processor's random numbers (torch 2.13).
HEAD_START_NS = 10**9
STEP_NS = 100_000  # `testbed.plan.jobs` has the same


def main(run_folder: str, fifo: str) -> int:
    """Serve one run: fork the ranks that orders name, and record the exit of each rank.

    Args:
        run_folder: the run folder.
        fifo: path of the FIFO for orders.

    Returns:
        0 if every rank exited with status 0, otherwise 1.
    """
    die_with_parent()
    answer_requests()
    run = RunDir(Path(run_folder))
    plan = run.read_plan()
    os.environ.update(plan.workers.environment)  # torch reads variables during its import
    _model_gpus(plan)
    with quick_imports():  # all ranks share the imports of this process
        from testbed.workers import rank  # noqa: F401, PLC0415

    workloads = workloads_of(plan)
    for workload in workloads:
        prepare_torch(workload)

    if plan.workers.has_gpus:
        import_what_gpus_use()

    # The ranks repeat a failed import and report the error in their logs.
    for workload in workloads:
        with quick_imports(), contextlib.suppress(Exception):
            load_workload(workload)

    orders = decode_orders(Path(fifo).read_text())
    # A collection in a rank would write to, and so copy, every page of shared objects.
    gc.freeze()
    zygote = Zygote(run, plan)
    begins_ns = _begin_times(plan)

    for order in orders:
        zygote.fork(order, begins_ns(order.rank))

    if plan.workers.remote_shells or any(change.started for change in plan.network.changes):
        zygote.serve(LaterOrders(Path(fifo)))

    zygote.wait_for_all()
    return 1 if zygote.failed else 0


def _model_gpus(plan: Plan) -> None:
    """Give this process and its ranks the modelled GPUs of the plan, if there are any."""
    variables = planned_gpu_environment(plan.workers.settings)
    if variables:
        os.environ.update(variables)
        install()


class Zygote:
    """The ranks that this process has forked, until their ends."""

    def __init__(self, run: RunDir, plan: Plan) -> None:
        self._run = run
        self._plan = plan
        self._plans = {job.name: plan.for_job(job) for job in plan.jobs}
        self._ranks: dict[int, int] = {}  # by process id
        self._later: LaterOrders | None = None
        self.failed = 0

    def fork(self, order: Order, begin_ns: int = 0) -> None:
        """Fork one rank, which begins at Unix time `begin_ns`, or immediately if that is past.

        A server begins immediately.
        """
        if order.is_server:
            forked(partial(self._be_server, order))
            return

        self._ranks[forked(partial(self._be_rank, order, begin_ns))] = order.rank

    def serve(self, later: LaterOrders) -> None:
        """Carry out orders as they arrive, until the testbed ends this process."""
        self._later = later
        while True:
            for order in later.wait(list(self._ranks)):
                self.fork(order)

            for pid, status in _ended_children():
                self._note_exit(pid, status)

    def wait_for_all(self) -> None:
        """Wait until all ranks have ended."""
        while self._ranks:
            pid, wait_status = os.wait()
            self._note_exit(pid, os.waitstatus_to_exitcode(wait_status))

    def _be_rank(self, order: Order, begin_ns: int) -> int:
        from testbed.workers.rank import run_rank  # noqa: PLC0415

        self._enter(order)
        _sleep_until(begin_ns)

        run, rank = self._run.of_rank(self._plan, order.rank)
        return run_rank(run, self._plan_of(order.rank), rank)

    def _plan_of(self, rank: int) -> Plan:
        """Return the plan that a rank knows: that of its job."""
        job = self._plan.job_of(rank)
        return self._plan if job is None else self._plans[job.name]

    def _be_server(self, order: Order) -> int:
        from testbed.workers.rank import run_server  # noqa: PLC0415

        self._enter(order)
        return run_server(self._run, self._plan, order.rank)

    def _enter(self, order: Order) -> None:
        """Leave the zygote behind, and enter a host."""
        if self._later is not None:
            self._later.close()
        code_bundle.remove()
        run, rank = self._run.of_rank(self._plan, order.rank)
        enter_host(order, run.rank_log(rank))

    def _note_exit(self, pid: int, status: int) -> None:
        if pid not in self._ranks:
            return
        if status != 0:
            self.failed += 1

        append(self._run.rank_exits, RankExit(rank=self._ranks.pop(pid), status=status))


def _begin_times(plan: Plan) -> Callable[[int], int]:
    """Return a function from a rank to its begin in Unix ns.

    On the real clock, all ranks of a job begin at the same time.
    """
    now_ns = time.time_ns()
    start_ns = now_ns // HEAD_START_NS * HEAD_START_NS + HEAD_START_NS

    def begin_ns(rank: int) -> int:
        job = plan.job_of(rank)
        workers = plan.workers if job is None else job.workers
        if plan.clock == "real":
            return now_ns + workers.begin_ns
        number = rank if job is None else rank - job.first
        head_start_ns = 0 if number == 0 else HEAD_START_NS
        return start_ns + workers.begin_ns + head_start_ns + number * STEP_NS

    return begin_ns


def _sleep_until(time_ns: int) -> None:
    while (left_ns := time_ns - time.time_ns()) > 0:
        time.sleep(left_ns / 1e9)


def forked(work: Callable[[], int]) -> int:
    """Run `work` in a child process, whose exit status is the return value of `work`.

    Returns:
        The process id of the child.
    """
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = work()
        except BaseException:  # the log must hold the error, whatever its type
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    return pid


def _ended_children() -> Iterator[tuple[int, int]]:
    """Yield process id and exit status of each child that has ended."""
    with contextlib.suppress(ChildProcessError):  # there are no children
        while True:
            pid, wait_status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            yield pid, os.waitstatus_to_exitcode(wait_status)


def workloads_of(plan: Plan) -> list[str]:
    """Return the workloads of a plan's jobs, or its only workload."""
    if not plan.jobs:
        return [plan.workers.workload]
    return list(dict.fromkeys(job.workers.workload for job in plan.jobs))


def prepare_torch(workload: str) -> None:
    """Import the modules that `quick_imports` has postponed, if `workload` needs all of torch."""
    if workload_traits(workload).uses_all_of_torch:
        import_postponed()


if __name__ == "__main__":
    exit_status = main(*sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_status)  # torch's cleanup would take 0.3 s
