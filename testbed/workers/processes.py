"""Isolation ``process``: one zygote forks all ranks, into network namespace and control group.

Each host has a separate /dev/shm.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from testbed.core.linux import mount, umount
from testbed.plan.model import Plan, PlannedJob, Rank
from testbed.runfolder.folder import RunDir
from testbed.workers import cgroups
from testbed.workers.collector import Collector, collecting
from testbed.workers.fleet import Fleet
from testbed.workers.host_files import named
from testbed.workers.orders import HostView, Order
from testbed.workers.zygote_warm import warm_parent


class Processes(Fleet):
    """All ranks of a run as children of one process."""

    def __init__(self, run: RunDir, plan: Plan) -> None:
        super().__init__(run, plan)
        self._groups: dict[str, Path] = {}
        self._shared_memory: dict[str, Path] = {}
        self._views: dict[tuple[str, str], HostView] = {}  # by host and job

    def __enter__(self) -> Processes:
        with ExitStack() as stack:
            folder = Path(tempfile.mkdtemp(prefix="testbed-", dir="/run"))
            stack.callback(shutil.rmtree, folder)
            stack.enter_context(named(folder, self.plan.network))
            self._add_groups(folder.name, stack)
            self._add_shared_memory(folder / "shm", stack)
            self._collector = stack.enter_context(
                collecting(self.run, self.plan, folder / "records")
            )
            self._add_views(self._collector)
            self._share_values(folder)
            self._parent = stack.enter_context(warm_parent(self.run, folder))
            self._stack = stack.pop_all()

        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _add_groups(self, run_id: str, stack: ExitStack) -> None:
        """Make and limit a control group for each host, until `stack` is closed."""
        workers = self.plan.workers
        cgroups.delegate_root()
        cpus = workers.cpus if self.plan.clock == "real" else None
        all_hosts = stack.enter_context(cgroups.group(run_id))

        for host in self.hosts:
            name = f"{all_hosts.name}/{host}"
            group = stack.enter_context(cgroups.group(name))
            cgroups.limit(group, memory_bytes=workers.memory_bytes, cpus=cpus)
            self._groups[host] = group

    def _add_shared_memory(self, folder: Path, stack: ExitStack) -> None:
        """Make a /dev/shm for each host, as large as the host's memory, until `stack` is closed."""
        folder.mkdir()
        options = f"mode=1777,size={self.plan.workers.memory_bytes}"

        for host in self.hosts:
            place = folder / host
            place.mkdir()
            mount("tmpfs", str(place), "tmpfs", 0, options)
            stack.callback(umount, str(place))
            self._shared_memory[host] = place

    def _add_views(self, collector: Collector) -> None:
        for rank in self.plan.ranks_here:
            job = self.plan.job_of(rank.rank)
            name = "" if job is None else job.name
            if (rank.host, name) not in self._views:
                self._views[rank.host, name] = self._view(rank.host, job, collector)

    def _view(self, host: str, job: PlannedJob | None, collector: Collector) -> HostView:
        run = self.run if job is None else self.run.job(job.name)
        work = self.work_folder(host, job)
        return HostView(
            run_folder=str(self.run.path),
            pipes=str(collector.folder_of(host, job)),
            records=str(run.raw),
            work=None if work is None else str(work),
        )

    @property
    def namespaces(self) -> dict[str, int]:
        """Empty: the network makes the namespaces."""
        return {}

    def _start(self, hosts: Sequence[str], netns: Mapping[str, int]) -> None:
        orders = [self._order(rank, netns, is_server=True) for rank in self.servers_of(hosts)]
        for rank in self.processes:
            if rank.host in hosts:
                orders.append(self._order(rank, netns))

        self._parent.start(orders)

    def _order(self, rank: Rank, netns: Mapping[str, int], *, is_server: bool = False) -> Order:
        job = self.plan.job_of(rank.rank)
        return Order(
            rank.rank,
            rank.host,
            cgroup=str(self._groups[rank.host]),
            netns_pid=netns[rank.host],
            shm=str(self._shared_memory[rank.host]),
            view=self._views[rank.host, "" if job is None else job.name],
            is_server=is_server,
        )

    def _kill(self, host: str) -> None:
        cgroups.kill(self._groups[host])

    def lost(self) -> list[str]:
        """Return every host if the zygote has ended, otherwise no host."""
        return list(self._groups) if self._parent.ended() else []

    def pids(self, host: str) -> list[int]:
        """Return the processes of `host`."""
        return cgroups.processes(self._groups[host])

    def memory_kills(self, host: str) -> int:
        """Return the number of processes of `host` killed by the kernel for lack of memory."""
        return cgroups.memory_kills(self._groups[host])
