"""Topologies made of GraphML and CSV: each part of a file, and what is refused, with its place."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from typer.testing import CliRunner

from testbed.cli.main import app
from testbed.core.errors import InputError
from testbed.core.geo import distance_km, fibre_delay_ns
from testbed.spec.importers import Imported, ImportOptions, convert
from testbed.spec.importers.draft import valid_name
from testbed.spec.topology import LeafSpine, Topology

KEYS = """<?xml version="1.0" encoding="utf-8"?><graphml xmlns="http://graphml.graphdrawing.org/xmlns">
  <key attr.name="key" attr.type="int" for="edge" id="d39" />
  <key attr.name="LinkSpeedRaw" attr.type="double" for="edge" id="d38" />
  <key attr.name="LinkSpeedUnits" attr.type="string" for="edge" id="d37" />
  <key attr.name="LinkSpeed" attr.type="string" for="edge" id="d36" />
  <key attr.name="LinkLabel" attr.type="string" for="edge" id="d35" />
  <key attr.name="LinkType" attr.type="string" for="edge" id="d34" />
  <key attr.name="label" attr.type="string" for="node" id="d33" />
  <key attr.name="Longitude" attr.type="double" for="node" id="d32" />
  <key attr.name="Latitude" attr.type="double" for="node" id="d29" />
  <key attr.name="Internal" attr.type="int" for="node" id="d28" />
  <key attr.name="DateYear" attr.type="string" for="graph" id="d25" />
  <key attr.name="Network" attr.type="string" for="graph" id="d3" />
  <graph edgedefault="undirected">
    <data key="d3">Own Sample</data>
    <data key="d25">2026</data>
"""
END = "</graph></graphml>"
ZURICH, BERLIN = (47.4, 8.5), (52.5, 13.4)


def data_elements(values: Mapping[str, object]) -> str:
    elements = [f'<data key="{key}">{value}</data>' for key, value in values.items()]
    return "".join(elements)


def node(
    number: int, label: str, *, at: tuple[float, float] | None = (50, 10), internal: int = 1
) -> str:
    data = {"d28": internal, "d33": label}
    if at is not None:
        data["d29"], data["d32"] = at
    return f'<node id="{number}">{data_elements(data)}</node>'


SPEED_KEYS = {"type": "d34", "label": "d35", "speed": "d36", "units": "d37", "raw": "d38"}


def edge(source: int, target: int, parallel_number: int = 0, /, **speed: str) -> str:
    data: dict[str, object] = {"d39": parallel_number}
    for name, value in speed.items():
        data[SPEED_KEYS[name]] = value
    return f'<edge source="{source}" target="{target}">{data_elements(data)}</edge>'


A, B = node(0, "Zürich", at=ZURICH), node(1, "Berlin", at=BERLIN)
AB = edge(0, 1, raw="10000000000.0")


def graphml(folder: Path, *parts: str, options: ImportOptions | None = None) -> Imported:
    path = folder / "Sample.graphml"
    path.write_text("\n".join([KEYS, *parts, END]), encoding="utf-8")
    return loaded(convert(path, options or ImportOptions()), folder)


def table(
    folder: Path, text: str, bandwidth: str | None = None, *, unit: str | None = None
) -> Imported:
    path = folder / "rtts.csv"
    path.write_text(text, encoding="utf-8")
    rates = None
    if bandwidth is not None:
        rates = folder / "rates.csv"
        rates.write_text(bandwidth, encoding="utf-8")

    options = ImportOptions(bandwidth=rates, bandwidth_unit=unit)
    return loaded(convert(path, options), folder)


def loaded(imported: Imported, folder: Path) -> Imported:
    """`imported`, whose text loads to its topology."""
    path = folder / "imported.yaml"
    path.write_text(imported.text, encoding="utf-8")
    assert Topology.load(path) == imported.topology
    return imported


def links(imported: Imported) -> dict[str, tuple[float, float, float, float]]:
    """Rates in Gbit/s and delays in ms, there and back, by the link's key."""
    figures: dict[str, tuple[float, float, float, float]] = {}
    for link in imported.topology.links:
        figures[link.key] = (
            link.forward.rate / 1e9,
            link.backward.rate / 1e9,
            link.forward.delay / 1e6,
            link.backward.delay / 1e6,
        )

    return figures


def comment(imported: Imported) -> str:
    return " ".join(
        line.removeprefix("# ") for line in imported.text.splitlines() if line.startswith("#")
    )


# GraphML


def test_two_nodes_and_a_link(tmp_path: Path) -> None:
    made = graphml(tmp_path, A, B, AB)
    assert made.topology.name == "sample"
    assert {name: site.location for name, site in made.topology.sites.items()} == {
        "zurich": ZURICH,
        "berlin": BERLIN,
    }
    delay = fibre_delay_ns(distance_km(ZURICH, BERLIN)) / 1e6
    assert links(made) == {"zurich-berlin": (10, 10, delay, delay)}
    assert comment(made).startswith(
        "Imported from Sample.graphml: GraphML (Own Sample, 2026), 2 of 2 nodes, 1 links. "
        "Assumed: hosts: 1 in each"
    )
    assert "as the file gives none" not in comment(made)


