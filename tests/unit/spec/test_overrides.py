"""Laws of overrides: what ``--set`` sets can be read back, the last one wins, and order is free."""

import copy
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from testbed.core.errors import InputError, Place
from testbed.spec import yaml_reader
from testbed.spec.overrides import Override, apply_overrides, parse_overrides
from testbed.spec.topology import Topology
from testbed.spec.workload import load_workload
from testbed.spec.yaml_reader import Items, Section

FILE = "set.yaml"
BASE = """
name: base
numbers: [1, 2, 3]
sites: {a: {hosts: 1}, b: {hosts: 2, nic: {rate: 1 Gbit/s}}}
links: [{ends: a-b, rate: 1}, {ends: b-c, rate: 2}]
nothing: null
"""

steps = st.text("abcdefgh", min_size=1, max_size=4)
paths = st.lists(steps, min_size=1, max_size=4).map(tuple)
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.text("xyz 0123:#'\"", max_size=8))
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(steps, inner, max_size=3),
    max_leaves=8,
)


def override(path: tuple[str, ...], value: Any) -> Override:
    """A setting as an argument of the command line gives it."""
    key = ".".join(path)
    (parsed,) = parse_overrides([f"{key}={yaml_reader.dump(value)}"], ["any"])["any"]
    return parsed


def section(text: str = BASE) -> Section:
    parsed = yaml_reader.parse(text, FILE)
    assert isinstance(parsed, Section)
    return parsed


def applied(*overrides: Override) -> Section:
    """An empty file with the overrides."""
    root = Section()
    apply_overrides(root, overrides)
    return root


def at(node: Any, path: tuple[str, ...]) -> Any:
    for step in path:
        node = node[int(step)] if isinstance(node, list) else node[step]
    return node


def check_places(node: Any) -> None:
    """Every key and item has a place, and no place is left over."""
    if isinstance(node, Section):
        assert node.places.keys() == node.keys()
        children = list(node.values())
    elif isinstance(node, Items):
        assert len(node.places) == len(node)
        children = list(node)
    else:
        return

    for child in children:
        check_places(child)


def find_link(items: Items, name: str) -> int | None:
    for index, item in enumerate(items):
        if isinstance(item, Section) and item.get("ends") == name:
            return index

    return None


# ---- laws


@settings(deadline=None)
@given(paths, values)
def test_set_then_read(path: tuple[str, ...], value: Any) -> None:
    root = applied(override(path, value))
    assert yaml_reader.plain(at(root, path)) == value
    check_places(root)


@settings(deadline=None)
@given(paths, values, values)
def test_last_wins(path: tuple[str, ...], first: Any, last: Any) -> None:
    twice = applied(override(path, first), override(path, last))
    assert yaml_reader.plain(twice) == yaml_reader.plain(applied(override(path, last)))


@settings(deadline=None)
@given(paths, values)
def test_twice_is_once(path: tuple[str, ...], value: Any) -> None:
    setting = override(path, value)
    assert yaml_reader.plain(applied(setting, setting)) == yaml_reader.plain(applied(setting))


@settings(deadline=None)
@given(st.dictionaries(steps, values, min_size=2, max_size=4))
def test_order_of_keys(written: dict[str, Any]) -> None:
    overrides = [override(("same", key), value) for key, value in written.items()]
    for order in permutations(overrides):
        assert yaml_reader.plain(applied(*order)) == {"same": written}


@settings(deadline=None)
@given(paths, values)
def test_others_stay(path: tuple[str, ...], value: Any) -> None:
    root = section()
    before = yaml_reader.plain(root)
    apply_overrides(root, [override(("new", *path), value)])
    after = yaml_reader.plain(root)
    assert list(after) == [*before, "new"]
    del after["new"]
    assert after == before


@settings(deadline=None)
@given(paths, st.lists(values, min_size=1, max_size=3))
def test_value_is_copied(path: tuple[str, ...], value: list[Any]) -> None:
    """Two targets of one override share nothing."""
    setting = override(path, value)
    first, second = applied(setting), applied(setting)
    at(first, path).append("changed")
    assert yaml_reader.plain(at(second, path)) == value
    assert yaml_reader.plain(setting.value) == value


@settings(deadline=None)
@given(values)
def test_wildcard_is_each(value: Any) -> None:
    together, one_by_one = section(), section()
    apply_overrides(together, [override(("sites", "*", "hosts"), value)])
    each = [override(("sites", name, "hosts"), value) for name in ("a", "b")]
    apply_overrides(one_by_one, each)
    assert yaml_reader.plain(together) == yaml_reader.plain(one_by_one)
    check_places(together)


