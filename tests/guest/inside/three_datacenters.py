"""In a guest: build the network of plan.json, send real packets through it, and write down what
happened to them.

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
from testbed.network.netlink import inside_netns, netlink
from testbed.network.verify import measure_rtt_ns, verify_round_trips
from testbed.plan.model import Host, Plan

IDLE_S = 1.0  # no packet for so long: nothing is in flight any more
RECEIVE_BUFFER = 64 * 2**20


class Bench:
    """The network that stands, and traffic between its hosts."""

    def __init__(self, network: BuiltNetwork) -> None:
        self.network = network
        self.plan = network.plan
        self.port = 5000

    def socket(self, host: Host, kind: socket.SocketKind) -> socket.socket:
        with inside_netns(self.network.pid(host.node)):
            made = socket.socket(socket.AF_INET, kind)
        if kind == socket.SOCK_DGRAM:
            made.setsockopt(
                socket.SOL_SOCKET, 33, RECEIVE_BUFFER
            )  # SO_RCVBUFFORCE: the receiver loses nothing
        return made

    def burst(self, source: str, target: str, packets: int, payload: int) -> dict[int, int]:
        """Send UDP packets at once; for each that arrives its number and when it did, in ns."""
        a, b = self.plan.host(source), self.plan.host(target)
        self.port += 1
        address = (str(b.address.ip), self.port)
        arrived: dict[int, int] = {}
        with (
            self.socket(a, socket.SOCK_DGRAM) as sender,
            self.socket(b, socket.SOCK_DGRAM) as receiver,
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
                arrived[int.from_bytes(data[:4], "big")] = time.monotonic_ns()

    def stream(self, source: str, target: str, size: int) -> float:
        """Send `size` bytes by TCP; the bit/s at which the second half of them arrives."""
        a, b = self.plan.host(source), self.plan.host(target)
        self.port += 1
        address = (str(b.address.ip), self.port)
        with (
            self.socket(a, socket.SOCK_STREAM) as sender,
            self.socket(b, socket.SOCK_STREAM) as listener,
        ):
            listener.bind(address)
            listener.listen()
            sender.connect(address)
            receiver, _peer = listener.accept()
            thread = threading.Thread(target=sender.sendall, args=(bytes(size),))
            thread.start()
            received, half, since = 0, 0, 0
            with receiver:
                while received < size:
                    received += len(receiver.recv(1 << 16))
                    if not half and received >= size // 2:
                        half, since = received, time.monotonic_ns()
                seconds = (time.monotonic_ns() - since) / 1e9
            thread.join()
        return (received - half) * 8 / seconds

    def drops(self, router: str, interface: str) -> int:
        with inside_netns(self.network.pid(router)):
            index = socket.if_nametoindex(interface)
            with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as connection:
                return read_counters(connection)[index].drops

    def apply(self, node: str, interface: str) -> None:
        """Shape a port anew, as planned: its random numbers begin again."""
        port = next(
            p for p in qdiscs.ports(self.plan) if (p.node, p.interface) == (node, interface)
        )
        with netlink(self.network.pid(node)) as connection:
            qdiscs.apply(connection, port)
            qdiscs.read_back(connection, port)

    def tampered(self, node: str, interface: str, *netem: str) -> str:
        """What `read_back` says after someone has changed the port with tc."""
        enter = ["nsenter", f"--net=/proc/{self.network.pid(node)}/ns/net", "--"]
        subprocess.run(
            [*enter, "tc", "qdisc", "change", "dev", interface, "root", "netem", *netem], check=True
        )
        port = next(
            p for p in qdiscs.ports(self.plan) if (p.node, p.interface) == (node, interface)
        )
        with netlink(self.network.pid(node)) as connection:
            try:
                qdiscs.read_back(connection, port)
            except RunError as error:
                return str(error)
        return ""

    def listed(self, node: str) -> list[str]:
        """What /sys shows to who enters a node."""
        enter = [
            "nsenter",
            f"--target={self.network.pid(node)}",
            "--net",
            "--mount",
            "--root",
            "--",
        ]
        shown = subprocess.run(
            [*enter, "ls", "/sys/class/net"], check=True, capture_output=True, text=True
        )
        return shown.stdout.split()

    def routes(self, node: str) -> dict[str, str]:
        """Next hops by destination, of what is not on a link of the node's own."""
        enter = ["nsenter", f"--net=/proc/{self.network.pid(node)}/ns/net", "--"]
        listed = subprocess.run(
            [*enter, "ip", "-json", "route"], check=True, capture_output=True, text=True
        )
        return {
            route["dst"]: route["gateway"]
            for route in json.loads(listed.stdout)
            if "gateway" in route
        }


