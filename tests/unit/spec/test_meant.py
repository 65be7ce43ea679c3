"""Input that is understood although it is not the written form, and keys without targets."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from testbed.core.errors import InputError
from testbed.spec.overrides import parse_overrides
from testbed.spec.topology import Topology
from testbed.spec.workload import load_workload

THREE = """
datacenters: {iowa: {}, ohio: {}, new-york: {}}
wan:
  - {between: [iowa, ohio], rate: 1 Gbit/s, delay: 1 ms}
  - {between: [ohio, new-york], rate: 1 Gbit/s, delay: 2 ms}
"""


def topology_of(tmp_path: Path, text: str, *sets: str) -> Topology:
    path = tmp_path / "three.yaml"
    path.write_text(text)
    return Topology.load(path, parse_overrides(sets, ["topology"])["topology"])


@pytest.mark.parametrize("key", ["iowa-ohio", "ohio-iowa"])
def test_set_names_a_link_either_way(tmp_path: Path, key: str) -> None:
    topology = topology_of(tmp_path, THREE, f"wan.{key}.delay=7 ms")
    first, second = topology.links
    assert (first.key, first.forward.delay, first.backward.delay) == ("iowa-ohio", 7e6, 7e6)
    assert second.forward.delay == 2e6


@pytest.mark.parametrize("key", ["ohio-new-york", "new-york-ohio"])
def test_set_names_a_link_of_a_shorthand_either_way(tmp_path: Path, key: str) -> None:
    mesh = "wan: [{mesh: all, rate: 1 Gbit/s, delay: 1 ms}]\n"
    datacenters, _wan, _links = THREE.partition("wan:")
    topology = topology_of(tmp_path, datacenters + mesh, f"wan.{key}.delay=7 ms")
    delays = {link.key: link.forward.delay for link in topology.links}
    assert delays == {"iowa-ohio": 1e6, "iowa-new-york": 1e6, "ohio-new-york": 7e6}


@pytest.mark.parametrize("name", ["ohio-new-york", "new-york-ohio"])
def test_an_event_names_a_link_either_way(tmp_path: Path, name: str) -> None:
    event = (
        f"events: [{{at: 1 s, duration: 1 s, links: {name}, rate: {{ohio->new-york: 5 Mbit/s}}}}]\n"
    )
    begin, end = topology_of(tmp_path, THREE + event).states
    assert begin.links["ohio-new-york"].forward.rate == 5_000_000
    assert begin.links["ohio-new-york"].backward.rate == 1_000_000_000
    assert not end.links


def test_a_datacenter_named_like_a_swapped_link_is_the_datacenter(tmp_path: Path) -> None:
    text = THREE.replace("new-york", "ohio-iowa")
    event = "events: [{at: 1 s, links: ohio-iowa, down: true}]\n"
    (state,) = topology_of(tmp_path, text + event).states
    assert state.down == {"ohio-ohio-iowa"}


@pytest.mark.parametrize(
    ("setting", "meant"),
    [
        ("wan.iowa-ohio.delay=20 ms", "topology.wan.iowa-ohio.delay=20 ms"),
        ("mtu=9000", "topology.mtu=9000"),
        ("sizes=[4 KiB]", "workload.sizes=[4 KiB]"),
        ("method=ddp", "workload.method=ddp"),
        ("delay=20 ms", "topology.wan.*.delay=20 ms"),
        ("bandwidth=1 Gbit/s", "topology.wan.*.rate=1 Gbit/s"),
        ("nodes=3", "topology.datacenters.*.hosts=3"),
        ("congestion_control=bbr", "topology.tcp.congestion_control=bbr"),
    ],
)
def test_a_key_without_target_gets_the_full_key(setting: str, meant: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_overrides([setting], ["topology", "workload"])
    assert caught.value.remedy == f"write --set {shlex.quote(meant)}"


@pytest.mark.parametrize(
    ("setting", "flag"),
    [
        ("isolation=process", "--isolation process"),
        ("run.stall_limit=60", "--stall-limit 60"),
        ("environment=A=b", "--env A=b"),
    ],
)
def test_an_option_of_a_run_gets_its_flag(setting: str, flag: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_overrides([setting], ["topology", "workload"])
    assert caught.value.remedy == f"write {flag}"


def workload_of(*sets: str):  # type: ignore[no-untyped-def]
    overrides = parse_overrides([f"workload.{text}" for text in sets], ["topology", "workload"])
    return load_workload("train", overrides["workload"])


def test_gpu_replaces_the_step_time_of_the_preset() -> None:
    assert workload_of().computation_ns == 100_000_000
    train = workload_of(
        "gpu=H100", "mfu=0.5", "parameters=1 B", "batch=1", "sequence=1000", "scale=1000"
    )
    # 6 x 10^9 parameters x 1000 tokens / (989e12 FLOP/s x 0.5)
    assert train.computation_ns == round(1e9 * 6e12 / (989e12 * 0.5))


def test_gpu_and_step_time_together_are_refused() -> None:
    for order in (["gpu=H100", "step_time=5 ms"], ["step_time=5 ms", "gpu=H100"]):
        with pytest.raises(InputError, match="mutually exclusive"):
            workload_of(*order)


def test_gpu_null_keeps_the_step_time() -> None:
    assert workload_of("gpu=null").computation_ns == 100_000_000


def test_step_time_replaces_the_gpu_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("workload: train\ngpu: H100\nmfu: 0.5\n")
    overrides = parse_overrides(["workload.step_time=3 ms"], ["topology", "workload"])
    assert load_workload(path, overrides["workload"]).computation_ns == 3_000_000  # type: ignore[attr-defined]


def test_number_format_of_the_gpu() -> None:
    settings = ("gpu=H100", "parameters=1 B", "scale=1000")
    bfloat16 = workload_of(*settings).computation_ns
    float8 = workload_of(*settings, "gpu_dtype=float8").computation_ns
    assert bfloat16 / float8 == pytest.approx(1979 / 989, rel=1e-4)  # rounded to whole ns
