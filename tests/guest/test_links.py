"""What links do to packets, against physics and the literature.

Every scenario is a network in one guest, measured by inside/links.py. The formulas and the
tolerances stand with each test. Virtual times are exact up to some microseconds.
"""

from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations, pairwise
from math import sqrt
from typing import Any

import pytest

from testbed.guest.kernel import Kernel
from tests.support.guests import measure_links
from tests.support.links_scenarios import (
    DATAGRAM,
    FRAME,
    GBIT,
    MBIT,
    MS,
    SEGMENT,
    Scenario,
    Written,
    link,
    scenario_of,
    two_host_scenario,
)

Results = dict[str, Any]  # of scenarios, by name
Scenarios = dict[str, Scenario]

ECHO_BITS = 98 * 8
LAN_NS = 4 * ECHO_BITS / 400  # an echo passes four NICs of 400 Gbit/s
DELAYS_MS = (0.05, 1, 10, 100, 300)
RATES = {  # rate: bit/s, packets
    "1 Mbit/s": (1 * MBIT, 200),
    "100 Mbit/s": (100 * MBIT, 2000),
    "1 Gbit/s": (1 * GBIT, 5000),
    "10 Gbit/s": (10 * GBIT, 10_000),
    "100 Gbit/s": (100 * GBIT, 20_000),
}
TCP_S = {"1 Mbit/s": 60, "100 Mbit/s": 4, "1 Gbit/s": 1, "10 Gbit/s": 0.3, "100 Gbit/s": 0.06}
JITTERS = ("uniform", "normal", "pareto")
LOSSES = {0.00001: 300_000, 0.001: 50_000, 0.01: 20_000, 0.05: 20_000}  # probability: packets
CHANGING_PACKETS, CHANGING_GAP_NS = 4000, 1_211_200  # 10 Mbit/s for 4.8 s
CHANGING_RATES = (  # ns after the first packet, bit/s
    (1.0e9, 4 * MBIT),
    (2.0e9, 0),  # a stall
    (2.7e9, 12 * MBIT),
    (3.2e9, 0.6 * MBIT),
    (4.0e9, 48 * MBIT),
)
VERIFIED = (  # rate, discipline
    ("1 Mbit/s", "drop-tail"),
    ("400 Gbit/s", "drop-tail"),
    ("1.6 Tbit/s", "drop-tail"),
    ("40 Gbit/s", "fq_codel"),
    ("400 Gbit/s", "red"),
    ("1.6 Tbit/s", "fq_codel"),
)
SITES = ("a", "b", "c", "d", "e")
MESH_PAIRS = list(combinations(SITES, 2))
MESH_DELAYS_MS = [2 + 3 * number for number in range(len(MESH_PAIRS))]
LEAF_RATE, OVERSUBSCRIPTION = 10 * GBIT, 4
SITE = {"hosts": 1, "nic": {"rate": "10 Gbit/s", "delay": "0 ms"}}


def mesh() -> Written:
    """Five datacenters and a link between every two."""
    wan: list[Written] = []
    for ends, delay_ms in zip(MESH_PAIRS, MESH_DELAYS_MS, strict=True):
        wan.append(link("20 Mbit/s", f"{delay_ms} ms", queue="2 bdp", between=list(ends)))
    return {
        "name": "mesh",
        "datacenters": dict.fromkeys(SITES, SITE),
        "wan": wan,
        "routing": "hops",
        "tcp": {"offload": "off"},
    }


def clos(spines: int, hosts: int) -> Written:
    """A datacenter of two leaves."""
    fabric = {"leaves": 2, "spines": spines, "oversubscription": OVERSUBSCRIPTION, "delay": "10 us"}
    site = {**SITE, "hosts": hosts, "fabric": fabric}
    return {"name": "clos", "datacenters": {"a": site}}


def cloud() -> Written:
    """A datacenter that limits each connection."""
    nic = {"rate": "10 Gbit/s", "delay": "0.1 ms", "flow_rate": "1 Gbit/s"}
    return {"name": "cloud", "datacenters": {"a": {"hosts": 3, "nic": nic}}}


def busy_cpus() -> Scenario:
    """A host whose CPU is slower than its NIC sends to one whose CPU takes no time."""
    nic = {"rate": "10 Gbit/s", "delay": "0 ms"}
    cpu = {"copy_rate": "2 Gbit/s", "call_time": "100 us"}
    busy = {
        "name": "busy",
        "datacenters": {"a": {"hosts": 1, "nic": nic, "cpu": cpu}, "b": {"hosts": 1, "nic": nic}},
        "wan": [{"between": ["a", "b"], "rate": "10 Gbit/s", "delay": "0.1 ms"}],
    }
    return scenario_of(busy, "tcp", seconds=0.5, settle=0.2)


