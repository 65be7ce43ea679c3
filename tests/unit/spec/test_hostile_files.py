"""Damaged and hostile files: an error with its place, never a traceback or a long wait."""

from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from testbed.core.errors import InputError, TestbedError
from testbed.plan.model import Network
from testbed.plan.resolve import resolve_network
from testbed.spec.experiment import Experiment
from testbed.spec.importers import ImportOptions, convert
from testbed.spec.topology import Topology

LONGEST = timedelta(seconds=10)  # of wall time for a file; they take some ms
LAUGHS = "".join(
    f"x-{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 9)}]\n" for number in range(1, 9)
)
MERGES = "".join(
    f"x-{number}: &a{number} {{<<: [{', '.join([f'*a{number - 1}'] * 9)}]}}\n"
    for number in range(1, 40)
)
PAIR = "datacenters: {a: {}, b: {}}\nwan: [{between: [a, b], rate: 1 Gbit/s, delay: 1 ms}]\n"
# text of a topology file, part of the message
HOSTILE: dict[str, tuple[str, str]] = {
    "aliases of aliases": (f"x-0: &a0 [1]\n{LAUGHS}{PAIR}", "aliases repeat more than 100000"),
    "a merge of itself": ("a: &a {<<: *a}\n", "mine.yaml:1: an alias refers to its own parent"),
    "a merge of text": ("a: {<<: text}\n", "mine.yaml:1: expected a mapping or a list of mappings"),
    "a wrong truth value": ("mtu: !!bool foo\n", "mine.yaml:1: 'foo' is not a value of the tag"),
    "a wrong date": ("mtu: !!timestamp foo\n", "mine.yaml:1: 'foo' is not a value of the tag"),
    "a wrong number": ("mtu: !!int foo\n", "mine.yaml:1: 'foo' is not a value of the tag !!int"),
    "a wrong binary": ("mtu: !!binary ä\n", "mine.yaml:1: not valid YAML: failed to convert"),
    "an object": ("mtu: !!python/object:os.system {}\n", "mine.yaml:1, mtu: "),
    "brackets": (f"a: {'[' * 200}{']' * 200}\n", "mine.yaml:1: nested more than 100 levels"),
    "many brackets": (f"a: {'[' * 50_000}{']' * 50_000}\n", "exceeded maximum nesting depth"),
    "dashes": (f"{'- ' * 20_000}1\n", "mine.yaml:1: nested more than 100 levels"),
    "levels": (
        "".join(f"{' ' * level}a:\n" for level in range(300)),
        "mine.yaml:101: nested more than 100 levels",
    ),
    "an endless fabric": (
        "datacenters: {a: {hosts: 2, fabric: {leaves: 2, spines: 2, oversubscription: 1e308}}}\n",
        "oversubscription: 1e+308 is more than 1",
    ),
    "an endless detour": (
        "datacenters: {a: {location: Rome}, b: {location: Oslo}}\n"
        "wan: [{between: [a, b], rate: 1 Gbit/s, detour: 1e308}]\n",
        "1e+308 is more than 1000",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_topologies(case: str, tmp_path: Path) -> None:
    text, message = HOSTILE[case]
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        Topology.load(path)
    assert message in str(caught.value)


def test_merges_of_merges_are_few_keys(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"x-0: &a0 {{k: 1}}\n{MERGES}{PAIR}")
    assert len(Topology.load(path).links) == 1


def test_the_first_of_several_merges_wins(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "x-a: &a {rate: 1 Gbit/s}\nx-b: &b {rate: 2 Gbit/s, delay: 2 ms}\n"
        "datacenters: {a: {}, b: {}}\nwan: [{<<: [*a, *b], between: [a, b]}]\n"
    )
    (link,) = Topology.load(path).links
    assert (link.forward.rate, link.forward.delay) == (10**9, 2_000_000)


def test_a_long_chain_of_files(tmp_path: Path) -> None:
    for number in range(60):
        (tmp_path / f"t{number}.yaml").write_text(f"extends: t{number + 1}.yaml\n")
    (tmp_path / "t60.yaml").write_text(PAIR)
    assert Topology.load(tmp_path / "t20.yaml").links
    with pytest.raises(InputError, match=r"t50\.yaml:1, extends: extends more than 50 files"):
        Topology.load(tmp_path / "t0.yaml")


TOPOLOGY = """name: mine
datacenters:
  a: {hosts: 2, location: Zurich, nic: {rate: 25 Gbit/s, delay: 5 us}}
  b: {hosts: 4, location: [47.4, 8.5], fabric: {leaves: 2, spines: 2, oversubscription: 2}}
  c: {}
wan:
  - {between: [a, b], rate: 10 Gbit/s, jitter: 1 us, loss: {p: 1 %, r: 20 %}}
  - {mesh: [b, c], rate: 1 Gbit/s, delay: 5 ms, queue: 1 bdp}
  - {between: [a, c], rate: {a->c: 1 Gbit/s, c->a: 5 Mbit/s}, delay: 5 ms}
convergence: 300 ms
events:
  - {at: 5 s, duration: 2 s, links: a-b, down: true, every: 5 s, times: 3}
  - {at: 1 s, links: b-c, rate: 5 Mbit/s, queue: 20 ms}
  - {at: 9 s, hosts: a-h1, crash: host}
  - {at: 9 s, transfer: {from: a, to: b, size: 1 MB}}
tcp: {buffer: 4 MiB}
mtu: 9000
"""
EXPERIMENT = """description: one
topology: two-sites
workload: collectives
settings: {workload.iterations: 3}
sweep:
  grid:
    topology.wan.iowa-ohio.delay: [1 ms, 10 ms]
    run.seed: [1, 2]
  where: run.seed == 1
  repeats: 2
"""
TABLE = "ms;a;b;c\na;;16,4;NA\nb;16,4;;3 ms\nc;;3;0\n"
LIST = 'from,to,rtt_us,rate (Mbit/s)\na,b,16400,"1,5"\nb,c,3 ms,\n# end\n'
GRAPH = """<graphml><key id="d" for="edge" attr.name="delay_ms" attr.type="double"/>
<graph edgedefault="directed"><node id="a"/><node id="b"/>
<edge source="a" target="b"><data key="d">5</data></edge></graph></graphml>"""
CLAB = """topology:
  nodes: {a: {group: x}, b: {labels: {site: y}}, c: {}}
  links:
    - {endpoints: ["a:1", "b:1"], labels: {delay: 5ms}}
    - {endpoints: ["b:2", "c:1"], labels: {delay: 1ms}}
"""
INFRAGRAPH = """devices:
  - {name: server, components: [{name: xpu, count: 1, choice: xpu}, {name: nic, count: 1}]}
  - {name: switch, components: [{name: port, count: 4, choice: port}]}
links:
  - {name: access, physical: {bandwidth: {gigabits_per_second: 100}, latency: {us: 2}}}
  - {name: fibre, physical: {bandwidth: {gigabytes_per_second: 1}, latency: {ms: 8.2}}}
instances:
  - {name: west, device: server, count: 2}
  - {name: east, device: server}
  - {name: switch, device: switch, count: 2}
edges:
  - ep1: {instance: 'west[0:2]', component: nic}
    ep2: {instance: 'switch[0]', component: 'port[0:2]'}
    link: access
  - ep1: {instance: east, component: nic}
    ep2: {instance: 'switch[1]', component: port}
    link: access
  - ep1: {instance: 'switch[0]', component: 'port[3]'}
    ep2: {instance: 'switch[1]', component: 'port[3]'}
    link: fibre
"""
TRACE = "time (ms),rate (Mbit/s),delay\n0,1,5 ms\n100,2,NA\n200,0.5,\n"
FILES = {
    "mine.yaml": TOPOLOGY,
    "sweep.yaml": EXPERIMENT,
    "matrix.csv": TABLE,
    "list.csv": LIST,
    "net.graphml": GRAPH,
    "lab.clab.yml": CLAB,
    "clusters.yaml": INFRAGRAPH,
    "trace": TRACE,
}
NASTY = (
    *("", "0", "-1", "1e308", "1e999 s", "9" * 400, "null", "~", "[]", "{}", "''", '"', "[", "}"),
    *("*a", "&a", "<<: *a", "!!bool x", "!!set {}", "!!float .nan", "!!timestamp 2026-01-01"),
    *("all", "a->b", "\0", "\ufeff", "\r", "é", "ｘ", "1 Gbit/s", "5 km", "1.5", "true", ",", ";"),
    *(": ", "- ", "#", "- - -", "\n", "\t", "99999999999999999999 ms", "aws:mars", "extends: mine"),
    *("<a/>", "&lt;", "]]>", "1e-400 %", "0 %", "{a: {b: [1]}}", "10000000 bdp", "a: &a [*a]"),
)
MUTATIONS = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 12), st.sampled_from(NASTY)),
    min_size=1,
    max_size=4,
)


