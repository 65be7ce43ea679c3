"""Topologies of the size that the docs allow: planning takes sites x links steps at most."""

import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from testbed.workloads.collectives.settings import Collectives

from testbed.core.units import format_time
from testbed.plan.model import Network
from testbed.plan.paths import FirstHosts, figures_to
from testbed.plan.resolve import resolve, resolve_network
from testbed.spec.options import RunOptions
from testbed.spec.topology import Topology
from tests.support.events import GBIT, network

SITES = 250  # as many as addresses allow
LINKS = 400
MOST_CPU_S = 30  # of this process; it takes 3 s on a core of 2026, paths one by one take minutes
# Twice the sites and links are four times as many pairs. Steps for each link of each path would be
# eight times as many in a line.
MOST_GROWTH = 4.5
PLENTY_OF_MEMORY = 2**44


def topology_of(sites: int, ends: list[tuple[int, int]], **settings: Any) -> Topology:
    """Return a topology with one host at each site, and links of random delays."""
    draw = random.Random(7)
    wan = []
    for first, second in ends:
        delay = format_time(draw.randrange(1, 10**7))
        wan.append({"between": [f"site-{first}", f"site-{second}"], "delay": delay})

    return Topology(
        datacenters={f"site-{number}": {} for number in range(sites)},
        wan=wan,
        defaults={"wan": {"rate": "1 Gbit/s"}},
        **settings,
    )


def scattered(sites: int, links: int) -> list[tuple[int, int]]:
    """Return the ends of links that join all sites at random."""
    draw = random.Random(7)
    ends = {(draw.randrange(number), number) for number in range(1, sites)}
    while len(ends) < links:
        first, second = sorted(draw.sample(range(sites), 2))
        ends.add((first, second))
    return sorted(ends)


def line(sites: int) -> list[tuple[int, int]]:
    """Return the ends of links that join the sites in a line, whose paths are the longest."""
    return [(number, number + 1) for number in range(sites - 1)]


def plan_run(topology: Topology) -> Network:
    options = RunOptions(isolation="process", capture="all")
    plan = resolve(topology, Collectives(), options, machine_memory_bytes=PLENTY_OF_MEMORY)
    return plan.network


def calls_of(function: Callable[[], object]) -> int:
    """Return how many functions, of Python and C, a function calls."""
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        if event in ("call", "c_call"):
            calls += 1

    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(None)
    return calls


def test_most_sites_take_seconds() -> None:
    begin_s = time.process_time()
    resolved = plan_run(topology_of(SITES, scattered(SITES, LINKS), ranks="auto"))
    assert time.process_time() - begin_s < MOST_CPU_S
    assert len(resolved.routes) == SITES * (SITES - 1)


@pytest.mark.parametrize("ranks", ["written", "auto"])
def test_steps_of_planning_grow_as_sites_times_links(ranks: str) -> None:
    few = topology_of(64, line(64), ranks=ranks)
    twice = topology_of(128, line(128), ranks=ranks)
    calls_of(lambda: plan_run(few))  # builds models and look-ups that stay
    assert calls_of(lambda: plan_run(twice)) < MOST_GROWTH * calls_of(lambda: plan_run(few))


def test_figures_of_paths_are_those_of_their_links() -> None:
    resolved = resolve_network(topology_of(30, scattered(30, 45)))
    pairs = 0
    for target in resolved.datacenters:
        for source, figures in figures_to(resolved, target.name).items():
            path = resolved.path(source, target.name)
            assert figures.delay_ns == sum(step.fibre.delay_ns for step in path)
            queues = [step.bottleneck.queue_packets for step in path]
            assert figures.queue_packets == max(queues, default=0)
            pairs += 1
    assert pairs == 30 * 30


def test_round_trips_are_those_of_hosts() -> None:
    """With a fabric, NICs with delays, and a path over two links."""
    sites: dict[str, Any] = {
        "a": {"hosts": 4, "fabric": {"leaves": 2, "spines": 2, "delay": "7 us"}},
        "b": {"nic": {"delay": "3 us"}},
        "c": {},
    }
    wan = [
        {"between": ["a", "b"], "delay": {"a->b": "1 ms", "b->a": "2 ms"}},
        {"between": ["b", "c"], "delay": "5 ms"},
    ]
    topology = Topology(datacenters=sites, wan=wan, defaults={"wan": {"rate": "1 Gbit/s"}})
    resolved = resolve_network(topology)
    paths = FirstHosts(resolved)
    pairs = 0
    for source, target in paths.pairs():
        if source == target:
            assert paths.rtt_ns(source, target) == 2 * source.nic_delay_ns
            continue
        there_ns = resolved.one_way_delay_ns(source.name, target.name)
        back_ns = resolved.one_way_delay_ns(target.name, source.name)
        assert paths.rtt_ns(source, target) == there_ns + back_ns
        pairs += 1
    assert pairs == 6


def test_look_ups_follow_changes(tmp_path: Path) -> None:
    """Paths of a changed network are those after the change, also after an earlier look-up."""
    before = network(
        tmp_path,
        "{at: 1 s, links: a-b, down: true}",
        "{at: 1 s, links: a-c, rate: 1 Gbit/s}",
    )
    assert [step.target for step in before.path("a", "b")] == ["b"]

    *_, after = before.states()
    assert [step.target for step in after.path("a", "b")] == ["c", "b"]
    assert after.path("a", "c")[0].bottleneck.rate_bps == GBIT
    assert [step.target for step in before.path("a", "b")] == ["b"]
    assert before.path("a", "c")[0].bottleneck.rate_bps == 10 * GBIT
