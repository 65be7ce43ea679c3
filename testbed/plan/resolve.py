"""Resolve a topology, a workload and options into the `Plan` of a run; reject impossible runs."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from testbed.core.errors import InputError, Place
from testbed.core.paths import absolute_path
from testbed.plan.addressing import resolve_network
from testbed.plan.budget import (
    MemoryBudget,
    check_memory,
    least_scale,
    machine_memory,
    memory_budget,
    run_timeout_s,
    windows_bytes,
)
from testbed.plan.captures import capture_points
from testbed.plan.jobs import PlacedPart, all_workers, jobs_of, parts_of, settings_of
from testbed.plan.model import (
    Capturing,
    Clock,
    Isolation,
    Plan,
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
    parts = parts_of(workload, network, hosts_by_rank(topology, network))
    memory_of = partial(
        memory_budget,
        network=network,
        all_windows_bytes=windows_bytes(network),
        isolation=options.isolation,
        captured_interfaces=len(capture_points(network, options.capture)),
        image=image,
        host_limit_bytes=options.memory,
    )

    def memory_of_smaller(smaller: Workload) -> MemoryBudget:
        return memory_of([replace(parts[0], workload=smaller)])

    memory = memory_of(parts)
    guest_memory_bytes = options.guest_memory
    if guest_memory_bytes is None:
        machine_bytes = machine_memory_bytes or machine_memory()
        check_memory(
            memory,
            machine_bytes,
            isolation=options.isolation,
            where=options.where,
            scale=least_scale(workload, machine_bytes, memory_of_smaller),
        )
        guest_memory_bytes = memory.size_guest(machine_bytes)

    def workers_of(part: PlacedPart) -> Workers:
        # Jobs at the same time get a share of a rate: each may take as many times as long.
        timeout_s = len(parts) * run_timeout_s(network, part.workload, part.world_size)
        return Workers(
            workload=part.workload.workload,
            settings=settings_of(part),
            ranks=part.ranks(),
            isolation=options.isolation,
            image=str(image.resolve()) if image is not None else None,
            memory_bytes=memory.host_limit_bytes,
            cpus=options.cpus,
            timeout_s=timeout_s,
            environment={"OMP_NUM_THREADS": "1", **options.environment},
            readable=_readable_folders(part.workload, options.readable),
            once_per_host=part.workload.starts_ranks_itself,
            from_first_host=part.workload.starts_from_first_host,
            remote_shells=part.workload.needs_remote_shells and len(network.hosts) > 1,
        )

    workers = [workers_of(part) for part in parts]
    jobs = jobs_of(parts, workers)
    capturing = Capturing(
        filter=options.capture_filter,
        snap_bytes=options.capture_snap,
        limit_bytes=options.capture_limit,
    )
    plan = Plan(
        network=network,
        workers=all_workers(jobs, workload) if jobs else workers[0],
        jobs=jobs,
        clock=options.clock,
        where=options.where,
        capture=options.capture,
        capturing=capturing,
        seed=options.seed,
        guest_memory_bytes=guest_memory_bytes,
    )
    if plan.workers.has_gpus and options.ray is not None:
        raise InputError(
            "modelled GPUs exchange values through a folder, which several machines do not share",
            place=Place("--ray"),
            remedy="remove --ray: the guests then run on the CPUs of this machine",
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


def _readable_folders(workload: Workload, more: Sequence[Path]) -> tuple[str, ...]:
    """Return the folders of `workload` and `more`, absolute, sorted and without duplicates.

    A folder that is reached through a symbolic link is there by both of its names.
    """
    folders: set[str] = set()
    for folder in (*workload.folders(), *more):
        folders |= {str(absolute_path(folder)), str(folder.resolve())}
    return tuple(sorted(folders))