def mutated(text: str, mutations: list[tuple[float, int, str]]) -> str:
    """The text with pieces of it replaced, each at a part of its length."""
    for where, length, piece in mutations:
        begin = int(where * (len(text) + 1))
        text = text[:begin] + piece + text[begin + length :]
    return text


def load(path: Path, folder: Path) -> Network | Experiment | Topology:
    if path.name == "mine.yaml":
        return resolve_network(Topology.load(path))
    if path.name == "sweep.yaml":
        return Experiment.load(path)
    if path.name == "trace":
        holder = folder / "holder.yaml"
        holder.write_text(f"{PAIR}events: [{{at: 1 s, links: a-b, trace: trace}}]\n")
        return resolve_network(Topology.load(holder))
    return convert(path, ImportOptions(delay=10**6)).topology


@pytest.mark.parametrize("name", FILES)
def test_files_are_valid_before(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(FILES[name], encoding="utf-8")
    assert load(path, tmp_path).name


@pytest.mark.parametrize("name", FILES)
@settings(
    deadline=LONGEST, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(mutations=MUTATIONS)
def test_mutations(name: str, tmp_path: Path, mutations: list[tuple[float, int, str]]) -> None:
    path = tmp_path / name
    path.write_text(mutated(FILES[name], mutations), encoding="utf-8", newline="")
    try:
        load(path, tmp_path)
    except TestbedError as error:
        assert str(error)