def jittery_nics(between: str) -> Scenario:
    """Single packets of 100 bytes, `between` each two, from a NIC with jitter."""
    nic = {"rate": "10 Gbit/s", "delay": "20 ms", "jitter": "1 ms"}
    lan: Written = {"name": "jittery", "datacenters": {"a": {"hosts": 2, "nic": nic}}}
    gap_ns = {"apart": 20_000_000, "close": 500_000}[between]
    return scenario_of(lan, "one_way", packets=4000, gap_ns=gap_ns)


def diamond() -> Written:
    """From a to d by way of b or of c, which are equally far: some of 16 hosts take each."""
    pairs = (["a", "b"], ["a", "c"], ["b", "d"], ["c", "d"])
    large_site = {**SITE, "hosts": 8}
    return {
        "name": "diamond",
        "datacenters": {"a": large_site, "b": SITE, "c": SITE, "d": large_site},
        "wan": [link("1 Gbit/s", "5 ms", between=ends) for ends in pairs],
        "multipath": True,
    }


def rate_scenarios() -> Scenarios:
    """RTTs, and rates of UDP and TCP."""
    scenarios: Scenarios = {}
    for delay_ms in DELAYS_MS:
        scenarios[f"rtt {delay_ms}"] = two_host_scenario(
            "rtt", link("100 Gbit/s", f"{delay_ms} ms")
        )

    for rate, (bps, packets) in RATES.items():
        long_queue = link(rate, "1 ms", queue="64 MiB")
        scenarios[f"udp {rate}"] = two_host_scenario("udp_rate", long_queue, packets=packets)

        seconds = TCP_S[rate]
        fast = bps > GBIT
        offload = {"offload": "on" if fast else "off"}
        wide = link(rate, "0.5 ms", queue="4 bdp" if fast else "200 packets")
        scenarios[f"tcp {rate}"] = two_host_scenario(
            "tcp", wide, offload, seconds=seconds, settle=seconds / 3
        )
    return scenarios


def impairment_scenarios() -> Scenarios:
    """Jitter, loss, duplicates and corruption."""
    scenarios: Scenarios = {}
    for kind in JITTERS:
        jittery = link("10 Gbit/s", "20 ms", jitter="1 ms", distribution=kind)
        reordering = {**jittery, "reorder": True}
        apart: dict[str, Any] = {"packets": 4000, "gap_ns": 20_000_000}
        close: dict[str, Any] = {"packets": 2000, "gap_ns": 500_000}
        scenarios[f"jitter {kind}"] = two_host_scenario("one_way", jittery, **apart)
        scenarios[f"reorder {kind}"] = two_host_scenario("one_way", reordering, **close)
        scenarios[f"ordered {kind}"] = two_host_scenario("one_way", jittery, **close)

    for between in ("apart", "close"):
        scenarios[f"nic jitter {between}"] = jittery_nics(between)

    for loss, packets in LOSSES.items():
        lossy = link("100 Gbit/s", "1 ms", loss=f"{100 * loss} %", queue="1 GiB")
        scenarios[f"loss {loss}"] = two_host_scenario(
            "segmented", lossy, packets=packets, segments=40
        )

    for impairment in ("duplicate", "corrupt"):
        impaired = link("10 Gbit/s", "1 ms", **{impairment: "5 %"})
        scenarios[impairment] = two_host_scenario("one_way", impaired, packets=2000, gap_ns=100_000)
    return scenarios


def queue_scenarios() -> Scenarios:
    """Full and managed queues."""
    scenarios: Scenarios = {}
    short = link("10 Mbit/s", "5 ms", queue="100 packets")
    scenarios["queue"] = two_host_scenario("full_queue", short, packets=400, rate_bps=10 * MBIT)

    for discipline in ("red", "fq_codel"):
        for ecn in (True, False):
            managed = link("100 Mbit/s", "10 ms", queue="4 bdp", discipline=discipline, ecn=ecn)
            scenarios[f"{discipline} ecn={ecn}"] = two_host_scenario(
                "tcp", managed, seconds=10, settle=3, flows=2
            )

    slow = link("10 Mbit/s", "5 ms", discipline="red")
    scenarios["managed rtt"] = two_host_scenario("rtt", slow)
    scenarios["managed udp"] = two_host_scenario("udp_rate", slow, packets=20)
    return scenarios


