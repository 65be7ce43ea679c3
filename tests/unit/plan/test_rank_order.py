"""The order of ranks: as written, by a list, and by a short ring."""

import math
from itertools import pairwise, permutations
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from testbed.core.errors import InputError
from testbed.plan.addressing import resolve_network
from testbed.plan.rank_order import hosts_by_rank, short_ring
from testbed.spec.topology import Topology


def topology(ranks: Any = "written", places: dict[str, float] | None = None) -> Topology:
    """Datacenters of two hosts on a line, at these one-way delays in ms from its end."""
    places = places or {"a": 0, "b": 9, "c": 1, "d": 8}
    wan = []
    for name, place in places.items():
        for other, other_place in places.items():
            if name < other:
                delay = f"{abs(place - other_place) + 0.1:.3f} ms"
                wan.append({"between": [name, other], "rate": "1 Gbit/s", "delay": delay})

    sites = {name: {"hosts": 2} for name in places}
    return Topology.model_validate({"datacenters": sites, "wan": wan, "ranks": ranks})


def order(written: Topology) -> list[str]:
    return [host.name for host in hosts_by_rank(written, resolve_network(written))]


def test_as_written() -> None:
    names = ["a-h0", "a-h1", "b-h0", "b-h1", "c-h0", "c-h1", "d-h0", "d-h1"]
    assert order(topology()) == names


def test_a_list_of_datacenters_and_hosts() -> None:
    listed = topology(["d", "a-h1", "b", "a-h0", "c"])
    assert order(listed) == ["d-h0", "d-h1", "a-h1", "b-h0", "b-h1", "a-h0", "c-h0", "c-h1"]


def test_a_short_ring() -> None:
    """From a at 0 ms to c at 1, d at 8 and b at 9 ms, and back."""
    assert order(topology("auto"))[::2] in (
        ["a-h0", "c-h0", "d-h0", "b-h0"],
        ["a-h0", "b-h0", "d-h0", "c-h0"],
        ["a-h0", "c-h0", "b-h0", "d-h0"],
        ["a-h0", "d-h0", "b-h0", "c-h0"],
    )


@given(st.lists(st.floats(0, 50), min_size=1, max_size=5))
@settings(deadline=None, max_examples=25)
def test_the_ring_is_the_shortest_of_few(places: list[float]) -> None:
    """2-opt finds the shortest ring of places on a line; compared with all rings."""
    at = dict(zip("abcde", places, strict=False))
    written = topology(places=at)
    delays: dict[tuple[str, str], int] = {}
    for link in written.links:
        forward = link.forward
        delays[forward.source, forward.target] = forward.delay
        delays[forward.target, forward.source] = forward.delay

    def length(ring: list[str]) -> int:
        return sum(delays[ends] for ends in pairwise([*ring, ring[0]]) if ends[0] != ends[1])

    shortest = min((length(list(ring)) for ring in permutations(at)), default=math.inf)
    found = short_ring(resolve_network(written))
    assert found[0] == "a"
    assert sorted(found) == list(at)
    assert length(found) <= 1.05 * shortest


@pytest.mark.parametrize(
    ("ranks", "what"),
    [
        (["a", "b", "c"], "ranks leaves out d-h0, d-h1"),
        (["a", "b", "c", "d", "a-h0"], "a-h0 is named twice"),
        (["a", "b", "c", "e"], "no datacenter or host 'e'"),
        ("short", "'written' or 'auto'"),
    ],
)
def test_wrong_orders(ranks: Any, what: str) -> None:
    with pytest.raises((InputError, ValueError), match=what):
        topology(ranks)
