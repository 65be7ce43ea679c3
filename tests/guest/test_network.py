"""A network of three datacenters in a guest: what its packets meet is what the topology says.

All times are virtual, so they are exact up to what netem itself does: it sends a packet at the
nanosecond that it has computed, and its timers fire at most some microseconds late. Tolerances are
stated with each test.
"""

from typing import Any

import pytest

from testbed.guest.kernel import Kernel
from testbed.plan.resolve import resolve
from testbed.spec.options import RunOptions
from testbed.spec.topology import Topology
from testbed.spec.workload import load_workload
from tests.support.guests import console, finish, guest_with, result

# The delays differ per direction, so that a mix-up shows. alpha -> beta has a short queue, beta ->
# gamma loses packets.
LINE = """
name: line
datacenters:
  alpha: {hosts: 2, nic: {rate: 10 Gbit/s, delay: 20 us}}
  beta: {hosts: 1, nic: {rate: 10 Gbit/s, delay: 5 us}}
  gamma: {hosts: 1, nic: {rate: 10 Gbit/s, delay: 0 us}}
wan:
  - between: [alpha, beta]
    rate: 100 Mbit/s
    delay: 10 ms
    queue: {alpha->beta: 50 packets, beta->alpha: 16 MiB}
  - between: [beta, gamma]
    rate: 1 Gbit/s
    delay: {beta->gamma: 7 ms, gamma->beta: 3 ms}
    queue: 20000 packets
    loss: {beta->gamma: 1 %}
"""
# RTT in us by hand: NIC delays of both ends, fibres there and back, and the serialisation of 98
# bytes at each WAN port (7.84 us at 100 Mbit/s, 0.78 us at 1 Gbit/s) and at each of four NIC ports
# (0.08 us).
WAN_1, WAN_2, NICS = 2 * (10_000 + 7.84), 7_000 + 3_000 + 2 * 0.78, 4 * 0.08
RTT_US = {
    "alpha-h0 alpha-h1": 20 + 20 + NICS,
    "alpha-h0 beta-h0": 20 + 5 + WAN_1 + NICS,
    "alpha-h1 beta-h0": 20 + 5 + WAN_1 + NICS,
    "alpha-h0 gamma-h0": 20 + 0 + WAN_1 + WAN_2 + NICS,
    "alpha-h1 gamma-h0": 20 + 0 + WAN_1 + WAN_2 + NICS,
    "beta-h0 gamma-h0": 5 + 0 + WAN_2 + NICS,
}


@pytest.fixture(scope="module")
def results(kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What inside/three_datacenters.py measured."""
    outside = tmp_path_factory.mktemp("network")
    (outside / "line.yaml").write_text(LINE)
    plan = resolve(
        Topology.load(outside / "line.yaml"),
        load_workload("collectives"),
        RunOptions(isolation="process"),
    )
    folder = outside / "shared"
    with guest_with(kernel, "three_datacenters.py", folder) as guest:
        # The script reads the plan long after the boot has begun.
        (folder / "plan.json").write_text(plan.model_dump_json())
        assert finish(guest) == 0, console(folder)
    return result(folder)


@pytest.mark.parametrize("pair", RTT_US)
def test_round_trips(results: dict[str, Any], pair: str) -> None:
    """RTT = the sum of all delays there and back; within 20 us + 0.1 %."""
    assert results["rtt_ns"][pair] / 1000 == pytest.approx(RTT_US[pair], rel=0.001, abs=20)


def test_verify_round_trips(results: dict[str, Any]) -> None:
    pairs = [(trip["from"], trip["to"], trip["ok"]) for trip in results["verified"]]
    assert pairs == [("alpha", "beta", True), ("alpha", "gamma", True), ("beta", "gamma", True)]


def test_routes(results: dict[str, Any]) -> None:
    """Traffic between alpha and gamma goes by way of beta; hosts know their router only."""
    assert results["routes"] == {
        "d0r": {"10.1.0.0/16": "172.16.0.2", "10.2.0.0/16": "172.16.0.2"},
        "d1r": {"10.0.0.0/16": "172.16.0.1", "10.2.0.0/16": "172.16.0.6"},
        "d2r": {"10.0.0.0/16": "172.16.0.5", "10.1.0.0/16": "172.16.0.5"},
        "d0h0": {"default": "10.0.255.254"},
        "d2h0": {"default": "10.2.255.254"},
    }


def test_interfaces_of_nodes(results: dict[str, Any]) -> None:
    assert results["listed"] == {"d0h0": ["eth0", "lo"], "d2r": ["d2r-lan", "d2r-w1", "lo"]}


def test_builder_stays_in_its_namespaces(results: dict[str, Any]) -> None:
    before, after = results["places"]
    assert after == before
    standing, gone = results["children"]
    assert standing > 0
    assert gone == 0


def test_rate(results: dict[str, Any]) -> None:
    """1000 frames of 1514 bytes leave a 100 Mbit/s link 121.12 us apart; within 1 %."""
    paced = results["paced"]
    assert paced["packets"] == 1000
    assert paced["ns"] / 999 == pytest.approx(121_120, rel=0.01)


def test_tcp_rate(results: dict[str, Any]) -> None:
    """Of each 1514 bytes 1448 are data; within 1 % once the window has grown.

    Headers: Ethernet 14, IP 20, TCP 20 and 12 of time stamps.
    """
    assert results["tcp_bps"] == pytest.approx(100e6 * 1448 / 1514, rel=0.01)


def test_full_queue(results: dict[str, Any]) -> None:
    """300 frames reach a queue of 50 within 0.36 ms, in which the link sends 3: 53 pass.

    Within 3 frames, for those at the ends of the burst and the one in transmission.
    """
    arrived = results["overflow"]["arrived"]
    drops = results["overflow"]["drops"]
    assert arrived + drops == 300
    assert arrived == pytest.approx(53, abs=3)


def test_loss(results: dict[str, Any]) -> None:
    """1 % of 10 000 packets: 100, within three standard deviations.

    One is sqrt(10 000 x 0.01 x 0.99) = 9.95.
    """
    assert len(results["lost"][0]) == pytest.approx(100, abs=3 * 9.95)
    assert results["queue_drops_beside_loss"] == 0  # none was lost because the queue was full


def test_loss_repeats(results: dict[str, Any]) -> None:
    """The same packets are lost again."""
    first, second = results["lost"]
    assert first == second


@pytest.mark.parametrize(
    ("parameter", "text"),
    [
        ("limit", "d0r: the kernel keeps netem limit of d0r-w0 as 51, not 50"),
        ("rate", "d0r: the kernel keeps netem rate_bytes of d0r-w0 as 12375000, not 12500000"),
        ("delay", "wan: the kernel keeps netem latency of w0b as 10240000, not 10000000"),
    ],
)
def test_tampered_port(results: dict[str, Any], parameter: str, text: str) -> None:
    assert results["tampered"][parameter] == text
