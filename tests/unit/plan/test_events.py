"""Events of a topology: what links, routes and hosts go through."""

from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from testbed.plan.model import Network, Plan, Transfer
from testbed.plan.resolve import resolve, resolve_network
from testbed.plan.scaling import scaled
from testbed.spec.topology import Topology
from testbed.spec.workload import load_workload
from tests.support.events import (
    GBIT,
    PROCESSES,
    SECOND,
    TRIANGLE,
    collectives_plan,
    network,
    topology,
)

MS = 10**6  # ns


def clauses_by_time(resolved: Network) -> list[tuple[float, str]]:
    """Seconds and clauses of each change."""
    return [(change.at_ns / SECOND, "; ".join(change.what)) for change in resolved.changes]


def clauses(resolved: Network) -> list[str]:
    """The clauses of each change."""
    return [clause for _, clause in clauses_by_time(resolved)]


def targets(state: Network, source: str, target: str) -> list[str]:
    """The datacenters on the path from `source` to `target`."""
    return [direction.target for direction in state.path(source, target)]


def test_no_events(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(TRIANGLE.replace("events:\n", ""))
    resolved = resolve_network(Topology.load(path))
    assert resolved.changes == ()
    assert list(resolved.states()) == [resolved]
    assert list(resolved.extremes(rate=max, delay=min)) == [resolved]


def test_duration(tmp_path: Path) -> None:
    resolved = network(
        tmp_path,
        "{at: 1 s, duration: 500 ms, links: a-b, delay: 15 ms}",
        "{at: 3 s, links: b-c, loss: 1 %}",
    )
    assert clauses_by_time(resolved) == [
        (1.0, "a-b: delay 10 ms → 15 ms"),
        (1.5, "a-b: delay 15 ms → 10 ms"),
        (3.0, "b-c: loss 0 % → 1 %"),
    ]
    delays = [state.wan[0].forward.fibre.delay_ns // MS for state in resolved.states()]
    assert delays == [10, 15, 10, 10]
    assert [state.wan[1].backward.fibre.loss.p for state in resolved.states()] == [0, 0, 0, 0.01]


def test_overlapping_events(tmp_path: Path) -> None:
    resolved = network(
        tmp_path,
        "{at: 1 s, duration: 9 s, links: all, rate: 4 Gbit/s}",
        "{at: 2 s, duration: 2 s, links: a-b, rate: {a->b: 1 Gbit/s}}",
    )
    links = [state.wan[0] for state in resolved.states()]
    forward = [link.forward.bottleneck.rate_bps // GBIT for link in links]
    backward = [link.backward.bottleneck.rate_bps // GBIT for link in links]
    assert forward == [10, 4, 1, 4, 10]
    assert backward == [10, 4, 4, 4, 10]
    first, second, *_ = clauses_by_time(resolved)
    assert first == (1.0, "a-b, b-c, a-c: rate 10 Gbit/s → 4 Gbit/s")
    assert second == (2.0, "a-b: to b rate 4 Gbit/s → 1 Gbit/s")


@pytest.mark.parametrize(
    ("event", "clause"),
    [
        ("{at: 1 s, links: b-c, loss: {p: 0 %, r: 1 %}}", "b-c: as much loss, in other bursts"),
        ("{at: 1 s, links: b-c, rate: 10.00001 Gbit/s}", "b-c: a small change"),
    ],
)
def test_changes_that_read_alike(tmp_path: Path, event: str, clause: str) -> None:
    assert clauses_by_time(network(tmp_path, event)) == [(1.0, clause)]


def test_queue_in_bdp(tmp_path: Path) -> None:
    resolved = network(tmp_path, "{at: 1 s, links: b-c, rate: 20 Gbit/s, delay: 40 ms}")
    before, after = (state.wan[1].forward.bottleneck.queue_packets for state in resolved.states())
    assert after == pytest.approx(4 * before, rel=0.001)


def test_names_of_links(tmp_path: Path) -> None:
    def down(names: str) -> list[str]:
        resolved = network(tmp_path, f"{{at: 1 s, links: {names}, down: true}}")
        return [link.key for link in resolved.changes[0].links]

    assert down("b-c") == ["b-c"]
    assert down("duct") == ["a-b", "a-c"]
    assert down("b") == ["a-b", "b-c"]
    assert down("[a-c, b]") == ["a-b", "b-c", "a-c"]
    assert down("all") == ["a-b", "b-c", "a-c"]


def test_reroute(tmp_path: Path) -> None:
    """From a to b: 10 ms; without a-b 30 + 20 ms by c.

    Routes change `convergence` after the link does.
    """
    resolved = network(tmp_path, "{at: 1 s, duration: 2 s, links: a-b, down: true}")
    assert clauses_by_time(resolved) == [
        (1.0, "a-b: down"),
        (1.3, "routes avoid a-b"),
        (3.0, "a-b: up again"),
        (3.3, "routes use a-b again"),
    ]
    paths = [targets(state, "a", "b") for state in resolved.states()]
    assert paths == [["b"], ["b"], ["c", "b"], ["c", "b"], ["b"]]


def test_short_outage(tmp_path: Path) -> None:
    resolved = network(
        tmp_path, "{at: 1 s, duration: 300 ms, every: 1 s, times: 3, links: a-b, down: true}"
    )
    assert clauses(resolved) == ["a-b: down", "a-b: up again"] * 3
    flapping = network(
        tmp_path, "{at: 1 s, duration: 400 ms, every: 600 ms, times: 3, links: a-b, down: true}"
    )
    routed = [(at, what) for at, what in clauses_by_time(flapping) if "routes" in what]
    assert routed == [(1.3, "routes avoid a-b"), (2.9, "routes use a-b again")]


def test_convergence(tmp_path: Path) -> None:
    event = "{at: 1 s, links: a-b, down: true}"
    path = tmp_path / "mine.yaml"
    for value, expected in (("never", ["a-b: down"]), ("0 s", ["a-b: down; routes avoid a-b"])):
        path.write_text(TRIANGLE.replace("300 ms", value) + f"  - {event}\n")
        resolved = resolve_network(Topology.load(path))
        assert clauses(resolved) == expected


def test_no_path_left(tmp_path: Path) -> None:
    resolved = network(tmp_path, "{at: 1 s, links: a, down: true}")
    assert clauses(resolved) == ["a-b, a-c: down"]
    _first, last = resolved.states()
    assert targets(last, "a", "b") == ["b"]
    assert targets(last, "b", "c") == ["c"]


def test_trace(tmp_path: Path) -> None:
    (tmp_path / "measured.csv").write_text(
        "time,rate,delay\n0 s,1 Gbit/s,\n500 ms,2 Gbit/s,12 ms\n1 s,,\n"
    )
    resolved = network(
        tmp_path, "{at: 2 s, links: a-b, trace: measured.csv, every: 10 s, times: 2}"
    )
    directions = [state.wan[0].forward for state in resolved.states()]
    rates = [direction.bottleneck.rate_bps // GBIT for direction in directions]
    delays = [direction.fibre.delay_ns // MS for direction in directions]
    assert rates == [10, 1, 2, 10, 1, 2, 10]
    assert delays == [10, 10, 12, 10, 10, 12, 10]
    assert [change.at_ns / SECOND for change in resolved.changes] == [2, 2.5, 3, 12, 12.5, 13]


SPANS = st.tuples(st.integers(0, 50), st.integers(1, 50), st.integers(1, 9))


@settings(deadline=None)
@given(st.lists(SPANS, min_size=1, max_size=8))
def test_last_event_wins(spans: list[tuple[int, int, int]]) -> None:
    """Against the definition, second by second; `spans` have begin, length and rate."""
    from testbed import Datacenter, Wan

    events = [
        {"at": f"{at} s", "duration": f"{length} s", "links": "all", "rate": f"{rate} Gbit/s"}
        for at, length, rate in spans
    ]
    link = Wan(between=("a", "b"), rate="10 Gbit/s", delay="1 ms")
    datacenters = {"a": Datacenter(), "b": Datacenter()}
    resolved = resolve_network(Topology(datacenters=datacenters, wan=[link], events=events))
    states = list(resolved.states())
    times = [change.at_ns for change in resolved.changes]
    assert times == sorted(set(times))
    for second in range(102):
        changes_so_far = sum(time <= second * SECOND for time in times)
        state = states[changes_so_far]
        rates = [10]
        rates += [rate for at, length, rate in spans if at <= second < at + length]
        assert state.wan[0].forward.bottleneck.rate_bps == rates[-1] * GBIT


def silent_hosts(state: Network) -> tuple[str, ...]:
    return tuple(host.name for host in state.hosts if host.silent)


def test_crashes(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "datacenters: {a: {hosts: 2}, b: {hosts: 4}}\n"
        "wan: [{between: [a, b], rate: 1 Gbit/s, delay: 10 ms}]\nevents:\n"
        "  - {at: 1 s, duration: 2 s, hosts: [a-h1, b], crash: host}\n"
        "  - {at: 5 s, hosts: a-h0, crash: ranks}\n"
    )
    resolved = resolve_network(Topology.load(path))
    five = ("a-h1", "b-h0", "b-h1", "b-h2", "b-h3")
    assert clauses_by_time(resolved) == [
        (1.0, "5 hosts: crashed"),
        (3.0, "5 hosts: back, its ranks start again"),
        (5.0, "a-h0: ranks are killed"),
    ]
    assert [change.killed for change in resolved.changes] == [five, (), ("a-h0",)]
    assert [change.started for change in resolved.changes] == [(), five, ()]
    silent = [silent_hosts(state) for state in resolved.states()]
    assert silent == [(), five, (), ()]


def transfer(source: str, target: str, size: int) -> Transfer:
    return Transfer(source=source, target=target, bytes=size, connections=1, pace_bps=GBIT)


def test_transfers(tmp_path: Path) -> None:
    """Where a datacenter sends, each of its hosts sends a part, at a part of the rate."""
    path = tmp_path / "mine.yaml"
    path.write_text(
        "datacenters: {a: {hosts: 3}, b: {hosts: 2}}\n"
        "wan: [{between: [a, b], rate: 10 Gbit/s, delay: 10 ms}]\nevents:\n"
        "  - {at: 1 s, every: 5 s, times: 2, "
        "transfer: {from: a, to: b, size: 10 MB, rate: 3 Gbit/s}}\n"
        "  - {at: 6 s, transfer: {from: b-h1, to: a-h2, size: 4 GB, connections: 8}}\n"
    )
    resolved = resolve_network(Topology.load(path))
    first, second = resolved.changes
    parts = (
        transfer("a-h0", "b-h0", 3_333_334),
        transfer("a-h1", "b-h1", 3_333_333),
        transfer("a-h2", "b-h0", 3_333_333),
    )
    large = Transfer(source="b-h1", target="a-h2", bytes=4 * 10**9, connections=8, pace_bps=None)
    assert first.transfers == parts
    assert second.transfers == (*parts, large)
    assert second.what[-1] == "b-h1 sends 4 GB to a-h2"
    assert first.what[0] == "a-h0 sends 3.333 MB to b-h0 at 1 Gbit/s"
    *_, slow_part, slow_large = scaled(resolved, 1000).changes[1].transfers
    assert (slow_part.bytes, slow_part.pace_bps) == (3_333, 10**6)
    assert (slow_large.bytes, slow_large.pace_bps) == (4_000_000, None)


def test_yaml_round_trip(tmp_path: Path) -> None:
    (tmp_path / "measured.csv").write_text("time,rate\n0 s,1 Gbit/s\n")
    first = topology(
        tmp_path,
        "{at: 1 s, duration: 2 s, every: 3 s, times: 2, links: a-b, "
        "rate: {a->b: 1 Gbit/s}, queue: 2 bdp}",
        "{at: 1 s, links: [a, duct], down: true}",
        "{at: 1 s, links: a-b, trace: measured.csv}",
        "{at: 1 s, duration: 1 s, hosts: [c-h0, b], crash: ranks}",
        "{at: 1 s, transfer: {from: a, to: b, size: 1500 B, rate: 1 Mbit/s}}",
    )
    again = tmp_path / "again.yaml"
    again.write_text(first.to_yaml())
    assert resolve_network(Topology.load(again)).changes == resolve_network(first).changes


def test_json_round_trip(tmp_path: Path) -> None:
    plan = collectives_plan(
        tmp_path,
        "{at: 1 s, duration: 2 s, links: duct, down: true}",
        "{at: 2 s, links: b, loss: {p: 1 %, r: 5 %}}",
    )
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


def test_choices_for_all_states(tmp_path: Path) -> None:
    """TCP's buffers, and the timeout of an operation."""
    outage = collectives_plan(tmp_path, "{at: 1 s, duration: 100 s, links: a-b, down: true}")
    longer = collectives_plan(tmp_path, "{at: 1 s, links: a-b, delay: 25 ms}")
    # a to b by c without a-b: 50 ms each way, at most 10 Gbit/s
    assert outage.network.tcp.buffer_bytes == pytest.approx(4 * 10 * GBIT * 0.1 / 8, rel=0.01)
    assert longer.network.tcp.buffer_bytes == pytest.approx(4 * 10 * GBIT * 0.06 / 8, rel=0.01)
    assert outage.workers.timeout_s >= longer.workers.timeout_s + 3 * 100


def test_stall(tmp_path: Path) -> None:
    """The queue stays as long as it was, and the stall counts as an outage of 100 s."""
    stalled = collectives_plan(
        tmp_path,
        "{at: 1 s, links: a-b, rate: 40 Gbit/s}",
        "{at: 2 s, duration: 100 s, links: a-b, rate: 0}",
    )
    steady = collectives_plan(tmp_path, "{at: 1 s, links: a-b, rate: 40 Gbit/s}")
    assert clauses(stalled.network)[1:] == [
        "a-b: rate 40 Gbit/s → 0",
        "a-b: rate 0 → 40 Gbit/s",
    ]
    before, at_40_gbit, stall, after = (state.wan[0].forward for state in stalled.network.states())
    assert stall.bottleneck.rate_bps == 0
    assert stall.bottleneck.queue_packets == at_40_gbit.bottleneck.queue_packets
    assert after.bottleneck == at_40_gbit.bottleneck
    assert before.bottleneck.queue_packets < at_40_gbit.bottleneck.queue_packets
    assert stalled.workers.timeout_s == steady.workers.timeout_s + 3 * 100
    assert stalled.network.tcp.buffer_bytes == steady.network.tcp.buffer_bytes


def test_stalls_of_a_trace(tmp_path: Path) -> None:
    (tmp_path / "handover.csv").write_text(
        "time,rate\n0 s,20 Mbit/s\n3 s,0\n5 s,12 Mbit/s\n8 s,0.0 Mbit/s\n9 s,18 Mbit/s\n"
    )
    resolved = network(tmp_path, "{at: 0 s, links: a-b, trace: handover.csv}")
    rates = [change.links[0].forward.bottleneck.rate_bps for change in resolved.changes]
    assert rates == [20_000_000, 0, 12_000_000, 0, 18_000_000]


def test_stall_in_one_direction(tmp_path: Path) -> None:
    resolved = network(tmp_path, "{at: 1 s, links: a-b, rate: {a->b: 0}}")
    assert clauses(resolved) == ["a-b: to b rate 10 Gbit/s → 0"]
    rates = [direction.bottleneck.rate_bps for direction in resolved.changes[0].links[0].directions]
    assert rates == [0, 10 * GBIT]
    slow = scaled(resolved, 1000).changes[0].links[0]
    assert [direction.bottleneck.rate_bps for direction in slow.directions] == [0, GBIT // 100]


def test_scale(tmp_path: Path) -> None:
    changing = topology(tmp_path, "{at: 1 s, links: a-b, rate: 2 Gbit/s}")
    workload = load_workload("train", []).model_copy(update={"scale": 1000})
    plan = resolve(changing, workload, PROCESSES)
    rates = [state.wan[0].forward.bottleneck.rate_bps for state in plan.network.states()]
    assert rates == [10_000_000, 2_000_000]


def test_seeds_of_changes(tmp_path: Path) -> None:
    event = "{at: 1 s, duration: 1 s, every: 2 s, times: 3, links: a-b, loss: 1 %}"
    resolved = network(tmp_path, event)
    seeds = [state.wan[0].forward.fibre.seed for state in resolved.states()]
    assert len(set(seeds)) == len(seeds)
    assert network(tmp_path, event) == resolved
