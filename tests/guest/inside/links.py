"""In a guest: build one small network after another, measure each in the way that its scenario
says.

usage: links.py WRITABLE

WRITABLE/scenarios.json: {name: {"plan": plan.json's content, "measure": name of a function below,
"arguments": {...}}}
"""

import itertools
import json
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from testbed.measure.counters import read_counters
from testbed.network.build import BuiltNetwork, build_network
from testbed.network.netlink import inside_netns
from testbed.network.verify import measure_rtt_ns
from testbed.plan.model import Host, Network

UDP_SEGMENT, SO_RCVBUFFORCE, SO_TIMESTAMPNS = 103, 33, 35
RECEIVE_BUFFER = 512 * 2**20
IDLE_S = 1.0
SEGMENT = 200  # bytes of UDP data
HEADER = struct.Struct("=IQ")  # number of the packet, and when it was sent


class Bench:
    """A network that stands, its first and its last host, and sockets on them."""

    def __init__(self, network: BuiltNetwork) -> None:
        self.network = network
        self.plan: Network = network.plan
        self.a, self.b = self.plan.hosts[0], self.plan.hosts[-1]
        self.port = 5000

    def socket(self, host: Host, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
        with inside_netns(self.network.pid(host.node)):
            made = socket.socket(socket.AF_INET, kind)
        if kind == socket.SOCK_DGRAM:
            made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
        return made

    def address(self, host: Host) -> tuple[str, int]:
        self.port += 1
        return str(host.address.ip), self.port

    def run(self, node: str, *words: str) -> str:
        enter = ["nsenter", f"--net=/proc/{self.network.pid(node)}/ns/net", "--"]
        return subprocess.run([*enter, *words], check=True, capture_output=True, text=True).stdout

    def first_wan_port(self) -> tuple[str, str]:
        router = self.plan.datacenter(self.plan.wan[0].forward.source).router
        return router, f"{router}-w0"

    def drops(self) -> int:
        router, interface = self.first_wan_port()
        with inside_netns(self.network.pid(router)):
            index = socket.if_nametoindex(interface)
            with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as connection:
                return read_counters(connection)[index].drops


class Receiver(threading.Thread):
    """Takes UDP packets until `IDLE_S` pass without one: number, time sent, time received in ns.

    The kernel stamps what it receives. A process that asked for the time would make it pass: 256 ns
    for each question, in which 100 Gbit/s carry two packets.
    """

    def __init__(self, receiver: socket.socket) -> None:
        super().__init__()
        self.socket = receiver
        self.socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self.packets: list[tuple[int, int, int]] = []

    def run(self) -> None:
        self.socket.settimeout(IDLE_S)
        while True:
            try:
                data, ancillary, _flags, _address = self.socket.recvmsg(2048, 64)
            except TimeoutError:
                return
            number, sent = HEADER.unpack_from(data)
            seconds, ns = struct.unpack("=qq", ancillary[0][2])
            self.packets.append((number, sent, seconds * 10**9 + ns))


def datagrams(
    bench: Bench, *, packets: int, payload: int = 1472, gap_ns: int = 0
) -> list[tuple[int, int, int]]:
    """UDP packets from the first host to the last, `gap_ns` apart, and those that arrived."""
    address = bench.address(bench.b)
    with (
        bench.socket(bench.a, socket.SOCK_DGRAM) as sender,
        bench.socket(bench.b, socket.SOCK_DGRAM) as receiver,
    ):
        receiver.bind(address)
        taker = Receiver(receiver)
        taker.start()
        filler = bytes(payload - HEADER.size)
        for number in range(packets):
            sender.sendto(HEADER.pack(number, time.time_ns() if gap_ns else 0) + filler, address)
            if gap_ns:
                time.sleep(gap_ns / 1e9)
        taker.join()
    return taker.packets


class Flow:
    """A TCP connection that sends for some time from host `a` to host `b`."""

    def __init__(self, bench: Bench, a: Host, b: Host, seconds: float, settle: float) -> None:
        self.seconds, self.settle = seconds, settle
        address = bench.address(b)
        with bench.socket(b) as listener:
            listener.bind(address)
            listener.listen()
            self.sender = bench.socket(a)
            self.sender.connect(address)
            self.receiver, _peer = listener.accept()
        self.bps = 0.0  # received after the first `settle` seconds
        self.total_bps = 0.0  # from the beginning
        self.threads = [threading.Thread(target=self._send), threading.Thread(target=self._receive)]

    def start(self) -> None:
        for thread in self.threads:
            thread.start()

    def join(self) -> None:
        for thread in self.threads:
            thread.join()
        self.sender.close()
        self.receiver.close()

    def _send(self) -> None:
        data = bytes(1 << 18)
        try:
            while True:
                self.sender.sendall(data)
        except OSError:
            return  # the receiver has had enough

    def _receive(self) -> None:
        buffer = bytearray(1 << 20)
        begin = time.monotonic_ns()
        settled_at, settled, received = 0, 0, 0
        while (now := time.monotonic_ns()) < begin + self.seconds * 1e9:
            received += self.receiver.recv_into(buffer)
            if not settled_at and now >= begin + self.settle * 1e9:
                settled_at, settled = time.monotonic_ns(), received
        end = time.monotonic_ns()
        self.bps = (received - settled) * 8e9 / (end - settled_at)
        self.total_bps = received * 8e9 / (end - begin)
        self.receiver.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.receiver.close()
        self.sender.shutdown(socket.SHUT_RDWR)


def rtt(bench: Bench) -> dict[str, Any]:
    return {
        "rtt_ns": measure_rtt_ns(
            bench.network.pid(bench.a.node), str(bench.b.address.ip), timeout_s=5
        )
    }


def udp_rate(bench: Bench, packets: int) -> dict[str, Any]:
    """Bits of payload per second, from the first packet's arrival to the last one's."""
    got = datagrams(bench, packets=packets)
    span = got[-1][2] - got[0][2]
    return {"packets": len(got), "bps": (len(got) - 1) * 1472 * 8e9 / span, "drops": bench.drops()}


def one_way(bench: Bench, packets: int, gap_ns: int) -> dict[str, Any]:
    """One-way delays of single packets, and how many came before one that was sent earlier."""
    got = datagrams(bench, packets=packets, payload=100, gap_ns=gap_ns)
    delays = [received - sent for _number, sent, received in got]
    order = [number for number, _sent, _received in got]
    return {
        "packets": len(got),
        "different": len(set(order)),
        "mean_ns": statistics.mean(delays),
        "deviation_ns": statistics.pstdev(delays),
        "reordered": sum(b < a for a, b in itertools.pairwise(order)),
    }


def segmented(bench: Bench, packets: int, segments: int) -> dict[str, Any]:
    """Packets that the sender hands over `segments` at a time (UDP GSO), and which of them
    arrived.
    """
    address = bench.address(bench.b)
    arrived: set[int] = set()
    with (
        bench.socket(bench.a, socket.SOCK_DGRAM) as sender,
        bench.socket(bench.b, socket.SOCK_DGRAM) as receiver,
    ):
        receiver.bind(address)
        taker = Receiver(receiver)
        taker.start()
        sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, SEGMENT)
        filler = bytes(SEGMENT - HEADER.size)
        for first in range(0, packets, segments):
            numbers = range(first, min(first + segments, packets))
            sender.sendto(b"".join(HEADER.pack(number, 0) + filler for number in numbers), address)
            if first // segments % 100 == 99:
                time.sleep(0.01)  # the receiver takes what has come
        taker.join()
        arrived = {number for number, _sent, _received in taker.packets}
    lost = [number for number in range(packets) if number not in arrived]
    runs = sum(1 for number in lost if number - 1 in arrived or number == 0)
    return {"lost": len(lost), "runs": runs, "arrived": len(taker.packets)}


