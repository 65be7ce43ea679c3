"""In a guest: build the network of plan.json, and write down what happens to its packets.

usage: three_datacenters.py WRITABLE
"""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from itertools import combinations
from pathlib import Path
from typing import Any

from testbed.core.errors import RunError
from testbed.measure.counters import read_counters
from testbed.network import qdiscs
from testbed.network.build import BuiltNetwork, build_network
from testbed.network.netns import inside_netns
from testbed.network.qdiscs import ShapedPort
from testbed.network.rtnetlink import netlink
from testbed.network.verify import measure_rtt_ns, verify_round_trips
from testbed.plan.model import Host, Plan

IDLE_S = 1.0  # no packet for so long: nothing is in flight any more
RECEIVE_BUFFER = 64 * 2**20
SO_RCVBUFFORCE = 33


class Bench:
    """The network that is built, and traffic between its hosts."""

    def __init__(self, network: BuiltNetwork) -> None:
        self.network = network
        self.plan = network.plan
        self.port = 5000

    def socket(self, host: Host, kind: socket.SocketKind) -> socket.socket:
        """A socket on `host`; one for UDP has a receive buffer that loses nothing."""
        with inside_netns(self.network.pid(host.node)):
            opened = socket.socket(socket.AF_INET, kind)
        if kind == socket.SOCK_DGRAM:
            opened.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
        return opened

    def address(self, host: Host) -> tuple[str, int]:
        """An address of `host` with a port that was not used before."""
        self.port += 1
        return str(host.address.ip), self.port

    def run(self, node: str, *command: str) -> str:
        """What `command` prints in the network namespace of `node`."""
        enter = ["nsenter", f"--net=/proc/{self.network.pid(node)}/ns/net", "--"]
        entered = [*enter, *command]
        return subprocess.run(entered, check=True, capture_output=True, text=True).stdout

    def port_of(self, node: str, interface: str) -> ShapedPort:
        """A shaped port of the plan."""
        for port in qdiscs.ports(self.plan):
            if (port.node, port.interface) == (node, interface):
                return port
        raise AssertionError(f"{node} has no shaped port {interface}")

    def burst(self, source: str, target: str, packets: int, payload: int) -> dict[int, int]:
        """Send UDP packets at once; when each arrives in ns, by its number.

        Args:
            source: name of a host.
            target: name of a host.
            packets: number of packets.
            payload: bytes of each.
        """
        sending_host = self.plan.host(source)
        receiving_host = self.plan.host(target)
        address = self.address(receiving_host)
        arrived: dict[int, int] = {}
        with (
            self.socket(sending_host, socket.SOCK_DGRAM) as sender,
            self.socket(receiving_host, socket.SOCK_DGRAM) as receiver,
        ):
            receiver.bind(address)

            for number in range(packets):
                sender.sendto(number.to_bytes(4, "big") + bytes(payload - 4), address)
            receiver.settimeout(IDLE_S)
            while True:
                try:
                    data = receiver.recv(2048)
                except TimeoutError:
                    return arrived
                number = int.from_bytes(data[:4], "big")
                arrived[number] = time.monotonic_ns()

    def stream(self, source: str, target: str, size: int) -> float:
        """Send `size` bytes by TCP; the bit/s at which the second half of them arrives."""
        sending_host = self.plan.host(source)
        receiving_host = self.plan.host(target)
        address = self.address(receiving_host)
        with (
            self.socket(sending_host, socket.SOCK_STREAM) as sender,
            self.socket(receiving_host, socket.SOCK_STREAM) as listener,
        ):
            listener.bind(address)
            listener.listen()
            sender.connect(address)
            receiver, _peer = listener.accept()
            thread = threading.Thread(target=sender.sendall, args=(bytes(size),))
            thread.start()

            received = 0
            half = 0  # what had been received when the second half began
            half_ns = 0
            with receiver:
                while received < size:
                    received += len(receiver.recv(1 << 16))
                    if not half and received >= size // 2:
                        half = received
                        half_ns = time.monotonic_ns()
                seconds = (time.monotonic_ns() - half_ns) / 1e9
            thread.join()
        return (received - half) * 8 / seconds

    def drops(self, router: str, interface: str) -> int:
        with inside_netns(self.network.pid(router)):
            index = socket.if_nametoindex(interface)
            with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as connection:
                return read_counters(connection)[index].drops

    def apply(self, node: str, interface: str) -> None:
        """Shape a port again, as planned: its random numbers begin from the start."""
        port = self.port_of(node, interface)
        with netlink(self.network.pid(node)) as connection:
            qdiscs.apply(connection, port)
            qdiscs.read_back(connection, [port])

    def tampered(self, node: str, interface: str, *netem: str) -> str:
        """What `read_back` says after tc has changed the port."""
        self.run(node, "tc", "qdisc", "change", "dev", interface, "root", "netem", *netem)
        port = self.port_of(node, interface)
        with netlink(self.network.pid(node)) as connection:
            try:
                qdiscs.read_back(connection, [port])
            except RunError as error:
                return str(error)
        return ""

    def listed(self, node: str) -> list[str]:
        """What /sys shows to who enters a node."""
        enter = ["nsenter", f"--target={self.network.pid(node)}", "--net", "--mount", "--root"]
        command = [*enter, "--", "ls", "/sys/class/net"]
        shown = subprocess.run(command, check=True, capture_output=True, text=True)
        return shown.stdout.split()

    def routes(self, node: str) -> dict[str, str]:
        """Next hops by destination, of what is not on a link of `node`."""
        routes = json.loads(self.run(node, "ip", "-json", "route"))
        return {route["dst"]: route["gateway"] for route in routes if "gateway" in route}


