"""Schedules of probe packets that queues of every length hold, and the rate from their arrivals."""

from collections import deque

import pytest

from testbed.network.probe import BIT_NS_PER_BYTE_S, ProbeResult, ProbeSchedule, schedule_for
from testbed.plan.model import Direction, Network
from testbed.plan.resolve import resolve_network
from testbed.spec.topology import Topology

VIRTUAL = (100_000, 1000)  # shortest pause and latest timer, in ns
REAL = (20_000_000, 1_000_000)


def network_of(queue: str, discipline: str, offload: str) -> Network:
    link = {"between": ["a", "b"], "rate": "1 Gbit/s", "delay": "1 ms", "queue": queue}
    topology = Topology.model_validate(
        {
            "name": "pair",
            "datacenters": {"a": {"hosts": 1}, "b": {"hosts": 1}},
            "wan": [{**link, "discipline": discipline}],
            "tcp": {"offload": offload},
        }
    )
    return resolve_network(topology)


def longest_queue(schedule: ProbeSchedule, direction: Direction) -> int:
    """Number of system calls' packets in the queue, where each leaves as the link has sent it."""
    serial_ns = schedule.frame_bytes * BIT_NS_PER_BYTE_S / direction.bottleneck.rate_bps
    leaving: deque[float] = deque()
    longest = number = portions = 0
    now = free_at = 0.0
    while number < schedule.packets:
        end = min(schedule.packets, number + schedule.portion)
        while number < end:
            packets = min(schedule.together, end - number)
            while leaving and leaving[0] <= now:
                leaving.popleft()
            free_at = max(free_at, now) + packets * serial_ns
            leaving.append(free_at)
            longest = max(longest, len(leaving))
            number += packets
        portions += 1
        now = max(now, (1 + portions - schedule.at_first) * schedule.pause_ns)
    return longest


@pytest.mark.parametrize("clock", [VIRTUAL, REAL])
@pytest.mark.parametrize("payload", [100, 1472])
@pytest.mark.parametrize("packets", [1, 2, 3, 5, 11, 40, 64, 65, 127, 128, 1000])
@pytest.mark.parametrize("discipline", ["drop-tail", "red", "fq_codel"])
@pytest.mark.parametrize("offload", ["off", "on"])
def test_no_queue_overflows(
    clock: tuple[int, int], payload: int, packets: int, discipline: str, offload: str
) -> None:
    network = network_of(f"{packets} packets", discipline, offload)
    direction = network.wan[0].forward
    schedule = schedule_for(network, direction, 2000, payload, *clock)
    held = longest_queue(schedule, direction)
    together = network.tcp.packets_per_skb
    assert schedule.packets >= 1
    if discipline == "drop-tail":
        assert held <= max(1, packets // together)
    else:
        assert held * schedule.together <= max(1, packets)


def test_drops_of_the_queue_are_no_traffic() -> None:
    """1000 bytes each 10 us are 800 Mbit/s; every second packet was dropped before the link."""
    arrivals = {number: 5000 * number for number in range(0, 200, 2)}
    sent = ProbeResult(sent=200, frame_bytes=1000, arrivals=arrivals, queue_drops=100)
    assert sent.rate_bps == pytest.approx(800e6)


def test_losses_on_the_way_are_traffic() -> None:
    arrivals = {number: 10_000 * number for number in range(200) if number % 20 != 7}
    sent = ProbeResult(sent=200, frame_bytes=1000, arrivals=arrivals)
    assert sent.rate_bps == pytest.approx(800e6)
