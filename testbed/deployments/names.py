"""Name the nodes of a network as people do."""

from __future__ import annotations

from testbed.plan.model import Network


def node_names(network: Network) -> dict[str, str]:
    """Return the kernel's names of nodes by the names that people use.

    People name hosts directly, border routers by their datacenter, and switches by their datacenter
    and the rest of the kernel's name, such as west-s for d0s; spines likewise.
    """
    nodes = {host.name: host.node for host in network.hosts}
    for dc in network.datacenters:
        nodes[dc.name] = dc.router
    for dc in network.datacenters:
        prefix = dc.router.removesuffix("r")
        switches = [segment.switch for segment in dc.segments]
        if dc.fabric is not None:
            switches.extend(dc.fabric.spines)
        for switch in switches:
            name = f"{dc.name}-{switch.removeprefix(prefix)}"
            nodes.setdefault(name, switch)
    return nodes
