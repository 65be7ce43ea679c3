"""Deployed networks: their links as they are, and changes that a browser asks for."""

from __future__ import annotations

import json
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from testbed.core.errors import InputError, Place
from testbed.core.units import format_probability, format_rate, format_time
from testbed.deployments import service
from testbed.deployments.folder import Deployment
from testbed.deployments.reconfigure import change
from testbed.deployments.status import LinkStatus, status_of
from testbed.plan.model import Network
from testbed.spec.overrides import Override
from testbed.spec.yaml_reader import parse
from testbed.ui.feed import Parts

SETTINGS = ("rate", "delay", "loss")  # of a link that the page can change
LONGEST_VALUE = 200  # characters


class NetworkEntry(BaseModel):
    """A deployed network in the list."""

    name: str
    state: str
    topology: str
    clock: str
    hosts: int
    links: int
    text: str


class DeployedDirection(BaseModel):
    """A direction of a WAN link with its settings as people write them."""

    source: str
    target: str
    rate: str
    delay: str
    loss: str


class DeployedLink(BaseModel):
    """A WAN link with its two directions."""

    key: str
    directions: list[DeployedDirection]


class LinkChange(BaseModel):
    """New settings of a link, as a browser sends them: values by setting."""

    model_config = ConfigDict(extra="forbid")

    link: str
    values: dict[str, str]


def list_networks() -> list[NetworkEntry]:
    """Return all deployments of this user."""
    return [entry_of(deployment) for deployment in service.deployments()]


def entry_of(deployment: Deployment) -> NetworkEntry:
    """Return the entry of a deployment."""
    status = status_of(deployment)
    return NetworkEntry(
        name=status.name,
        state=status.state,
        topology=status.topology or "",
        clock=status.clock or "",
        hosts=len(status.hosts),
        links=len(status.links) // 2,
        text=(status.reason or "").partition("\n")[0],
    )


def look_at_network(name: str) -> Parts:
    """Return the parts of a deployment's page; none once the deployment is gone."""
    found = [deployment for deployment in service.deployments() if deployment.name == name]
    if not found:
        return {"gone": json.dumps(f"{name} is not deployed any more")}

    status = status_of(found[0])
    links: dict[str, DeployedLink] = {}
    for direction in status.links:
        row = links.setdefault(direction.link, DeployedLink(key=direction.link, directions=[]))
        row.directions.append(_direction(direction))
    hosts = [host.model_dump() for host in status.hosts]
    return {
        "entry": entry_of(found[0]).model_dump_json(),
        "links": json.dumps([row.model_dump() for row in links.values()]),
        "hosts": json.dumps(hosts),
    }


def _direction(status: LinkStatus) -> DeployedDirection:
    return DeployedDirection(
        source=status.source,
        target=status.target,
        rate=format_rate(status.rate_bps),
        delay=format_time(round(status.delay_ms * 1e6)),
        loss=format_probability(status.loss),
    )


def network_of(name: str) -> Network:
    """Return the network of a running deployment.

    Raises:
        InputError: There is no such deployment, or it is not running.
    """
    return service.find(name).read_plan().network


def change_link(name: str, wanted: LinkChange) -> None:
    """Change settings of a link of a deployment.

    Args:
        name: name of the deployment.
        wanted: the link, and values as people write them, by setting.

    Raises:
        TestbedError: The link, a setting or a value is wrong, or the guest rejects the change.
    """
    deployment = service.find(name)
    keys = [link.key for link in deployment.read_plan().network.wan]
    if wanted.link not in keys:
        raise InputError(f"{name} has no link {wanted.link!r}")
    overrides = _overrides(wanted.link, wanted.values)
    if not overrides:
        raise InputError("no setting was given")
    change(deployment, overrides)


def _overrides(link: str, values: Mapping[str, str]) -> list[Override]:
    overrides: list[Override] = []
    for setting, text in values.items():
        if setting not in SETTINGS:
            remedy = f"settings that the page changes: {', '.join(SETTINGS)}"
            raise InputError(f"cannot change {setting!r}", remedy=remedy)
        if len(text) > LONGEST_VALUE:
            raise InputError("the value is too long", place=Place(setting))
        key = f"wan.{link}.{setting}"
        value = parse(text, key)
        overrides.append(Override(key, ("wan", link, setting), value, Place(key)))
    return overrides


def take_down(name: str) -> None:
    """End a deployment, and remove its files.

    Raises:
        InputError: There is no such deployment.
    """
    service.destroy(service.find(name, running=False))
