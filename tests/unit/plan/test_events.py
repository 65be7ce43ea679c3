"""Events of a topology: what is refused, what links and routes go through, and what is made of it
afterwards.
"""

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.analysis.event_periods import periods
from testbed.analysis.lower_bounds import Bounds
from testbed.analysis.network_history import History, happened
from testbed.core.errors import InputError
from testbed.plan.model import Network, Plan
from testbed.plan.resolve import resolve, resolve_network
from testbed.plan.scaling import scaled
from testbed.runfolder.folder import RunDir, append_record
from testbed.spec.options import RunOptions
from testbed.spec.topology import Topology
from testbed.spec.workload import load_workload

MS, SECOND, GBIT = 10**6, 10**9, 10**9
PROCESSES = RunOptions(isolation="process")
TRIANGLE = """
datacenters: {a: {}, b: {}, c: {}}
wan:
  - {between: [a, b], rate: 10 Gbit/s, delay: 10 ms, shares: duct}
  - {between: [b, c], rate: 10 Gbit/s, delay: 20 ms}
  - {between: [a, c], rate: 10 Gbit/s, delay: 30 ms, shares: duct}
convergence: 300 ms
events:
"""


def topology(tmp_path: Path, *events: str) -> Topology:
    path = tmp_path / "mine.yaml"
    path.write_text(TRIANGLE.lstrip("\n") + "".join(f"  - {event}\n" for event in events))
    return Topology.load(path)


def network(tmp_path: Path, *events: str) -> Network:
    return resolve_network(topology(tmp_path, *events))


def told(made: Network) -> list[tuple[float, str]]:
    """Seconds and clauses of each change."""
    return [(change.at_ns / SECOND, "; ".join(change.what)) for change in made.changes]


