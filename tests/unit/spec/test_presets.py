"""The presets against what is known of them."""

import re
from itertools import combinations

import pytest
from typer.testing import CliRunner

from testbed.cli.main import app
from testbed.core.geo import distance_km, fibre_delay_ns
from testbed.spec.presets import TOPOLOGIES
from testbed.spec.topology import Topology
from testbed.spec.wan import Link
from tests.unit.spec.test_topology_spec import PRESETS

# Round-trip times in ms measured by ping between AWS regions (see the preset); 107 and 144 are the
# middles of ranges.
AWS_RTTS = """
           virg ohio toky seou sing sydn lond fran irel
oregon       67   49   96  124  163  139  136  143  124
virginia          11  143  172  230  197   76   90   67
ohio                  130  159  197  185   86   99   77
tokyo                       34   73  107  210  223  199
seoul                            74  144  238  235  228
singapore                             92  169  155  179
sydney                                    263  265  254
london                                          14   12
frankfurt                                            24
"""
AWS_REGIONS = (
    "oregon",
    "virginia",
    "ohio",
    "tokyo",
    "seoul",
    "singapore",
    "sydney",
    "london",
    "frankfurt",
    "ireland",
)
PLACES = {
    "microsoft-openai-five": {
        "wisconsin": (42.68, -87.92),
        "georgia": (33.45, -84.50),
        "abilene": (32.50, -99.78),
        "arizona": (33.41, -112.37),
        "san-antonio": (29.48, -98.72),
    },
    "google-campuses": {
        "council-bluffs": (41.2216, -95.8639),
        "papillion": (41.13, -96.11),
        "lincoln": (40.90, -96.63),
        "new-albany": (40.07, -82.76),
    },
    "tesla-dojo": {
        "palo-alto": (37.40, -122.15),
        "giga-texas": (30.22, -97.62),
        "buffalo": (42.86, -78.84),
    },
}
PETABIT_OF_100_000 = 10**15 / 100_000  # an analyst's rate between campuses, for one accelerator


def measured_rtts() -> dict[tuple[str, str], float]:
    """RTTs in ms by (region, region)."""
    rtts: dict[tuple[str, str], float] = {}
    rows = AWS_RTTS.strip().splitlines()[1:]
    for index, row in enumerate(rows):
        region, *cells = row.split()
        others = AWS_REGIONS[index + 1 :]
        for other, cell in zip(others, cells, strict=True):
            rtts[region, other] = float(cell)

    return rtts


def rtt_ms(link: Link) -> float:
    return (link.forward.delay + link.backward.delay) / 1e6


def test_aws_rtts() -> None:
    rtts: dict[tuple[str, str], float] = {}
    for link in Topology.load("aws-ten-regions").links:
        rtts[link.forward.source, link.forward.target] = rtt_ms(link)

    assert rtts == measured_rtts()
    assert list(rtts) == list(combinations(AWS_REGIONS, 2))
    assert rtts["oregon", "virginia"] == 67
    assert rtts["seoul", "london"] == 238
    assert rtts["frankfurt", "ireland"] == 24


@pytest.mark.parametrize(
    ("name", "ends"),
    [("coast-to-coast", ("oregon", "virginia")), ("transatlantic", ("virginia", "london"))],
)
def test_two_of_the_aws_regions(name: str, ends: tuple[str, str]) -> None:
    two = Topology.load(name)
    ten = Topology.load("aws-ten-regions")
    (link,) = two.links
    assert rtt_ms(link) == measured_rtts()[ends]
    for end in ends:
        assert two.sites[end].location == ten.sites[end].location


@pytest.mark.parametrize("name", sorted(PLACES))
def test_places_and_delays_from_distance(name: str) -> None:
    places = PLACES[name]
    topology = Topology.load(name)
    locations = {site: datacenter.location for site, datacenter in topology.sites.items()}
    assert locations == places
    assert len(topology.links) == len(places) * (len(places) - 1) / 2
    for link in topology.links:
        km = distance_km(places[link.forward.source], places[link.forward.target])
        assert link.forward.delay == link.backward.delay == fibre_delay_ns(km, 1.5)


def test_rates_of_one_accelerator() -> None:
    campus_rates: set[int] = set()
    ohio_rates: set[int] = set()
    for link in Topology.load("google-campuses").links:
        rates = ohio_rates if "new-albany" in link.key else campus_rates
        rates.add(link.forward.rate)

    assert ohio_rates == {PETABIT_OF_100_000}
    assert campus_rates == {5 * PETABIT_OF_100_000}

    five = Topology.load("microsoft-openai-five")
    assert {link.forward.rate for link in five.links} == {PETABIT_OF_100_000}


def test_campus_fibre() -> None:
    topology = Topology.load("campus")
    lengths: list[int] = []
    for link in topology.links:
        start = topology.sites[link.forward.source].location
        end = topology.sites[link.forward.target].location
        assert start is not None
        assert end is not None
        km = 1.5 * distance_km(start, end)
        assert link.forward.delay == pytest.approx(fibre_delay_ns(km, 1), rel=0.01)
        lengths.append(round(km))

    assert lengths == [15, 20, 30, 40]


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_sources_and_assumptions(name: str) -> None:
    """Every preset says what is reported, then what is assumed."""
    text = TOPOLOGIES.find(name).read_text()
    reported = re.search(r"^# Reported: (.+)", text, re.MULTILINE)
    assumed = re.search(r"^# Assumed: (.+)", text, re.MULTILINE)
    assert reported
    assert assumed
    assert reported.start() < assumed.start() < text.index("datacenters:")


def test_list_at_100_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    done = CliRunner().invoke(app, ["topo", "list"], catch_exceptions=False)
    lines = done.stdout.splitlines()
    presets = TOPOLOGIES.presets()
    assert len(lines) == 1 + len(presets)
    for line, preset in zip(lines[1:], presets, strict=True):
        assert line.split()[0] == preset.name
        assert line.rstrip().endswith(preset.description)
