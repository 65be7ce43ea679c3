"""Estimate the memory that a run needs, and the time after which an operation counts as hung."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from testbed.core.errors import InputError, Place
from testbed.core.units import format_size
from testbed.plan.events import outage_ns
from testbed.plan.jobs import PlacedPart
from testbed.plan.model import (
    CAPTURE_BUFFER_BYTES,
    Bottleneck,
    Direction,
    Host,
    Isolation,
    Network,
    Where,
)
from testbed.plan.paths import FirstHosts
from testbed.spec.workload import Workload

MIB, GIB = 2**20, 2**30
LEAST_HOST_MEMORY = GIB  # minimum limit of a host
PYTHON_MEMORY = 16 * MIB  # of an interpreter without imports: the minimum for a rank
GUEST_BASE_MEMORY = GIB
DOCKER_MEMORY = GIB
# Measured in guests of 4 and 12 containers: 15 MiB (docs/performance.md).
HOST_MEMORY: dict[Isolation, int] = {"container": 20 * MIB, "process": 0}
IMAGE_HOST_MEMORY = 150 * MIB  # a container of the user's image imports torch by itself
LIMIT_MARGIN = 2  # of a host's limit, which is no reservation, over the estimate
IMAGE_COPIES = 2  # in the guest: the tar, and the layers that Docker unpacks

NS_PER_S = 10**9
LEAST_TIMEOUT_S = 60
TIMEOUT_RTTS = 1000
TIMEOUT_OPERATIONS = 20
GLOO_BYTES_PER_RTT = 2 * MIB  # gloo's window
OUTAGE_LENGTHS = 3  # multiple of an outage, because TCP's retransmission timeout doubles
LONGEST_PAUSES = 4  # multiple of the longest pause of a rank
BITS = 8
# TCP's send buffer grows to twice the window; the copies in links and at receivers share its pages.
BUFFERED_WINDOWS = 2
OUTSTANDING_OPERATIONS = 2  # of a rank, each with its largest tensor


@dataclass(frozen=True)
class MemoryBudget:
    """Memory of a run in bytes.

    Attributes:
        hosts: number of hosts.
        host_bytes: estimated memory of the ranks of one host, at most the host's limit.
        host_limit_bytes: memory limit of one host.
        base_bytes: memory of the guest without its hosts.
        packet_bytes: estimated memory of all packets, in buffers of sockets, queues and links.
        spare_bytes: what each host may use beyond the estimate, because the user gave it.
    """

    hosts: int
    host_bytes: int
    host_limit_bytes: int
    base_bytes: int
    packet_bytes: int = 0
    spare_bytes: int = 0

    @property
    def guest_bytes(self) -> int:
        """Memory of a guest with all hosts, without their packets."""
        return self.base_bytes + self.hosts * self.host_bytes

    def size_guest(self, machine_bytes: int) -> int:
        """Return the memory of a guest with all hosts and their packets (see `with_packets`).

        Hosts get all that the user gives them, if this machine has it.
        """
        spare_bytes = self.hosts * self.spare_bytes
        given_bytes = self.guest_bytes + spare_bytes
        if given_bytes <= machine_bytes:
            return with_packets(given_bytes, self.packet_bytes, machine_bytes)
        return with_packets(self.guest_bytes, spare_bytes + self.packet_bytes, machine_bytes)


def memory_budget(
    parts: Sequence[PlacedPart],
    *,
    network: Network,
    all_windows_bytes: int,
    isolation: Isolation,
    captured_interfaces: int,
    image: Path | None,
    host_limit_bytes: int | None,
) -> MemoryBudget:
    """Estimate the memory of a run.

    Args:
        parts: what runs at the same time.
        network: the network.
        all_windows_bytes: the result of `windows_bytes` for the network.
        isolation: how hosts are isolated.
        captured_interfaces: number of interfaces whose packets are captured.
        image: tar of the containers' image, if there is one.
        host_limit_bytes: memory limit of one host; None: the estimated memory of the host's ranks,
            at least 1 GiB.

    Raises:
        InputError: no Python interpreter starts within `host_limit_bytes`.
    """
    base_bytes = _guest_base_bytes(isolation, captured_interfaces, image)
    hosts = len(network.hosts)
    packet_bytes = _packet_bytes(parts, network, all_windows_bytes)
    host_bytes = HOST_MEMORY[isolation] if image is None else IMAGE_HOST_MEMORY
    host_bytes += _busiest_host_bytes(parts)
    if host_limit_bytes is None:
        limit_bytes = max(LEAST_HOST_MEMORY, LIMIT_MARGIN * host_bytes)
        return MemoryBudget(hosts, host_bytes, limit_bytes, base_bytes, packet_bytes)

    _check_host_limit(host_limit_bytes)
    host_bytes = min(host_bytes, host_limit_bytes)
    return MemoryBudget(
        hosts=hosts,
        host_bytes=host_bytes,
        host_limit_bytes=host_limit_bytes,
        base_bytes=base_bytes,
        packet_bytes=packet_bytes,
        spare_bytes=host_limit_bytes - host_bytes,
    )


def _packet_bytes(parts: Sequence[PlacedPart], network: Network, all_windows_bytes: int) -> int:
    """Return the memory in bytes of all packets, at most what TCP's buffers hold."""
    sends_only_tensors = all(part.workload.sends_only_tensors for part in parts)
    if not sends_only_tensors or any(change.transfers for change in network.changes):
        return all_windows_bytes

    sent_bytes = 0
    for part in parts:
        tensor_bytes = part.workload.largest_tensor_bytes(part.world_size)
        sent_bytes += OUTSTANDING_OPERATIONS * part.world_size * tensor_bytes
    return min(all_windows_bytes, sent_bytes)


