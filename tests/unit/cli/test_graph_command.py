"""testbed topo graph: files, DOT and Mermaid."""

import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import pydot
import pytest
from typer.testing import CliRunner, Result

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


Graph = Callable[..., Result]  # the fixture `graph`: `testbed topo graph` with these words


def parsed(text: str) -> pydot.Dot:
    graphs = pydot.graph_from_dot_data(text)
    assert graphs is not None
    (graph,) = graphs
    return graph


def unquoted(name: object) -> str:
    return str(name).strip('"')


def fields(pattern: str, line: str) -> tuple[str, ...]:
    match = re.fullmatch(pattern, line)
    assert match is not None, line
    return match.groups()


@pytest.fixture
def graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Graph:
    monkeypatch.chdir(tmp_path)
    for name in ("TESTBED_THEME", "TESTBED_WIDTH"):
        monkeypatch.delenv(name, raising=False)

    def run(*words: object) -> Result:
        command = ["topo", "graph", *map(str, words)]
        return CliRunner().invoke(app, command, catch_exceptions=False)

    return run


def test_default_file(graph: Graph, tmp_path: Path) -> None:
    assert graph("two-sites").stdout == "two-sites.svg\n"
    root = ET.parse(tmp_path / "two-sites.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    with pytest.raises(
        InputError, match=r"two-sites\.svg already exists\n  replace it with -o two-sites\.svg"
    ):
        graph("two-sites")
    assert graph("two-sites", "-o", "two-sites.svg").exit_code == 0


def test_set_and_png(graph: Graph, tmp_path: Path) -> None:
    done = graph("two-sites", "--set", "wan.iowa-ohio.delay=20 ms", "-o", "map.PNG", "--width", 600)
    assert done.stdout == "map.PNG\n"
    assert (tmp_path / "map.PNG").read_bytes()[16:20] == (600).to_bytes(4)
    assert '"40 ms' in graph("two-sites", "--set", "wan.iowa-ohio.delay=20 ms", "--dot").stdout


def test_theme_of_a_png(graph: Graph, tmp_path: Path) -> None:
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
        (["-o", "map.gif"], r"--output: map\.gif does not end in \.svg, \.png or \.pdf"),
        (["-o", "no/map.svg"], r"cannot write no/map\.svg: No such file or directory"),
        (["--dot", "--mermaid"], "mutually exclusive"),
        (["--dot", "-o", "x.svg"], "mutually exclusive"),
    ],
)
def test_wrong_options(graph: Graph, words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        graph("two-sites", *words)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_dot(graph: Graph, name: str) -> None:
    network = resolve_network(Topology.load(name))
    drawing = parsed(graph(name, "--dot").stdout)
    assert drawing.get_type() == "graph"
    nodes: dict[str, str] = {}
    for node in drawing.get_nodes():
        nodes[unquoted(node.get_name())] = str(node.get("label"))
    nodes.pop("node")
    assert list(nodes) == [dc.name for dc in network.datacenters]
    first = network.datacenters[0].name
    assert nodes[first].startswith(f'"{first}\\n')
    edges: dict[tuple[str, str], str] = {}
    for edge in drawing.get_edges():
        ends = unquoted(edge.get_source()), unquoted(edge.get_destination())
        edges[ends] = str(edge.get("label"))
    assert list(edges) == [(link.forward.source, link.forward.target) for link in network.wan]
    assert all(re.fullmatch(r'"[\d.]+ (ms|us)\\n[\d.]+ Gbit/s"', label) for label in edges.values())


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_mermaid(graph: Graph, name: str) -> None:
    network = resolve_network(Topology.load(name))
    first, *lines = graph(name, "--mermaid").stdout.splitlines()
    assert first == "flowchart LR"
    count = len(network.datacenters)
    nodes = [
        fields(r'  (dc_[a-z0-9_]+)\["([a-z0-9-]+)<br/>\d+ hosts?"\]', line)
        for line in lines[:count]
    ]
    assert [name for _, name in nodes] == [dc.name for dc in network.datacenters]
    assert len({identifier for identifier, _ in nodes}) == count
    edges = [fields(r'  (dc_\w+) ---\|"(.+)"\| (dc_\w+)', line) for line in lines[count:]]
    assert len(edges) == len(network.wan)
    for (source, label, target), link in zip(edges, network.wan, strict=True):
        ends = [f"dc_{direction.source.replace('-', '_')}" for direction in link.directions]
        assert [source, target] == ends
        assert re.fullmatch(r"[\d.]+ (ms|us)<br/>[\d.]+ Gbit/s", label)


def test_two_sites_in_full(graph: Graph) -> None:
    assert graph("two-sites", "--dot").stdout == (
        'graph "two-sites" {\n'
        '  node [shape=box, style=rounded];\n  "iowa" [label="iowa\\n2 hosts"];\n'
        '  "ohio" [label="ohio\\n2 hosts"];\n  "iowa" -- "ohio" [label="16.4 ms\\n10 Gbit/s"];\n}\n'
    )
    assert graph("two-sites", "--mermaid").stdout == (
        'flowchart LR\n  dc_iowa["iowa<br/>2 hosts"]\n  dc_ohio["ohio<br/>2 hosts"]\n'
        '  dc_iowa ---|"16.4 ms<br/>10 Gbit/s"| dc_ohio\n'
    )


def test_odd_names() -> None:
    network = resolve_network(Topology.load("two-sites"))
    data = (
        network.model_dump_json()
        .replace('"ohio"', '"a\\"b\\\\c<d>#&"')
        .replace("10000000000", "1000000000", 1)
    )
    odd = Network.model_validate_json(data)
    assert parsed(network_text.dot(odd)).get_nodes()[2].get_name() == r'"a\"b\\c<d>#&"'
    assert "#quot;b" in network_text.mermaid(odd)
    assert "#lt;d#gt;#35;#amp;" in network_text.mermaid(odd)
    link = odd.wan[0]
    bottleneck = link.forward.bottleneck.model_copy(update={"rate_bps": 2_000_000_000})
    forward = link.forward.model_copy(update={"bottleneck": bottleneck})
    both = odd.model_copy(update={"wan": (link.model_copy(update={"forward": forward}),)})
    assert '\\nto a\\"b' in network_text.dot(both)
    assert ": 2 Gbit/s" in network_text.dot(both)