def measure(bench: Bench) -> dict[str, Any]:
    """Everything that the tests look at. The RTTs come first, on an idle network."""
    rtts: dict[str, int | None] = {}
    for a, b in combinations(bench.plan.hosts, 2):
        pid = bench.network.pid(a.node)
        rtts[f"{a.name} {b.name}"] = measure_rtt_ns(pid, str(b.address.ip), timeout_s=2)
    results: dict[str, Any] = {
        "rtt_ns": rtts,
        "verified": [
            row.model_dump(by_alias=True) for row in verify_round_trips(bench.network, virtual=True)
        ],
        "listed": {node: bench.listed(node) for node in ("d0h0", "d2r")},
        "routes": {node: bench.routes(node) for node in ("d0r", "d1r", "d2r", "d0h0", "d2h0")},
    }
    paced = bench.burst("beta-h0", "alpha-h0", 1000, 1472)
    results["paced"] = {"packets": len(paced), "ns": max(paced.values()) - min(paced.values())}
    results["tcp_bps"] = bench.stream("beta-h0", "alpha-h0", 10_000_000)
    overflow = bench.burst("alpha-h0", "beta-h0", 300, 1472)
    results["overflow"] = {"arrived": len(overflow), "drops": bench.drops("d0r", "d0r-w0")}

    lost: list[list[int]] = []
    for _repetition in range(2):
        bench.apply("wan", "w1b")
        arrived = bench.burst("beta-h0", "gamma-h0", 10_000, 100)
        lost.append([number for number in range(10_000) if number not in arrived])
    results["lost"] = lost

    results["queue_drops_beside_loss"] = bench.drops("d1r", "d1r-w1")
    results["tampered"] = {
        "limit": bench.tampered("d0r", "d0r-w0", "limit", "51", "rate", "100mbit"),
        "rate": bench.tampered("d0r", "d0r-w0", "limit", "50", "rate", "99mbit"),
        "delay": bench.tampered("wan", "w0b", "limit", str(qdiscs.UNLIMITED), "delay", "10.24ms"),
    }
    bench.apply("d0r", "d0r-w0")  # raises if the kernel does not take the plan's values back
    return results


def place() -> list[str]:
    """The namespaces, root, folder, interfaces and blocked signals of this process."""
    names = ("ns/net", "ns/mnt", "root", "cwd")
    links = [str(Path("/proc/thread-self", name).readlink()) for name in names]
    status = Path("/proc/self/status").read_text().splitlines()
    blocked = next(line for line in status if line.startswith("SigBlk"))
    interfaces = sorted(path.name for path in Path("/sys/class/net").iterdir())
    return [*links, *interfaces, blocked]


def children() -> int:
    """How many processes this one has."""
    count = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        _name, _, fields = path.read_text().rpartition(")")
        parent = int(fields.split()[1])
        count += parent == os.getpid()
    return count


def main(folder: Path) -> None:
    plan = Plan.model_validate_json((folder / "plan.json").read_text())
    before = place()
    with build_network(plan.network) as network:
        during = place()
        results = measure(Bench(network))
        results["places"] = [before, during]
        results["children"] = [children()]
    results["children"].append(children())
    (folder / "result.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