def _busiest_host_bytes(parts: Sequence[PlacedPart]) -> int:
    """Return the memory in bytes of the ranks of the host whose ranks need most."""
    by_host: Counter[str] = Counter()
    for part in parts:
        workload = part.workload
        rank_bytes = workload.rank_program_bytes + workload.rank_tensors_bytes(part.world_size)
        for host in part.hosts:
            by_host[host.name] += workload.ranks_per_host * rank_bytes
    return max(by_host.values())


def with_packets(bytes_without: int, packet_bytes: int, machine_bytes: int) -> int:
    """Return the memory in bytes of a guest, which the machine provides as the guest uses it.

    Few runs fill all windows at once. With packets a guest gets at most half of the machine's
    memory, as much as /dev/shm holds.

    Args:
        bytes_without: memory of the guest without packets.
        packet_bytes: memory of all packets.
        machine_bytes: memory of this machine.
    """
    room_bytes = max(0, machine_bytes // 2 - bytes_without)
    return bytes_without + min(packet_bytes, room_bytes)


def windows_bytes(network: Network) -> int:
    """Return the memory in bytes that TCP's buffers need to fill every path between datacenters.

    A host fills at most its longest path: the RTT at the lowest rate on the way, and the largest
    queue. The hosts of a datacenter together fill at most its WAN links.
    """
    return max(_windows_bytes(state) for state in network.extremes(rate=max, delay=max))


def _windows_bytes(network: Network) -> int:
    paths = FirstHosts(network)
    leaving = _directions_by_source(network)
    hosts_by_datacenter = _hosts_by_datacenter(network)
    total_bytes = 0

    for source in paths.hosts:
        windows = _windows_from(paths, source, network.mtu)
        longest_ns = max((window.rtt_ns for window in windows), default=0)
        links_bytes = 0
        for direction in leaving[source.dc]:
            bottleneck = direction.bottleneck
            links_bytes += _bytes_in(bottleneck.rate_bps, longest_ns)
            links_bytes += bottleneck.queue_packets * network.mtu

        hosts_bytes = 0
        for nic_bps, hosts in hosts_by_datacenter[source.dc].items():
            window_bytes = max((window.bytes_at(nic_bps) for window in windows), default=0)
            hosts_bytes += hosts * window_bytes

        total_bytes += min(hosts_bytes, links_bytes)

    return BUFFERED_WINDOWS * total_bytes


def _directions_by_source(network: Network) -> dict[str, list[Direction]]:
    """Return the directions of WAN links by the datacenter that sends."""
    directions: dict[str, list[Direction]] = {dc.name: [] for dc in network.datacenters}
    for link in network.wan:
        for direction in link.directions:
            directions[direction.source].append(direction)
    return directions


def _hosts_by_datacenter(network: Network) -> dict[str, Counter[int]]:
    """Return by datacenter how many hosts have a NIC of each rate in bit/s."""
    counts: dict[str, Counter[int]] = {dc.name: Counter() for dc in network.datacenters}
    for host in network.hosts:
        counts[host.dc][host.nic_up.rate_bps] += 1
    return counts


class _Window(NamedTuple):
    """What fills a path between the first hosts of two datacenters.

    Attributes:
        rtt_ns: propagation RTT.
        rate_bps: the lowest rate beyond the source's NIC.
        queue_bytes: the largest queue of a WAN link.
    """

    rtt_ns: int
    rate_bps: int
    queue_bytes: int

    def bytes_at(self, nic_bps: int) -> int:
        """Return the bytes with which a host with such a NIC fills the path and the queue."""
        return _bytes_in(min(self.rate_bps, nic_bps), self.rtt_ns) + self.queue_bytes


def _windows_from(paths: FirstHosts, source: Host, mtu: int) -> list[_Window]:
    """Return what fills the path from a first host to that of each other datacenter."""
    windows: list[_Window] = []
    for target in paths.hosts:
        if target.dc != source.dc:
            figures = paths.figures(source, target)
            rate_bps = min(target.nic_down.rate_bps, figures.rate_bps)
            queue_bytes = figures.queue_packets * mtu
            windows.append(_Window(paths.rtt_ns(source, target), rate_bps, queue_bytes))
    return windows


def _bytes_in(rate_bps: int, time_ns: int) -> int:
    return rate_bps * time_ns // (BITS * NS_PER_S)


def _guest_base_bytes(isolation: Isolation, captured_interfaces: int, image: Path | None) -> int:
    """Return the memory in bytes of a guest without its hosts."""
    base_bytes = GUEST_BASE_MEMORY + captured_interfaces * CAPTURE_BUFFER_BYTES
    if isolation == "container":
        base_bytes += DOCKER_MEMORY
    if image is not None:
        base_bytes += IMAGE_COPIES * image.stat().st_size
    return base_bytes


def _check_host_limit(limit_bytes: int) -> None:
    if limit_bytes < PYTHON_MEMORY:
        raise InputError(
            f"Python cannot start with {format_size(limit_bytes, 3)} of memory",
            place=Place("--memory"),
            remedy=f"give a host at least {format_size(PYTHON_MEMORY, 3)}",
        )


def least_scale(
    workload: Workload, machine_bytes: int, memory_of: Callable[[Workload], MemoryBudget]
) -> int | None:
    """Return the least power of 10 by which a scaled-down workload fits into memory.

    Args:
        workload: the workload.
        machine_bytes: memory of this machine.
        memory_of: function that returns the memory of a run of a workload.

    Returns:
        The divisor of the scaled workload; None if no power of 10 is enough.
    """
    factor = 10
    while (smaller := workload.scaled_down(factor)) is not None:
        if memory_of(smaller).guest_bytes <= machine_bytes:
            return smaller.divisor
        factor *= 10
    return None


def check_memory(
    budget: MemoryBudget,
    machine_bytes: int,
    *,
    isolation: Isolation,
    where: Where,
    scale: int | None = None,
) -> None:
    """Reject a run that needs more memory than this machine has.

    Args:
        budget: the memory of the run.
        machine_bytes: memory of this machine.
        isolation: how hosts are isolated, for the advice.
        where: whether the run uses a guest, for the advice.
        scale: a value of ``--scale`` with which the run fits, for the advice; None: none known.

    Raises:
        InputError: `budget` exceeds `machine_bytes`.
    """
    if budget.guest_bytes <= machine_bytes:
        return

    needed = format_size(budget.guest_bytes, 3)
    present = format_size(machine_bytes, 3)
    fitting = max(0, machine_bytes - budget.base_bytes) // budget.host_bytes

    advice = "smaller tensors need less"
    if isolation == "container":
        advice = "use --isolation process or smaller tensors"
    if scale is not None:
        advice = (
            f"use --scale {scale} (workload.scale), which divides parameters and rates; times stay "
            "the same"
        )
    if fitting:
        advice = f"{fitting} hosts would fit; {advice}"
    if where == "guest":
        advice += "; override this estimate with --guest-memory"

    raise InputError(
        f"{budget.hosts} hosts need {needed} of memory, but this machine has {present}",
        remedy=advice,
    )


def machine_memory() -> int:
    """Return the size of this machine's memory in bytes."""
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    return page_bytes * os.sysconf("SC_PHYS_PAGES")


def run_timeout_s(network: Network, workload: Workload, ranks: int) -> int:
    """Return the time in s after which an operation of a run counts as hung.

    The result is the sum of the timeout in the slowest state of the network, three times the
    longest outage of a link, and four times the workload's longest pause.

    Args:
        network: the network, including changes during the run.
        workload: the workload.
        ranks: number of ranks.
    """
    tensor_bytes = workload.largest_tensor_bytes(ranks)

    worst_states = network.extremes(rate=min, delay=max)
    slowest_s = max(timeout_s(state, tensor_bytes, ranks) for state in worst_states)

    outage_s = -(-OUTAGE_LENGTHS * outage_ns(network) // NS_PER_S)
    pause_s = LONGEST_PAUSES * workload.longest_pause_ns // NS_PER_S
    return slowest_s + outage_s + pause_s


def timeout_s(network: Network, tensor_bytes: int, ranks: int) -> int:
    """Return the time in s after which an operation counts as hung on the slowest path.

    The result is the largest of 60 s, 1000 RTTs, and 20 times an estimate of a ring all-reduce:
    twice the tensor through the slowest bottleneck, two RTTs per rank, and one RTT per 2 MiB,
    gloo's window.

    Args:
        network: the network; changes are ignored.
        tensor_bytes: size of the tensor.
        ranks: number of ranks.
    """
    rtt_s = FirstHosts(network).longest_rtt_ns() / 1e9
    slowest_bps = min(bottleneck.rate_bps for bottleneck in _bottlenecks(network))

    volume_bytes = 2 * tensor_bytes
    round_trips = 2 * ranks + volume_bytes / GLOO_BYTES_PER_RTT
    operation_s = volume_bytes * 8 / slowest_bps + round_trips * rtt_s

    timeout_s = max(
        LEAST_TIMEOUT_S,
        TIMEOUT_RTTS * rtt_s,
        TIMEOUT_OPERATIONS * operation_s,
    )
    return int(timeout_s)


def _bottlenecks(network: Network) -> Iterator[Bottleneck]:
    """Yield the bottlenecks of hosts, WAN links and fabric cables."""
    for host in network.hosts:
        yield host.nic_up

    for link in network.wan:
        for direction in link.directions:
            yield direction.bottleneck

    for cable in network.all_fabric_cables():
        yield cable.port
