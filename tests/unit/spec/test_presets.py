"""The presets against what is known of them."""

import re
from itertools import combinations

import pytest
from typer.testing import CliRunner

from testbed.cli.main import app
from testbed.core.geo import distance_km, fibre_delay_ns
from testbed.spec.presets import TOPOLOGIES
from testbed.spec.topology import Topology
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
        "wisconsin": (42.68, -87.92), "georgia": (33.45, -84.50), "abilene": (32.50, -99.78),
        "arizona": (33.41, -112.37), "san-antonio": (29.48, -98.72),
    },
    "google-campuses": {
        "council-bluffs": (41.2216, -95.8639), "papillion": (41.13, -96.11), "lincoln": (40.90, -96.63),
        "new-albany": (40.07, -82.76),
    },
    "tesla-dojo": {"palo-alto": (37.40, -122.15), "giga-texas": (30.22, -97.62), "buffalo": (42.86, -78.84)},
}  # fmt: skip


def measured_rtts():
    """(region, region): ms."""
    rows = [line.split() for line in AWS_RTTS.strip().splitlines()[1:]]
    return {
        (row[0], other): float(ms)
        for i, row in enumerate(rows)
        for other, ms in zip(AWS_REGIONS[i + 1 :], row[1:], strict=True)
    }


def test_the_aws_regions_have_the_measured_rtts():
    rtts = {
        (link.forward.source, link.forward.target): (link.forward.delay + link.backward.delay) / 1e6
        for link in Topology.load("aws-ten-regions").links
    }
    assert rtts == measured_rtts()
    assert list(rtts) == list(combinations(AWS_REGIONS, 2))
    assert (rtts["oregon", "virginia"], rtts["seoul", "london"], rtts["frankfurt", "ireland"]) == (
        67,
        238,
        24,
    )


@pytest.mark.parametrize(
    ("name", "ends"),
    [("coast-to-coast", ("oregon", "virginia")), ("transatlantic", ("virginia", "london"))],
)
def test_two_regions_are_as_far_apart_as_among_the_ten(name, ends):
    two, ten = Topology.load(name), Topology.load("aws-ten-regions")
    (link,) = two.links
    assert (link.forward.delay + link.backward.delay) / 1e6 == measured_rtts()[ends]
    for end in ends:
        assert two.sites[end].location == ten.sites[end].location


@pytest.mark.parametrize("name", sorted(PLACES))
def test_places_and_delays_from_distance(name):
    topology = Topology.load(name)
    assert {site: datacenter.location for site, datacenter in topology.sites.items()} == PLACES[
        name
    ]
    assert len(topology.links) == len(PLACES[name]) * (len(PLACES[name]) - 1) / 2
    for link in topology.links:
        km = distance_km(PLACES[name][link.forward.source], PLACES[name][link.forward.target])
        assert link.forward.delay == link.backward.delay == fibre_delay_ns(km, 1.5)


def test_rates_are_the_analysts_for_one_of_100_000_accelerators():
    rates = {link.key: link.forward.rate for link in Topology.load("google-campuses").links}
    assert {rate for key, rate in rates.items() if "new-albany" in key} == {10**15 / 100_000}
    assert {rate for key, rate in rates.items() if "new-albany" not in key} == {
        5 * 10**15 / 100_000
    }
    assert {link.forward.rate for link in Topology.load("microsoft-openai-five").links} == {
        10**15 / 100_000
    }


def test_the_campus_has_tens_of_km_of_fibre():
    topology = Topology.load("campus")
    lengths = []
    for link in topology.links:
        ends = (topology.sites[way.source].location for way in (link.forward, link.backward))
        km = 1.5 * distance_km(*ends)
        assert link.forward.delay == pytest.approx(fibre_delay_ns(km, 1), rel=0.01)
        lengths.append(round(km))
    assert lengths == [15, 20, 30, 40]


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_tells_what_is_reported_and_what_is_assumed(name):
    text = TOPOLOGIES.find(name).read_text()
    reported, assumed = (
        re.search(rf"^# {word}: (.+)", text, re.MULTILINE) for word in ("Reported", "Assumed")
    )
    assert reported
    assert assumed
    assert reported.start() < assumed.start() < text.index("datacenters:")


def test_the_list_has_a_line_for_each_preset_at_100_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    lines = CliRunner().invoke(app, ["topo", "list"], catch_exceptions=False).stdout.splitlines()
    presets = TOPOLOGIES.presets()
    assert len(lines) == 1 + len(presets)
    for line, preset in zip(lines[1:], presets, strict=True):
        assert line.split()[0] == preset.name
        assert line.rstrip().endswith(preset.description)
