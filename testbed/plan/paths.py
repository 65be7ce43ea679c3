"""Propagation, lowest rate and largest queue of the paths between all datacenters.

A path is a chain of next hops, so the figures of a path are those of its first link and of the path
from there on. All paths to a datacenter together take one step for each datacenter, however long
they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from testbed.plan.model import Direction, Host, Network

UNLIMITED_BPS = 2**63  # more than any rate; a path without links has no lowest one


class PathFigures(NamedTuple):
    """Figures of the WAN links of a path.

    Attributes:
        delay_ns: sum of the one-way delays.
        rate_bps: lowest rate of a bottleneck; `UNLIMITED_BPS` without links.
        queue_packets: longest queue of a bottleneck.
    """

    delay_ns: int
    rate_bps: int
    queue_packets: int

    def after(self, direction: Direction) -> PathFigures:
        """Return the figures of the path that crosses `direction` before this one."""
        bottleneck = direction.bottleneck
        return PathFigures(
            self.delay_ns + direction.fibre.delay_ns,
            min(self.rate_bps, bottleneck.rate_bps),
            max(self.queue_packets, bottleneck.queue_packets),
        )


NO_LINKS = PathFigures(0, UNLIMITED_BPS, 0)


def figures_to(network: Network, target: str) -> dict[str, PathFigures]:
    """Return the figures of the first path (`Network.path`) to a datacenter from each other one.

    Args:
        network: the network.
        target: name of the datacenter.

    Returns:
        By name of the datacenter where the path begins, the target included; datacenters without a
        path are left out.
    """
    figures = {target: NO_LINKS}
    for datacenter in network.datacenters:
        passed: list[tuple[str, Direction]] = []
        name = datacenter.name
        while name not in figures:
            direction = network.first_direction(name, target)
            if direction is None:
                break
            passed.append((name, direction))
            name = direction.target

        rest = figures.get(name)
        if rest is None:
            continue
        for source, direction in reversed(passed):
            rest = rest.after(direction)
            figures[source] = rest

    return figures


def least_delays_to(network: Network, target: str) -> dict[str, int]:
    """Return the least one-way delay in ns of all paths (`Network.paths`) to a datacenter.

    Args:
        network: the network.
        target: name of the datacenter.

    Returns:
        By name of the datacenter where the paths begin, the target included; datacenters without a
        path are left out.
    """

    @cache
    def least_from(name: str) -> float:
        if name == target:
            return 0

        least = math.inf
        for direction in network.next_directions(name, target):
            least = min(least, direction.fibre.delay_ns + least_from(direction.target))
        return least

    delays: dict[str, int] = {}
    for datacenter in network.datacenters:
        delay_ns = least_from(datacenter.name)
        if delay_ns < math.inf:
            delays[datacenter.name] = int(delay_ns)
    return delays


class FirstHosts:
    """The first host of each datacenter, and the paths between all of these hosts."""

    def __init__(self, network: Network) -> None:
        """Find the figures of all paths.

        Args:
            network: the network; its changes are ignored.
        """
        self.hosts = network.first_hosts()
        self._figures: dict[str, dict[str, PathFigures]] = {}
        self._ends_ns: dict[str, int] = {}
        for host in self.hosts:
            self._figures[host.dc] = figures_to(network, host.dc)
            self._ends_ns[host.dc] = host.nic_delay_ns + 2 * _fabric_delay_ns(network, host)

    def pairs(self) -> Iterator[tuple[Host, Host]]:
        """Yield every two of the hosts in both orders, and each host with itself."""
        for source in self.hosts:
            yield from ((source, target) for target in self.hosts)

    def figures(self, source: Host, target: Host) -> PathFigures:
        """Return the figures of the WAN links between two hosts.

        Raises:
            KeyError: there is no path.
        """
        return self._figures[target.dc][source.dc]

    def rtt_ns(self, a: Host, b: Host) -> int:
        """Return the propagation RTT in ns between two hosts.

        If `a` and `b` are the same host, return the RTT of two such hosts on one switch.

        Raises:
            KeyError: there is no path.
        """
        if a.dc == b.dc:
            return a.nic_delay_ns + b.nic_delay_ns

        there = self.figures(a, b)
        back = self.figures(b, a)
        wan_ns = there.delay_ns + back.delay_ns
        return self._ends_ns[a.dc] + self._ends_ns[b.dc] + wan_ns

    def longest_rtt_ns(self) -> int:
        """Return the longest RTT in ns between any two of the hosts."""
        return max(self.rtt_ns(a, b) for a, b in self.pairs())


def _fabric_delay_ns(network: Network, host: Host) -> int:
    """Return the one-way delay in ns of the cables from a host's switch to the border router."""
    cables = network.cables_of_first_spine(host.dc, host.switch, network.router(host.dc))
    return sum(cable.delay_ns for cable in cables)