@pytest.mark.parametrize(
    ("speed", "gbit"),
    [
        ({"raw": "622000000.0"}, 0.622),
        ({"speed": "155", "units": "M"}, 0.155),
        ({"label": "2.5 Gbps"}, 2.5),
        ({"label": "34 Mbit/s (leased)"}, 0.034),
        ({"label": "10GE"}, 10),
        ({"label": "1G Ethernet"}, 1),
        ({"type": "OC-192", "label": "OC-192c"}, 9.95328),
        ({"type": "STM-16"}, 2.48832),
        ({"label": "10-20Gbps"}, 7),
        ({"label": "Dark Fibre"}, 7),
        ({"label": "&gt; 1 Gbps"}, 7),
        ({"speed": "unknown", "units": "G"}, 7),
        ({"raw": "0.0"}, 7),
        ({}, 7),
    ],
)
def test_speeds(speed: dict[str, str], gbit: float, tmp_path: Path) -> None:
    made = graphml(tmp_path, A, B, edge(0, 1, **speed), options=ImportOptions(rate=7 * 10**9))
    assert links(made)["zurich-berlin"][:2] == (gbit, gbit)
    assert ("rate: 7 Gbit/s for 1 of 1 links (not in the file)" in comment(made)) == (gbit == 7)


def test_options(tmp_path: Path) -> None:
    made = graphml(tmp_path, A, B, AB, options=ImportOptions(name="mine", hosts=3, detour=2.0))
    assert (made.topology.name, made.topology.sites["berlin"].hosts) == ("mine", 3)
    assert links(made)["zurich-berlin"][2] == fibre_delay_ns(distance_km(ZURICH, BERLIN), 2) / 1e6


def test_labels_become_names(tmp_path: Path) -> None:
    parts = [
        node(2, "St. Gallen, CH"),
        node(3, "Berlin"),
        node(4, "???"),
        node(5, "3rd Site"),
        node(6, "Berlin 2"),
    ]
    made = graphml(tmp_path, A, B, *parts, AB, *(edge(1, number) for number in range(2, 7)))
    names = ["zurich", "berlin", "st-gallen-ch", "berlin-2", "node", "n3rd-site", "berlin-2-2"]
    assert list(made.topology.datacenters) == names
    note = (
        "renamed datacenters (name taken or not valid): berlin-2 is 'Berlin', node is '???', "
        "berlin-2-2 is 'Berlin 2'."
    )
    assert note in comment(made)


@pytest.mark.parametrize("label", ["", "Ω", "a" * 80, "-x-", "9", "A  b__c", "Åre/Östersund"])
def test_valid_name(label: str) -> None:
    name = valid_name(label)
    if name:
        assert Topology(datacenters={name: {}}).sites
        assert valid_name(name) == name


def test_parallel_links_are_one(tmp_path: Path) -> None:
    made = graphml(
        tmp_path,
        A,
        B,
        AB,
        edge(1, 0, 1, raw="2500000000.0"),
        edge(0, 1, 2),
        options=ImportOptions(rate=10**9),
    )
    assert links(made)["zurich-berlin"][:2] == (13.5, 13.5)
    assert (
        "parallel links were merged into one with the sum of their rates: zurich-berlin"
        in comment(made)
    )
    assert "rate: 1 Gbit/s for 1 of 1 links" in comment(made)


def test_parts_that_are_left_out(tmp_path: Path) -> None:
    parts = [
        node(2, "Peer", internal=0),
        node(3, "Far"),
        node(4, "Island"),
        edge(0, 2),
        edge(1, 1),
        edge(3, 4),
        node(5, "C"),
    ]
    made = graphml(tmp_path, A, B, *parts, AB, edge(1, 5))
    assert list(links(made)) == ["zurich-berlin", "berlin-c"]
    text = comment(made)
    assert "3 of 6 nodes, 2 links" in text
    assert "left out as external (Internal is 0): Peer." in text
    assert "left out as links from a node to itself: Berlin." in text
    assert "left out because not connected to the largest part: Far, Island." in text


def test_nodes_without_a_position(tmp_path: Path) -> None:
    parts = [A, B, node(2, "Nowhere", at=None), AB, edge(0, 2)]
    made = graphml(tmp_path, *parts, options=ImportOptions(delay=3_000_000))
    assert links(made)["zurich-nowhere"][2:] == (3, 3)
    assert links(made)["zurich-berlin"][2] != 3
    assert "without a position: nowhere." in comment(made)
    assert "delay: 3 ms one way for 1 of 2 links with an end without a position." in comment(made)
    with pytest.raises(InputError) as caught:
        graphml(tmp_path, *parts)

    assert str(caught.value) == (
        f"{tmp_path}/Sample.graphml, zurich-nowhere: "
        "unknown delay: an end of this link has no position\n"
        "  use --delay, such as --delay '5 ms'"
    )


