"""Warn when a command's traffic met something that a network of packets does not have.

Inside the guest, the agent reads the counters of WAN queues before and after each command.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path

from testbed.measure.counters import read_counters
from testbed.network import qdiscs
from testbed.network.build import BuiltNetwork
from testbed.network.netns import inside_netns
from testbed.plan.model import Network

RETRANSMITTED = "RetransSegs"  # of the Tcp lines of /proc/net/snmp


class TrafficWatch:
    """Counters of the WAN queues of a network and of the TCP connections of its hosts."""

    def __init__(self, network: BuiltNetwork) -> None:
        self._network = network
        self._ports: list[tuple[str, socket.socket, int]] = []
        for port in qdiscs.wan_ports(network.plan):
            with inside_netns(network.pid(port.router)):
                connection = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
                index = socket.if_nametoindex(port.interface)
            source, target = port.direction.source, port.direction.target
            self._ports.append((f"{source} to {target}", connection, index))

    def read(self, node: str) -> Traffic:
        """Return the present counters.

        Args:
            node: kernel's name of the node whose TCP connections count.
        """
        drops: dict[str, int] = {}
        for direction, connection, index in self._ports:
            counters = read_counters(connection).get(index)
            drops[direction] = counters.drops if counters is not None else 0
        return Traffic(drops, _retransmitted(self._network.pid(node)))


class Traffic:
    """Drops by direction of a WAN link, and segments that one node's TCP has sent again."""

    def __init__(self, drops: dict[str, int], retransmitted: int) -> None:
        self.drops = drops
        self.retransmitted = retransmitted

    def warnings_since(self, before: Traffic, plan: Network) -> list[str]:
        """Return warnings about the traffic since `before`, if the network kept packets together.

        Args:
            before: earlier counters.
            plan: the network with its current settings.
        """
        if plan.tcp.packets_per_skb <= 1:
            return []
        parts = []
        for direction, drops in self.drops.items():
            new_drops = drops - before.drops.get(direction, 0)
            if new_drops > 0:  # a changed queue counts from 0 again
                parts.append(f"{new_drops} from {direction}")
        if not parts:
            return []
        text = (
            f"WAN queues dropped super-packets ({', '.join(parts)}), because segmentation offload "
            "keeps packets together; losses and rates are not those of single packets"
        )
        again = self.retransmitted - before.retransmitted
        if again > 0:
            text += f"; TCP sent {again} segments again"
        return [f"{text}\n  deploy with --set tcp.offload=off, or with a longer queue"]


def _retransmitted(pid: int) -> int:
    """Return the number of TCP segments sent again in the network namespace of a process."""
    with suppress(OSError, ValueError, StopIteration):
        text = Path("/proc", str(pid), "net/snmp").read_text()
        head, row = [line for line in text.splitlines() if line.startswith("Tcp:")]
        position = head.split().index(RETRANSMITTED)
        return int(row.split()[position])
    return 0
