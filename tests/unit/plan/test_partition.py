"""Datacenters are divided among guests only along links with a delay, with about equal ranks."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from testbed.workloads.script.settings import Script

from testbed.core.errors import InputError
from testbed.plan.model import Plan
from testbed.plan.partition import divided, why_one_guest
from testbed.plan.resolve import resolve
from testbed.spec.options import AUTO_GUESTS, RunOptions
from testbed.spec.topology import Topology
from testbed.spec.workload import load_workload

MIB = 2**20


def plan(
    hosts: dict[str, int], delays: dict[tuple[str, str], str], events: Sequence[object] = ()
) -> Plan:
    topology = Topology.model_validate(
        {
            "datacenters": {name: {"hosts": number} for name, number in hosts.items()},
            "wan": [
                {"between": list(ends), "rate": "1 Gbit/s", "delay": delay}
                for ends, delay in delays.items()
            ],
            "events": list(events),
        }
    )
    return resolve(topology, load_workload("collectives"), RunOptions(), machine_memory_bytes=2**36)


def groups(of: Plan, guests: int, cpus: int = 8) -> list[list[str]]:
    sites = divided(of, guests, cpus=cpus, base_bytes=400 * MIB).sites
    return [list(site.datacenters) for site in sites]


LINE = {("a", "b"): "5 ms", ("b", "c"): "0.1 ms", ("c", "d"): "20 ms"}


def test_one_guest_is_the_plan_itself() -> None:
    whole = plan({"a": 1, "b": 1, "c": 1, "d": 1}, LINE)
    assert divided(whole, 1, cpus=8, base_bytes=0) is whole


def test_short_links_are_not_divided() -> None:
    whole = plan({"a": 1, "b": 1, "c": 1, "d": 1}, LINE)
    assert groups(whole, 3) == [["a"], ["b", "c"], ["d"]]
    with pytest.raises(InputError, match="too few for 4 guests"):
        groups(whole, 4)


def test_guests_have_about_equal_ranks() -> None:
    whole = plan({"a": 1, "b": 2, "c": 3, "d": 6}, LINE)
    assert groups(whole, 2) == [["a", "b", "c"], ["d"]]


def test_auto_is_limited_by_cpus_and_by_the_network() -> None:
    whole = plan({"a": 1, "b": 1, "c": 1, "d": 1}, LINE)
    assert len(groups(whole, AUTO_GUESTS, cpus=2)) == 2
    assert len(groups(whole, AUTO_GUESTS, cpus=16)) == 3
    assert groups(whole, AUTO_GUESTS, cpus=1) == []


def test_the_links_between_guests() -> None:
    """Events shorten the time by which a guest may run ahead."""
    events = [{"at": "1 s", "links": "a-b", "delay": "8 ms"}]
    whole = plan({"a": 1, "b": 1}, {("a", "b"): "20 ms"}, events)
    first, second = divided(whole, 2, cpus=2, base_bytes=400 * MIB).sites
    (crossing,) = first.crossings
    assert second.crossings == (crossing,)
    assert (crossing.device, crossing.ends) == (0, (0, 1))
    assert crossing.delays_ns == (8_000_000, 8_000_000)
    assert first.control_devices == second.control_devices == (1,)
    assert first.control_delay_ns == 8_000_000


def test_memory_follows_the_hosts() -> None:
    whole = plan({"a": 1, "b": 3}, {("a", "b"): "5 ms"})
    first, second = divided(whole, 2, cpus=2, base_bytes=400 * MIB).sites
    rest = whole.guest_memory_bytes - 400 * MIB
    assert first.memory_bytes == 400 * MIB + rest // 4
    assert second.memory_bytes == 400 * MIB + rest * 3 // 4


def test_an_event_that_is_too_early() -> None:
    early = [{"at": "1 ms", "links": "all", "down": True}]
    whole = plan({"a": 1, "b": 1}, {("a", "b"): "5 ms"}, early)
    with pytest.raises(InputError, match=r"least delay between guests is 5\.0 ms"):
        groups(whole, 2)
    assert groups(whole, AUTO_GUESTS) == []


def test_what_needs_one_guest() -> None:
    whole = plan({"a": 1, "b": 1}, {("a", "b"): "5 ms"})
    assert why_one_guest(whole) == ""
    real = whole.model_copy(update={"clock": "real"})
    with pytest.raises(InputError, match="the real clock needs one guest"):
        groups(real, 2)
    assert groups(real, AUTO_GUESTS) == []


def test_modelled_gpus_stay_on_one_machine(tmp_path: Path) -> None:
    train = tmp_path / "train.py"
    train.touch()
    script = Script.model_validate({"command": [str(train)], "gpu": "H100"})

    def gpu_plan(**options: object) -> Plan:
        chosen = RunOptions.model_validate({"isolation": "process", "guests": 2, **options})
        return resolve(Topology.load("two-sites"), script, chosen, machine_memory_bytes=2**40)

    assert len(gpu_plan().sites) == 2
    with pytest.raises(InputError, match="which several machines do not share") as caught:
        gpu_plan(ray="10.0.0.1:6379")
    assert "remove --ray" in str(caught.value)


def test_each_guest_builds_its_part() -> None:
    whole = divided(plan({"a": 2, "b": 1}, {("a", "b"): "5 ms"}), 2, cpus=2, base_bytes=400 * MIB)
    first, second = (whole.for_site(site) for site in whole.sites)
    assert [rank.host for rank in first.ranks_here] == ["a-h0", "a-h1"]
    assert [rank.host for rank in second.ranks_here] == ["b-h0"]
    assert [dc.name for dc in second.network.datacenters_here] == ["b"]
    assert len(first.network.wan_here) == 1
    (direction,) = first.network.directions_here(first.network.wan[0])
    assert direction.source == "a"
    assert len(whole.ranks_here) == 3