def test_label_stays_in_the_comment(tmp_path: Path) -> None:
    made = graphml(tmp_path, A, B, node(2, "x\nname: evil", internal=0), AB)
    assert made.topology.name == "sample"
    assert "x name: evil" in comment(made)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("this is text", "bad.graphml:1: not valid XML: syntax error"),
        ("<a>\n<b></a>", "bad.graphml:2: not valid XML: mismatched tag"),
        (
            "<html></html>",
            "bad.graphml: not valid GraphML: file not successfully read as graphml",
        ),
        (f"{KEYS}{END}", "bad.graphml: the graph has no nodes"),
        (
            f"{KEYS}{node(1, 'Peer', internal=0)}</graph></graphml>",
            "bad.graphml: all nodes of the graph are external",
        ),
        (
            f"{KEYS}{A}{node(1, 'X', at=(91, 0))}{AB}</graph></graphml>",
            "bad.graphml, node x: Latitude 91 and Longitude 0",
        ),
        (
            f"{KEYS}{A}{B}{edge(0, 1, raw='-5')}</graph></graphml>",
            "bad.graphml, zurich-berlin: a speed of -5 bit/s is neg",
        ),
        (
            f"{KEYS}{A}{B}{edge(0, 1, raw='fast')}</graph></graphml>",
            "bad.graphml: not valid GraphML: could not",
        ),
        (
            f"{KEYS}{''.join(node(number, 'x') for number in range(251))}"
            f"{''.join(edge(0, number) for number in range(1, 251))}{END}",
            "bad.graphml: too many datacenters: 251 (at most 250)",
        ),
    ],
)
def test_wrong_graphml(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.graphml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        convert(path, ImportOptions())

    assert str(caught.value).replace(f"{tmp_path}/", "").startswith(message)


def other_graphml(folder: Path, text: str, options: ImportOptions | None = None) -> Imported:
    path = folder / "other.graphml"
    path.write_text(text, encoding="utf-8")
    return loaded(convert(path, options or ImportOptions()), folder)


def keys(*attributes: str) -> str:
    """Keys of attributes such as ``node lat double``; their id is their name."""
    written = '<graphml xmlns="http://graphml.graphdrawing.org/xmlns">'
    for attribute in attributes:
        kind, name, form = attribute.split()
        written += f'<key id="{name}" for="{kind}" attr.name="{name}" attr.type="{form}"/>'
    return written


NETWORKX = keys(
    "node lat double", "node lon double", "edge bandwidth_mbps double", "edge delay string"
)


def test_both_directions_of_a_directed_graph(tmp_path: Path) -> None:
    """As networkx.DiGraph writes it: an edge for each direction; one of c stands for both."""
    made = other_graphml(
        tmp_path,
        f"""{NETWORKX}<graph edgedefault="directed">
        <node id="A"><data key="lat">47.4</data><data key="lon">8.5</data></node>
        <node id="B"><data key="lat">52.5</data><data key="lon">13.4</data></node><node id="C"/>
        <edge source="A" target="B"><data key="bandwidth_mbps">400</data></edge>
        <edge source="B" target="A"><data key="bandwidth_mbps">100</data></edge>
        <edge source="C" target="B"><data key="delay">3 ms</data></edge>
        </graph></graphml>""",
        ImportOptions(rate=7 * 10**9),
    )
    fibre_ms = fibre_delay_ns(distance_km(ZURICH, BERLIN)) / 1e6
    assert links(made) == {"a-b": (0.4, 0.1, fibre_ms, fibre_ms), "b-c": (7, 7, 3, 3)}
    assert "edges of one direction apply to both: b-c" in comment(made)


def test_attributes_of_igraph(tmp_path: Path) -> None:
    """Lower-case names, nodes called n0, a name next to the id; parallel edges."""
    made = other_graphml(
        tmp_path,
        keys("node name string", "edge linkspeedraw double", "edge latency_us double")
        + """<graph id="G" edgedefault="undirected">
        <node id="n0"><data key="name">Oslo</data></node>
        <node id="n1"><data key="name">Rome</data></node>
        <edge source="n0" target="n1"><data key="linkspeedraw">1e9</data>
        <data key="latency_us">9000</data></edge>
        <edge source="n0" target="n1"><data key="linkspeedraw">2e9</data>
        <data key="latency_us">8000</data></edge></graph></graphml>""",
    )
    assert links(made) == {"oslo-rome": (3, 3, 8, 8)}
    assert "'latency_us' of an edge is one way" in comment(made)


def test_labels_of_yed(tmp_path: Path) -> None:
    """Labels in graphics; x and y are pixels."""
    label = '<data key="d0"><y:ShapeNode><y:Geometry x="300" y="40"/><y:NodeLabel>{}</y:NodeLabel>'
    label += "</y:ShapeNode></data>"
    made = other_graphml(
        tmp_path,
        f"""<graphml xmlns="http://graphml.graphdrawing.org/xmlns"
        xmlns:y="http://www.yworks.com/xml/graphml">
        <key for="node" id="d0" yfiles.type="nodegraphics"/>
        <key for="edge" id="d1" yfiles.type="edgegraphics"/><graph edgedefault="directed">
        <node id="n0">{label.format("Oslo")}</node><node id="n1">{label.format("Rome")}</node>
        <edge source="n0" target="n1"><data key="d1"><y:PolyLineEdge>
        <y:EdgeLabel>10 Gbps</y:EdgeLabel></y:PolyLineEdge></data></edge></graph></graphml>""",
        ImportOptions(delay=5_000_000, rate=1),
    )
    assert links(made) == {"oslo-rome": (10, 10, 5, 5)}


def test_x_and_y_of_a_geographic_graph(tmp_path: Path) -> None:
    made = other_graphml(
        tmp_path,
        keys("graph crs string", "node x double", "node y double")
        + """<graph edgedefault="undirected"><data key="crs">epsg:4326</data>
        <node id="A"><data key="x">8.5</data><data key="y">47.4</data></node>
        <node id="B"><data key="x">13.4</data><data key="y">52.5</data></node>
        <edge source="A" target="B"/></graph></graphml>""",
    )
    assert made.topology.sites["a"].location == ZURICH


@pytest.mark.parametrize(
    ("attribute", "ms"), [("rtt_ms", 4), ("half_rtt_ms", 8), ("latency_ms", 8), ("owd_us", 0.008)]
)
def test_round_trips_and_their_halves(attribute: str, ms: float, tmp_path: Path) -> None:
    text = (
        keys(f"edge {attribute} double")
        + f"""<graph edgedefault="undirected"><node id="A"/><node id="B"/>
        <edge source="A" target="B"><data key="{attribute}">8</data></edge></graph></graphml>"""
    )
    assert links(other_graphml(tmp_path, text))["a-b"][2:] == (ms, ms)


@pytest.mark.parametrize("attribute", ["bandwidth", "delay", "capacity"])
def test_numbers_without_units_are_refused(attribute: str, tmp_path: Path) -> None:
    text = (
        keys(f"edge {attribute} double")
        + f"""<graph edgedefault="undirected"><node id="A"/><node id="B"/>
        <edge source="A" target="B"><data key="{attribute}">5</data></edge></graph></graphml>"""
    )
    with pytest.raises(InputError, match=rf"a-b: {attribute}: the (rate|time) '5.0' has no unit"):
        other_graphml(tmp_path, text, ImportOptions(delay=10**6))

    if attribute == "delay":
        return
    made = other_graphml(tmp_path, text, ImportOptions(delay=10**6, bandwidth_unit="Mbit/s"))
    assert links(made)["a-b"][0] == 0.005


# containerlab

CLAB = """
name: lab
topology:
  kinds: {linux: {image: alpine}}
  nodes:
    leaf1: {kind: linux, group: zurich, labels: {location: Zurich}}
    leaf2: {kind: linux, group: zurich}
    spine: {kind: linux, labels: {site: berlin, location: "Berlin, DE"}}
    far: {kind: linux}
  links:
    - endpoints: ["leaf1:eth1", "leaf2:eth1"]
    - endpoints: ["leaf1:eth2", "spine:eth1"]
      labels: {rate: 500000}
    - endpoints: ["spine:eth2", "leaf2:eth2"]
      labels: {rate: 500 Mbit/s}
    - type: veth
      endpoints: [{node: spine, interface: eth3}, {node: far, interface: eth1}]
      labels: {delay: 20ms, jitter: 1ms, loss: 0.5}
    - endpoints: ["far:eth2", "host:far-eth2"]
"""


def test_containerlab(tmp_path: Path) -> None:
    path = tmp_path / "two.clab.yml"
    path.write_text(CLAB)
    made = loaded(convert(path, ImportOptions(rate=7 * 10**9)), tmp_path)
    fibre_ms = fibre_delay_ns(distance_km((47.37, 8.55), (52.52, 13.41))) / 1e6
    assert links(made) == {
        "zurich-berlin": (1, 1, fibre_ms, fibre_ms),
        "berlin-far": (7, 7, 20, 20),
    }
    assert made.topology.name == "two"
    assert made.topology.links[1].forward.loss == 0.005
    assert "rate without a unit: kbit/s" in comment(made)
    assert "left out as links within a datacenter: leaf1-leaf2." in comment(made)
    assert "left out as links to the host: far-host." in comment(made)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("spine:eth1", "spin:eth1", "two.clab.yml:12, topology.links.1: unknown node 'spin'"),
        ("delay: 20ms", "delay: 20", "topology.links.3.labels.delay: the time '20' has no unit"),
        ("delay: 20ms, ", "jitter: 0ms, ", "duplicate key"),
        ("delay: 20ms", "rate: 1", "berlin-far: unknown delay: the link has no label delay"),
        ("nodes:", "noods:", "not a file of containerlab: topology.nodes is missing"),
        ("location: Zurich", "location: Zurch", "unknown place 'Zurch'"),
    ],
)
def test_wrong_containerlab(old: str, new: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "two.clab.yml"
    path.write_text(CLAB.replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        convert(path, ImportOptions())
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "gbit", "ms"),
    [
        ("labels: {bandwidth: 2 Gbit/s}", 2, 20),
        ("labels: {bw_mbps: 500, latency_us: 7000}", 0.5, 7),
        ("vars: {rate: 2000000, rtt_ms: 30}", 2, 15),
        ("labels: {colour: red}", 10, 20),
    ],
)
def test_other_names_of_labels(settings: str, gbit: float, ms: float, tmp_path: Path) -> None:
    path = tmp_path / "pair.clab.yml"
    path.write_text(
        "name: pair\ntopology:\n  nodes: {a: {kind: linux}, b: {kind: linux}}\n  links:\n"
        f'    - endpoints: ["a:eth1", "b:eth1"]\n      {settings}\n'
    )
    made = loaded(convert(path, ImportOptions(delay=20_000_000)), tmp_path)
    assert links(made) == {"a-b": (gbit, gbit, ms, ms)}
    assert ("left out because unknown: labels.colour" in comment(made)) == ("colour" in settings)


