"""Plans survive JSON."""

from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from testbed.workloads.collectives.settings import Collectives

from testbed.plan.model import Plan
from testbed.plan.resolve import resolve
from testbed.spec.options import RunOptions
from testbed.spec.presets import TOPOLOGIES
from testbed.spec.topology import Topology
from testbed.spec.workload import load_workload

PROBABILITIES = st.sampled_from(["0 %", "0.001 %", "33.3 %", "100 %"])
QUEUES = st.sampled_from(["1 bdp", "64 packets", "4 MiB", "20 ms"])


def reread(plan: Plan) -> Plan:
    return Plan.model_validate_json(plan.model_dump_json())


def sites() -> st.SearchStrategy[dict[str, Any]]:
    fabric = st.fixed_dictionaries(
        {
            "leaves": st.integers(1, 3),
            "spines": st.integers(1, 3),
            "oversubscription": st.sampled_from([1.0, 1.5, 3.0]),
        }
    )
    nic = st.fixed_dictionaries({"rate": st.sampled_from(["1 Gbit/s", "400 Gbit/s"])})
    return st.fixed_dictionaries(
        {"hosts": st.integers(3, 5)},
        optional={
            "nic": nic,
            "fabric": fabric,
            "location": st.tuples(st.floats(-90, 90), st.floats(-180, 180)).map(list),
        },
    )


def link_settings() -> st.SearchStrategy[dict[str, Any]]:
    bursts = st.fixed_dictionaries({"p": PROBABILITIES, "r": PROBABILITIES})
    return st.fixed_dictionaries(
        {
            "rate": st.sampled_from(["1 kbit/s", "100 Mbit/s", "1 Tbit/s"]),
            "delay": st.sampled_from(["1 us", "8.2 ms", "300 ms"]),
        },
        optional={
            "jitter": st.just("1 us"),
            "reorder": st.booleans(),
            "loss": PROBABILITIES | bursts,
            "duplicate": PROBABILITIES,
            "corrupt": PROBABILITIES,
            "queue": QUEUES,
            "discipline": st.sampled_from(["drop-tail", "red", "fq_codel"]),
            "weight": st.integers(1, 9),
            "shares": st.sampled_from(["duct", "cable"]),
        },
    )


def events() -> st.SearchStrategy[list[dict[str, Any]]]:
    """What may happen to any of the topologies below."""
    times = st.integers(0, 9).map(lambda second: f"{second} s")
    outage = st.fixed_dictionaries(
        {"at": times, "duration": st.just("2 s"), "links": st.just("all"), "down": st.just(True)}
    )
    loss = st.fixed_dictionaries({"at": times, "links": st.just("all"), "loss": PROBABILITIES})
    transfer = st.fixed_dictionaries(
        {
            "at": times,
            "transfer": st.fixed_dictionaries(
                {"from": st.just("a-h0"), "to": st.just("a-h1"), "size": st.just("1 MB")},
                optional={"rate": st.just("1 Mbit/s"), "connections": st.integers(1, 3)},
            ),
        }
    )
    crash = st.just({"at": "1 s", "hosts": "a-h0", "crash": "host", "duration": "1 s"})
    return st.tuples(
        st.lists(outage | loss | transfer, max_size=4), st.lists(crash, max_size=1)
    ).map(lambda lists: lists[0] + lists[1])


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    """Two to four datacenters in a row, with any more links between them."""
    names = "abcd"[: draw(st.integers(2, 4))]
    wan: list[dict[str, Any]] = []
    for first, second in combinations(names, 2):
        neighbours = ord(second) == ord(first) + 1
        if neighbours or draw(st.booleans()):
            wan.append({"between": [first, second], **draw(link_settings())})
    written = {
        "datacenters": {name: draw(sites()) for name in names},
        "wan": wan,
        "events": draw(events()),
        "routing": draw(st.sampled_from(["delay", "hops", "weight"])),
        "multipath": draw(st.booleans()),
        "ecmp": draw(st.sampled_from(["hosts", "flows"])),
        "tcp": {"offload": draw(st.sampled_from(["auto", "on", "off"]))},
        "mtu": draw(st.integers(576, 9000)),
    }
    return Topology.model_validate(written)


@settings(max_examples=60, deadline=None)
@given(topology=topologies(), seed=st.integers(0, 2**63), guest_memory=st.integers(2**26, 2**50))
def test_random_topologies(topology: Topology, seed: int, guest_memory: int) -> None:
    options = RunOptions(seed=seed, guest_memory=f"{guest_memory} B")
    plan = resolve(topology, Collectives(), options)
    assert reread(plan) == plan


@pytest.mark.parametrize("preset", [preset.name for preset in TOPOLOGIES.presets()])
def test_presets(preset: str) -> None:
    workload = load_workload("collectives")
    plan = resolve(Topology.load(preset), workload, machine_memory_bytes=2**40)
    assert reread(plan) == plan
