"""Mininet's nodes and links as the testbed uses them, made by system calls and netlink.

Mininet starts four programs for a node (mnexec, env, bash, stty: 80 ms in a guest) and one for each
change of a link. Here a process that sleeps holds a node's namespaces, and its shell starts with
`start_shell` or its first command.
"""

from __future__ import annotations

from typing import Any

from mininet.link import Intf, Link
from mininet.node import Node, Switch

from testbed.core.compat.mininet_shell import start_attached_shell
from testbed.network import qdiscs
from testbed.network.namespace import NamespaceProcess
from testbed.network.netlink import interface_index, netlink

BRIDGE = "br0"


class QuietNode(Node):
    """A node in a new network namespace, or with `netns_pid` in the one of that process."""

    pid: Any  # of a process in the node's namespaces; None after the end
    inNamespace: bool

    def __init__(self, name: str, netns_pid: int | None = None, **params: Any) -> None:
        self.netns_pid = netns_pid
        self._namespaces: NamespaceProcess | None = None
        super().__init__(name, **params)

    @classmethod
    def setup(cls) -> None:
        """Do not ask for mnexec and ifconfig: only a node's shell needs the first of them."""

    def startShell(self, mnopts: str | None = None) -> None:  # noqa: D102 (Mininet's name)
        del mnopts
        if self.netns_pid is not None:
            self.pid = self.netns_pid
            return
        self._namespaces = NamespaceProcess()
        self.pid = self._namespaces.pid

    def start_shell(self) -> None:
        """Start the shell, which keeps what commands leave in it: folder, variables, jobs."""
        start_attached_shell(self, super().startShell)

    def sendCmd(self, *words: Any, **options: Any) -> None:
        """Hand a command to the node's shell, which starts if it does not run yet."""
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
        """Put interfaces towards hosts and the border router on the bridge; cables are routed."""
        del controllers
        with netlink(self.pid) as connection:
            bridge_options = {"br_stp_state": 0, "br_mcast_snooping": 0}
            connection.link("add", ifname=BRIDGE, kind="bridge", **bridge_options)
            bridge = interface_index(connection, BRIDGE)
            connection.link("set", index=bridge, state="up")
            for name in self.nameToIntf:
                if qdiscs.is_bridged(name):
                    index = interface_index(connection, name)
                    connection.link("set", index=index, master=bridge, state="up")


class Interface(Intf):
    """An interface that is configured by netlink, not by Mininet's ifconfig."""

    def config(self, **params: Any) -> dict[str, Any]:
        """Nothing: see `testbed.network.configure`."""
        return {}


class VethLink(Link):
    """A pair of virtual Ethernet interfaces, made by netlink in both namespaces at once."""

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
        near: dict[str, Any] = {}
        if addr1:
            near["address"] = addr1

        peer: dict[str, Any] = {"ifname": intfname2, "net_ns_pid": node2.pid}
        if addr2:
            peer["address"] = addr2

        with netlink(node1.pid) as connection:
            connection.link("add", ifname=intfname1, kind="veth", peer=peer, **near)