def test_other_names_of_labels_need_a_unit(tmp_path: Path) -> None:
    path = tmp_path / "two.clab.yml"
    path.write_text(CLAB.replace("delay: 20ms", "latency: 20", 1))
    with pytest.raises(InputError, match=r"links\.3\.labels\.latency: the time '20' has no unit"):
        convert(path, ImportOptions())


# CSV


def test_symmetric_matrix(tmp_path: Path) -> None:
    made = table(tmp_path, ",iowa,ohio,texas\niowa,0,16.4,\nohio,16.4,0.3,22\ntexas,,22,\n")
    assert links(made) == {"iowa-ohio": (10, 10, 8.2, 8.2), "ohio-texas": (10, 10, 11, 11)}
    assert made.topology.routing == "hops"
    assert "Imported from rtts.csv: RTTs between 3 datacenters, 2 links." in comment(made)
    assert "rate: 10 Gbit/s for 2 of 2 links (not in the file)" in comment(made)


def test_asymmetric_matrix(tmp_path: Path) -> None:
    made = table(tmp_path, "ms,a,b\na,,10\nb,12,\n", "Gbit/s,b,a\na,5,\nb,,2.5\n")
    assert links(made) == {"a-b": (5, 2.5, 5, 6)}
    assert "delay: {a->b: 5 ms, b->a: 6 ms}" in made.text


