import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from testbed.core.errors import InputError
from testbed.core.geo import distance_km, fibre_delay_ns
from testbed.spec.overrides import parse_overrides
from testbed.spec.presets import TOPOLOGIES
from testbed.spec.topology import Topology
from testbed.spec.wan import GilbertElliott, Link, QueueLength

PRESETS = {
    "aws-ten-regions",
    "campus",
    "coast-to-coast",
    "google-campuses",
    "microsoft-openai-five",
    "single-cluster",
    "tesla-dojo",
    "transatlantic",
    "two-sites",
}
FOUR = """
datacenters: {a: {}, b: {}, c: {}, d: {}}
defaults: {wan: {rate: 10 Gbit/s, delay: 1 ms}}
"""


def load(tmp_path: Path, text: str, *settings: str, name: str = "mine.yaml") -> Topology:
    path = tmp_path / name
    path.write_text(text)
    return Topology.load(path, parse_overrides(settings, ["topology"])["topology"])


def keys(topology: Topology) -> list[str]:
    return [link.key for link in topology.links]


def link_of(topology: Topology, key: str) -> Link:
    return next(link for link in topology.links if link.key == key)


def test_presets_are_listed_with_a_line_each() -> None:
    presets = TOPOLOGIES.presets()
    assert {preset.name for preset in presets} >= PRESETS
    assert all(preset.description and "\n" not in preset.description for preset in presets)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_load_and_round_trip(name: str) -> None:
    topology = Topology.load(name)
    assert topology.name == name
    assert Topology.model_validate(yaml.safe_load(topology.to_yaml())) == topology


def test_the_five_sites() -> None:
    topology = Topology.load("microsoft-openai-five")
    assert len(topology.links) == 10
    assert [site.hosts for site in topology.sites.values()] == [2] * 5
    assert 2 * link_of(topology, "wisconsin-georgia").forward.delay == pytest.approx(
        15.7e6, rel=0.003
    )


def test_the_ten_regions_have_measured_rtts() -> None:
    topology = Topology.load("aws-ten-regions")
    assert len(topology.links) == 45
    assert link_of(topology, "oregon-virginia").forward.delay * 2 == 67_000_000
    assert link_of(topology, "tokyo-sydney").forward.delay * 2 == 107_000_000
    assert {link.forward.rate for link in topology.links} == {1_100_000_000}


def test_built_in_code() -> None:
    topology = Topology.model_validate(
        {
            "name": "two",
            "datacenters": {"iowa": {"hosts": 4}, "ohio": {}},
            "wan": [
                {
                    "between": ["iowa", "ohio"],
                    "rate": "10 Gbit/s",
                    "delay": "8.2 ms",
                    "loss": "0.001 %",
                }
            ],
        }
    )
    link = topology.links[0]
    assert (link.key, link.forward.rate, link.forward.delay) == ("iowa-ohio", 10**10, 8_200_000)
    assert (link.forward.name, link.backward.name) == ("iowa->ohio", "ohio->iowa")
    assert link.forward.loss == 1e-5
    assert Topology.model_validate(yaml.safe_load(topology.to_yaml())) == topology


def test_every_link_setting_round_trips() -> None:
    text = """
    name: all
    datacenters: {a: {hosts: 3, nic: {rate: 1 Gbit/s, delay: 10 us, queue: 100 packets}}, b: {}}
    wan:
      - between: [a, b]
        rate: {a->b: 10 Gbit/s, b->a: 1 Gbit/s}
        delay: 20 ms
        jitter: 0.1 ms
        distribution: normal
        reorder: true
        loss: {a->b: {p: 0.1 %, r: 10 %, loss_in_bad: 50 %}, b->a: 1 %}
        duplicate: 0.01 %
        corrupt: 0.001 %
        queue: {a->b: 0.5 bdp, b->a: 20 ms}
    tcp: {congestion_control: bbr, buffer: 64 MiB}
    mtu: 9000
    """
    topology = Topology.model_validate(yaml.safe_load(text))
    link = topology.links[0]
    assert (link.forward.rate, link.backward.rate) == (10**10, 10**9)
    assert link.forward.loss == GilbertElliott(p="0.1 %", r="10 %", loss_in_bad="50 %")
    assert link.backward.loss == 0.01
    assert (link.forward.queue, link.backward.queue) == (
        QueueLength(Decimal("0.5"), "bdp"),
        QueueLength(Decimal(20_000_000), "time"),
    )
    assert link.forward.reorder
    assert topology.tcp.buffer == 2**26
    assert Topology.model_validate(yaml.safe_load(topology.to_yaml())) == topology


def test_delay_from_locations(tmp_path: Path) -> None:
    text = """
    datacenters: {a: {location: [42.68, -87.92]}, b: {location: [33.45, -84.5]}}
    wan: [{between: [a, b], rate: 1 Gbit/s, detour: 2}]
    """
    expected = fibre_delay_ns(distance_km((42.68, -87.92), (33.45, -84.5)), 2)
    assert load(tmp_path, text).links[0].backward.delay == expected


