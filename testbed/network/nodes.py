"""Mininet's nodes and links as the testbed uses them: made by system calls and netlink, without programs to start.

Mininet starts four programs for a node (mnexec, env, bash, stty: 80 ms in a guest) and one for each change of a link.
Here a node's namespace is a fork of this process, and its shell starts with `start_shell` or its first command.
"""

from __future__ import annotations

import ctypes
import os
import signal
from contextlib import suppress
from typing import Any, NoReturn

from mininet.link import Intf, Link
from mininet.node import Node, Switch

from testbed.confine import CLONE_NEWNET, CLONE_NEWNS, MS_PRIVATE, MS_REC, die_with_parent
from testbed.network import shape
from testbed.network.netlink import netlink

_libc = ctypes.CDLL(None, use_errno=True)


class QuietNode(Node):
    """A node with a network namespace of its own, or with `netns_pid` that process's (a container's)."""

    pid: Any  # of a process in the node's namespaces; None after the end
    inNamespace: bool

    def __init__(self, name: str, netns_pid: int | None = None, **params: Any) -> None:
        self.netns_pid = netns_pid
        super().__init__(name, **params)

    def startShell(self, mnopts: str | None = None) -> None:  # noqa: D102 (Mininet's name)
        del mnopts
        self.pid = _fork_into_namespaces() if self.netns_pid is None else self.netns_pid

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
        if self.netns_pid is None and self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        self.pid = None


class Bridge(QuietNode, Switch):
    """The switch of a datacenter, or a leaf: a Linux bridge in a namespace of its own."""

    def start(self, controllers: list[Any]) -> None:
        """Put every interface towards hosts and the border router on the bridge ``br0``; cables are routed."""
        del controllers
        with netlink(self.pid) as connection:
            connection.link("add", ifname="br0", kind="bridge", br_stp_state=0, br_mcast_snooping=0)
            bridge = connection.link_lookup(ifname="br0")[0]
            connection.link("set", index=bridge, state="up")
            for name in filter(shape.is_bridged, self.nameToIntf):
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
        cls, intfname1: str, intfname2: str, addr1: str | None = None, addr2: str | None = None,
        node1: Any = None, node2: Any = None, deleteIntfs: bool = True,
    ) -> None:  # fmt: skip
        peer: dict[str, Any] = {"ifname": intfname2, "net_ns_pid": node2.pid}
        near: dict[str, Any] = {}
        if addr1:
            near["address"] = addr1
        if addr2:
            peer["address"] = addr2
        with netlink(node1.pid) as connection:
            connection.link("add", ifname=intfname1, kind="veth", peer=peer, **near)


def _fork_into_namespaces() -> int:
    """A child that does nothing, in a network namespace of its own, with the /sys that shows it.

    Raises:
        OSError: the child could not make it.
    """
    done, ready = os.pipe()
    pid = os.fork()
    if pid == 0:
        _hold(ready)
    os.close(ready)
    with os.fdopen(done, "rb") as answer:
        errno = int(answer.read() or -1)
    if errno:
        os.waitpid(pid, 0)
        raise OSError(errno, f"a network namespace cannot be made: {os.strerror(errno)}")
    return pid


def _hold(ready: int) -> NoReturn:
    """Be that child: say 0 or an errno, then wait for the end."""
    with suppress(BaseException):
        os.setpgid(0, 0)  # a Ctrl-C at the terminal is not for us
        die_with_parent()
        made = (
            _libc.unshare(CLONE_NEWNET | CLONE_NEWNS) == 0
            and _libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None) == 0
            and _libc.mount(b"sysfs", b"/sys", b"sysfs", 0, None) == 0
        )
        os.write(ready, b"0" if made else str(ctypes.get_errno()).encode())
        os.closerange(0, 1 << 16)
        while made:
            signal.pause()
    os._exit(1)
