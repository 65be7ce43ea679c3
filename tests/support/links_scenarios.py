"""Small networks, and what inside/links.py is to measure on them."""

from typing import Any

from testbed.plan.resolve import resolve_network
from testbed.spec.topology import Topology

Scenario = dict[str, Any]
Written = dict[str, Any]  # a topology, or an entry of `wan`, as a user writes it
FRAME = 1514  # bytes on the wire
SEGMENT = 1448  # bytes of TCP's data in a frame
DATAGRAM = 1472  # bytes of UDP's data in a frame
GBIT, MBIT = 1e9, 1e6  # bit/s
MS = 1e6  # ns


def link(rate: str, delay: str, **more: Any) -> Written:
    """An entry of `wan`."""
    return {"rate": rate, "delay": delay, **more}


def two_host_scenario(
    measure: str, link: Written, tcp: Written | None = None, **arguments: Any
) -> Scenario:
    """A measurement on one link between two hosts whose NICs have 400 Gbit/s and no delay.

    Args:
        measure: name of a function of inside/links.py.
        link: the entry of `wan`, without its ends.
        tcp: settings of TCP; None: no segmentation offload.
        arguments: of the function.
    """
    site = {"hosts": 1, "nic": {"rate": "400 Gbit/s", "delay": "0 ms"}}
    topology = {
        "name": "link",
        "datacenters": {"west": site, "east": site},
        "wan": [{"between": ["west", "east"], **link}],
        "tcp": {"offload": "off"} if tcp is None else tcp,
    }
    return scenario_of(topology, measure, **arguments)


def scenario_of(topology: Written, measure: str, **arguments: Any) -> Scenario:
    """A measurement on any topology; `measure` names a function of inside/links.py."""
    network = resolve_network(Topology.model_validate(topology), seed=1)
    return {
        "network": network.model_dump(mode="json"),
        "measure": measure,
        "arguments": arguments,
    }
