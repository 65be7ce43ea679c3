"""In a guest: build one small network after another, and measure each as its scenario says.

usage: links.py WRITABLE

WRITABLE/scenarios.json has objects by name: `network`, the plan's; `measure`, the name of a
function below; and `arguments` of that function.
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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from testbed.measure.counters import read_counters
from testbed.network.build import BuiltNetwork, build_network
from testbed.network.netns import inside_netns
from testbed.network.reconfigure import change_network
from testbed.network.verify import measure_rtt_ns, verify
from testbed.plan.model import Host, Network

UDP_SEGMENT, SO_RCVBUFFORCE, SO_TIMESTAMPNS = 103, 33, 35
CLOCK_BYTES = 16 * 1024  # received between two readings of the clock
RECEIVE_BUFFER = 512 * 2**20
IDLE_S = 1.0
SEGMENT = 200  # bytes of UDP data
HEADER = struct.Struct("=IQ")  # number of the packet, and when it was sent


Result = dict[str, Any]


class ReceivedPacket(NamedTuple):
    """A UDP packet: its number, and when it was sent and received, in ns."""

    number: int
    sent_ns: int
    received_ns: int

    @property
    def delay_ns(self) -> int:
        return self.received_ns - self.sent_ns


class Bench:
    """A network that is built, its first and its last host, and sockets on them."""

    def __init__(self, network: BuiltNetwork) -> None:
        self.network = network
        self.plan: Network = network.plan
        self.first_host = self.plan.hosts[0]
        self.last_host = self.plan.hosts[-1]
        self.port = 5000

    def socket(self, host: Host, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
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

    def on_node(self, node: str, *command: str) -> list[str]:
        """The command that runs `command` in the network namespace of `node`."""
        return ["nsenter", f"--net=/proc/{self.network.pid(node)}/ns/net", "--", *command]

    def run(self, node: str, *command: str) -> str:
        """What `command` prints on `node`."""
        entered = self.on_node(node, *command)
        return subprocess.run(entered, check=True, capture_output=True, text=True).stdout

    def measure_rtt_ns(self, source: Host, target: Host) -> int | None:
        """The RTT of an echo between two hosts."""
        pid = self.network.pid(source.node)
        return measure_rtt_ns(pid, str(target.address.ip), timeout_s=5)

    def first_wan_port(self) -> tuple[str, str]:
        """The router that sends into the first WAN link, and its interface."""
        router = self.plan.router(self.plan.wan[0].forward.source)
        return router, f"{router}-w0"

    def drops(self) -> int:
        """Drops at the first WAN port."""
        router, interface = self.first_wan_port()
        with inside_netns(self.network.pid(router)):
            index = socket.if_nametoindex(interface)
            with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as connection:
                return read_counters(connection)[index].drops


class Receiver(threading.Thread):
    """Takes UDP packets until `idle_s` pass without one.

    The kernel stamps what it receives: the clock that a process sees runs ahead by up to 1 us for
    each read in one instant.
    """

    def __init__(self, receiver: socket.socket, idle_s: float = IDLE_S) -> None:
        super().__init__()
        self.socket = receiver
        self.idle_s = idle_s
        self.socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self.packets: list[ReceivedPacket] = []

    def run(self) -> None:
        self.socket.settimeout(self.idle_s)
        while True:
            try:
                data, ancillary, _flags, _address = self.socket.recvmsg(2048, 64)
            except TimeoutError:
                return
            number, sent_ns = HEADER.unpack_from(data)
            _level, _type, timestamp = ancillary[0]
            seconds, ns = struct.unpack("=qq", timestamp)
            self.packets.append(ReceivedPacket(number, sent_ns, seconds * 10**9 + ns))


def datagrams(
    bench: Bench, *, packets: int, payload: int = 1472, gap_ns: int = 0
) -> list[ReceivedPacket]:
    """Send UDP packets from the first host to the last, and return those that arrived.

    Args:
        bench: the network.
        packets: number of packets.
        payload: bytes of each.
        gap_ns: pause after each packet; without one, packets do not say when they were sent.
    """
    address = bench.address(bench.last_host)
    with (
        bench.socket(bench.first_host, socket.SOCK_DGRAM) as sender,
        bench.socket(bench.last_host, socket.SOCK_DGRAM) as receiver,
    ):
        receiver.bind(address)
        taker = Receiver(receiver)
        taker.start()
        filler = bytes(payload - HEADER.size)
        for number in range(packets):
            sent_ns = time.time_ns() if gap_ns else 0
            sender.sendto(HEADER.pack(number, sent_ns) + filler, address)
            if gap_ns:
                time.sleep(gap_ns / 1e9)
        taker.join()
    return taker.packets


class TcpFlow:
    """A TCP connection that sends for some time from one host to another.

    `bps` is the rate received after the first `settle` seconds, `total_bps` that from the start.
    """

    def __init__(
        self, bench: Bench, source: Host, target: Host, seconds: float, settle: float
    ) -> None:
        self.seconds = seconds
        self.settle = settle
        address = bench.address(target)
        with bench.socket(target) as listener:
            listener.bind(address)
            listener.listen()
            self.sender = bench.socket(source)
            self.sender.connect(address)
            self.receiver, _peer = listener.accept()
        self.bps = 0.0
        self.total_bps = 0.0
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
        begin_ns = time.monotonic_ns()
        settled_ns = 0
        settled_bytes = 0
        received = 0
        while (now_ns := time.monotonic_ns()) < begin_ns + self.seconds * 1e9:
            received += self._receive_some(buffer)
            if not settled_ns and now_ns >= begin_ns + self.settle * 1e9:
                settled_ns = time.monotonic_ns()
                settled_bytes = received
        end_ns = time.monotonic_ns()
        self.bps = (received - settled_bytes) * 8e9 / (end_ns - settled_ns)
        self.total_bps = received * 8e9 / (end_ns - begin_ns)

        self.receiver.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.receiver.close()
        self.sender.shutdown(socket.SHUT_RDWR)

    def _receive_some(self, buffer: bytearray) -> int:
        """Receive at least `CLOCK_BYTES`, and return their number.

        Two readings of the clock by a process differ by 1 us, so a process that reads the clock for
        each packet of fast flows sees a clock that runs ahead.
        """
        received = 0
        while received < CLOCK_BYTES:
            count = self.receiver.recv_into(buffer)
            if not count:
                break
            received += count
        return received


def run_together(flows: Sequence[TcpFlow]) -> None:
    for flow in flows:
        flow.start()
    for flow in flows:
        flow.join()


def rtt(bench: Bench) -> Result:
    return {"rtt_ns": bench.measure_rtt_ns(bench.first_host, bench.last_host)}


def udp_rate(bench: Bench, packets: int) -> Result:
    """Bits of payload per second, from the first packet's arrival to the last one's."""
    received = datagrams(bench, packets=packets)
    span_ns = received[-1].received_ns - received[0].received_ns
    bits = (len(received) - 1) * 1472 * 8
    return {"packets": len(received), "bps": bits * 1e9 / span_ns, "drops": bench.drops()}


def one_way(bench: Bench, packets: int, gap_ns: int) -> Result:
    """One-way delays of single packets, and how many came before one that was sent earlier."""
    received = datagrams(bench, packets=packets, payload=100, gap_ns=gap_ns)
    delays_ns = [packet.delay_ns for packet in received]
    order = [packet.number for packet in received]
    return {
        "packets": len(received),
        "different": len(set(order)),
        "mean_ns": statistics.mean(delays_ns),
        "deviation_ns": statistics.pstdev(delays_ns),
        "reordered": sum(after < before for before, after in itertools.pairwise(order)),
    }


def segmented(bench: Bench, packets: int, segments: int) -> Result:
    """Packets that the sender hands over `segments` at a time (UDP GSO), and their losses."""
    address = bench.address(bench.last_host)
    with (
        bench.socket(bench.first_host, socket.SOCK_DGRAM) as sender,
        bench.socket(bench.last_host, socket.SOCK_DGRAM) as receiver,
    ):
        receiver.bind(address)
        taker = Receiver(receiver)
        taker.start()
        sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, SEGMENT)
        filler = bytes(SEGMENT - HEADER.size)
        for first in range(0, packets, segments):
            numbers = range(first, min(first + segments, packets))
            datagram = b"".join(HEADER.pack(number, 0) + filler for number in numbers)
            sender.sendto(datagram, address)
            if first // segments % 100 == 99:
                time.sleep(0.01)  # the receiver takes what has come
        taker.join()

    arrived = {packet.number for packet in taker.packets}
    lost = [number for number in range(packets) if number not in arrived]
    run_begins = [number for number in lost if number == 0 or number - 1 in arrived]
    return {"lost": len(lost), "runs": len(run_begins), "arrived": len(taker.packets)}


def full_queue(bench: Bench, packets: int, rate_bps: float) -> Result:
    """Frames sent at twice the link's rate: the delay of those that pass when the queue is full."""
    gap_ns = int(1514 * 8e9 / rate_bps / 2)
    received = datagrams(bench, packets=packets, gap_ns=gap_ns)
    return {
        "sent": packets,
        "packets": len(received),
        "drops": bench.drops(),
        "first_ns": received[0].delay_ns,
        "last_ns": received[-1].delay_ns,
    }