@pytest.mark.parametrize(
    ("wan", "expected"),
    [
        ("[{mesh: all}]", ["a-b", "a-c", "a-d", "b-c", "b-d", "c-d"]),
        ("[{ring: all}]", ["a-b", "b-c", "c-d", "d-a"]),
        ("[{star: [c, a, b, d]}]", ["c-a", "c-b", "c-d"]),
        ("[{mesh: [a, b, c]}, {between: [d, a]}]", ["a-b", "a-c", "b-c", "d-a"]),
    ],
)
def test_shorthands(tmp_path: Path, wan: str, expected: list[str]) -> None:
    assert keys(load(tmp_path, f"{FOUR}\nwan: {wan}")) == expected


def test_between_refines_a_shorthand(tmp_path: Path) -> None:
    topology = load(
        tmp_path, f"{FOUR}\nwan: [{{between: [b, a], delay: 7 ms}}, {{mesh: all, rate: 5 Gbit/s}}]"
    )
    assert len(topology.links) == 6
    link = link_of(topology, "b-a")
    assert (link.forward.delay, link.forward.rate) == (7_000_000, 5 * 10**9)


ONE_WAY = "between: [a, b], loss: {a->b: 1 %}, rate: {b->a: 1 Gbit/s}, jitter: {a->b: 50 us}"


@pytest.mark.parametrize(
    ("wan", "defaults"),
    [
        (f"[{{{ONE_WAY}}}, {{ring: [b, c, d]}}]", "loss: 2 %, jitter: 10 us, "),
        (f"[{{mesh: all, loss: 2 %, jitter: 10 us}}, {{{ONE_WAY}}}]", "loss: 3 %, jitter: 20 us, "),
        (
            f"[{{{ONE_WAY.replace('[a, b]', '[b, a]')}}}, {{mesh: all, loss: 2 %, jitter: 10 us}}]",
            "",
        ),
    ],
    ids=["defaults", "shorthand over defaults", "shorthand, other order"],
)
def test_direction_inherits(tmp_path: Path, wan: str, defaults: str) -> None:
    head = FOUR.replace("{rate", f"{{{defaults}rate")
    link = next(
        link
        for link in load(tmp_path, f"{head}\nwan: {wan}").links
        if {*link.key.split("-")} == {"a", "b"}
    )
    there, back = sorted((link.forward, link.backward), key=lambda way: way.name)
    assert (there.name, there.loss, there.rate, there.jitter) == ("a->b", 0.01, 10**10, 50_000)
    assert (back.name, back.loss, back.rate, back.jitter) == ("b->a", 0.02, 10**9, 10_000)


def test_direction_without_inheritance(
    tmp_path: Path,
) -> None:
    text = """
    datacenters: {a: {location: [0, 0]}, b: {location: [0, 10]}}
    wan: [{between: [a, b], rate: 1 Gbit/s, delay: {a->b: 40 ms}, loss: {a->b: {p: 1 %, r: 10 %}}}]
    """
    link = load(tmp_path, text).links[0]
    assert (link.forward.delay, link.forward.loss) == (
        40_000_000,
        GilbertElliott(p="1 %", r="10 %"),
    )
    assert (link.backward.delay, link.backward.loss) == (
        fibre_delay_ns(distance_km((0, 0), (0, 10))),
        0.0,
    )


def test_defaults_and_extensions(tmp_path: Path) -> None:
    text = """
    x-mine: anything
    datacenters: {a: {x-rack: 3}, b: {hosts: 3, nic: {delay: 1 us}}}
    wan: [{between: [a, b], x-note: hello}]
    defaults: {datacenter: {hosts: 2, nic: {rate: 1 Gbit/s}}, wan: {rate: 10 Gbit/s, delay: 1 ms}}
    """
    sites = load(tmp_path, text).sites
    assert (sites["a"].hosts, sites["a"].nic.rate, sites["a"].nic.delay) == (2, 10**9, 5_000)
    assert (sites["b"].hosts, sites["b"].nic.rate, sites["b"].nic.delay) == (3, 10**9, 1_000)


def test_a_datacenter_may_be_called_no(tmp_path: Path) -> None:
    text = "datacenters: {no: {}, on: {}}\nwan: [{between: [no, on], rate: 1 Gbit/s, delay: 1 ms}]"
    assert keys(load(tmp_path, text)) == ["no-on"]


