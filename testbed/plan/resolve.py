"""Resolve a topology, a workload and options into the `Plan` of a run; reject impossible runs."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from testbed.core.errors import InputError, Place
from testbed.core.paths import absolute_path
from testbed.core.suggestions import suggest
from testbed.core.units import UnitError
from testbed.plan.addressing import resolve_network
from testbed.plan.budget import (
    check_memory,
    least_scale,
    machine_memory,
    memory_budget,
    run_timeout_s,
    windows_bytes,
)
from testbed.plan.captures import capture_points
from testbed.plan.model import (
    Capturing,
    Clock,
    Host,
    Isolation,
    Network,
    Plan,
    Rank,
    Where,
    Workers,
)
from testbed.plan.partition import divided
from testbed.plan.rank_order import hosts_by_rank
from testbed.plan.scaling import scaled
from testbed.spec.options import RunOptions
from testbed.spec.topology import Topology
from testbed.spec.workload import Workload

__all__ = ["resolve", "resolve_network"]


def resolve(
    topology: Topology,
    workload: Workload,
    options: RunOptions | None = None,
    *,
    machine_memory_bytes: int | None = None,
) -> Plan:
    """Return the plan of running `workload` on `topology`.

    Args:
        topology: the network.
        workload: the workload on the network.
        options: options of the run; None: defaults.
        machine_memory_bytes: memory of this machine; None: ask the system.

    Raises:
        InputError: the image cannot be used, the options contradict each other, or this machine has
            too little memory.
    """
    if options is None:
        options = RunOptions()
    _check_clock(options.clock, options.where)
    image = options.image
    if image is not None:
        _check_image(image, options.isolation)
    network = scaled(resolve_network(topology, options.seed), workload.divisor)
    _check_host_names(network, workload)
    workload = _for_hosts(network, workload)

    ranks = _ranks(hosts_by_rank(topology, network), workload.ranks_per_host)
    memory_of = partial(
        memory_budget,
        network=network,
        all_windows_bytes=windows_bytes(network),
        isolation=options.isolation,
        captured_interfaces=len(capture_points(network, options.capture)),
        image=image,
        host_limit_bytes=options.memory,
    )
    memory = memory_of(workload)
    guest_memory_bytes = options.guest_memory
    if guest_memory_bytes is None:
        machine_bytes = machine_memory_bytes or machine_memory()
        check_memory(
            memory,
            machine_bytes,
            isolation=options.isolation,
            where=options.where,
            scale=least_scale(workload, machine_bytes, memory_of),
        )
        guest_memory_bytes = memory.size_guest(machine_bytes)

    workers = Workers(
        workload=workload.workload,
        settings=workload.settings(len(ranks)),
        ranks=ranks,
        isolation=options.isolation,
        image=str(image.resolve()) if image is not None else None,
        memory_bytes=memory.host_limit_bytes,
        cpus=options.cpus,
        timeout_s=run_timeout_s(network, workload, len(ranks)),
        environment={"OMP_NUM_THREADS": "1", **options.environment},
        readable=_readable_folders(workload, options.readable),
        once_per_host=workload.starts_ranks_itself,
        from_first_host=workload.starts_from_first_host,
        remote_shells=workload.needs_remote_shells and len(network.hosts) > 1,
    )
    capturing = Capturing(
        filter=options.capture_filter,
        snap_bytes=options.capture_snap,
        limit_bytes=options.capture_limit,
    )
    plan = Plan(
        network=network,
        workers=workers,
        clock=options.clock,
        where=options.where,
        capture=options.capture,
        capturing=capturing,
        seed=options.seed,
        guest_memory_bytes=guest_memory_bytes,
    )
    cpus = len(os.sched_getaffinity(0))
    return divided(plan, options.guests, cpus=cpus, base_bytes=memory.base_bytes)


def _check_clock(clock: Clock, where: Where) -> None:
    if where == "here" and clock == "virtual":
        raise InputError(
            "the host kernel has no virtual clock",
            place=Place("--clock"),
            remedy="use --clock real or --where guest",
        )


def _check_image(image: Path, isolation: Isolation) -> None:
    place = Place("--image")
    if isolation != "container":
        remedy = "use --isolation container"
        raise InputError("images require containers", place=place, remedy=remedy)
    try:
        is_tar = tarfile.is_tarfile(image)
    except OSError as error:
        reason = f"cannot read the image {image}: {error.strerror}"
        raise InputError(reason, place=place) from error

    if not is_tar:
        remedy = "create one with: docker save --output image.tar NAME"
        raise InputError(f"{image} is not a tar file", place=place, remedy=remedy)


def _check_host_names(network: Network, workload: Workload) -> None:
    """Check that every host that the workload names exists in `network`."""
    known = [host.name for host in network.hosts]
    for name in workload.hosts_named:
        if name not in known:
            remedy = suggest(name, known, "the hosts")
            raise InputError(f"the workload names an unknown host {name!r}", remedy=remedy)


def _for_hosts(network: Network, workload: Workload) -> Workload:
    """Return the workload as it runs on the hosts of `network`."""
    addresses = {host.name: str(host.address.ip) for host in network.hosts}
    try:
        return workload.for_hosts(addresses)
    except UnitError as error:
        raise InputError(error.what, remedy=error.remedy) from error


def _ranks(hosts: Sequence[Host], ranks_per_host: int) -> tuple[Rank, ...]:
    """Return the ranks of all hosts, numbered host by host."""
    ranks: list[Rank] = []
    for host in hosts:
        for local_rank in range(ranks_per_host):
            ranks.append(Rank(rank=len(ranks), local_rank=local_rank, host=host.name))
    return tuple(ranks)


def _readable_folders(workload: Workload, more: Sequence[Path]) -> tuple[str, ...]:
    """Return the folders of `workload` and `more`, absolute, sorted and without duplicates.

    A folder that is reached through a symbolic link is there by both of its names.
    """
    folders: set[str] = set()
    for folder in (*workload.folders(), *more):
        folders |= {str(absolute_path(folder)), str(folder.resolve())}
    return tuple(sorted(folders))