def tcp(bench: Bench, seconds: float, settle: float, flows: int = 1) -> Result:
    """Bits of data per second of TCP flows that share the path from the first host to the last."""
    running: list[TcpFlow] = []
    for _ in range(flows):
        running.append(TcpFlow(bench, bench.first_host, bench.last_host, seconds, settle))
    run_together(running)
    return {
        "bps": [flow.bps for flow in running],
        "total_bps": [flow.total_bps for flow in running],
        "drops": bench.drops() if bench.plan.wan else 0,
        "marks": marks(bench) if bench.plan.wan else 0,
    }


def marks(bench: Bench) -> int:
    """Congestion marks at the first WAN port."""
    router, interface = bench.first_wan_port()
    shown = bench.run(router, "tc", "-s", "-j", "qdisc", "show", "dev", interface)
    total = 0
    for qdisc in json.loads(shown):
        total += qdisc.get("marked", 0)
        total += qdisc.get("ecn_mark", 0)
    return total


def pairs(bench: Bench, seconds: float, settle: float, ends: list[list[str]]) -> Result:
    """TCP flows at once between named hosts: each one's bit/s, and the bytes each spine sent."""
    running: list[TcpFlow] = []
    for source, target in ends:
        hosts = (bench.plan.host(source), bench.plan.host(target))
        running.append(TcpFlow(bench, *hosts, seconds, settle))
    run_together(running)
    return {"bps": [flow.bps for flow in running], "spines": bytes_of_spines(bench)}


