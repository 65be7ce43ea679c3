"""Parameters of queueing disciplines, worked out by hand or measured on a model of the kernel."""

import random
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from testbed.network import qdiscs
from testbed.network.aqm import Fifo, FqCodel, ManagedQueue, Red, fq_codel, red
from testbed.network.netem import Netem
from testbed.plan.model import Network
from testbed.plan.resolve import resolve_network
from testbed.spec.topology import Topology

FRAME = 1514


def network(**link: Any) -> Network:
    wan = [{"between": ["a", "b"], "rate": "1 Gbit/s", "delay": "10 ms", **link}]
    return resolve_network(Topology.model_validate({"datacenters": {"a": {}, "b": {}}, "wan": wan}))


def qdisc(plan: Network, node: str, interface: str) -> Netem | ManagedQueue:
    return next(
        port.qdisc
        for port in qdiscs.ports(plan)
        if (port.node, port.interface) == (node, interface)
    )


@pytest.mark.parametrize("distribution", ["normal", "pareto", "paretonormal"])
def test_jitter(distribution: str) -> None:
    """netem adds jitter x number / 8192, with a number of the table; 200 000 draws, within 1 %."""
    fibre = qdisc(network(jitter="1 ms", distribution=distribution, reorder=True), "wan", "w0b")
    assert isinstance(fibre, Netem)
    assert fibre.distribution is not None
    draw = random.Random(1)
    delays = [
        fibre.latency + fibre.jitter * draw.choice(fibre.distribution) / 8192
        for _ in range(200_000)
    ]
    assert statistics.fmean(delays) == pytest.approx(10e6, rel=0.01)
    assert statistics.pstdev(delays) == pytest.approx(1e6, rel=0.01)


def test_red() -> None:
    """A queue of 600 frames marks from 100 frames on, all from 300 on; bursts have 166 frames."""
    parameters = red(600 * FRAME, 125_000_000, FRAME, ecn=True)
    assert (parameters.minimum, parameters.maximum, parameters.limit) == (
        100 * FRAME,
        300 * FRAME,
        600 * FRAME,
    )
    # tc-red(8): the smallest weight W with burst + 1 - minimum / frame <= (1 - (1 - W)^burst) / W
    weight, burst, excess = 2.0**-parameters.weight_log, 166, 166 + 1 - 100
    assert (1 - (1 - weight) ** burst) / weight >= excess
    assert (1 - (1 - 2 * weight) ** burst) / (2 * weight) < excess
    # the kernel's probability: (average - minimum) / 2^slope_log, 10 % at the upper threshold,
    # within a factor of two
    assert 0.1 <= (parameters.maximum - parameters.minimum) / 2**parameters.slope_log < 0.2
    # idle for the time of 1000 frames, the average falls to (1 - W)^1000 of itself: a shift by its
    # binary logarithm
    idle_us = 1000 * FRAME * 8 / 1000
    shift = parameters.idle_shifts[int(idle_us) >> parameters.cell_log]
    assert 2.0**-shift == pytest.approx((1 - weight) ** 1000, rel=1.0)