def test_extends(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("extends: two-sites\nmtu: 9000")
    text = """
    extends: base.yaml
    datacenters: {iowa: {hosts: 5}, texas: {}}
    wan:
      - {between: [ohio, iowa], delay: null, rate: 1 Gbit/s}
      - {between: [ohio, texas], rate: 2 Gbit/s, delay: 3 ms}
    """
    topology = load(tmp_path, text)
    assert (topology.name, topology.description, topology.mtu) == ("mine", "", 9000)
    assert {name: site.hosts for name, site in topology.sites.items()} == {
        "iowa": 5,
        "ohio": 2,
        "texas": 1,
    }
    assert keys(topology) == ["ohio-iowa", "ohio-texas"]
    assert link_of(topology, "ohio-iowa").forward.delay == pytest.approx(8.2e6, rel=0.01)
    assert Topology.model_validate(yaml.safe_load(topology.to_yaml())) == topology


def test_one_direction_laid_over_both(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(
        "datacenters: {a: {}, b: {}}\n"
        "wan: [{between: [a, b], rate: 10 Gbit/s, delay: {a->b: 1 ms, b->a: 2 ms}, "
        "loss: {p: 1 %, r: 9 %}}]"
    )
    over = "{between: [b, a], rate: {b->a: 1 Gbit/s}, delay: {a->b: 5 ms}, loss: {a->b: 2 %}}"
    link = load(tmp_path, f"extends: base.yaml\nwan: [{over}]").links[0]
    there, back = link.backward, link.forward
    assert (there.name, there.rate, there.delay, there.loss) == ("a->b", 10**10, 5_000_000, 0.02)
    assert (back.rate, back.delay, back.loss) == (
        10**9,
        2_000_000,
        GilbertElliott(p="1 %", r="9 %"),
    )


def test_extends_removes_with_null(tmp_path: Path) -> None:
    topology = load(tmp_path, "extends: tesla-dojo\ndatacenters: {buffalo: null}")
    assert keys(topology) == ["palo-alto-giga-texas"]


def test_extends_itself(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text("extends: a.yaml")
    with pytest.raises(InputError, match=r"b\.yaml:1, extends: a\.yaml extends itself"):
        load(tmp_path, "extends: b.yaml", name="a.yaml")


@pytest.mark.parametrize(
    ("setting", "attribute"),
    [
        ("wan.iowa-ohio.delay=20 ms", 20_000_000),
        ("topology.wan.*.delay=20 ms", 20_000_000),
        ("wan.0.delay=5 us", 5_000),
    ],
)
def test_set_a_link(setting: str, attribute: int) -> None:
    topology = Topology.load("two-sites", parse_overrides([setting], ["topology"])["topology"])
    assert topology.links[0].forward.delay == attribute


def test_set_one_link_of_a_mesh() -> None:
    settings = [
        "wan.wisconsin-georgia.delay=20 ms",
        "wan.mesh.rate=1 Gbit/s",
        "tcp.congestion_control=bbr",
        "mtu=9000",
    ]
    topology = Topology.load(
        "microsoft-openai-five", parse_overrides(settings, ["topology"])["topology"]
    )
    delays = {link.key: link.forward.delay for link in topology.links}
    assert len(delays) == 10
    assert [key for key, delay in delays.items() if delay == 20_000_000] == ["wisconsin-georgia"]
    assert {link.forward.rate for link in topology.links} == {10**9}
    assert (topology.tcp.congestion_control, topology.mtu) == ("bbr", 9000)


def test_set_every_datacenter() -> None:
    settings = parse_overrides(
        ["datacenters.*.hosts=3", "datacenters.iowa.nic={rate: 1 Gbit/s}"], ["topology"]
    )
    sites = Topology.load("two-sites", settings["topology"]).sites
    assert [site.hosts for site in sites.values()] == [3, 3]
    assert (sites["iowa"].nic.rate, sites["iowa"].nic.delay) == (10**9, 5_000)


def test_set_goes_to_its_target() -> None:
    overrides = parse_overrides(
        ["workload.sizes=[4 KiB, 1 MiB]", "topology.mtu=1400"], ["topology", "workload"]
    )
    assert overrides["workload"][0].path == ("sizes",)
    assert overrides["workload"][0].value == ["4 KiB", "1 MiB"]
    assert overrides["topology"][0].value == 1400


def test_a_table_is_found_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "my.dist").write_text("0 1 2")
    link = "{between: [a, b], rate: 1 Gbit/s, delay: 2 ms, jitter: 1 ms, distribution: my.dist}"
    text = f"datacenters: {{a: {{}}, b: {{}}}}\nwan: [{link}]"
    assert load(tmp_path, text).links[0].forward.distribution == str(
        (tmp_path / "my.dist").resolve()
    )


def test_json_schema() -> None:
    schema: dict[str, Any] = json.loads(json.dumps(Topology.json_schema()))
    assert {"datacenters", "wan", "extends", "tcp"} <= schema["properties"].keys()
    assert "^x-" in schema["patternProperties"]
    assert schema["$defs"]["Nic"]["properties"]["rate"]["default"] == "25 Gbit/s"


@pytest.mark.parametrize(
    ("file", "name"), [("x-86.85", "x-86-85"), ("2 Sites", "t-2-sites"), ("lab", "lab"), ("_", "t")]
)
def test_a_file_of_any_name_is_a_topology(file: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{file}.yaml"
    path.write_text("datacenters: {a: {}}\n")
    assert Topology.load(path).name == name