def bytes_of_spines(bench: Bench) -> dict[str, int]:
    """The bytes that each spine sent."""
    sent: dict[str, int] = {}
    for dc in bench.plan.datacenters:
        if dc.fabric is None:
            continue
        for spine in dc.fabric.spines:
            links = json.loads(bench.run(spine, "ip", "-s", "-j", "link"))
            sent[spine] = sum(link["stats64"]["tx"]["bytes"] for link in links)
    return sent


def iperf3(bench: Bench, seconds: int, ends: list[list[str]]) -> Result:
    """iperf3 between named hosts, one pair after another: bits of data per second, RTTs in ns."""
    rates_bps: list[float] = []
    rtts_ns: list[int | None] = []
    for source_name, target_name in ends:
        source = bench.plan.host(source_name)
        target = bench.plan.host(target_name)
        rtts_ns.append(bench.measure_rtt_ns(source, target))
        rates_bps.append(iperf3_bps(bench, source, target, seconds))
    return {"bps": rates_bps, "rtt_ns": rtts_ns}


def iperf3_bps(bench: Bench, source: Host, target: Host, seconds: int) -> float:
    """Bits of data per second from one host to another."""
    server_command = bench.on_node(target.node, "iperf3", "--server", "--one-off")
    client_command = ["iperf3", "--client", str(target.address.ip)]
    client_command += ["--time", str(seconds), "--omit", "2", "--json"]
    with subprocess.Popen(server_command, stdout=subprocess.DEVNULL) as server:
        time.sleep(0.5)
        report = json.loads(bench.run(source.node, *client_command))
        server.wait()
    rate_bps: float = report["end"]["sum_received"]["bits_per_second"]
    return rate_bps


