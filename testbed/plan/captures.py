"""Where a run captures packets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from testbed.plan.model import Capture, Network


@dataclass(frozen=True)
class CapturePoint:
    """An interface where packets are captured.

    `wan`: a border router's port into WAN link `what`. `lan`: a port of a border router towards its
    datacenter; only what comes in is kept, and shows when a packet joins the queue of the WAN link.
    `nic`: a host's interface.
    """

    kind: Literal["wan", "lan", "nic"]
    what: str  # WAN link, or lan or nic
    at: str  # datacenter, or host
    node: str
    mac: str
    interface: str = ""  # of a cable of a fabric; empty: what the network calls it


def capture_points(network: Network, capture: Capture) -> list[CapturePoint]:
    """Where a run captures."""
    if capture == "none":
        return []
    points = [
        CapturePoint("wan", link.key, way.source, network.datacenter(way.source).router, way.mac)
        for link in network.wan
        for way in link.directions
    ]
    for dc in network.datacenters if network.wan else ():
        if dc.fabric is None:
            points.append(
                CapturePoint("lan", "lan", dc.name, dc.router, dc.segments[0].gateway_mac)
            )
            continue
        ends = [end for cable in dc.fabric.cables for end in cable.ends if end.node == dc.router]
        points += [
            CapturePoint("lan", f"lan{number}", dc.name, dc.router, end.mac, end.interface)
            for number, end in enumerate(ends)
        ]
    if capture == "all":
        points += [
            CapturePoint("nic", "nic", host.name, host.node, host.mac) for host in network.hosts
        ]
    return points