def measure(bench: Bench) -> dict[str, Any]:
    """Everything that the tests look at. The RTTs come first, on an idle network."""
    plan = bench.plan
    rtts = {
        f"{a.name} {b.name}": measure_rtt_ns(
            bench.network.pid(a.node), str(b.address.ip), timeout_s=2
        )
        for a, b in combinations(plan.hosts, 2)
    }
    found: dict[str, Any] = {
        "rtt_ns": rtts,
        "verified": [trip.record() for trip in verify_round_trips(bench.network, virtual=True)],
        "listed": {node: bench.listed(node) for node in ("d0h0", "d2r")},
        "routes": {node: bench.routes(node) for node in ("d0r", "d1r", "d2r", "d0h0", "d2h0")},
    }
    paced = bench.burst("beta-h0", "alpha-h0", 1000, 1472)
    found["paced"] = {"packets": len(paced), "ns": max(paced.values()) - min(paced.values())}
    found["tcp_bps"] = bench.stream("beta-h0", "alpha-h0", 10_000_000)
    overflow = bench.burst("alpha-h0", "beta-h0", 300, 1472)
    found["overflow"] = {"arrived": len(overflow), "drops": bench.drops("d0r", "d0r-w0")}
    lost = []
    for _repetition in range(2):
        bench.apply("wan", "w1b")
        arrived = bench.burst("beta-h0", "gamma-h0", 10_000, 100)
        lost.append([number for number in range(10_000) if number not in arrived])
    found["lost"] = lost
    found["queue_drops_beside_loss"] = bench.drops("d1r", "d1r-w1")
    found["tampered"] = {
        "limit": bench.tampered("d0r", "d0r-w0", "limit", "51", "rate", "100mbit"),
        "rate": bench.tampered("d0r", "d0r-w0", "limit", "50", "rate", "99mbit"),
        "delay": bench.tampered("wan", "w0b", "limit", str(qdiscs.UNLIMITED), "delay", "10.24ms"),
    }
    bench.apply("d0r", "d0r-w0")  # raises if the kernel does not take the plan's values back
    return found


def place() -> list[str]:
    """Where this process is: its namespaces, root, folder, and what it sees of the network and of
    itself.
    """
    links = [
        str(Path("/proc/thread-self", name).readlink())
        for name in ("ns/net", "ns/mnt", "root", "cwd")
    ]
    status = Path("/proc/self/status").read_text().splitlines()
    blocked = next(line for line in status if line.startswith("SigBlk"))
    return [*links, *sorted(path.name for path in Path("/sys/class/net").iterdir()), blocked]


def children() -> int:
    """How many processes this one has."""
    stats = [path.read_text() for path in Path("/proc").glob("[0-9]*/stat")]
    return sum(int(stat.rpartition(")")[2].split()[1]) == os.getpid() for stat in stats)


def main(folder: Path) -> None:
    plan = Plan.model_validate_json((folder / "plan.json").read_text())
    before = place()
    with build_network(plan.network) as network:
        places = [before, place()]
        found = measure(Bench(network)) | {"places": places, "children": [children()]}
    found["children"] += [children()]
    (folder / "result.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
