"""Topologies built in Python: units as text, clear errors, and YAML that loads to the same."""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

import testbed
from testbed import (
    Datacenter,
    DatacenterDefaults,
    Defaults,
    GilbertElliott,
    InputError,
    LinkSettings,
    Nic,
    Tcp,
    Topology,
    Wan,
)
from testbed.core.units import LARGEST, format_rate, format_size, format_time
from testbed.spec.wan import DISTRIBUTIONS, QueueLength, format_queue, parse_queue


def test_a_topology_in_python() -> None:
    topology = Topology(
        name="two",
        datacenters={
            "a": Datacenter(hosts=4, location=(41.22, -95.86)),
            "b": Datacenter(nic=Nic(rate="1 Gbit/s")),
        },
        wan=[
            Wan(
                between=("a", "b"),
                rate="10 Gbit/s",
                delay="8 ms",
                loss={"a->b": "1 %"},
                queue="2 bdp",
            )
        ],
        defaults=Defaults(datacenter=DatacenterDefaults(hosts=2), wan=LinkSettings(loss="2 %")),
        tcp=Tcp(congestion_control="bbr"),
    )
    link = topology.links[0]
    assert (link.forward.rate, link.forward.delay) == (10**10, 8_000_000)
    assert (link.forward.loss, link.backward.loss) == (0.01, 0.02)
    assert {name: site.hosts for name, site in topology.sites.items()} == {"a": 4, "b": 2}
    assert topology.sites["b"].nic.rate == 10**9


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (
            lambda: Wan(**{"betwen": ("a", "b")}),
            "Wan.betwen: unknown key 'betwen'\n  nearest: between",
        ),
        (
            lambda: Wan(between=("a", "b"), rate=10),
            "Wan.rate: the rate 10 has no unit\n  write a number and a unit",
        ),
        (
            lambda: Wan(between=("a", "b"), detour=float("inf")),
            "Wan.detour: inf is not a finite number",
        ),
        (
            lambda: Datacenter(location=(91, 0)),
            "Datacenter.location: [91.0, 0.0] is not a valid position",
        ),
        (lambda: Topology(**{"name": "x"}), "Topology.datacenters: required key is missing"),
        (
            lambda: Topology(datacenters={"a": Datacenter(), "b": {"host": 2}}),
            "Topology.datacenters.b.host: unknown key 'host'\n  nearest: hosts",
        ),
        (
            lambda: Topology(
                datacenters={"a": {}, "b": {}}, wan=[Wan(between=("a", "b"), delay="1 ms")]
            ),
            "Topology.wan.0.rate: a->b has no rate\n  add a rate, such as 10 Gbit/s",
        ),
        (
            lambda: Topology(datacenters={f"d{number}": {} for number in range(251)}),
            "Topology.datacenters: expected at most 250 items",
        ),
    ],
)
def test_errors(build: Any, text: str) -> None:
    with pytest.raises(InputError) as caught:
        build()

    assert str(caught.value).startswith(text)


def test_default_name_is_written(tmp_path: Path) -> None:
    path = tmp_path / "other.yaml"
    path.write_text(Topology(datacenters={"a": {}}).to_yaml())
    assert Topology.load(path).name == "topology"


@pytest.mark.parametrize(
    "text", ["1e3", ".5", "no", "~", "1_000", "0x10", "<<", "=", "2026-01-01", "a: b", "# a", "-"]
)
def test_ambiguous_text(text: str, tmp_path: Path) -> None:
    topology = Topology(datacenters={"a": {}}, description=text)
    path = tmp_path / "mine.yaml"
    path.write_text(topology.to_yaml())
    assert Topology.load(path) == topology


def test_lazy_import() -> None:
    code = "import sys, testbed; print({'pydantic', 'networkx', 'yaml'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_public_names() -> None:
    for name in testbed.__all__:
        assert getattr(testbed, name).__name__.removeprefix("testbed.") == name

    with pytest.raises(AttributeError, match="has no attribute 'Topologie'"):
        testbed.Topologie  # noqa: B018


# Random topologies. Delays are longer than jitters; every pair of datacenters has at most one link.

