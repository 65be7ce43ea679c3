"""Mininet's nodes and links as the testbed uses them: made by system calls and netlink, without
programs to start.

Mininet starts four programs for a node (mnexec, env, bash, stty: 80 ms in a guest) and one for each
change of a link. Here a process that sleeps holds a node's namespaces, and its shell starts with
`start_shell` or its first command.
"""

from __future__ import annotations

from typing import Any

from mininet.link import Intf, Link
from mininet.node import Node, Switch

from testbed.network import qdiscs
from testbed.network.namespace import Holder
from testbed.network.netlink import netlink


class QuietNode(Node):
    """A node with a network namespace of its own, or with `netns_pid` that process's (a
    container's).
    """

    pid: Any  # of a process in the node's namespaces; None after the end
    inNamespace: bool

    def __init__(self, name: str, netns_pid: int | None = None, **params: Any) -> None:
        self.netns_pid = netns_pid
        self._holder: Holder | None = None
        super().__init__(name, **params)

    def startShell(self, mnopts: str | None = None) -> None:  # noqa: D102 (Mininet's name)
        del mnopts
        self._holder = Holder() if self.netns_pid is None else None
        self.pid = self.netns_pid if self._holder is None else self._holder.pid

    def start_shell(self) -> None:
        """Start the shell, which keeps what commands leave in it: folder, variables, jobs."""
        pid, own = self.pid, self.inNamespace
        self.inNamespace = False  # else the shell would get a namespace of its own
        super().startShell(f"-cda{pid}")  # attached to the namespaces of `pid`
        self.pid, self.inNamespace = pid, own

    def sendCmd(self, *words: Any, **options: Any) -> None:
        """Hand a command to the node's shell, which starts if it does not run yet."""
        if self.shell is None:
            self.start_shell()
        super().sendCmd(*words, **options)

    def terminate(self) -> None:
        """End the shell and the process that holds the namespace."""
        super().terminate()
        if self._holder is not None:
            self._holder.end()
        self._holder = self.pid = None


class Bridge(QuietNode, Switch):
    """The switch of a datacenter, or a leaf: a Linux bridge in a namespace of its own."""

    def start(self, controllers: list[Any]) -> None:
        """Put every interface towards hosts and the border router on the bridge ``br0``; cables are
        routed.
        """
        del controllers
        with netlink(self.pid) as connection:
            connection.link("add", ifname="br0", kind="bridge", br_stp_state=0, br_mcast_snooping=0)
            bridge = connection.link_lookup(ifname="br0")[0]
            connection.link("set", index=bridge, state="up")
            for name in filter(qdiscs.is_bridged, self.nameToIntf):
                index = connection.link_lookup(ifname=name)[0]
                connection.link("set", index=index, master=bridge, state="up")


class Interface(Intf):
    """An interface that is configured by netlink, not by Mininet's ifconfig."""

    def config(self, **params: Any) -> dict[str, Any]:
        """Nothing: see testbed.network.build."""
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
        peer: dict[str, Any] = {"ifname": intfname2, "net_ns_pid": node2.pid}
        near: dict[str, Any] = {}
        if addr1:
            near["address"] = addr1
        if addr2:
            peer["address"] = addr2
        with netlink(node1.pid) as connection:
            connection.link("add", ifname=intfname1, kind="veth", peer=peer, **near)
