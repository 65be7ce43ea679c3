"""A built network: its plan, and its nodes by name."""

from __future__ import annotations

from mininet.net import Mininet

from testbed.plan.model import Network


class BuiltNetwork:
    """A built network. Nodes have the short names of the plan, such as `Host.node`."""

    def __init__(self, plan: Network, mininet: Mininet) -> None:
        self.plan = plan
        self.mininet = mininet

    def pid(self, node: str) -> int:
        """Return the id of a process in the network namespace of `node`."""
        return int(self.mininet[node].pid)