rates = st.integers(1, LARGEST).map(format_rate)
delays = st.integers(10**6, 10**10).map(format_time)
jitters = st.integers(0, 10**6).map(format_time)
percentages = st.decimals(0, 100, places=4).map(lambda number: f"{number} %")
losses = percentages | st.builds(GilbertElliott, p=percentages, r=percentages)
amounts = st.decimals("0.01", 1000, places=2)
queues = st.one_of(
    st.builds("{} {}".format, amounts, st.sampled_from(["bdp", "packets"])),
    st.integers(1, 2**40).map(format_size),
    st.integers(1, 10**10).map(format_time),
)
lengths = st.one_of(
    st.builds(QueueLength, amounts, st.sampled_from(["bdp", "packets"])),
    st.builds(QueueLength, st.integers(1, 2**40), st.sampled_from(["bytes", "time"])),
)
nics = st.fixed_dictionaries(
    {},
    optional={
        "rate": rates,
        "delay": jitters,
        "queue": queues.filter(lambda text: "bdp" not in text),
    },
)
locations = st.tuples(st.floats(-90, 90), st.floats(-180, 180))
names = st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["C"]), max_size=200)
LINK = {
    "rate": rates,
    "delay": delays,
    "jitter": jitters,
    "distribution": st.sampled_from(DISTRIBUTIONS),
    "reorder": st.booleans(),
    "loss": losses,
    "duplicate": percentages,
    "corrupt": percentages,
    "queue": queues,
}


def either_way(values: st.SearchStrategy[Any], ends: tuple[str, str]) -> st.SearchStrategy[Any]:
    """A value for both directions, or one for each or for one of them."""
    there, back = "->".join(ends), "->".join(ends[::-1])
    return values | st.fixed_dictionaries({there: values}, optional={back: values})


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    sites = draw(st.lists(names, min_size=1, max_size=6, unique=True))
    datacenter = {
        "hosts": st.integers(1, 999),
        "nic": nics | nics.map(lambda values: Nic(**values)),
    }
    datacenters = {
        name: draw(st.fixed_dictionaries({}, optional={**datacenter, "location": locations}))
        for name in sites
    }
    wan = []
    for index, name in enumerate(sites[1:], 1):  # a tree, so that there is a path between any two
        ends = (sites[draw(st.integers(0, index - 1))], name)
        options = {key: either_way(values, ends) for key, values in LINK.items()}
        wan.append(Wan(between=ends, **draw(st.fixed_dictionaries({}, optional=options))))

    if len(sites) > 2 and draw(st.booleans()):
        shape = draw(st.sampled_from(["mesh", "ring", "star"]))
        members = draw(st.sampled_from(["all", sites]))
        wan.append(Wan(**{shape: members}, **draw(st.fixed_dictionaries({}, optional=LINK))))

    return Topology(
        name=draw(names),
        description=draw(texts),
        datacenters=datacenters,
        wan=wan,
        defaults={
            "datacenter": draw(st.none() | st.fixed_dictionaries({}, optional=datacenter)),
            "wan": {
                "rate": "1 Gbit/s",
                "delay": "10 ms",
                **draw(st.fixed_dictionaries({}, optional=LINK)),
            },
        },
        **draw(
            st.fixed_dictionaries(
                {},
                optional={
                    "routing": st.sampled_from(["delay", "hops"]),
                    "mtu": st.integers(576, 9000),
                    "tcp": st.fixed_dictionaries(
                        {}, optional={"buffer": st.sampled_from(["auto", "4 KiB", "16 MB"])}
                    ),
                },
            )
        ),
    )


@settings(deadline=None)
@given(topologies())
def test_yaml_loads_to_an_equal_topology(topology: Topology) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "any.yaml")
        path.write_text(topology.to_yaml(), encoding="utf-8")
        loaded = Topology.load(path)

    assert loaded == topology
    assert loaded.links == topology.links
    assert loaded.sites == topology.sites
    assert loaded.to_yaml() == topology.to_yaml()


@given(lengths)
def test_queue_text_reads_back(queue: QueueLength) -> None:
    assert parse_queue(format_queue(queue)) == queue
