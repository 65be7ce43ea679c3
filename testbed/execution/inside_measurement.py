"""Start and stop packet captures and link sampling inside the kernel of a run."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from testbed.measure.capture import Tap, capturing
from testbed.measure.clock_health import watching
from testbed.measure.counters import SampledPort, read_counters, sampling
from testbed.measure.memory_shortage import shortages
from testbed.network import qdiscs
from testbed.network.build import BuiltNetwork
from testbed.network.netns import inside_netns
from testbed.plan.captures import CapturePoint, capture_points
from testbed.plan.model import HOST_INTERFACE, Network, Plan
from testbed.runfolder.folder import RunDir
from testbed.runfolder.records import MemoryShortage, write

QUIET_NS = 10 * 10**9  # waiting costs no wall time on the virtual clock
KERNEL_SEED = Path("/sys/module/random/parameters/seed")  # of the guest's kernel on virtual time


@contextmanager
def capturing_packets(folder: RunDir, network: BuiltNetwork, plan: Plan) -> Iterator[None]:
    """Capture packets at the plan's capture points within the block.

    Args:
        folder: the run folder.
        network: the running network.
        plan: the plan of the run.
    """
    taps: list[Tap] = []
    for point in capture_points(plan.network, plan.capture):
        taps.append(_tap(folder, network, point))
    if not taps:
        yield
        return
    with capturing(taps, plan.capturing, yielding=plan.clock == "virtual"):
        yield


def seed_kernel(seed: int) -> None:
    """Let the random numbers that the kernel draws from now on depend on `seed` only.

    The kernel draws port numbers, RED's marks, keys of hash tables and what programs ask for. Other
    kernels do not have the parameter.
    """
    if KERNEL_SEED.exists():
        KERNEL_SEED.write_text(str(seed))


def wait_until_quiet() -> None:
    """Wait for the same phase of the kernel's timers in every run, however long Docker took.

    Linux writes dirty pages back after 5 s, and would do so among the packets of the run, at a
    different time in each run. Flush the pages of Docker and the logs now; the write-back timer
    expires within the wait.
    """
    os.sync()
    time.sleep((2 * QUIET_NS - time.time_ns() % QUIET_NS) / 1e9)


@contextmanager
def sampling_links(folder: RunDir, network: BuiltNetwork) -> Iterator[None]:
    """Sample the counters of all WAN ports within the block.

    Args:
        folder: the run folder.
        network: the running network.
    """
    with ExitStack() as sockets:
        ports: list[SampledPort] = []
        for wan_port in qdiscs.wan_ports(network.plan):
            with inside_netns(network.pid(wan_port.router)):
                connection = sockets.enter_context(_netlink_socket())
                index = socket.if_nametoindex(wan_port.interface)
            direction = wan_port.direction
            port = SampledPort(connection, index, direction.source, direction.target, wan_port.link)
            ports.append(port)
        with sampling(ports, folder.link_samples):
            yield


@contextmanager
def watching_clock_health(folder: RunDir, network: BuiltNetwork, plan: Plan) -> Iterator[None]:
    """Record evidence that this kernel did not keep up within the block, on the real clock.

    Args:
        folder: the run folder.
        network: the running network.
        plan: the plan of the run.
    """
    if plan.clock == "virtual":
        yield
        return
    with watching() as observations:
        yield
    drops = _fibre_drops(network, plan.network)
    write(folder.strain, observations.record(drops))


@contextmanager
def watching_memory(folder: RunDir, network: BuiltNetwork) -> Iterator[None]:
    """Record at the end of the block whether this kernel was short of memory for packets.

    Args:
        folder: the run folder.
        network: the running network.
    """
    try:
        yield
    finally:
        pids = {host.name: network.pid(host.node) for host in network.plan.hosts_here}
        hosts = shortages(pids)
        if hosts:
            write(folder.memory_shortage, MemoryShortage(hosts=hosts))


def _tap(folder: RunDir, network: BuiltNetwork, point: CapturePoint) -> Tap:
    path = folder.capture(point.what, point.at)
    pid = network.pid(point.node)
    return Tap(path, pid, _interface(network.plan, point), inbound=point.kind == "lan")


def _interface(network: Network, point: CapturePoint) -> str:
    """Return the name of the interface at which packets are captured."""
    if point.kind == "nic":
        return HOST_INTERFACE
    if point.kind == "wan":
        indices = {link.key: link.index for link in network.wan}
        return qdiscs.wan_interface(point.node, indices[point.what])
    return point.interface or qdiscs.lan_interface(point.node)


def _fibre_drops(network: BuiltNetwork, plan: Network) -> dict[str, int]:
    """Count the packet drops of fibres that should never drop packets.

    Args:
        network: the running network.
        plan: the plan of the network.

    Returns:
        The number of drops by interface, without zeros.
    """
    if not plan.wan:
        return {}
    drops: dict[str, int] = {}
    with inside_netns(network.pid("wan")), _netlink_socket() as connection:
        counters = read_counters(connection)
        for index, interface in socket.if_nameindex():
            if index in counters:
                drops[interface] = counters[index].drops
    return {fibre: drops[fibre] for fibre in _lossless_fibres(plan) if drops.get(fibre)}


def _lossless_fibres(plan: Network) -> list[str]:
    """Return the interfaces of fibres that are lossless, before and after every change."""
    fibres: set[str] = set()
    lossy: set[str] = set()
    for state in plan.states():
        for port in qdiscs.ports(state):
            if port.node == "wan":
                fibres.add(port.interface)
                if qdiscs.loses(port):
                    lossy.add(port.interface)
    return sorted(fibres - lossy)


def _netlink_socket() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
