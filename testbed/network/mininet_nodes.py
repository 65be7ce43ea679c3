"""Mininet's nodes and links, made by system calls and netlink.

Mininet starts four programs for each node (mnexec, env, bash, stty: 80 ms in a guest) and one for
each change of a link. Here a sleeping process holds a node's namespaces, and the node's shell
starts with `start_shell` or the first command.
"""

from __future__ import annotations

from typing import Any

from mininet.link import Intf, Link
from mininet.node import Node, Switch

from testbed.core.compat.mininet_shell import start_attached_shell
from testbed.network import qdiscs
from testbed.network.namespace import NamespaceProcess
from testbed.network.rtnetlink import netlink

BRIDGE = "br0"


class QuietNode(Node):
    """A node in a new network namespace, or in the namespace of process `netns_pid`."""

    pid: Any  # of a process in the node's namespaces; None after the end
    inNamespace: bool

    def __init__(self, name: str, netns_pid: int | None = None, **params: Any) -> None:
        self.netns_pid = netns_pid
        self._namespaces: NamespaceProcess | None = None
        super().__init__(name, **params)

    @classmethod
    def setup(cls) -> None:
        """Skip Mininet's check for mnexec and ifconfig: only a node's shell needs mnexec."""

    def startShell(self, mnopts: str | None = None) -> None:  # noqa: D102 (Mininet's name)
        del mnopts
        if self.netns_pid is not None:
            self.pid = self.netns_pid
            return
        self._namespaces = NamespaceProcess()
        self.pid = self._namespaces.pid

    def start_shell(self) -> None:
        """Start the shell, which keeps its folder, variables and jobs between commands."""
        start_attached_shell(self, super().startShell)

    def sendCmd(self, *words: Any, **options: Any) -> None:
        """Send a command to the node's shell, starting the shell if necessary."""
        if self.shell is None:
            self.start_shell()
        super().sendCmd(*words, **options)

    def terminate(self) -> None:
        """End the shell and the process that holds the namespace."""
        super().terminate()
        if self._namespaces is not None:
            self._namespaces.end()
        self._namespaces = None
        self.pid = None


class Bridge(QuietNode, Switch):
    """The switch of a datacenter, or a leaf: a Linux bridge in a network namespace."""

    def start(self, controllers: list[Any]) -> None:
        """Add interfaces towards hosts and the border router to the bridge; cables are routed."""
        del controllers
        with netlink(self.pid) as connection:
            connection.add_bridge(BRIDGE)
            connection.send()
            bridge = connection.index_of(BRIDGE)
            connection.set_link(bridge, up=True)
            for name in self.nameToIntf:
                if qdiscs.is_bridged(name):
                    connection.set_link(connection.index_of(name), bridge=bridge, up=True)


class Interface(Intf):
    """An interface configured by netlink instead of Mininet's ifconfig."""

    def config(self, **params: Any) -> dict[str, Any]:
        """Do nothing: see `testbed.network.configure`."""
        return {}


class VethLink(Link):
    """A pair of virtual Ethernet interfaces, made by netlink directly in both namespaces."""

    @classmethod
    def makeIntfPair(  # noqa: D102 (Mininet's name and parameters)
        cls,
        intfname1: str,
        intfname2: str,
        addr1: str | None = None,
        addr2: str | None = None,
        node1: Any = None,
        node2: Any = None,
        deleteIntfs: bool = True,
    ) -> None:
        with netlink(node1.pid) as connection:
            connection.add_veth(intfname1, addr1, intfname2, addr2, node2.pid)
