"""Small networks, and what inside/links.py is to measure on them."""

from typing import Any

from testbed.plan.resolve import resolve_network
from testbed.spec.topology import Topology

Scenario = dict[str, Any]
FRAME, SEGMENT, DATAGRAM = 1514, 1448, 1472  # bytes: on the wire, of TCP's and of UDP's data in it
GBIT, MBIT, MS = 1e9, 1e6, 1e6


def link(rate: str, delay: str, **more: Any) -> dict[str, Any]:
    """An entry of `wan`."""
    return {"rate": rate, "delay": delay, **more}


def scenario(
    measure: str, link: dict[str, Any], tcp: dict[str, Any] | None = None, **arguments: Any
) -> Scenario:
    """One link between two hosts whose NICs have 400 Gbit/s and no delay; without segmentation
    offload by default.
    """
    site = {"hosts": 1, "nic": {"rate": "400 Gbit/s", "delay": "0 ms"}}
    wan = [{"between": ["west", "east"], **link}]
    tcp = {"offload": "off"} if tcp is None else tcp
    topology = {"name": "link", "datacenters": {"west": site, "east": site}, "wan": wan, "tcp": tcp}
    return of(topology, measure, **arguments)


def of(topology: dict[str, Any], measure: str, **arguments: Any) -> Scenario:
    """A measurement on any topology."""
    network = resolve_network(Topology.model_validate(topology), seed=1)
    return {"network": network.model_dump(mode="json"), "measure": measure, "arguments": arguments}
