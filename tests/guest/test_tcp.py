"""TCP over a lossy, long or shared path, against the formulas and figures that the field knows.

Every scenario is a network of its own in one guest with a virtual clock (inside/links.py).
"""

from math import sqrt
from typing import Any

import pytest

from testbed.guest.kernel import Kernel
from tests.support.guests import measure_links
from tests.support.links_scenarios import FRAME, MBIT, SEGMENT, Scenario, link, scenario

LOSSES = (1e-3, 1e-2)
RARE = (1e-4,)  # four million packets, four minutes: with `make proof`
RTTS_MS = (20, 100)
LOSS_EVENTS = {1e-4: 100, 1e-3: 600, 1e-2: 600}  # expected in the measured part
OFF = {"offload": "off"}
SHADOW = {
    "1 Mbit/s": (300, 0.70),
    "10 Mbit/s": (200, 0.88),
    "100 Mbit/s": (100, 0.92),
    "1 Gbit/s": (10, 0.96),
}
SHADOW_S = 60
IP_PACKET = 1500  # bytes; Shadow's links count these, ours count Ethernet frames


def reno_window(p: float) -> float:
    """Packets. M. Mathis et al., "The macroscopic behavior of the TCP congestion avoidance
    algorithm", 1997: sqrt(3/2) / sqrt(p)."""
    return sqrt(1.5 / p)


def cubic_window(p: float, rtt_s: float) -> float:
    """Packets. RFC 9438, section 5.1, with C = 0.4 and beta = 0.7: the larger of 1.054 RTT^0.75 /
    p^0.75 and the Reno-friendly window, which with its alpha is Reno's."""
    return max(1.054 * (rtt_s / p) ** 0.75, reno_window(p))


WINDOWS = {"reno": lambda p, _rtt: reno_window(p), "cubic": cubic_window}


def shadow_bps(rate: str) -> float:
    number, unit = rate.split()
    return float(number) * {"Mbit/s": 1e6, "Gbit/s": 1e9}[unit]


def formula_cells(losses: tuple[float, ...]) -> list[tuple[str, float, int]]:
    return [(control, p, rtt) for control in WINDOWS for p in losses for rtt in RTTS_MS]


def formula_scenarios(losses: tuple[float, ...]) -> dict[str, Scenario]:
    found = {}
    for control, p, rtt in formula_cells(losses):
        window = WINDOWS[control](p, rtt / 1000)
        seconds = LOSS_EVENTS[p] / p / window * rtt / 1000
        lossy = link("10 Gbit/s", f"{rtt / 2} ms", loss=f"{100 * p} %", queue="64 MiB")
        name = f"{control} {p} {rtt}"
        tcp = OFF | {"congestion_control": control}
        found[name] = scenario(
            "tcp", lossy, tcp, seconds=1.15 * seconds + 2, settle=0.15 * seconds + 2
        )
    return found


def scenarios() -> dict[str, Scenario]:
    found = formula_scenarios(LOSSES)
    lossy = link("100 Mbit/s", "20 ms", loss="1 %", queue="2 bdp")
    found["bbr"] = scenario("tcp", lossy, OFF | {"congestion_control": "bbr"}, seconds=15, settle=3)
    for rate, (delay, _part) in SHADOW.items():
        offload = {"offload": "on"} if rate == "1 Gbit/s" else OFF
        long_path = link(
            f"{shadow_bps(rate) * FRAME / IP_PACKET:.0f} bit/s", f"{delay} ms", queue="1 bdp"
        )
        found[f"shadow {rate}"] = scenario("tcp", long_path, offload, seconds=SHADOW_S, settle=0)
    shared = link("100 Mbit/s", "10 ms", queue="1 bdp")
    found["fairness"] = scenario("tcp", shared, OFF, seconds=40, settle=10, flows=8)
    return found


@pytest.fixture(scope="module")
def found(kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What inside/links.py measured."""
    return measure_links(kernel, tmp_path_factory.mktemp("tcp") / "shared", scenarios(), "virtual")


@pytest.fixture(scope="module")
def rare(kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same with few losses."""
    return measure_links(
        kernel, tmp_path_factory.mktemp("rare") / "shared", formula_scenarios(RARE), "virtual"
    )


@pytest.mark.parametrize(("control", "p", "rtt"), formula_cells(LOSSES))
def test_response_to_loss(found: dict[str, Any], control: str, p: float, rtt: int) -> None:
    """Rate = segment x window / RTT, within 15 %."""
    check_response(found, control, p, rtt)


@pytest.mark.proof
@pytest.mark.parametrize(("control", "p", "rtt"), formula_cells(RARE))
def test_response_to_rare_loss(rare: dict[str, Any], control: str, p: float, rtt: int) -> None:
    """As above."""
    check_response(rare, control, p, rtt)


def check_response(found: dict[str, Any], control: str, p: float, rtt: int) -> None:
    expected = SEGMENT * 8 * WINDOWS[control](p, rtt / 1000) / (rtt / 1000)
    assert found[f"{control} {p} {rtt}"]["bps"][0] == pytest.approx(expected, rel=0.15)


def test_bbr_does_not_mind_loss(found: dict[str, Any]) -> None:
    """With 1 % of the packets lost it keeps 85 % of the rate."""
    assert found["bbr"]["bps"][0] >= 0.85 * 100 * MBIT * SEGMENT / FRAME


@pytest.mark.parametrize("rate", SHADOW)
def test_goodput_of_long_paths(found: dict[str, Any], rate: str) -> None:
    """At least the part of the rate that Shadow's test of TCP over such paths asks for, slow start
    included (src/test/tgen/fixed_duration in its repository)."""
    assert found[f"shadow {rate}"]["total_bps"][0] >= SHADOW[rate][1] * shadow_bps(rate)


def test_flows_share_fairly(found: dict[str, Any]) -> None:
    """Eight flows on one bottleneck: Jain's index, (sum x)^2 / (n sum x^2), is at least 0.9, and
    the link is full.
    """
    rates = found["fairness"]["bps"]
    assert sum(rates) ** 2 / (8 * sum(rate**2 for rate in rates)) >= 0.9
    assert sum(rates) == pytest.approx(100 * MBIT * SEGMENT / FRAME, rel=0.03)