def test_without_events_nothing_changes(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(TRIANGLE.replace("events:\n", ""))
    made = resolve_network(Topology.load(path))
    assert made.changes == ()
    assert list(made.states()) == [made]
    assert list(made.extremes(rate=max, delay=min)) == [made]


def test_an_event_lasts_for_its_duration_or_to_the_end(tmp_path: Path) -> None:
    made = network(
        tmp_path,
        "{at: 1 s, duration: 500 ms, links: a-b, delay: 15 ms}",
        "{at: 3 s, links: b-c, loss: 1 %}",
    )
    assert told(made) == [
        (1.0, "a-b: delay 10 ms → 15 ms"),
        (1.5, "a-b: delay 15 ms → 10 ms"),
        (3.0, "b-c: loss 0 % → 1 %"),
    ]
    delays = [state.wan[0].forward.fibre.delay_ns // MS for state in made.states()]
    assert delays == [10, 15, 10, 10]
    assert [state.wan[1].backward.fibre.loss.p for state in made.states()] == [0, 0, 0, 0.01]


def test_later_events_lie_over_earlier_ones(tmp_path: Path) -> None:
    made = network(
        tmp_path,
        "{at: 1 s, duration: 9 s, links: all, rate: 4 Gbit/s}",
        "{at: 2 s, duration: 2 s, links: a-b, rate: {a->b: 1 Gbit/s}}",
    )
    rates = [
        [way.bottleneck.rate_bps // GBIT for way in state.wan[0].directions]
        for state in made.states()
    ]
    assert rates == [[10, 10], [4, 4], [1, 4], [4, 4], [10, 10]]
    assert told(made)[0] == (1.0, "a-b, b-c, a-c: rate 10 Gbit/s → 4 Gbit/s")
    assert told(made)[1] == (2.0, "a-b: to b rate 4 Gbit/s → 1 Gbit/s")


@pytest.mark.parametrize(
    ("event", "clause"),
    [
        ("{at: 1 s, links: b-c, loss: {p: 0 %, r: 1 %}}", "b-c: as much loss, in other bursts"),
        ("{at: 1 s, links: b-c, rate: 10.00001 Gbit/s}", "b-c: a small change"),
    ],
)
def test_changes_that_read_alike(tmp_path: Path, event: str, clause: str) -> None:
    assert told(network(tmp_path, event)) == [(1.0, clause)]


def test_a_queue_in_bdp_follows(tmp_path: Path) -> None:
    made = network(tmp_path, "{at: 1 s, links: b-c, rate: 20 Gbit/s, delay: 40 ms}")
    before, after = (state.wan[1].forward.bottleneck.queue_packets for state in made.states())
    assert after == pytest.approx(4 * before, rel=0.001)


def test_names_are_links_conduits_and_datacenters(tmp_path: Path) -> None:
    def down(names: str) -> list[str]:
        made = network(tmp_path, f"{{at: 1 s, links: {names}, down: true}}")
        return [link.key for link in made.changes[0].links]

    assert down("b-c") == ["b-c"]
    assert down("duct") == ["a-b", "a-c"]
    assert down("b") == ["a-b", "b-c"]
    assert down("[a-c, b]") == ["a-b", "b-c", "a-c"]
    assert down("all") == ["a-b", "b-c", "a-c"]


def test_routers_avoid_a_link_that_stays_down(tmp_path: Path) -> None:
    """From a to b: 10 ms; without a-b 30 + 20 ms by c. Both turns happen `convergence` after the
    link's.
    """
    made = network(tmp_path, "{at: 1 s, duration: 2 s, links: a-b, down: true}")
    assert told(made) == [
        (1.0, "a-b: down"),
        (1.3, "routes avoid a-b"),
        (3.0, "a-b: up again"),
        (3.3, "routes use a-b again"),
    ]
    ways = [[step.target for step in state.path("a", "b")] for state in made.states()]
    assert ways == [["b"], ["b"], ["c", "b"], ["c", "b"], ["b"]]


def test_routers_do_not_notice_what_is_over_before_they_converge(tmp_path: Path) -> None:
    made = network(
        tmp_path, "{at: 1 s, duration: 300 ms, every: 1 s, times: 3, links: a-b, down: true}"
    )
    assert [what for _, what in told(made)] == ["a-b: down", "a-b: up again"] * 3
    flapping = network(
        tmp_path, "{at: 1 s, duration: 400 ms, every: 600 ms, times: 3, links: a-b, down: true}"
    )
    routed = [(at, what) for at, what in told(flapping) if "routes" in what]
    assert routed == [(1.3, "routes avoid a-b"), (2.9, "routes use a-b again")]


def test_convergence_may_be_never_or_at_once(tmp_path: Path) -> None:
    event = "{at: 1 s, links: a-b, down: true}"
    path = tmp_path / "mine.yaml"
    for value, expected in (("never", ["a-b: down"]), ("0 s", ["a-b: down; routes avoid a-b"])):
        path.write_text(TRIANGLE.replace("300 ms", value) + f"  - {event}\n")
        assert [what for _, what in told(resolve_network(Topology.load(path)))] == expected


def test_where_no_path_is_left_routes_stay(tmp_path: Path) -> None:
    made = network(tmp_path, "{at: 1 s, links: a, down: true}")
    assert [what for _, what in told(made)] == ["a-b, a-c: down"]
    last = list(made.states())[-1]
    assert [step.target for step in last.path("a", "b")] == ["b"]
    assert [step.target for step in last.path("b", "c")] == ["c"]


def test_a_trace_is_followed(tmp_path: Path) -> None:
    (tmp_path / "measured.csv").write_text(
        "time,rate,delay\n0 s,1 Gbit/s,\n500 ms,2 Gbit/s,12 ms\n1 s,,\n"
    )
    made = network(tmp_path, "{at: 2 s, links: a-b, trace: measured.csv, every: 10 s, times: 2}")
    ways = [state.wan[0].forward for state in made.states()]
    assert [change.at_ns / SECOND for change in made.changes] == [2, 2.5, 3, 12, 12.5, 13]
    assert [way.bottleneck.rate_bps // GBIT for way in ways] == [10, 1, 2, 10, 1, 2, 10]
    assert [way.fibre.delay_ns // MS for way in ways] == [10, 10, 12, 10, 10, 12, 10]


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 50), st.integers(1, 50), st.integers(1, 9)), min_size=1, max_size=8
    )
)
def test_each_moment_has_the_last_event_that_covers_it(spans: list[tuple[int, int, int]]) -> None:
    """Against the definition, second by second."""
    from testbed import Datacenter, Wan

    events = [
        {"at": f"{at} s", "duration": f"{length} s", "links": "all", "rate": f"{rate} Gbit/s"}
        for at, length, rate in spans
    ]
    link = Wan(between=("a", "b"), rate="10 Gbit/s", delay="1 ms")
    made = resolve_network(
        Topology(datacenters={"a": Datacenter(), "b": Datacenter()}, wan=[link], events=events)
    )
    states = list(made.states())
    times = [0, *(change.at_ns for change in made.changes)]
    assert times[1:] == sorted(set(times[1:]))
    for second in range(102):
        state = states[sum(time <= second * SECOND for time in times[1:])]
        expected = [rate for at, length, rate in spans if at <= second < at + length]
        assert state.wan[0].forward.bottleneck.rate_bps == (expected or [10])[-1] * GBIT


WRONG = {
    "an unknown link": (
        "{at: 1 s, links: a-d, down: true}",
        "mine.yaml:8, events.0.links: there is no link, conduit or datacenter 'a-d'\n  nearest: a-b, a-c",
    ),
    "nothing": ("{at: 1 s, links: a-b}", "mine.yaml:8, events.0: this event changes nothing\n  write down: true"),
    "no unit": ("{at: 1, links: a-b, down: true}", "mine.yaml:8, events.0.at: the time 1 has no unit"),
    "no time": ("{links: a-b, down: true}", "mine.yaml:8, events.0.at: it is missing"),
    "an unknown key": ("{at: 1 s, to: 2 s, links: a-b, down: true}", "mine.yaml:8, events.0.to: unknown key"),
    "every alone": (
        "{at: 1 s, duration: 1 s, links: a-b, down: true, every: 2 s}", "mine.yaml:8, events.0.every: every and times",
    ),
    "again without an end": (
        "{at: 1 s, links: a-b, down: true, every: 2 s, times: 2}",
        "mine.yaml:8, events.0.every: an event to the end of the run cannot occur again",
    ),
    "too long to occur again": (
        "{at: 1 s, duration: 3 s, links: a-b, down: true, every: 2 s, times: 2}",
        "mine.yaml:8, events.0.duration: an occurrence lasts longer than it is to the next one",
    ),
    "no duration": ("{at: 1 s, duration: 0, links: a-b, down: true}", "mine.yaml:8, events.0.duration: a dur"),
    "a direction of many links": (
        "{at: 1 s, links: all, rate: {a->b: 1 Gbit/s}}",
        "mine.yaml:8, events.0.rate: values per direction need an event of one link",
    ),
    "a direction of another link": (
        "{at: 1 s, links: a-b, rate: {a->c: 1 Gbit/s}}",
        "mine.yaml:8, events.0.rate.a->c: 'a->c' is no direction of this link\n  they are a->b and b->a",
    ),
    "a jitter above the delay": (
        "{at: 1 s, links: a-b, jitter: 11 ms}", "mine.yaml:7, events: at 1 s the jitter of a->b exceeds its delay",
    ),
    "too many": (
        "{at: 1 s, duration: 1 ms, links: a-b, down: true, every: 1 s, times: 5001}",
        "mine.yaml:7, events: these are up to 10002 changes; a run has at most 10000",
    ),
    "no trace": (
        "{at: 1 s, links: a-b, trace: none.csv}",
        "mine.yaml:8, events.0.trace: the trace none.csv cannot be read: No such file or directory",
    ),
    "an unknown host": (
        "{at: 1 s, hosts: a-h1, crash: host}",
        "mine.yaml:8, events.0.hosts: there is no host or datacenter 'a-h1'\n  nearest: a-h0",
    ),
    "a host to which nothing happens": (
        "{at: 1 s, hosts: a}", "mine.yaml:8, events.0.hosts: this event does nothing to its hosts\n  write",
    ),
    "an unknown crash": ("{at: 1 s, hosts: a, crash: hard}", "mine.yaml:8, events.0.crash: 'hard' is not one of"),
    "a link that crashes": (
        "{at: 1 s, links: a-b, crash: host}", "mine.yaml:8, events.0.crash: hosts crash, not links\n  write hosts",
    ),
    "hosts and links": (
        "{at: 1 s, hosts: a, links: a-b, crash: host}", "mine.yaml:8, events.0: an event is about links, hosts or a",
    ),
    "settings of hosts": (
        "{at: 1 s, hosts: a, crash: host, loss: 1 %}", "mine.yaml:8, events.0: settings of links need links",
    ),
    "a host that has crashed already": (
        "{at: 1 s, hosts: a, crash: host}\n  - {at: 2 s, hosts: all, crash: ranks}",
        "mine.yaml:7, events: at 2 s a-h0 crashes, which has crashed before and is not back",
    ),
    "a host that is never up": (
        "{at: 1 s, duration: 1 s, every: 1 s, times: 3, hosts: a, crash: host}",
        "mine.yaml:7, events: at 2 s two things happen to a-h0 at once",
    ),
    "a transfer from nowhere": (
        "{at: 1 s, transfer: {from: d, to: a, size: 1 MB}}",
        "mine.yaml:8, events.0.transfer.from: there is no host or datacenter 'd'",
    ),
    "a transfer to itself": (
        "{at: 1 s, transfer: {from: a-h0, to: a, size: 1 MB}}", "mine.yaml:8, events.0.transfer: a host would send to",
    ),
    "a transfer without a size": (
        "{at: 1 s, transfer: {from: a, to: b}}", "mine.yaml:8, events.0.transfer.size: it is missing",
    ),
    "a transfer with an unknown key": (
        "{at: 1 s, transfer: {from: a, to: b, sise: 1 MB, size: 1 MB}}",
        "mine.yaml:8, events.0.transfer.sise: unknown key 'sise'\n  nearest: size",
    ),
    "a transfer that lasts": (
        "{at: 1 s, duration: 1 s, transfer: {from: a, to: b, size: 1 MB}}",
        "mine.yaml:8, events.0: a transfer has no other settings",
    ),
    "a trace and more": (
        "{at: 1 s, links: a-b, trace: good.csv, loss: 1 %}", "mine.yaml:8, events.0.trace: an event has a trace or",
    ),
}  # fmt: skip
WRONG_TRACES = {
    "an unknown column": (
        "time,rte\n0 s,1 Gbit/s\n",
        "has an unknown column 'rte'\n  nearest: rate",
    ),
    "no time": ("rate\n1 Gbit/s\n", "does not name time and settings, each once"),
    "no rows": (
        "time,rate\n",
        "has no line below its head\n  write a head such as time,rate,delay",
    ),
    "a wrong unit": (
        "time,rate\n0 s,1 Gbit/s\n1 s,3 km\n",
        "line 3 of the trace bad.csv: '3 km' is not a rate",
    ),
    "a short line": ("time,rate\n0 s\n", "line 2 of the trace bad.csv has 1 cells, its head has 2"),
    "not in order": (
        "time,rate\n1 s,1 Gbit/s\n\n1 s,2 Gbit/s\n",
        "line 4 of the trace bad.csv is not later than",
    ),
    "no truth": (
        "time,down\n1 s,maybe\n",
        "line 2 of the trace bad.csv: 'maybe' is not true or false",
    ),
}


def refusal(tmp_path: Path, event: str) -> str:
    with pytest.raises(InputError) as caught:
        topology(tmp_path, event)
    return str(caught.value).replace(f"{tmp_path}/", "")


@pytest.mark.parametrize("case", WRONG)
def test_wrong_events_are_refused(tmp_path: Path, case: str) -> None:
    (tmp_path / "good.csv").write_text("time,rate\n0 s,1 Gbit/s\n")
    event, text = WRONG[case]
    assert refusal(tmp_path, event).startswith(text)


@pytest.mark.parametrize("case", WRONG_TRACES)
def test_wrong_traces_are_refused(tmp_path: Path, case: str) -> None:
    text, expected = WRONG_TRACES[case]
    (tmp_path / "bad.csv").write_text(text)
    assert expected in refusal(tmp_path, "{at: 1 s, links: a-b, trace: bad.csv}")


def test_hosts_crash_and_come_back(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "datacenters: {a: {hosts: 2}, b: {hosts: 4}}\nwan: [{between: [a, b], rate: 1 Gbit/s, delay: 10 ms}]\nevents:\n"
        "  - {at: 1 s, duration: 2 s, hosts: [a-h1, b], crash: host}\n"
        "  - {at: 5 s, hosts: a-h0, crash: ranks}\n"
    )
    made = resolve_network(Topology.load(path))
    five = ("a-h1", "b-h0", "b-h1", "b-h2", "b-h3")
    assert told(made) == [
        (1.0, "5 hosts: crashed"),
        (3.0, "5 hosts: back, its ranks start again"),
        (5.0, "a-h0: ranks are killed"),
    ]
    assert [(change.killed, change.started) for change in made.changes] == [
        (five, ()),
        ((), five),
        (("a-h0",), ()),
    ]
    silent = [[host.name for host in state.hosts if host.silent] for state in made.states()]
    assert silent == [[], list(five), [], []]


def test_hosts_send_beside_the_job(tmp_path: Path) -> None:
    """Where a datacenter sends, each of its hosts sends a part, at a part of the rate, to the
    others' hosts in turn.
    """
    path = tmp_path / "mine.yaml"
    path.write_text(
        "datacenters: {a: {hosts: 3}, b: {hosts: 2}}\n"
        "wan: [{between: [a, b], rate: 10 Gbit/s, delay: 10 ms}]\nevents:\n"
        "  - {at: 1 s, every: 5 s, times: 2, transfer: {from: a, to: b, size: 10 MB, rate: 3 Gbit/s}}\n"
        "  - {at: 6 s, transfer: {from: b-h1, to: a-h2, size: 4 GB, connections: 8}}\n"
    )
    made = resolve_network(Topology.load(path))
    sent = [
        [
            (one.source, one.target, one.bytes, one.connections, one.pace_bps)
            for one in change.transfers
        ]
        for change in made.changes
    ]
    parts = [("a-h0", "b-h0", 3_333_334, 1, GBIT), ("a-h1", "b-h1", 3_333_333, 1, GBIT)]
    parts.append(("a-h2", "b-h0", 3_333_333, 1, GBIT))
    assert sent == [parts, [*parts, ("b-h1", "a-h2", 4 * 10**9, 8, None)]]
    assert made.changes[1].what[-1] == "b-h1 sends 4 GB to a-h2"
    assert made.changes[0].what[0] == "a-h0 sends 3.333 MB to b-h0 at 1 Gbit/s"
    assert made.tcp.packets_per_skb == 1  # a queue that overflows drops packets, not 64 KiB
    slower = scaled(made, 1000).changes[1].transfers
    assert [(one.bytes, one.pace_bps) for one in slower[-2:]] == [(3_333, 10**6), (4_000_000, None)]


def test_a_topology_with_events_is_written_and_read_again(tmp_path: Path) -> None:
    (tmp_path / "measured.csv").write_text("time,rate\n0 s,1 Gbit/s\n")
    first = topology(
        tmp_path,
        "{at: 1 s, duration: 2 s, every: 3 s, times: 2, links: a-b, rate: {a->b: 1 Gbit/s}, queue: 2 bdp}",
        "{at: 1 s, links: [a, duct], down: true}",
        "{at: 1 s, links: a-b, trace: measured.csv}",
        "{at: 1 s, duration: 1 s, hosts: [c-h0, b], crash: ranks}",
        "{at: 1 s, transfer: {from: a, to: b, size: 1500 B, rate: 1 Mbit/s}}",
    )
    again = tmp_path / "again.yaml"
    again.write_text(first.to_yaml())
    assert resolve_network(Topology.load(again)).changes == resolve_network(first).changes


def plan_of(tmp_path: Path, *events: str) -> Plan:
    return resolve(topology(tmp_path, *events), load_workload("collectives", []), PROCESSES)


def test_a_plan_with_changes_survives_json(tmp_path: Path) -> None:
    plan = plan_of(
        tmp_path,
        "{at: 1 s, duration: 2 s, links: duct, down: true}",
        "{at: 2 s, links: b, loss: {p: 1 %, r: 5 %}}",
    )
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


def test_what_is_chosen_for_the_whole_run_suits_every_state(tmp_path: Path) -> None:
    """Segmentation offload, TCP's buffers, and the timeout of an operation."""
    calm = plan_of(tmp_path, "{at: 1 s, duration: 100 s, links: a-b, down: true}")
    assert calm.network.tcp.packets_per_skb > 1
    assert plan_of(tmp_path, "{at: 1 s, links: a-b, loss: 1 %}").network.tcp.packets_per_skb == 1
    longer = plan_of(tmp_path, "{at: 1 s, links: a-b, delay: 25 ms}")
    # a to b by c without a-b: 50 ms each way, at most 10 Gbit/s
    assert calm.network.tcp.buffer_bytes == pytest.approx(4 * 10 * GBIT * 0.1 / 8, rel=0.01)
    assert longer.network.tcp.buffer_bytes == pytest.approx(4 * 10 * GBIT * 0.06 / 8, rel=0.01)
    assert calm.workers.timeout_s >= longer.workers.timeout_s + 3 * 100


def test_scale_divides_the_rates_of_changes_too(tmp_path: Path) -> None:
    made = topology(tmp_path, "{at: 1 s, links: a-b, rate: 2 Gbit/s}")
    plan = resolve(made, load_workload("train", []).model_copy(update={"scale": 1000}), PROCESSES)
    rates = [state.wan[0].forward.bottleneck.rate_bps for state in plan.network.states()]
    assert rates == [10_000_000, 2_000_000]


def test_draws_are_new_after_each_change(tmp_path: Path) -> None:
    made = network(
        tmp_path, "{at: 1 s, duration: 1 s, every: 2 s, times: 3, links: a-b, loss: 1 %}"
    )
    seeds = [state.wan[0].forward.fibre.seed for state in made.states()]
    assert len(set(seeds)) == len(seeds)
    assert made == network(
        tmp_path, "{at: 1 s, duration: 1 s, every: 2 s, times: 3, links: a-b, loss: 1 %}"
    )


def test_bounds_hold_for_every_state(tmp_path: Path) -> None:
    """A broadcast from a to b and c: while a-c takes 5 ms and a-b 10 ms, 10 ms; its bytes at the
    larger rate.
    """
    plan = plan_of(
        tmp_path, "{at: 1 s, links: a-c, delay: 5 ms}", "{at: 2 s, links: a-b, rate: 100 Gbit/s}"
    )
    before = Bounds(plan.network.model_copy(update={"changes": ()}), plan.workers.ranks)
    over_time = Bounds(plan.network, plan.workers.ranks)
    nic_us = 5
    assert before.us("broadcast", 8) == pytest.approx(30_000 + nic_us, abs=1)
    assert over_time.us("broadcast", 8) == pytest.approx(10_000 + nic_us, abs=1)
    assert over_time.us("all_reduce", 2**30) < before.us("all_reduce", 2**30)


def records(tmp_path: Path, plan: Plan, times_s: list[float]) -> RunDir:
    run = RunDir.create(tmp_path / "run")
    for number, (change, time_s) in enumerate(zip(plan.network.changes, times_s, strict=False)):
        append_record(
            run.changes,
            {
                "number": number,
                "due_ns": 100 * SECOND + change.at_ns,
                "time_ns": round(time_s * SECOND),
            },
        )
    return run


def test_a_history_tells_rates_over_time(tmp_path: Path) -> None:
    event = "{at: 1 s, duration: 2 s, links: a-b, rate: 1 Gbit/s}"
    plan = plan_of(tmp_path, event, "{at: 50 s, links: b-c, down: true}")
    history = History.of(plan, records(tmp_path, plan, [101, 103]))
    assert len(history.states) == 3
    rate = history.mean_rate_bps
    assert rate("a-b", "a", 100 * SECOND, 101 * SECOND) == 10 * GBIT
    assert rate("a-b", "b", 100 * SECOND, 104 * SECOND) == (10 + 2 * 1 + 10) / 4 * GBIT
    assert rate("a-b", "a", 102 * SECOND, 102 * SECOND) == GBIT
    assert rate("b-c", "b", 100 * SECOND, 104 * SECOND) == 10 * GBIT
    assert len(history.pieces("b-c", "b")) == 1
    pieces = history.pieces("a-b", "a")
    assert [(begin // SECOND, way.bottleneck.rate_bps) for begin, _, way in pieces[1:]] == [
        (101, GBIT),
        (103, 10 * GBIT),
    ]


def test_a_damaged_history_counts_as_far_as_it_is_sound(tmp_path: Path) -> None:
    plan = plan_of(
        tmp_path, "{at: 1 s, duration: 2 s, every: 3 s, times: 3, links: a-b, down: true}"
    )
    run = records(tmp_path, plan, [101, 103])
    append_record(run.changes, {"number": 7, "time_ns": 1})
    append_record(run.changes, {"number": 2, "time_ns": "soon"})
    assert [change.number for change in happened(plan, run)] == [0, 1]
    assert happened(plan, RunDir(tmp_path / "nowhere")) == []


def test_periods_tell_how_fast_a_run_got_on(tmp_path: Path) -> None:
    """Operations of 1 s each, but for one that the outage from 2 to 5 s holds up; the last change
    was not reached.
    """
    plan = plan_of(
        tmp_path,
        "{at: 2 s, duration: 3 s, links: a-b, down: true}",
        "{at: 60 s, links: a-b, delay: 1 ms}",
    )
    run = records(tmp_path, plan, [102, 105])
    spans = [(100, 101), (101, 102), (102, 106), (106, 107), (107, 108)]
    ops = pl.DataFrame(
        [
            {"rank": rank, "start_ns": a * SECOND, "end_ns": b * SECOND}
            for a, b in spans
            for rank in (0, 1)
        ]
    )
    plan = plan.model_copy(
        update={
            "network": plan.network.model_copy(
                update={
                    "changes": tuple(
                        change
                        for change in plan.network.changes
                        if change.what[0].startswith("a-b")
                    )
                }
            )
        }
    )
    rows = periods(plan.network.changes, happened(plan, run), ops, None)
    assert [(row.at_s, row.what, row.seconds, row.finished) for row in rows] == [
        (0, ["as built"], 2, 2),
        (2, ["a-b: down"], 3, 0),
        (5, ["a-b: up again"], 3, 3),
        (60, ["a-b: delay 10 ms → 1 ms"], None, None),
    ]
    assert [row.per_s for row in rows] == [1, 0, 1, None]
    assert {row.unit for row in rows} == {"operation"}
    assert periods((), [], ops, None) == []