@pytest.mark.parametrize("frames", [1, 2, 10, 10_000_000 // FRAME, 2**26 // FRAME])
@pytest.mark.parametrize("rate", [125_000, 12_500_000_000])
def test_red_of_any_queue_and_rate(frames: int, rate: int) -> None:
    parameters = red(frames * FRAME, rate, FRAME, ecn=False)
    assert 0 < parameters.minimum < parameters.maximum
    assert 1 <= parameters.weight_log <= 31
    assert parameters.maximum.bit_length() + parameters.weight_log < 32  # as the kernel checks
    assert len(parameters.idle_shifts) == 256
    assert list(parameters.idle_shifts) == sorted(parameters.idle_shifts)


def test_fq_codel() -> None:
    """RFC 8289: the interval is the worst RTT, 100 ms at least, and the target 5 % of that."""
    assert fq_codel(1000, 20_000_000, FRAME, ecn=True) == FqCodel(1000, 5_000, 100_000, FRAME, True)
    assert fq_codel(1000, 300_000_000, FRAME, ecn=True) == FqCodel(
        1000, 15_000, 300_000, FRAME, True
    )


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The qdiscs of the guest's kernel."""
    monkeypatch.setattr(qdiscs, "GUEST_MARK", tmp_path)


@pytest.fixture
def inexact(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The qdiscs of a kernel without the project's patches."""
    monkeypatch.setattr(qdiscs, "GUEST_MARK", tmp_path / "missing")


def states(event: dict[str, Any]) -> list[Network]:
    """The network with 1 Gbit/s before and after an event."""
    topology = {
        "datacenters": {"a": {}, "b": {}},
        "wan": [{"between": ["a", "b"], "rate": "1 Gbit/s", "delay": "10 ms"}],
        "events": [{"at": "1 s", "links": "a-b", **event}],
    }
    return list(resolve_network(Topology.model_validate(topology)).states())


@pytest.mark.usefixtures("exact")
def test_stall_in_the_guest() -> None:
    """netem sends nothing at its highest rate, and keeps what is queued."""
    before, after = (qdisc(state, "d0r", "d0r-w0") for state in states({"rate": 0}))
    assert isinstance(before, Netem)
    assert after == replace(before, rate_bytes=2**64 - 1)


@pytest.mark.usefixtures("inexact")
def test_changing_rate_on_other_kernels() -> None:
    """A token bucket serves at the present rate; 200 us of it, as timers are late."""
    queue = Fifo(1652)  # 20 ms at 1 Gbit/s
    before, after = (
        qdisc(state, "d0r", "d0r-w0") for state in states({"rate": "100 Mbit/s", "queue": "20 MB"})
    )
    assert before == ManagedQueue(125_000_000, FRAME + 25_000, queue)
    assert after == ManagedQueue(12_500_000, FRAME + 2_500, Fifo(13_211))

    fibres = [qdisc(state, "wan", "w0b") for state in states({"rate": 0})]
    stalled = qdisc(states({"rate": 0})[1], "d0r", "d0r-w0")
    assert stalled == ManagedQueue(1, FRAME, queue)
    assert [fibre.rate_bytes for fibre in fibres if isinstance(fibre, Netem)] == [
        125_000_000,
        qdiscs.IN_ORDER_RATE,
    ]


@pytest.mark.usefixtures("inexact")
def test_other_changes_need_no_bucket() -> None:
    steady = qdisc(network(), "d0r", "d0r-w0")
    assert isinstance(steady, Netem)


@pytest.mark.usefixtures("exact")
def test_bucket_of_a_fast_managed_queue() -> None:
    """What leaves in two steps of the guest's clock: 17 frames at 400 Gbit/s, 64 B at 1 Gbit/s."""
    fast = qdisc(network(rate="400 Gbit/s", discipline="red"), "d0r", "d0r-w0")
    slow = qdisc(network(rate="1 Gbit/s", discipline="red"), "d0r", "d0r-w0")
    assert isinstance(fast, ManagedQueue)
    assert isinstance(slow, ManagedQueue)
    assert (fast.burst, slow.burst) == (FRAME + 25_600, FRAME + 64)


@pytest.mark.usefixtures("exact")
def test_fibre_behind_managed_queue() -> None:
    plan = network(discipline={"a->b": "red", "b->a": "drop-tail"})
    there, fibre = qdisc(plan, "d0r", "d0r-w0"), qdisc(plan, "wan", "w0b")
    assert isinstance(there, ManagedQueue)
    assert isinstance(there.queue, Red)
    assert (there.rate_bytes, there.burst) == (125_000_000, FRAME + 64)
    assert isinstance(fibre, Netem)
    assert fibre.rate_bytes == 125_000_000
    back, other = qdisc(plan, "d1r", "d1r-w0"), qdisc(plan, "wan", "w0a")
    assert isinstance(back, Netem)
    assert isinstance(other, Netem)
    assert (back.rate_bytes, other.rate_bytes) == (125_000_000, 0)