def rate_change_scenarios() -> Scenarios:
    """Rates that change while packets are queued, and rates of the fastest ports."""
    scenarios: Scenarios = {}
    arguments: dict[str, Any] = {
        "packets": CHANGING_PACKETS,
        "gap_ns": CHANGING_GAP_NS,
        "rates": CHANGING_RATES,
    }
    for discipline in ("drop-tail", "red", "fq_codel"):
        slow = link("40 Mbit/s", "10 ms", queue="64 MiB", discipline=discipline)
        scenarios[f"changing {discipline}"] = two_host_scenario("changing_rate", slow, **arguments)

    for rate, discipline in VERIFIED:
        checked = link(rate, "1 ms", discipline=discipline)
        scenarios[f"verified {rate} {discipline}"] = two_host_scenario("verified", checked)
    return scenarios


def topology_scenarios() -> Scenarios:
    """Networks of more than one link."""
    mesh_ends = [[f"{a}-h0", f"{b}-h0"] for a, b in MESH_PAIRS]
    across_leaves = [[f"a-h{host}", f"a-h{host + 4}"] for host in range(4)]
    inside_leaf = [["a-h0", "a-h1"], ["a-h2", "a-h3"]]
    across_diamond = [[f"a-h{number}", f"d-h{number}"] for number in range(8)]
    many_pairs: list[list[str]] = []
    for host in range(16):
        for shift in (0, 5):
            far_host = 16 + (host + shift) % 16
            many_pairs.append([f"a-h{host}", f"a-h{far_host}"])

    from_one_host = [["a-h0", "a-h1"], ["a-h0", "a-h1"], ["a-h0", "a-h2"]]

    return {
        "mesh": scenario_of(mesh(), "iperf3", seconds=4, ends=mesh_ends),
        "oversubscribed": scenario_of(
            clos(1, 8), "pairs", seconds=0.1, settle=0.03, ends=across_leaves
        ),
        "same leaf": scenario_of(clos(1, 8), "pairs", seconds=0.05, settle=0.01, ends=inside_leaf),
        "spread": scenario_of(clos(4, 32), "pairs", seconds=0.02, settle=0.005, ends=many_pairs),
        "clos rtt": scenario_of(clos(2, 4), "rtt"),
        "busy cpus": busy_cpus(),
        "flow rate": scenario_of(cloud(), "pairs", seconds=0.5, settle=0.2, ends=from_one_host),
        "multipath": scenario_of(diamond(), "pairs", seconds=0.4, settle=0.3, ends=across_diamond),
    }


def scenarios() -> Scenarios:
    """What `results` measures, in this order."""
    return {
        **rate_scenarios(),
        **impairment_scenarios(),
        **queue_scenarios(),
        **rate_change_scenarios(),
        **topology_scenarios(),
    }


