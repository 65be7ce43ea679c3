"""Mininet's prompt, one line at a time, with the names that people use."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Mapping

from mininet.cli import CLI
from mininet.log import error, lg, output, setLogLevel
from mininet.node import Node

from testbed.network import qdiscs
from testbed.network.build import BuiltNetwork

NOT_HERE = {"EOF", "exit", "quit", "gterm", "xterm", "x", "dpctl", "switch", "source", "noecho"}
LISTENING_S = 0.5  # until a new iperf server listens
IPERF_S = 5


class Prompt(CLI):
    """Carries out lines with `onecmd`. It renames nodes of the network: use it in a process of its
    own.

    Args:
        names: nodes by the names that people use; the others keep the names that they have in the
            kernel.
    """

    identchars = CLI.identchars + "-."

    def __init__(self, network: BuiltNetwork, names: Mapping[str, str]) -> None:
        net = network.mininet
        renamed = {name: net[node] for name, node in names.items()}
        for name, node in renamed.items():
            node.name = name
        net.nameToNode = {node.name: node for node in [*net.hosts, *net.switches]} | renamed
        hosts = [network.mininet[host.name] for host in network.plan.hosts]
        net.switches = [node for node in [*net.hosts, *net.switches] if node not in hosts]
        net.hosts = hosts  # those that pingall and iperf are about
        for host in network.plan.hosts:
            interface = net[host.name].nameToIntf[qdiscs.host_interface(host)]
            interface.ip, interface.prefixLen = str(host.address.ip), host.address.network.prefixlen
            interface.mac = host.mac
        setLogLevel("output")
        lg.handlers[0].setStream(sys.stdout)
        never, self._write_end = (
            os.pipe()
        )  # Mininet waits for its input, too; nothing is ever typed here
        super().__init__(net, stdin=os.fdopen(never))

    @classmethod
    def initReadline(cls) -> None:
        """Nothing: lines are edited elsewhere."""

    def run(self) -> None:
        """Nothing: lines come one at a time."""

    def default(self, line: str) -> None:
        """A command on a node; names of hosts in it stand for their addresses."""
        name, arguments, _line = self.parseline(line)
        if name in self.mn and not arguments:
            error(f"*** {name} needs a command: {name} COMMAND\n")
        elif name in self.mn:
            node: Node = self.mn[name]
            words = [
                self.mn[word].IP() or word if word in self.mn else word
                for word in arguments.split(" ")
            ]
            node.sendCmd(" ".join(words))
            self.waitForNode(node)
        else:
            error(f"*** there is no command or node {name or line!r}: try help, nodes\n")

    def do_iperf(self, line: str) -> None:
        """Throughput of TCP between two hosts, the first and the last by default: iperf [HOST
        HOST].
        """
        self._iperf(line.split(), [])

    def do_iperfudp(self, line: str) -> None:
        """Throughput of UDP sent at a rate, such as 10M, between two hosts: iperfudp RATE [HOST
        HOST].
        """
        rate, *names = line.split() or ["10M"]
        self._iperf(names, ["-u", "-b", rate])

    def _iperf(self, names: list[str], options: list[str]) -> None:
        if shutil.which("iperf") is None:
            error("*** iperf is not installed on this machine\n")
            return
        names = names or [self.mn.hosts[0].name, self.mn.hosts[-1].name]
        hosts = [self.mn[name] for name in names if name in self.mn]
        if len(names) != 2 or len(hosts) != 2:
            error("*** iperf needs two hosts\n")
            return
        client, server = hosts
        # Mininet's own way counts lines of the server's report, and waits for ever with iperf 2.1.
        listener = server.popen(["iperf", "-s", *options[:1]])
        try:
            time.sleep(LISTENING_S)
            output(
                client.cmd(f"iperf -c {server.IP()} -t {IPERF_S} {' '.join(options)}").replace(
                    "\r", ""
                )
            )
        finally:
            listener.terminate()


def commands() -> list[str]:
    """The commands of the prompt."""
    names = (name.removeprefix("do_") for name in dir(Prompt) if name.startswith("do_"))
    return [name for name in names if name not in NOT_HERE]