@pytest.mark.parametrize(
    "text", [",a,b\na,,10\nb,,\n", ",a,b\na,,\nb,10,\n", ",a,b\na,-,10\nb,nan,-\n"]
)
def test_a_triangle_is_enough(text: str, tmp_path: Path) -> None:
    ((*_, there, back),) = links(table(tmp_path, text)).values()
    assert (there, back) == (5, 5)


@pytest.mark.parametrize(
    ("head", "cell", "ms"),
    [
        ("us", "500", 0.25),
        ("RTT (s)", "0.1", 50),
        ("rtt_ms", "1e1", 5),
        ("from \\ to", "8 us", 0.004),
        ("", "+7", 3.5),
    ],
)
def test_units_of_rtts(head: str, cell: str, ms: float, tmp_path: Path) -> None:
    assert links(table(tmp_path, f"{head},a,b\na,,{cell}\nb,,\n"))["a-b"][2:] == (ms, ms)


@pytest.mark.parametrize(
    ("head", "cell", "unit", "gbit"),
    [
        ("Gbit/s", "2", None, 2),
        ("rate [Mbit/s]", "2", None, 0.002),
        ("", "2", "mbps", 0.002),
        ("", "300 Mbit/s", None, 0.3),
        ("Gbit/s", "3", "Mbit/s", 3),
    ],
)
def test_units_of_rates(
    head: str, cell: str, unit: str | None, gbit: float, tmp_path: Path
) -> None:
    made = table(tmp_path, ",a,b\na,,1\nb,,\n", f"{head},a,b\na,,{cell}\nb,,\n", unit=unit)
    assert links(made)["a-b"][:2] == (gbit, gbit)