@settings(deadline=None)
@given(values)
def test_item_by_index_and_name(value: Any) -> None:
    by_index, by_name = section(), section()
    apply_overrides(by_index, [override(("links", "1", "rate"), value)])
    apply_overrides(by_name, [override(("links", "b-c", "rate"), value)], find_link)
    assert yaml_reader.plain(by_index) == yaml_reader.plain(by_name)
    assert yaml_reader.plain(at(by_name, ("links", "1", "rate"))) == value


# ---- places


def test_place_is_the_argument() -> None:
    root = section()
    apply_overrides(root, [override(("sites", "b", "nic", "rate"), "2 Gbit/s")])
    place = yaml_reader.place_of(root, ("sites", "b", "nic", "rate"))
    assert str(place) == "--set sites.b.nic.rate"
    check_places(root)


def test_origin_is_kept() -> None:
    written = Place("experiment.yaml", "settings.name", 3)
    root = section()
    apply_overrides(root, [Override("name", ("name",), "mine", written)])
    assert root.places["name"] == written


def test_missing_mapping() -> None:
    root = section()
    apply_overrides(root, [override(("nothing", "below"), 1)])
    assert yaml_reader.plain(root["nothing"]) == {"below": 1}


# ---- refused


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (
            "name.first",
            "--set name.first: cannot set 'first': its parent is the value 'base', not a mapping",
        ),
        ("numbers.3", "--set numbers.3: unknown item '3'"),
        ("links.a-c.rate", "--set links.a-c.rate: unknown item 'a-c'"),
        (
            "numbers.0.x",
            "--set numbers.0.x: cannot set 'x': its parent is the value 1, not a mapping",
        ),
    ],
)
def test_wrong_path(key: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        apply_overrides(section(), [override(tuple(key.split(".")), 1)])

    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name", "--set: 'name' is not KEY=VALUE\n  such as --set topology.name=mine"),
        ("topology..name=x", "--set: 'topology..name=x' is not KEY=VALUE"),
        ("=x", "--set: '=x' is not KEY=VALUE"),
        ("name=x", "--set name: the key 'name' does not start with topology. or workload."),
        ("topology=x", "--set topology: the key 'topology' does not start with topology."),
        ("topology.name={", "--set topology.name: not valid YAML: "),
    ],
)
def test_wrong_argument(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_overrides([text], ["topology", "workload"])

    assert str(caught.value).startswith(message)


@settings(deadline=None, max_examples=30)
@given(st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=12))
def test_unknown_key(name: str) -> None:
    """An unknown key of a topology or of a workload is refused, and named."""
    if name not in Topology.model_fields:
        (setting,) = parse_overrides([f"{name}=1"], ["topology"])["topology"]
        with pytest.raises(InputError) as caught:
            Topology.load("two-sites", [setting])

        assert str(caught.value).startswith(f"--set {name}: unknown key '{name}'\n")

    workload = load_workload("collectives")
    if name not in type(workload).model_fields:
        (setting,) = parse_overrides([f"{name}=1"], ["workload"])["workload"]
        with pytest.raises(InputError) as caught:
            load_workload("collectives", [setting])

        assert str(caught.value).startswith(f"--set {name}: unknown key '{name}'\n")


# ---- targets


def test_targets() -> None:
    texts = ["workload.sizes=[4 KiB, 1 MiB]", "topology.mtu=1400", "workload.dtype=int8"]
    overrides = parse_overrides(texts, ["topology", "workload"])
    assert [setting.path for setting in overrides["workload"]] == [("sizes",), ("dtype",)]
    assert [setting.value for setting in overrides["topology"]] == [1400]


def test_single_target() -> None:
    overrides = parse_overrides(["mtu=1400", "topology.mtu=1500"], ["topology"])["topology"]
    assert [setting.path for setting in overrides] == [("mtu",), ("mtu",)]
    assert [setting.key for setting in overrides] == ["mtu", "topology.mtu"]


def test_file_is_not_changed_by_copies() -> None:
    root = section()
    copied = copy.deepcopy(root)
    apply_overrides(copied, [override(("links", "*", "rate"), 9)])
    assert yaml_reader.plain(root) == yaml_reader.plain(section())
    check_places(copied)
