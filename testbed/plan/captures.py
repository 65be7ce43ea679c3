"""List the interfaces where a run captures packets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from testbed.plan.model import Capture, Datacenter, Network


@dataclass(frozen=True)
class CapturePoint:
    """An interface where packets are captured.

    `wan`: a border router's port into WAN link `what`. `lan`: a port of a border router towards its
    datacenter; only incoming packets are kept, and show when a packet enters the queue of the WAN
    link. `nic`: a host's interface.
    """

    kind: Literal["wan", "lan", "nic"]
    what: str  # key of the WAN link, or lan or nic
    at: str  # datacenter or host
    node: str
    mac: str
    interface: str = ""  # of a fabric cable; empty: the name is defined by the network


def capture_points(network: Network, capture: Capture) -> list[CapturePoint]:
    """Return the interfaces, of what is built here, where a run captures packets.

    Args:
        network: the network of the run.
        capture: ``wan``: both ends of every WAN link; ``all``: hosts, too; ``none``: nowhere.
    """
    if capture == "none":
        return []

    points = list(_wan_points(network))
    if network.wan:
        for dc in network.datacenters_here:
            points.extend(_lan_points(dc))

    if capture == "all":
        for host in network.hosts_here:
            point = CapturePoint(kind="nic", what="nic", at=host.name, node=host.node, mac=host.mac)
            points.append(point)
    return points


def _wan_points(network: Network) -> Iterator[CapturePoint]:
    """Yield the capture points at both ends of every WAN link."""
    for link in network.wan:
        for direction in network.directions_here(link):
            dc = direction.source
            yield CapturePoint(
                kind="wan", what=link.key, at=dc, node=network.router(dc), mac=direction.mac
            )


def _lan_points(dc: Datacenter) -> Iterator[CapturePoint]:
    """Yield the border router's ports towards its switch or spines."""
    if dc.fabric is None:
        (segment,) = dc.segments
        yield CapturePoint(
            kind="lan", what="lan", at=dc.name, node=dc.router, mac=segment.gateway_mac
        )
        return

    for number, end in enumerate(dc.fabric.ends_at(dc.router)):
        yield CapturePoint(
            kind="lan",
            what=f"lan{number}",
            at=dc.name,
            node=dc.router,
            mac=end.mac,
            interface=end.interface,
        )