def test_a_list(tmp_path: Path) -> None:
    text = (
        "\ufefffrom;to;rtt_ms;rate_gbit\n"
        "San José;iowa;40;10\n"
        "\n"
        "iowa;San José;42;\n"
        "iowa;ohio;16.4;2.5\n"
    )
    made = table(tmp_path, text)
    assert links(made) == {"san-jose-iowa": (10, 10, 20, 21), "iowa-ohio": (2.5, 2.5, 8.2, 8.2)}
    assert list(made.topology.datacenters) == ["san-jose", "iowa", "ohio"]


def test_a_list_with_tabs_and_without_rates(tmp_path: Path) -> None:
    assert links(table(tmp_path, "to\tfrom\trtt\nb\ta\t8\n")) == {"a-b": (10, 10, 4, 4)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "",
            "rtts.csv: not a table: fewer than two rows\n  use a square matrix with names in the "
            "first row and column, or a list with the columns from, to, rtt_ms",
        ),
        (
            "a\nb\n",
            "rtts.csv:1: not a table: only one column\n  use a square matrix with names in the "
            "first row and column, or a list with the columns from, to, rtt_ms",
        ),
        (
            ",1,2\n1,,3\n2,3,\n",
            "rtts.csv:1: the first row must hold names, not numbers\n  use a square matrix with "
            "names in the first row and column, or a list with the columns from, to, rtt_ms",
        ),
        (",a,b\na,,1\n", "rtts.csv: no row for b\n  the matrix must be square"),
        (
            ",a,b\na,,1\nb,1\n",
            "rtts.csv:3: the row 'b' has 1 values, but there are 2 columns\n  the matrix must be "
            "square",
        ),
        (
            ",iowa,ohio\niowa,,1\nohoi,1,\n",
            "rtts.csv:3: the row 'ohoi' has no matching column\n  nearest: ohio",
        ),
        (",a,a\na,,1\n", "rtts.csv:1: duplicate column 'a'"),
        (",a,\na,,1\n", "rtts.csv:1: a column has no name"),
        (",a,b\na,,1\na,,1\n", "rtts.csv:3: duplicate row 'a', first on line 2"),
        (",a,b\na,,-1\nb,,\n", "rtts.csv:2, a to b: the time '-1' is negative"),
        (
            ",a,b\na,,x\nb,,\n",
            "rtts.csv:2, a to b: 'x' is not a time\n  write a number and a unit, such as 8.2 ms",
        ),
        (
            ",a,b\na,,1 km\nb,,\n",
            "rtts.csv:2, a to b: '1 km' is not a time: unknown unit 'km'",
        ),
        (",a,b\na,,inf\nb,,\n", "rtts.csv:2, a to b: 'inf' is not a time"),
        (",a,b,c\na,,1,\nb,1,,\nc,,,\n", "rtts.csv, datacenters.c: no path between a, b and c"),
        (',a,b\na,,"1\nb,,\n', "rtts.csv:2: a quotation is not closed"),
        ("from,to\na,b\n", "rtts.csv:1: no RTT column found\n  name the column rtt_ms"),
        (
            "from,to,rtt_ms,lsos\na,b,1,0\n",
            "rtts.csv:1: unknown column 'lsos'\n  the columns are from, to, rtt",
        ),
        ("from,to,rtt_ms,rtt\na,b,1,0\n", "rtts.csv:1: duplicate column 'rtt'"),
        ("from,to,rtt_ms\na,b,\n", "rtts.csv: no row has an RTT"),
        ("from,to,rtt_ms\na,b,1\na,b,2\n", "rtts.csv:3, a to b: duplicate link, first on line 2"),
        ("from,to,rtt_ms\na,a,1\n", "rtts.csv:2, a to a: a link needs two datacenters"),
        ("from,to,rtt_ms\na,b\n", "rtts.csv:2: the row has 2 cells and the first row 3"),
        (
            "from,to,rtt_ms,rate\na,b,1,5\n",
            "rtts.csv:2, a to b: the rate '5' has no unit\n  add the unit to the first cell or to "
            "the column header, such as Gbit/s, or use --bandwidth-unit",
        ),
        (
            "from,to,rtt_ms,rate_gbit\na,b,1,0\n",
            "rtts.csv:2, a to b: the rate must be greater than 0\n  leave the cells of rate and "
            "RTT empty where no link exists",
        ),
    ],
)
def test_wrong_tables(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        table(tmp_path, text)

    assert str(caught.value).replace(f"{tmp_path}/", "").startswith(message)


@pytest.mark.parametrize(
    ("text", "unit", "message"),
    [
        (
            ",a,b\na,,5\nb,,\n",
            None,
            "rates.csv:2, a to b: the rate '5' has no unit\n  add the unit to the first cell or "
            "to the column header, such as Gbit/s, or use --bandwidth-unit",
        ),
        (",a,b\na,,5\nb,,\n", "GB", "--bandwidth-unit: 'GB' is not a valid unit of rate"),
        (
            "Gbit/s,a,x\na,,5\nx,,\n",
            None,
            "rates.csv: the table of RTTs has no datacenter 'x'\n  datacenters: a",
        ),
        (
            "Gbit/s,a,c\na,,5\nc,,\n",
            None,
            "rates.csv:2, a to c: this pair has a rate but no RTT\n  leave the cells of rate and "
            "RTT empty where no link exists",
        ),
        (
            "from,to,rate_gbit\na,b,1\n",
            None,
            "rates.csv: the table of rates must be a matrix\n  in a list",
        ),
    ],
)
def test_wrong_bandwidths(text: str, unit: str | None, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        table(tmp_path, ",a,b,c\na,,1,\nb,,,2\nc,,,\n", text, unit=unit)

    assert str(caught.value).replace(f"{tmp_path}/", "").startswith(message)


def test_rates_twice_and_rates_for_graphml(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--bandwidth: the table of RTTs already contains rates"):
        table(tmp_path, "from,to,rtt,rate_gbit\na,b,1,1\n", ",a,b\na,,1\nb,,\n")

    with pytest.raises(
        InputError, match="--bandwidth: a table of rates requires a table of RTTs, not GraphML"
    ):
        graphml(tmp_path, A, B, AB, options=ImportOptions(bandwidth=tmp_path))


# The command


def test_command(tmp_path: Path) -> None:
    source = tmp_path / "rtts.csv"
    target = tmp_path / "mine.yaml"
    source.write_text(",a,b\na,,10\nb,,\n")
    command = ["topo", "import", str(source)]
    options = ["--rate", "5 Gbit/s", "--hosts", "2"]
    words = [*command, "-o", str(target), *options]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.stdout == f"{target}: 2 datacenters, 1 links\n"
    assert Topology.load(target).links[0].forward.rate == 5 * 10**9
    with pytest.raises(InputError, match=r"mine\.yaml: cannot write the file: File exists"):
        CliRunner().invoke(app, words, catch_exceptions=False)

    printed = CliRunner().invoke(app, [*command, *options], catch_exceptions=False)
    assert printed.stdout == target.read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing.csv"], "missing.csv: cannot read the file: No such file or directory"),
        (["other.zip"], "other.zip: unknown file extension"),
        (["other.json"], "other.json: not a file of InfraGraph"),
        (["other.csv", "--rate", "5"], "--rate: the rate '5' has no unit"),
        (["other.csv", "--delay", "5 km"], "--delay: '5 km' is not a time"),
        (["other.csv"], "other.csv: not a table: fewer than two rows"),
    ],
)
def test_wrong_commands(words: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "other.zip").write_text("{}")
    (tmp_path / "other.json").write_text("{}")
    (tmp_path / "other.csv").write_bytes(b"\xff")
    file, *options = words
    command = ["topo", "import", str(tmp_path / file), *options]
    with pytest.raises(InputError) as caught:
        CliRunner().invoke(app, command, catch_exceptions=False)

    assert str(caught.value).replace(f"{tmp_path}/", "").startswith(message)


# InfraGraph

INFRAGRAPH = """
name: clusters
devices:
  - name: server
    components: [{name: xpu, count: 8, choice: xpu}, {name: nic, count: 2, choice: nic}]
    links: [{name: pcie}]
    edges: []
  - name: switch
    components: [{name: asic, count: 1, choice: cpu}, {name: port, count: 16, choice: port}]
    links: []
    edges: []
links:
  - name: access
    physical: {bandwidth: {gigabits_per_second: 100}, latency: {us: 2}}
  - {name: up, physical: {bandwidth: {gigabytes_per_second: 6.25}}}
  - {name: fibre, physical: {bandwidth: {gigabits_per_second: 400}, latency: {ms: 8.2}}}
instances:
  - {name: iowa, device: server, count: 4}
  - {name: ohio, device: server, count: 2}
  - {name: leaf, device: switch, count: 2}
  - {name: spine, device: switch, count: 2}
  - {name: tor, device: switch, count: 1}
edges:
  - ep1: {instance: 'iowa[0:2]', component: nic}
    ep2: {instance: 'leaf[0]', component: 'port[0:4]'}
    scheme: one2one
    link: access
  - ep1: {instance: 'iowa[2:]', component: nic}
    ep2: {instance: 'leaf[1]', component: 'port[:4]'}
    scheme: one2one
    link: access
  - ep1: {instance: leaf, component: 'port[8]'}
    ep2: {instance: spine, component: 'port[0]'}
    scheme: many2many
    link: up
  - ep1: {instance: ohio, component: 'nic[0]'}
    ep2: {instance: tor, component: 'port[0:2]'}
    scheme: one2one
    link: access
  - ep1: {instance: spine, component: 'port[15]'}
    ep2: {instance: tor, component: 'port[14:16]'}
    scheme: one2one
    link: fibre
"""


def test_infragraph(tmp_path: Path) -> None:
    """Two hosts with two cables of 100 Gbit/s on each of two leaves, with two uplinks of 50 Gbit/s:
    400 to 100 Gbit/s. Two cables of 400 Gbit/s and 8.2 ms lead to the other datacenter.
    """
    path = tmp_path / "clusters.yaml"
    path.write_text(INFRAGRAPH)
    made = loaded(convert(path, ImportOptions()), tmp_path)
    assert links(made) == {"iowa-ohio": (800, 800, 8.2, 8.2)}
    iowa, ohio = (made.topology.datacenters[name] for name in ("iowa", "ohio"))
    assert (iowa.hosts, ohio.hosts) == (4, 2)
    assert iowa.nic is not None
    assert ohio.nic is not None
    assert (iowa.nic.rate, ohio.nic.rate) == (200 * 10**9, 100 * 10**9)
    assert iowa.nic.delay == 2000
    assert isinstance(iowa.fabric, LeafSpine)
    assert (iowa.fabric.leaves, iowa.fabric.spines) == (2, 2)
    assert iowa.fabric.oversubscription == 4
    assert ohio.fabric == "switch"
    assert "up to 2 cables of a host of iowa became one NIC" in comment(made)
    assert "2 cables became one link: iowa-ohio" in comment(made)
    assert "left out: what is inside of server" in comment(made)


def test_annotated_sites_of_infragraph(tmp_path: Path) -> None:
    """Annotations separate nodes that short links join; such links need --delay."""
    text = INFRAGRAPH.replace("latency: {ms: 8.2}", "latency: {us: 1}")
    lines = "\n".join(f"  {line}" for line in text.splitlines())
    sites = {"iowa": "west", "leaf": "west", "spine[0:2]": "west", "ohio": "east", "tor.0": "east"}
    nodes: list[str] = []
    for name, site in sites.items():
        attributes = f"[{{attribute: site, value: {site}}}]"
        nodes.append(f"    - {{name: '{name}', attributes: {attributes}}}\n")
    path = tmp_path / "sites.yaml"
    annotations = f"annotations:\n  nodes:\n{''.join(nodes)}"
    path.write_text(f"infrastructure:\n{lines}\n{annotations}")
    made = loaded(convert(path, ImportOptions()), tmp_path)
    assert links(made) == {"west-east": (800, 800, 0.001, 0.001)}


def test_uplinks_that_are_faster_than_hosts(tmp_path: Path) -> None:
    path = tmp_path / "clusters.yaml"
    path.write_text(INFRAGRAPH.replace("gigabytes_per_second: 6.25", "gigabytes_per_second: 100"))
    made = loaded(convert(path, ImportOptions()), tmp_path)
    fabric = made.topology.datacenters["iowa"].fabric
    assert isinstance(fabric, LeafSpine)
    assert fabric.oversubscription == 1
    assert "uplinks of iowa are faster than its hosts" in comment(made)


def test_switches_in_no_regular_layers(tmp_path: Path) -> None:
    """A leaf with one host fewer: the switches become one without limits, with a note."""
    path = tmp_path / "clusters.yaml"
    path.write_text(INFRAGRAPH.replace("'iowa[2:]'", "'iowa[3:]'"))
    made = loaded(convert(path, ImportOptions()), tmp_path)
    assert made.topology.datacenters["iowa"].hosts == 3
    assert made.topology.datacenters["iowa"].fabric == "switch"
    assert "4 switches of iowa became one without limits" in comment(made)
    assert "left out because nothing connects them: iowa.2" in comment(made)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("device: switch, count: 1", "device: swich, count: 1", "unknown device 'swich'"),
        ("'iowa[0:2]'", "'iowas[0:2]'", "edges.0.ep1.instance: unknown instance 'iowas'"),
        ("'iowa[0:2]'", "'iowa[0:5]'", "'iowa[0:5]' is beyond the last of 4"),
        ("'port[0:4]'", "'prt[0:4]'", "the device 'switch' has no component 'prt'"),
        ("many2many", "ring", "edges.2.scheme: unknown scheme 'ring'"),
        ("link: up", "link: upp", "edges.2.link: unknown link 'upp'"),
        ("{us: 2}", "{us: fast}", "links.0.physical.latency.us: 'fast' is not a valid number"),
        ("count: 4", "count: many", "'many' is not a valid count"),
        ("name: ohio, device", "name: iowa, device", "the name 'iowa' is there twice"),
    ],
)
def test_wrong_infragraph(old: str, new: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "clusters.yaml"
    path.write_text(INFRAGRAPH.replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        convert(path, ImportOptions())
    assert message in str(caught.value)
