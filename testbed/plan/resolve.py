"""From what was written to what will be done: `resolve` makes the `Plan` of a run, and refuses what
cannot run.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

from testbed.core.errors import InputError, Place
from testbed.core.units import format_size
from testbed.plan import model
from testbed.plan.addressing import resolve_network, rtt_ns
from testbed.plan.captures import capture_points
from testbed.plan.events import outage_ns
from testbed.plan.model import (
    CAPTURE_BUFFER_BYTES,
    Capture,
    Capturing,
    Clock,
    Isolation,
    Plan,
    Where,
)
from testbed.plan.scaling import scaled
from testbed.spec.base import suggest
from testbed.spec.topology import Topology
from testbed.spec.workload import Workload

__all__ = ["machine_memory", "resolve", "resolve_network", "timeout_s"]

MIB, GIB = 2**20, 2**30
LEAST_HOST_MEMORY = GIB
GUEST_BASE_MEMORY = GIB
DOCKER_MEMORY = GIB
RANK_MEMORY: dict[Isolation, int] = {"container": 400 * MIB, "process": 250 * MIB}
IMAGE_COPIES = (
    2  # in the guest's memory: what Docker unpacks of a tar, and while it loads the tar of a layer
)
TENSORS_PER_RANK = 4
LEAST_TIMEOUT_S = 60
GLOO_BYTES_PER_RTT = 2 * MIB
OUTAGE = 3  # times its length: TCP tries again after waits that double
PAUSES = 4  # for how many times the longest pause of one rank the others wait


def resolve(
    topology: Topology,
    workload: Workload,
    *,
    seed: int = 0,
    clock: Clock = "virtual",
    where: Where = "guest",
    isolation: Isolation = "container",
    capture: Capture = "wan",
    capturing: Capturing | None = None,
    image: Path | None = None,
    host_memory_bytes: int | None = None,
    host_cpus: float = 1.0,
    environment: Mapping[str, str] | None = None,
    readable: Sequence[Path] = (),
    machine_memory_bytes: int | None = None,
) -> Plan:
    """The plan of running `workload` on `topology`.

    Args:
        topology: what is built.
        workload: what runs on it.
        seed: of the run; the seeds of all random elements derive from it.
        clock: of the guest; here it is always real.
        where: in a guest, or here in this kernel.
        isolation: of the hosts.
        capture: where packets are captured.
        capturing: what is kept of them; None: the headers of all.
        image: tar of a container image; None: this machine's own userland.
        host_memory_bytes: limit of one host; None: what its ranks need, at least 1 GiB.
        host_cpus: limit of one host.
        environment: variables of every rank.
        readable: folders that hosts see besides those that `workload` needs.
        machine_memory_bytes: what this machine has; None: ask it.

    Raises:
        InputError: the image cannot be used, the options contradict each other, or the memory does
            not suffice.
    """
    _check_options(clock, where, isolation, image)
    network = scaled(resolve_network(topology, seed), workload.divisor)
    _check_hosts(network, workload)
    ranks = _ranks(network, workload.ranks_per_host)
    tensor = workload.largest_tensor_bytes(len(ranks))
    rank_bytes = RANK_MEMORY[isolation] + TENSORS_PER_RANK * tensor
    host_bytes = max(workload.ranks_per_host * rank_bytes, host_memory_bytes or 0)
    base = GUEST_BASE_MEMORY + (DOCKER_MEMORY if isolation == "container" else 0)
    base += len(capture_points(network, capture)) * CAPTURE_BUFFER_BYTES
    if image is not None:
        base += IMAGE_COPIES * image.stat().st_size
    machine = machine_memory_bytes or machine_memory()
    _check_memory(len(network.hosts), host_bytes, base, machine)
    workers = model.Workers(
        workload=workload.workload,
        settings=workload.settings(len(ranks)),
        ranks=ranks,
        isolation=isolation,
        image=None if image is None else str(image.resolve()),
        memory_bytes=host_memory_bytes or max(LEAST_HOST_MEMORY, host_bytes),
        cpus=host_cpus,
        timeout_s=_timeout_s(network, tensor, len(ranks))
        + PAUSES * workload.longest_pause_ns // 10**9,
        environment={"OMP_NUM_THREADS": "1", **(environment or {})},
        readable=tuple(
            sorted({str(folder.resolve()) for folder in (*workload.folders(), *readable)})
        ),
        once_per_host=workload.starts_ranks_itself,
    )
    return Plan(
        network=network,
        workers=workers,
        clock=clock,
        where=where,
        capture=capture,
        capturing=capturing or Capturing(),
        seed=seed,
        guest_memory_bytes=base + len(network.hosts) * host_bytes,
    )


def _timeout_s(network: model.Network, tensor_bytes: int, ranks: int) -> int:
    """`timeout_s` of the worst that the network goes through, and the time for which links are
    down.
    """
    slowest = max(
        timeout_s(state, tensor_bytes, ranks) for state in network.extremes(rate=min, delay=max)
    )
    return slowest + -(-outage_ns(network) * OUTAGE // 10**9)


def timeout_s(network: model.Network, tensor_bytes: int, ranks: int) -> int:
    """Seconds after which an operation counts as hung: generous for the slowest path of `network`.

    The largest of 60 s, 1000 RTTs, and 20 times an estimate of a ring all-reduce of `tensor_bytes`:
    twice the tensor through the slowest bottleneck, two RTTs per rank, and one RTT per 2 MiB,
    gloo's window.
    """
    first = [network.host(dc.hosts[0]) for dc in network.datacenters]
    rtt = max(rtt_ns(network, a, b) for a, b in product(first, first)) / 1e9
    bottlenecks = [host.nic_up for host in network.hosts] + [
        w.bottleneck for k in network.wan for w in k.directions
    ]
    bottlenecks += [
        cable.port for dc in network.datacenters if dc.fabric for cable in dc.fabric.cables
    ]
    slowest = min(bottleneck.rate_bps for bottleneck in bottlenecks)
    volume = 2 * tensor_bytes
    operation = volume * 8 / slowest + (2 * ranks + volume / GLOO_BYTES_PER_RTT) * rtt
    return int(max(LEAST_TIMEOUT_S, 1000 * rtt, 20 * operation))


def machine_memory() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _check_options(clock: Clock, where: Where, isolation: Isolation, image: Path | None) -> None:
    if where == "here" and clock == "virtual":
        raise InputError(
            "this kernel's clock cannot be virtual",
            place=Place("--clock"),
            remedy="use --clock real or --where guest",
        )
    if image is None:
        return
    place = Place("--image")
    if isolation != "container":
        raise InputError(
            "an image needs containers", place=place, remedy="use --isolation container"
        )
    try:
        if not tarfile.is_tarfile(image):
            raise InputError(
                f"{image} is not a tar file",
                place=place,
                remedy="make one with docker save --output image.tar NAME",
            )
    except OSError as error:
        raise InputError(
            f"the image {image} cannot be read: {error.strerror}", place=place
        ) from error


def _check_hosts(network: model.Network, workload: Workload) -> None:
    names = [host.name for host in network.hosts]
    for name in workload.hosts_named:
        if name not in names:
            raise InputError(
                f"the workload names a host {name!r}", remedy=suggest(name, names, "the hosts")
            )


def _check_memory(hosts: int, host_bytes: int, base: int, machine: int) -> None:
    needed = base + hosts * host_bytes
    if needed <= machine:
        return
    fit = max(0, machine - base) // host_bytes
    raise InputError(
        f"{hosts} hosts need {format_size(needed, 3)} of memory and this machine has {format_size(machine, 3)}",
        remedy=f"{fit} hosts would fit; --isolation process and smaller tensors need less",
    )


def _ranks(network: model.Network, per_host: int) -> tuple[model.Rank, ...]:
    places = [(host.name, local) for host in network.hosts for local in range(per_host)]
    return tuple(
        model.Rank(rank=rank, local_rank=local, host=host)
        for rank, (host, local) in enumerate(places)
    )