def full_queue(bench: Bench, packets: int, rate_bps: float) -> dict[str, Any]:
    """Frames sent at twice the link's rate: the delay of those that pass when the queue is full."""
    got = datagrams(bench, packets=packets, gap_ns=int(1514 * 8e9 / rate_bps / 2))
    delays = [received - sent for _number, sent, received in got]
    return {
        "sent": packets,
        "packets": len(got),
        "drops": bench.drops(),
        "first_ns": delays[0],
        "last_ns": delays[-1],
    }


def tcp(bench: Bench, seconds: float, settle: float, flows: int = 1) -> dict[str, Any]:
    """Bits of data per second of TCP flows that share the way from the first host to the last."""
    running = [Flow(bench, bench.a, bench.b, seconds, settle) for _ in range(flows)]
    for flow in running:
        flow.start()
    for flow in running:
        flow.join()
    router, interface = bench.first_wan_port() if bench.plan.wan else (bench.a.node, "")
    shown = (
        json.loads(bench.run(router, "tc", "-s", "-j", "qdisc", "show", "dev", interface))
        if interface
        else []
    )
    return {
        "bps": [flow.bps for flow in running],
        "total_bps": [flow.total_bps for flow in running],
        "drops": bench.drops() if interface else 0,
        "marks": sum(qdisc.get("marked", 0) + qdisc.get("ecn_mark", 0) for qdisc in shown),
    }