@pytest.fixture(scope="module")
def results(kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What inside/links.py measured."""
    return measure_links(
        kernel, tmp_path_factory.mktemp("links") / "shared", scenarios(), "virtual"
    )


@pytest.mark.parametrize("ms", DELAYS_MS)
def test_delay(results: Results, ms: float) -> None:
    """Twice the delay, and 98 bytes at two ports of 100 Gbit/s; within 10 us."""
    expected_ns = 2 * ms * MS + LAN_NS + 2 * ECHO_BITS / 100
    assert results[f"rtt {ms}"]["rtt_ns"] == pytest.approx(expected_ns, abs=10_000)


@pytest.mark.parametrize("rate", RATES)
def test_udp_rate(results: Results, rate: str) -> None:
    """1472 of each 1514 bytes are data; within 0.5 %."""
    result = results[f"udp {rate}"]
    bps, packets = RATES[rate]
    assert result["packets"] == packets
    assert result["drops"] == 0
    assert result["bps"] == pytest.approx(bps * DATAGRAM / FRAME, rel=0.005)


@pytest.mark.parametrize("rate", RATES)
def test_tcp_rate(results: Results, rate: str) -> None:
    """1448 of each 1514 bytes are data; within 0.5 % once the window has grown."""
    bps, _packets = RATES[rate]
    (measured_bps,) = results[f"tcp {rate}"]["bps"]
    assert measured_bps == pytest.approx(bps * SEGMENT / FRAME, rel=0.005)


@pytest.mark.parametrize("kind", JITTERS)
def test_jitter(results: Results, kind: str) -> None:
    """Mean and deviation within 5 %; no packet overtakes another.

    `jitter` is the standard deviation; of a uniform distribution it is the half width, and so its
    deviation is 1 / sqrt(3) of it.
    """
    result = results[f"jitter {kind}"]
    assert result["packets"] == 4000
    assert result["mean_ns"] == pytest.approx(20 * MS, rel=0.05)
    expected_ns = 1 * MS / sqrt(3) if kind == "uniform" else 1 * MS
    assert result["deviation_ns"] == pytest.approx(expected_ns, rel=0.05)
    assert result["reordered"] == 0


def test_jitter_of_a_nic(results: Results) -> None:
    """Uniform, 1 ms either way: mean and deviation within 5 %, and packets stay in order."""
    result = results["nic jitter apart"]
    assert result["packets"] == 4000
    assert result["mean_ns"] == pytest.approx(20 * MS, rel=0.05)
    assert result["deviation_ns"] == pytest.approx(1 * MS / sqrt(3), rel=0.05)
    assert results["nic jitter close"]["reordered"] == 0


@pytest.mark.parametrize("kind", JITTERS)
def test_reordering(results: Results, kind: str) -> None:
    """Packets 0.5 ms apart with 1 ms of jitter overtake each other only with `reorder`."""
    assert results[f"ordered {kind}"]["reordered"] == 0
    assert results[f"reorder {kind}"]["reordered"] > 100


@pytest.mark.parametrize("loss", LOSSES)
def test_loss(results: Results, loss: float) -> None:
    """Loss is drawn per packet, although the sender hands over 40 at a time.

    Within three standard deviations of the binomial distribution. Independent losses come in runs
    of 1 / (1 - p) packets, super-packets would be lost 40 at a time.
    """
    result = results[f"loss {loss}"]
    packets = LOSSES[loss]
    deviation = sqrt(packets * loss * (1 - loss))
    assert result["lost"] == pytest.approx(packets * loss, abs=3 * deviation)
    assert result["lost"] + result["arrived"] == packets
    if result["lost"]:
        assert result["lost"] / result["runs"] < 1.2


def test_duplicates(results: Results) -> None:
    """5 % of 2000 packets arrive twice; within three standard deviations (9.7)."""
    result = results["duplicate"]
    assert result["different"] == 2000
    assert result["packets"] - 2000 == pytest.approx(100, abs=3 * 9.7)


def test_corruption(results: Results) -> None:
    """One bit flips in 5 % of 2000 packets: a checksum finds it, and the packet is gone."""
    lost = 2000 - results["corrupt"]["packets"]
    assert lost == pytest.approx(100, abs=3 * 9.7)


def test_queue(results: Results) -> None:
    """A full queue of 100 frames at 10 Mbit/s adds 100 frames' time; within 2 % (and a frame)."""
    result = results["queue"]
    frame_ns = FRAME * 8e9 / (10 * MBIT)
    added_ns = result["last_ns"] - result["first_ns"]
    assert result["first_ns"] == pytest.approx(5 * MS + frame_ns, rel=0.01)
    assert added_ns == pytest.approx(100 * frame_ns, rel=0.02, abs=frame_ns)
    assert result["drops"] > 0
    assert result["packets"] + result["drops"] == result["sent"]


@pytest.mark.parametrize("discipline", ["red", "fq_codel"])
def test_ecn(results: Results, discipline: str) -> None:
    """With ecn the queue marks and drops nothing, without it drops; the link stays busy."""
    marked = results[f"{discipline} ecn=True"]
    dropped = results[f"{discipline} ecn=False"]
    assert marked["drops"] == 0
    assert dropped["marks"] == 0
    assert marked["marks"] > 0
    assert dropped["drops"] > 0
    expected_bps = 100 * MBIT * SEGMENT / FRAME
    assert sum(marked["bps"]) == pytest.approx(expected_bps, rel=0.05)
    assert sum(dropped["bps"]) == pytest.approx(expected_bps, rel=0.05)


def test_managed_queue(results: Results) -> None:
    """RTT and rate are those of a drop-tail queue: an echo takes 78.4 us at 10 Mbit/s."""
    expected_ns = 10 * MS + 2 * 78_400 + LAN_NS
    expected_bps = 10 * MBIT * DATAGRAM / FRAME
    assert results["managed rtt"]["rtt_ns"] == pytest.approx(expected_ns, abs=10_000)
    assert results["managed udp"]["bps"] == pytest.approx(expected_bps, rel=0.005)


def departures_ns(
    sent_ns: Sequence[int], changes: Sequence[tuple[int, float]], first_bps: float
) -> list[float]:
    """When a transmitter with a changing rate is done with each frame; exact arithmetic.

    Args:
        sent_ns: when each frame arrives at the transmitter.
        changes: times in ns, and the rate in bit/s from then on.
        first_bps: the rate before.
    """
    borders = [(0, first_bps), *changes]
    done_ns: list[float] = []
    free_ns = Fraction(0)
    for arrival_ns in sent_ns:
        now = max(free_ns, Fraction(arrival_ns))
        left = Fraction(FRAME * 8 * 10**9)  # bits x 10^9
        for (_, rate_bps), (end_ns, _) in pairwise([*borders, (10**30, 0.0)]):
            span_ns = max(Fraction(0), end_ns - now)
            work = span_ns * int(rate_bps)
            if work >= left:
                now += left / int(rate_bps)
                break
            left -= work
            now += span_ns
        free_ns = now
        done_ns.append(float(free_ns))
    return done_ns


@pytest.mark.parametrize("discipline", ["drop-tail", "red"])
def test_changing_rate(results: Results, discipline: str) -> None:
    """Each packet leaves when the bits before it have left at the rates of the time, stalls too.

    Within 0.2 ms: a change is done some microseconds after it is asked for, and 12 Mbit/s send in
    one microsecond what 0.6 Mbit/s send in 20.
    """
    result = results[f"changing {discipline}"]
    assert result["drops"] == 0
    numbers, sent_ns, received_ns = zip(*result["packets"], strict=True)
    assert numbers == tuple(range(CHANGING_PACKETS))

    rates = [rate for _, rate in CHANGING_RATES]
    changes = list(zip(result["changed_ns"], rates, strict=True))
    expected_ns = departures_ns(sent_ns, changes, 40 * MBIT)
    late_ns = [
        received - expected - 10 * MS
        for received, expected in zip(received_ns, expected_ns, strict=True)
    ]
    assert max(map(abs, late_ns)) < 0.2 * MS


def test_changing_rate_of_fq_codel(results: Results) -> None:
    """Packets in a full queue arrive a frame's time apart at each rate; none during the stall.

    The queue is not empty from the first change to the last. Within 1 %, and a frame.
    """
    result = results["changing fq_codel"]
    received_ns = [received for _, _, received in result["packets"]]
    rates = [rate for _, rate in CHANGING_RATES]
    for (begin_ns, end_ns), rate_bps in zip(pairwise(result["changed_ns"]), rates, strict=False):
        arrived = [ns for ns in received_ns if begin_ns <= ns - 10 * MS < end_ns]
        expected = rate_bps * (end_ns - begin_ns) / 1e9 / (8 * FRAME)
        assert len(arrived) == pytest.approx(expected, rel=0.01, abs=1)


@pytest.mark.parametrize(("rate", "discipline"), VERIFIED)
def test_verified_rate(results: Results, rate: str, discipline: str) -> None:
    """`testbed topo verify` measures every rate within 0.1 %: a frame takes 7.57 ns at the last."""
    checks = results[f"verified {rate} {discipline}"]["checks"]
    measured = [row for row in checks if row["quantity"] == "rate"]
    assert len(measured) == 2
    for row in measured:
        assert row["measured"] == pytest.approx(row["expected"], rel=0.001)
    assert all(row["ok"] for row in checks)


def test_mesh(results: Results) -> None:
    """Ten pairs, one link each: RTTs within 10 us, rates of iperf3 within 3 %."""
    result = results["mesh"]
    serialising_ns = 2 * ECHO_BITS / 0.02 + 4 * ECHO_BITS / 10
    expected_ns = [2 * delay_ms * MS + serialising_ns for delay_ms in MESH_DELAYS_MS]
    expected_bps = [20 * MBIT * SEGMENT / FRAME] * len(MESH_PAIRS)
    assert result["rtt_ns"] == pytest.approx(expected_ns, abs=10_000)
    assert result["bps"] == pytest.approx(expected_bps, rel=0.03)


def test_oversubscription(results: Results) -> None:
    """Four hosts share a leaf's uplink (4 : 1), but not inside the leaf; within 2 %."""
    expected_bps = LEAF_RATE * SEGMENT / FRAME
    assert sum(results["oversubscribed"]["bps"]) == pytest.approx(expected_bps, rel=0.02)
    assert results["same leaf"]["bps"] == pytest.approx([expected_bps] * 2, rel=0.02)


def test_spread_over_spines(results: Results) -> None:
    """32 pairs of hosts on four spines: each carries some traffic, and none more than half."""
    sent = results["spread"]["spines"]
    total = sum(sent.values())
    assert len(sent) == 4
    assert min(sent.values()) > 0.02 * total
    assert max(sent.values()) < 0.5 * total


def test_fabric_rtt(results: Results) -> None:
    """Two cables of 10 us each way, and 98 bytes at ports of 10 and 2.5 Gbit/s; within 10 us."""
    expected_ns = 4 * 10_000 + 4 * ECHO_BITS / 10 + 4 * ECHO_BITS / 2.5
    assert results["clos rtt"]["rtt_ns"] == pytest.approx(expected_ns, abs=10_000)


def test_flow_rate(results: Results) -> None:
    """Each connection of a host gets the limit, also two to the same host; within 0.5 %."""
    expected_bps = [GBIT * SEGMENT / FRAME] * 3
    assert results["flow rate"]["bps"] == pytest.approx(expected_bps, rel=0.005)


def test_busy_cpus(results: Results) -> None:
    """A call sends 256 KiB in 100 us and the time of the copy at 2 Gbit/s; within 2 %.

    The copy is a sleep for each 5 us or more, which ends up to 0.1 us late.
    """
    bits = 8 * 2**18
    expected_bps = bits / (bits / (2 * GBIT) + 100e-6)
    assert results["busy cpus"]["bps"] == pytest.approx([expected_bps], rel=0.02)


def test_multipath(results: Results) -> None:
    """Eight pairs on two equal paths of 1 Gbit/s get more than one of them, at most both."""
    total_bps = sum(results["multipath"]["bps"])
    assert 1.1 * GBIT < total_bps < 2 * GBIT * SEGMENT / FRAME * 1.01


def real_scenarios() -> Scenarios:
    """Some of the measurements, at rates that a slow CPU can carry on the host's clock."""
    long_queue = link("20 Mbit/s", "5 ms", queue="64 MiB")
    lossy = link("20 Mbit/s", "5 ms", loss="5 %", queue="9 MiB")
    jittery = link("1 Gbit/s", "20 ms", jitter="5 ms", distribution="normal")
    short_queue = link("2 Mbit/s", "5 ms", queue="20 packets")
    return {
        "rtt": two_host_scenario("rtt", link("1 Gbit/s", "10 ms")),
        "tcp": two_host_scenario("tcp", link("50 Mbit/s", "5 ms"), seconds=2, settle=1),
        "udp": two_host_scenario("udp_rate", long_queue, packets=500),
        "loss": two_host_scenario("segmented", lossy, packets=2000, segments=40),
        "jitter": two_host_scenario("one_way", jittery, packets=400, gap_ns=5_000_000),
        "queue": two_host_scenario("full_queue", short_queue, packets=80, rate_bps=2 * MBIT),
    }


@pytest.fixture(scope="module")
def real_results(kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The same measurements on the host's clock."""
    folder = tmp_path_factory.mktemp("real") / "shared"
    return measure_links(kernel, folder, real_scenarios(), "real")


@pytest.mark.alone
def test_real_time(real_results: Results) -> None:
    """On the host's clock everything is late by scheduling, more so on a busy machine.

    RTT within 3 ms, the rate of UDP within 10 %, that of TCP within 30 %, delays within 20 %.
    """
    assert real_results["rtt"]["rtt_ns"] == pytest.approx(20 * MS, abs=3 * MS)
    (tcp_bps,) = real_results["tcp"]["bps"]
    assert tcp_bps == pytest.approx(50 * MBIT * SEGMENT / FRAME, rel=0.3)
    udp_bps = real_results["udp"]["bps"]
    assert udp_bps == pytest.approx(20 * MBIT * DATAGRAM / FRAME, rel=0.1)
    assert real_results["loss"]["lost"] == pytest.approx(100, abs=3 * 9.7)
    assert real_results["jitter"]["mean_ns"] == pytest.approx(20 * MS, rel=0.2)
    frame_ns = FRAME * 8e9 / (2 * MBIT)
    queue = real_results["queue"]
    added_ns = queue["last_ns"] - queue["first_ns"]
    assert added_ns == pytest.approx(20 * frame_ns, rel=0.2)
