"""Determine the status of a deployment for `testbed topo inspect`."""

from __future__ import annotations

import time

from pydantic import Field

from testbed.deployments.folder import Deployment, DeploymentPlan, State
from testbed.guest.boot import EPOCH_NS
from testbed.plan.model import Clock, Direction, Frozen, Network


class HostStatus(Frozen):
    """A host and its IPv4 address."""

    name: str
    datacenter: str
    address: str


class LinkStatus(Frozen):
    """A direction of a WAN link with current settings; `address` is the address of its sender."""

    link: str
    source: str = Field(serialization_alias="from")
    target: str = Field(serialization_alias="to")
    address: str
    rate_bps: int
    queue_packets: int
    delay_ms: float
    jitter_ms: float
    loss: float


class DeploymentStatus(Frozen):
    """Status of a deployment; unknown or inapplicable values are None.

    Attributes:
        name: name of the deployment.
        topology: name of the deployment's topology.
        state: see `Deployment.state`.
        reason: why the deployment has ended.
        clock: the guest's clock.
        seed: seed of random choices in the network.
        uptime_s: wall time in s since the network was deployed.
        virtual_s: virtual time in s at the end of the newest request.
        pid: process id of the guest on the host.
        cpu: the host's CPU on which the guest runs.
        folder: the deployment's folder.
        hosts: all hosts.
        links: all directions of WAN links.
    """

    name: str
    topology: str | None = None
    state: State
    reason: str | None = None
    clock: Clock | None = None
    seed: int | None = None
    uptime_s: float | None = None
    virtual_s: float | None = None
    pid: int | None = None
    cpu: int | None = None
    folder: str
    hosts: tuple[HostStatus, ...] = ()
    links: tuple[LinkStatus, ...] = ()


def status_of(deployment: Deployment) -> DeploymentStatus:
    """Return the status of a deployment."""
    status = _status_of_folder(deployment)
    try:
        plan = deployment.read_plan()
    except (OSError, ValueError):
        # The plan belongs to another version of the testbed, or is being created or removed.
        return status
    return status.model_copy(update=_planned(deployment, plan, status.state))


def _status_of_folder(deployment: Deployment) -> DeploymentStatus:
    """Return the status without the values that need the plan."""
    state = deployment.state
    folder = str(deployment.path)
    if _is_up(state):
        pid = deployment.read_pids().guest
        return DeploymentStatus(name=deployment.name, state=state, pid=pid, folder=folder)
    reason = deployment.why_ended()
    return DeploymentStatus(name=deployment.name, state=state, reason=reason, folder=folder)


def _planned(deployment: Deployment, plan: DeploymentPlan, state: State) -> dict[str, object]:
    """Return the status values that come from the plan."""
    uptime_s = None
    if _is_up(state):
        uptime_s = round(time.time() - plan.created_s, 1)

    return {
        "topology": plan.network.name,
        "clock": plan.clock,
        "seed": plan.seed,
        "uptime_s": uptime_s,
        "virtual_s": _virtual_seconds(deployment, plan),
        "cpu": plan.cpu,
        "hosts": tuple(_hosts(plan.network)),
        "links": tuple(_links(plan.network)),
    }


def _is_up(state: State) -> bool:
    return state in ("running", "starting")


def _virtual_seconds(deployment: Deployment, plan: DeploymentPlan) -> float | None:
    time_ns = deployment.read_last_time_ns()
    if plan.clock != "virtual" or time_ns is None:
        return None
    return (time_ns - EPOCH_NS) / 1e9


def _hosts(network: Network) -> list[HostStatus]:
    hosts: list[HostStatus] = []
    for host in network.hosts:
        address = str(host.address.ip)
        hosts.append(HostStatus(name=host.name, datacenter=host.dc, address=address))
    return hosts


def _links(network: Network) -> list[LinkStatus]:
    links: list[LinkStatus] = []
    for link in network.wan:
        links += [_link_status(link.key, direction) for direction in link.directions]
    return links


def _link_status(key: str, direction: Direction) -> LinkStatus:
    bottleneck, fibre = direction.bottleneck, direction.fibre
    return LinkStatus(
        link=key,
        source=direction.source,
        target=direction.target,
        address=str(direction.address.ip),
        rate_bps=bottleneck.rate_bps,
        queue_packets=bottleneck.queue_packets,
        delay_ms=fibre.delay_ns / 1e6,
        jitter_ms=fibre.jitter_ns / 1e6,
        loss=fibre.loss.p,
    )