def pairs(bench: Bench, seconds: float, settle: float, ends: list[list[str]]) -> dict[str, Any]:
    """TCP flows at once between named hosts; each one's bits of data per second, and the bytes that
    each spine sent.
    """
    running = [
        Flow(bench, bench.plan.host(a), bench.plan.host(b), seconds, settle) for a, b in ends
    ]
    for flow in running:
        flow.start()
    for flow in running:
        flow.join()
    sent = {}
    for spine in [
        spine for dc in bench.plan.datacenters if dc.fabric for spine in dc.fabric.spines
    ]:
        links = json.loads(bench.run(spine, "ip", "-s", "-j", "link"))
        sent[spine] = sum(link["stats64"]["tx"]["bytes"] for link in links)
    return {"bps": [flow.bps for flow in running], "spines": sent}


def iperf3(bench: Bench, seconds: int, ends: list[list[str]]) -> dict[str, Any]:
    """iperf3 between named hosts, one after another: bits of data per second; and their RTTs in
    ns.
    """
    rates, rtts = [], []
    for a, b in ends:
        source, target = bench.plan.host(a), bench.plan.host(b)
        rtts.append(
            measure_rtt_ns(bench.network.pid(source.node), str(target.address.ip), timeout_s=5)
        )
        enter = ["nsenter", f"--net=/proc/{bench.network.pid(target.node)}/ns/net", "--"]
        with subprocess.Popen(
            [*enter, "iperf3", "--server", "--one-off"], stdout=subprocess.DEVNULL
        ) as server:
            time.sleep(0.5)
            words = [
                "iperf3",
                "--client",
                str(target.address.ip),
                "--time",
                str(seconds),
                "--omit",
                "2",
                "--json",
            ]
            found = json.loads(bench.run(source.node, *words))
            server.wait()
        rates.append(found["end"]["sum_received"]["bits_per_second"])
    return {"bps": rates, "rtt_ns": rtts}


MEASURES: dict[str, Callable[..., dict[str, Any]]] = {
    function.__name__: function
    for function in (rtt, udp_rate, one_way, segmented, full_queue, tcp, pairs, iperf3)
}


def main(folder: Path) -> None:
    found: dict[str, Any] = {}
    scenarios = json.loads((folder / "scenarios.json").read_text())
    for name, scenario in scenarios.items():
        network = Network.model_validate(scenario["network"])
        try:
            with build_network(network) as built:
                found[name] = MEASURES[scenario["measure"]](Bench(built), **scenario["arguments"])
        except Exception:
            traceback.print_exc()
            found[name] = {"error": traceback.format_exc()}
        (folder / "partial.json").write_text(json.dumps(found))
    (folder / "result.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
