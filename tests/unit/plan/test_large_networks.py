"""Topologies of the size that the docs allow."""

import random
import time
from pathlib import Path

from testbed.core.units import format_time
from testbed.plan.resolve import resolve_network
from testbed.spec.topology import Topology
from tests.support.events import GBIT, network

SITES = 197  # as the largest networks of the Topology Zoo
MORE_LINKS = 50
MOST_CPU_S = 60  # of this process; it takes 4 s on a core of 2026, quadratic look-ups take minutes


def test_two_hundred_sites_take_seconds() -> None:
    draw = random.Random(7)
    datacenters: dict[str, dict[str, int]] = {f"site-{number}": {} for number in range(SITES)}
    ends = {(draw.randrange(number), number) for number in range(1, SITES)}
    while len(ends) < SITES - 1 + MORE_LINKS:
        first, second = sorted(draw.sample(range(SITES), 2))
        ends.add((first, second))

    wan = []
    for first, second in sorted(ends):
        delay = format_time(draw.randrange(1, 10**7))
        wan.append({"between": [f"site-{first}", f"site-{second}"], "delay": delay})

    begin_s = time.process_time()
    topology = Topology(datacenters=datacenters, wan=wan, defaults={"wan": {"rate": "1 Gbit/s"}})
    resolved = resolve_network(topology)
    assert time.process_time() - begin_s < MOST_CPU_S
    assert len(resolved.routes) == SITES * (SITES - 1)


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