def changing_rate(
    bench: Bench, packets: int, gap_ns: int, rates: list[list[float]], payload: int = 1472
) -> Result:
    """UDP packets at equal distances while the rate of the only link changes.

    Args:
        bench: the network.
        packets: number of packets.
        gap_ns: from one packet to the next.
        rates: times in ns after the first packet, and the rate in bit/s from then on.
        payload: bytes of each packet.

    Returns:
        Of each packet that arrived, its number and when it was sent and received; when each change
        was done; drops.
    """
    address = bench.address(bench.last_host)
    changed_ns: list[int] = []
    with (
        bench.socket(bench.first_host, socket.SOCK_DGRAM) as sender,
        bench.socket(bench.last_host, socket.SOCK_DGRAM) as receiver,
    ):
        receiver.bind(address)
        taker = Receiver(receiver, idle_s=IDLE_S + max(at_ns for at_ns, _ in rates) / 1e9)
        taker.start()
        begin_ns = time.time_ns()

        def change() -> None:
            for at_ns, rate_bps in rates:
                sleep_until(begin_ns + at_ns)
                changed_ns.append(time.time_ns())
                change_network(bench.network, with_rate(bench.network.plan, int(rate_bps)))

        changer = threading.Thread(target=change)
        changer.start()
        filler = bytes(payload - HEADER.size)
        for number in range(packets):
            sleep_until(begin_ns + number * gap_ns)
            sender.sendto(HEADER.pack(number, time.time_ns()) + filler, address)
        changer.join()
        taker.join()
    return {"packets": taker.packets, "changed_ns": changed_ns, "drops": bench.drops()}


def sleep_until(time_ns: float) -> None:
    """Sleep until a time of the system's clock; an earlier time has passed already."""
    time.sleep(max(0, time_ns - time.time_ns()) / 1e9)


def with_rate(plan: Network, rate_bps: int) -> Network:
    """`plan` with another rate of its only WAN link, both ways."""
    (link,) = plan.wan
    directions = [
        direction.with_rate_and_delay(rate_bps, direction.fibre.delay_ns)
        for direction in link.directions
    ]
    return plan.model_copy(update={"wan": (link.with_directions(*directions),)})


def verified(bench: Bench) -> Result:
    """What `testbed topo verify` measures."""
    checks = verify(bench.network, virtual=True, quick=False)
    return {"checks": [check.record() for check in checks]}


MEASURES: dict[str, Callable[..., Result]] = {
    "rtt": rtt,
    "udp_rate": udp_rate,
    "one_way": one_way,
    "segmented": segmented,
    "full_queue": full_queue,
    "tcp": tcp,
    "pairs": pairs,
    "iperf3": iperf3,
    "changing_rate": changing_rate,
    "verified": verified,
}


def measure(scenario: dict[str, Any]) -> Result:
    """Build the network of a scenario and measure it."""
    network = Network.model_validate(scenario["network"])
    function = MEASURES[scenario["measure"]]
    try:
        with build_network(network) as built:
            return function(Bench(built), **scenario["arguments"])
    except Exception:
        traceback.print_exc()
        return {"error": traceback.format_exc()}


def main(folder: Path) -> None:
    results: dict[str, Result] = {}
    scenarios = json.loads((folder / "scenarios.json").read_text())
    for name, scenario in scenarios.items():
        results[name] = measure(scenario)
        (folder / "partial.json").write_text(json.dumps(results))
    (folder / "result.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
