"""testbed topo graph: files, DOT and Mermaid."""

import re
from xml.etree import ElementTree as ET

import pydot
import pytest
from typer.testing import CliRunner

from testbed.cli.main import app
from testbed.core.errors import InputError
from testbed.plan.model import Network
from testbed.plan.resolve import resolve_network
from testbed.report import network_text
from testbed.spec.topology import Topology
from tests.unit.spec.test_topology_spec import PRESETS

pytestmark = pytest.mark.filterwarnings(
    "ignore:.* deprecated - use:DeprecationWarning"
)  # pydot's, of pyparsing


@pytest.fixture
def graph(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("TESTBED_THEME", "TESTBED_WIDTH"):
        monkeypatch.delenv(name, raising=False)

    def run(*words):
        return CliRunner().invoke(app, ["topo", "graph", *map(str, words)], catch_exceptions=False)

    return run


def test_writes_the_presets_name_here_once(graph, tmp_path):
    assert graph("two-sites").stdout == "two-sites.svg\n"
    root = ET.parse(tmp_path / "two-sites.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    with pytest.raises(
        InputError, match=r"two-sites\.svg exists already\n  `-o two-sites\.svg` replaces it"
    ):
        graph("two-sites")
    assert graph("two-sites", "-o", "two-sites.svg").exit_code == 0


def test_set_and_png(graph, tmp_path):
    done = graph("two-sites", "--set", "wan.iowa-ohio.delay=20 ms", "-o", "map.PNG", "--width", 600)
    assert done.stdout == "map.PNG\n"
    assert (tmp_path / "map.PNG").read_bytes()[16:20] == (600).to_bytes(4)
    assert '"40 ms' in graph("two-sites", "--set", "wan.iowa-ohio.delay=20 ms", "--dot").stdout


def test_a_png_is_light_unless_it_is_to_be_dark(graph, tmp_path):
    for theme in ("auto", "light", "dark"):
        assert (
            graph(
                "single-cluster", "-o", f"{theme}.png", "--theme", theme, "--width", 300
            ).exit_code
            == 0
        )
    auto, light, dark = (
        (tmp_path / f"{theme}.png").read_bytes() for theme in ("auto", "light", "dark")
    )
    assert auto == light != dark


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-o", "map.pdf"], r"map\.pdf is neither a \.svg nor a \.png"),
        (["-o", "no/map.svg"], r"no/map\.svg cannot be written: No such file or directory"),
        (["--dot", "--mermaid"], "exclude each other"),
        (["--dot", "-o", "x.svg"], "exclude each other"),
    ],
)
def test_wrong_options(graph, words, message):
    with pytest.raises(InputError, match=message):
        graph("two-sites", *words)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_dot_is_read_by_a_parser(graph, name):
    network = resolve_network(Topology.load(name))
    (parsed,) = pydot.graph_from_dot_data(graph(name, "--dot").stdout)
    assert parsed.get_type() == "graph"
    nodes = {node.get_name().strip('"'): node.get("label") for node in parsed.get_nodes()}
    nodes.pop("node")
    assert list(nodes) == [dc.name for dc in network.datacenters]
    assert nodes[network.datacenters[0].name].startswith(f'"{network.datacenters[0].name}\\n')
    edges = {
        (edge.get_source().strip('"'), edge.get_destination().strip('"')): edge.get("label")
        for edge in parsed.get_edges()
    }
    assert list(edges) == [(link.forward.source, link.forward.target) for link in network.wan]
    assert all(re.fullmatch(r'"[\d.]+ (ms|us)\\n[\d.]+ Gbit/s"', label) for label in edges.values())


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_mermaid_has_a_line_for_each_datacenter_and_link(graph, name):
    network = resolve_network(Topology.load(name))
    first, *lines = graph(name, "--mermaid").stdout.splitlines()
    assert first == "flowchart LR"
    node, edge = (
        r'  (dc_[a-z0-9_]+)\["([a-z0-9-]+)<br/>\d+ hosts?"\]',
        r'  (dc_\w+) ---\|"(.+)"\| (dc_\w+)',
    )
    nodes = [re.fullmatch(node, line) for line in lines[: len(network.datacenters)]]
    assert [match[2] for match in nodes] == [dc.name for dc in network.datacenters]
    ids = [match[1] for match in nodes]
    assert len(set(ids)) == len(ids)
    edges = [re.fullmatch(edge, line) for line in lines[len(nodes) :]]
    assert len(edges) == len(network.wan)
    for match, link in zip(edges, network.wan, strict=True):
        ends = [f"dc_{way.source.replace('-', '_')}" for way in link.directions]
        assert [match[1], match[3]] == ends
        assert re.fullmatch(r"[\d.]+ (ms|us)<br/>[\d.]+ Gbit/s", match[2])


def test_two_sites_in_full(graph):
    assert graph("two-sites", "--dot").stdout == (
        'graph "two-sites" {\n  node [shape=box, style=rounded];\n  "iowa" [label="iowa\\n2 hosts"];\n'
        '  "ohio" [label="ohio\\n2 hosts"];\n  "iowa" -- "ohio" [label="16.4 ms\\n10 Gbit/s"];\n}\n'
    )
    assert graph("two-sites", "--mermaid").stdout == (
        'flowchart LR\n  dc_iowa["iowa<br/>2 hosts"]\n  dc_ohio["ohio<br/>2 hosts"]\n'
        '  dc_iowa ---|"16.4 ms<br/>10 Gbit/s"| dc_ohio\n'
    )


def test_odd_names_and_two_rates():
    network = resolve_network(Topology.load("two-sites"))
    data = (
        network.model_dump_json()
        .replace('"ohio"', '"a\\"b\\\\c<d>#&"')
        .replace("10000000000", "1000000000", 1)
    )
    odd = Network.model_validate_json(data)
    (parsed,) = pydot.graph_from_dot_data(network_text.dot(odd))
    assert parsed.get_nodes()[2].get_name() == r'"a\"b\\c<d>#&"'
    assert "#quot;b" in network_text.mermaid(odd)
    assert "#lt;d#gt;#35;#amp;" in network_text.mermaid(odd)
    changed = odd.wan[0].forward.model_copy(
        update={
            "bottleneck": odd.wan[0].forward.bottleneck.model_copy(
                update={"rate_bps": 2_000_000_000}
            )
        }
    )
    both = odd.model_copy(update={"wan": (odd.wan[0].model_copy(update={"forward": changed}),)})
    assert '\\nto a\\"b' in network_text.dot(both)
    assert ": 2 Gbit/s" in network_text.dot(both)
