"""Mininet's prompt, one line at a time, with the names from the topology."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any

from mininet.cli import CLI
from mininet.log import error, output, setLogLevel
from mininet.node import Node

from testbed.core.compat.mininet_shell import print_to
from testbed.network.built import BuiltNetwork
from testbed.plan.model import HOST_INTERFACE

NOT_HERE = {"EOF", "exit", "quit", "gterm", "xterm", "x", "dpctl", "switch", "source", "noecho"}
LISTENING_S = 0.5  # wait for a new iperf server to listen
IPERF_S = 5


class Prompt(CLI):
    """Mininet's prompt, driven by `onecmd`; renames the network's nodes, so use a separate process.

    Args:
        network: the built network.
        names: node by the name that users see; other nodes keep their names in the kernel.
    """

    identchars = CLI.identchars + "-."

    def __init__(self, network: BuiltNetwork, names: Mapping[str, str]) -> None:
        _rename_nodes(network, names)
        _set_addresses(network)

        setLogLevel("output")
        print_to(sys.stdout)

        # Mininet waits for its input as well; this input stays empty.
        silent_input, self._write_end = os.pipe()
        super().__init__(network.mininet, stdin=os.fdopen(silent_input))

    @classmethod
    def initReadline(cls) -> None:
        """Do nothing: the caller edits lines."""

    def run(self) -> None:
        """Do nothing: the caller passes one line at a time."""

    def default(self, line: str) -> None:
        """Run a command on a node; host names in the command are replaced by IP addresses."""
        name, arguments, _line = self.parseline(line)

        if name not in self.mn:
            error(f"*** unknown command or node {name or line!r}: try help, nodes\n")
            return
        if not arguments:
            error(f"*** {name} needs a command: {name} COMMAND\n")
            return

        words = [self._with_address(word) for word in arguments.split(" ")]
        node: Node = self.mn[name]
        node.sendCmd(" ".join(words))
        self.waitForNode(node)

    def _with_address(self, word: str) -> str:
        """Return the address of the node named `word`, or `word` itself without such an address."""
        if word not in self.mn:
            return word
        return self.mn[word].IP() or word

    def do_net(self, _line: str) -> None:
        """List the interfaces of each node, and the node and interface at the other end."""
        for node in self.mn.values():
            connections = [_connection(interface) for interface in node.intfList()]
            output(f"{' '.join([node.name, *connections])}\n")

    def do_links(self, _line: str) -> None:
        """List the links between nodes, with the state of both ends."""
        for link in self.mn.links:
            output(f"{_end(link.intf1)}<->{_end(link.intf2)} {link.status()}\n")

    def do_dump(self, _line: str) -> None:
        """List the nodes with their interfaces, addresses, and a process in their namespaces."""
        for node in self.mn.values():
            parts = [node.name]
            for interface in node.intfList():
                address = f" {interface.ip}/{interface.prefixLen}" if interface.ip else ""
                parts.append(f"{_connection(interface)}{address}")
            output(f"{', '.join([*parts, f'pid {node.pid}'])}\n")

    def do_iperf(self, line: str) -> None:
        """Throughput of TCP between hosts, else the first and the last: iperf [HOST HOST]."""
        self._iperf(line.split(), [])

    def do_iperfudp(self, line: str) -> None:
        """Throughput of UDP sent at a rate, such as 10M: iperfudp RATE [HOST HOST]."""
        rate, *names = line.split() or ["10M"]
        self._iperf(names, ["-u", "-b", rate])

    def _iperf(self, names: list[str], options: list[str]) -> None:
        """Run iperf between the two hosts in `names`, or between the first and the last host."""
        if shutil.which("iperf") is None:
            error("*** iperf is not installed on this machine\n")
            return

        if not names:
            hosts = self.mn.hosts
            names = [hosts[0].name, hosts[-1].name]
        if len(names) != 2 or any(name not in self.mn for name in names):
            error("*** iperf needs two hosts\n")
            return

        client, server = (self.mn[name] for name in names)
        # Mininet counts lines of the server's report instead, and hangs with iperf 2.1.
        listener = server.popen(["iperf", "-s", *options[:1]])
        try:
            time.sleep(LISTENING_S)
            command = f"iperf -c {server.IP()} -t {IPERF_S} {' '.join(options)}"
            output(client.cmd(command))
        finally:
            listener.terminate()


def _end(interface: Any) -> str:
    """Return the node and the name of an interface."""
    return f"{interface.node.name}:{interface.name}"


def _connection(interface: Any) -> str:
    """Return an interface, and the node and interface at the other end of its link."""
    link = interface.link
    if link is None:
        return str(interface.name)
    other = link.intf2 if link.intf1 is interface else link.intf1
    return f"{interface.name}->{_end(other)}"


def _rename_nodes(network: BuiltNetwork, names: Mapping[str, str]) -> None:
    """Give nodes the names that users see, and make the plan's hosts the only hosts of Mininet.

    Mininet's pingall and iperf use all of Mininet's hosts; routers and the outside plant become
    switches.
    """
    net = network.mininet
    nodes = [*net.hosts, *net.switches]
    renamed = {name: net[node] for name, node in names.items()}
    for name, node in renamed.items():
        node.name = name

    net.nameToNode = {node.name: node for node in nodes}
    net.nameToNode.update(renamed)

    hosts = [net[host.name] for host in network.plan.hosts]
    net.switches = [node for node in nodes if node not in hosts]
    net.hosts = hosts


def _set_addresses(network: BuiltNetwork) -> None:
    """Copy the hosts' addresses, which netlink set, into Mininet's nodes."""
    for host in network.plan.hosts:
        node = network.mininet[host.name]
        interface = node.nameToIntf[HOST_INTERFACE]

        address = host.address
        interface.ip = str(address.ip)
        interface.prefixLen = address.network.prefixlen
        interface.mac = host.mac


def commands() -> list[str]:
    """Return the commands of the prompt."""
    names: list[str] = []
    for method in dir(Prompt):
        name = method.removeprefix("do_")
        if method.startswith("do_") and name not in NOT_HERE:
            names.append(name)
    return names
