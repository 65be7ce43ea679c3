"""The workloads of a run that run at the same time: their hosts, ranks and workers.

A run of one workload is planned as a single part on all hosts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from testbed.core.errors import InputError, Place
from testbed.core.suggestions import suggest
from testbed.core.units import UnitError
from testbed.plan.model import Host, Network, PlannedJob, Rank, Workers
from testbed.spec.base import input_error
from testbed.spec.workload import PlacedWorkload, Workload
from testbed.spec.yaml_reader import Loc

JOBS = "jobs"  # workload of a plan with several jobs
# Between the rendezvous ports of two jobs, which may share a host: scripts use the ports after
# their own, too.
PORT_STEP = 100
# Between the begins of two ranks (`testbed.workers.zygote`).
STEP_NS = 100_000


@dataclass(frozen=True)
class PlacedPart:
    """A workload on some hosts, from some time on.

    Attributes:
        name: name of the job; empty for the only workload of a run.
        workload: what runs.
        hosts: in the order of their ranks.
        start_ns: time from the start of the workers.
    """

    name: str
    workload: Workload
    hosts: tuple[Host, ...]
    start_ns: int = 0

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return len(self.hosts) * self.workload.ranks_per_host

    def ranks(self) -> tuple[Rank, ...]:
        """Return the ranks, numbered host by host."""
        ranks: list[Rank] = []
        for host in self.hosts:
            for local_rank in range(self.workload.ranks_per_host):
                ranks.append(Rank(rank=len(ranks), local_rank=local_rank, host=host.name))
        return tuple(ranks)


def parts_of(workload: Workload, network: Network, hosts: Sequence[Host]) -> list[PlacedPart]:
    """Return what runs at the same time, each as it runs on its hosts.

    Args:
        workload: the workload of the run.
        network: the network.
        hosts: all hosts, in the order of their ranks.

    Raises:
        InputError: a host or a datacenter does not exist, or a workload cannot run on its hosts.
    """
    if not workload.placed:
        return [_on_its_hosts(PlacedPart("", workload, tuple(hosts)), network)]

    parts: list[PlacedPart] = []
    for placed in workload.placed:
        part = PlacedPart(placed.name, placed.workload, _hosts_of(placed, hosts), placed.start_ns)
        try:
            parts.append(_on_its_hosts(part, network))
        except InputError as error:
            place = Place(key=f"jobs.{placed.name}")
            raise InputError(error.what, place=place, remedy=error.remedy) from error
    return parts


def _hosts_of(placed: PlacedWorkload, hosts: Sequence[Host]) -> tuple[Host, ...]:
    """Return the hosts of a job, in the order of ranks.

    Raises:
        InputError: a host or a datacenter does not exist.
    """
    if not placed.hosts:
        return tuple(hosts)

    names = [host.name for host in hosts]
    names += dict.fromkeys(host.dc for host in hosts)
    for name in placed.hosts:
        if name not in names:
            place = Place(key=f"jobs.{placed.name}.hosts")
            remedy = suggest(name, names, "the hosts and datacenters")
            raise InputError(f"unknown host or datacenter {name!r}", place=place, remedy=remedy)
    return tuple(host for host in hosts if {host.name, host.dc} & set(placed.hosts))


def _on_its_hosts(part: PlacedPart, network: Network) -> PlacedPart:
    """Return the part with the workload as it runs on the hosts.

    Raises:
        InputError: the workload names an unknown host, or cannot run on the hosts.
    """
    known = [host.name for host in network.hosts]
    for name in part.workload.hosts_named:
        if name not in known:
            remedy = suggest(name, known, "the hosts")
            raise InputError(f"the workload names an unknown host {name!r}", remedy=remedy)

    addresses = {host.name: str(host.address.ip) for host in part.hosts}
    if not part.name:
        addresses = {host.name: str(host.address.ip) for host in network.hosts}
    try:
        workload = part.workload.for_hosts(addresses)
    except UnitError as error:
        raise InputError(error.what, remedy=error.remedy) from error
    return replace(part, workload=workload)


def settings_of(part: PlacedPart) -> dict[str, Any]:
    """Return the settings of the workload for its ranks, in base units.

    Raises:
        InputError: the workload of a job cannot run on so many ranks.
    """
    workload = part.workload
    try:
        return workload.settings(part.world_size)
    except ValidationError as error:
        prefix = f"jobs.{part.name}" if part.name else "workload"

        def locate(loc: Loc) -> Place:
            return Place(key=".".join([prefix, *map(str, loc)]))

        raise input_error(error, type(workload), locate) from error


def jobs_of(parts: Sequence[PlacedPart], workers: Sequence[Workers]) -> tuple[PlannedJob, ...]:
    """Return the jobs of a plan; none if the run has only one workload.

    Ranks of different jobs begin at different times, as ranks of one job do.

    Args:
        parts: what runs at the same time.
        workers: the workers of each part.
    """
    jobs: list[PlannedJob] = []
    first = 0
    for number, (part, of_part) in enumerate(zip(parts, workers, strict=True)):
        if not part.name:
            continue
        update = {
            "master_port": of_part.master_port + number * PORT_STEP,
            "begin_ns": part.start_ns + first * STEP_NS,
            "remote_shells": False,
        }
        jobs.append(
            PlannedJob(name=part.name, first=first, workers=of_part.model_copy(update=update))
        )
        first += part.world_size
    return tuple(jobs)


def all_workers(jobs: Sequence[PlannedJob], workload: Workload) -> Workers:
    """Return what several jobs share, and the ranks of all.

    Args:
        jobs: the jobs, at least one.
        workload: the workload that consists of the jobs.
    """
    ranks: list[Rank] = []
    readable: set[str] = set()
    timeouts_s: list[int] = []
    for job in jobs:
        for rank in job.workers.ranks:
            ranks.append(rank.model_copy(update={"rank": len(ranks)}))
        readable.update(job.workers.readable)
        timeouts_s.append(job.workers.timeout_s + job.workers.begin_ns // 10**9)

    update = {
        "workload": workload.workload,
        "settings": workload.settings(len(ranks)),
        "ranks": tuple(ranks),
        "timeout_s": max(timeouts_s),
        "readable": tuple(sorted(readable)),
        "once_per_host": False,
        "begin_ns": 0,
    }
    return jobs[0].workers.model_copy(update=update)
