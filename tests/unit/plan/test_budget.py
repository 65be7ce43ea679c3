"""Memory of a run, and the timeout of its operations."""

from pathlib import Path
from typing import Any

import pytest
from testbed.workloads.collectives.settings import Collectives
from testbed.workloads.script.settings import Script

from testbed.core.errors import InputError
from testbed.plan.budget import timeout_s, windows_bytes
from testbed.plan.model import Network, Plan
from testbed.plan.resolve import resolve, resolve_network
from testbed.spec.options import RunOptions
from testbed.spec.topology import Topology

KIB, MIB, GIB = 2**10, 2**20, 2**30
# Each way 10 Gbit/s for 16.41 ms (twice 8.2 ms and the NICs' 5 us) and a queue of 13541 packets of
# 1500 bytes; TCP's buffers hold twice that.
TWO_SITES_WINDOWS = 2 * 2 * (20_512_500 + 13_541 * 1500)
SMALL_MACHINE = 2 * GIB  # for the 8 hosts of single-cluster in containers
CONNECTIONS = 4 * 16 * KIB  # of a rank of collectives, one of four
PROGRAM = 16 * MIB + CONNECTIONS


def plan_of(
    topology: str = "two-sites",
    sizes: str = "1 MiB",
    machine_memory_bytes: int = 2**40,
    **options: Any,
) -> Plan:
    workload = Collectives.model_validate({"sizes": [sizes]})
    return resolve(
        Topology.load(topology),
        workload,
        RunOptions(**options),
        machine_memory_bytes=machine_memory_bytes,
    )


def refusal(**options: Any) -> str:
    with pytest.raises(InputError) as caught:
        plan_of(**options)
    return str(caught.value)


def test_memory_of_containers() -> None:
    plan = resolve(Topology.load("two-sites"), Collectives(), machine_memory_bytes=2**40)
    # all_gather has the whole, a part and gloo's two copies; two holes. Other buffers of gloo:
    # 4 MiB. Packets: two operations of 16 MiB for each of four ranks.
    rank = PROGRAM + (1 + 0.25 + 2 + 2) * 16 * MIB + 4 * MIB
    assert plan.guest_memory_bytes == 2 * GIB + 4 * (20 * MIB + rank) + 2 * 4 * 16 * MIB
    assert plan.workers.memory_bytes == GIB


def test_memory_of_processes() -> None:
    plan = plan_of(sizes="1 GiB", isolation="process")
    host = PROGRAM + (1 + 0.25 + 2 + 2) * GIB + 4 * MIB
    assert plan.workers.memory_bytes == 2 * host
    assert plan.guest_memory_bytes == GIB + 4 * host + TWO_SITES_WINDOWS


def test_tensors_on_modelled_gpus_have_no_memory(tmp_path: Path) -> None:
    """A host of eight GPUs has eight ranks, which need what their programs need."""
    train = tmp_path / "train.py"
    train.touch()
    script = Script.model_validate({"command": [str(train)], "gpu": "H100", "gpus_per_host": 8})
    options = RunOptions(isolation="process")
    plan = resolve(Topology.load("two-sites"), script, options, machine_memory_bytes=2**40)
    hosts = 4 * 8 * 250 * MIB
    assert plan.guest_memory_bytes == GIB + hosts + TWO_SITES_WINDOWS


def test_memory_follows_the_operations() -> None:
    """all_reduce needs one buffer; folded buffers need none, but gloo's copies are real."""
    common: dict[str, Any] = {"ops": ["all_reduce"], "sizes": ["1 GiB"]}
    assert Collectives.model_validate(common).rank_tensors_bytes(4) == GIB + 4 * MIB + CONNECTIONS
    folded = Collectives.model_validate({**common, "payload": "folded"})
    assert folded.rank_tensors_bytes(4) == 4 * MIB + CONNECTIONS
    gathered = {"ops": ["all_gather"], "sizes": ["1 GiB"], "payload": "folded"}
    expected = 2 * GIB + 4 * MIB + CONNECTIONS
    assert Collectives.model_validate(gathered).rank_tensors_bytes(4) == expected
    several = {**gathered, "ops": ["all_gather", "barrier"]}
    assert Collectives.model_validate(several).rank_tensors_bytes(4) == expected + GIB
    connected = Collectives.model_validate({**common, "payload": "folded", "connections": 8})
    assert connected.rank_tensors_bytes(64) == 4 * MIB + 8 * 64 * 16 * KIB


@pytest.mark.parametrize(
    ("hosts", "settings", "gib"),
    [
        (32, {"ops": ["all_reduce"], "sizes": ["128 MiB"]}, 12),
        (64, {"ops": ["all_reduce"], "sizes": ["64 MiB"]}, 12),
        (256, {"sizes": {"to": "1 MiB"}}, 24),
    ],
)
def test_hundreds_of_ranks_fit(hosts: int, settings: dict[str, Any], gib: int) -> None:
    """On a laptop of so many GiB, with real buffers."""
    cluster = Topology.model_validate({"datacenters": {"a": {"hosts": hosts}}})
    workload = Collectives.model_validate(settings)
    options = RunOptions(isolation="process")
    plan = resolve(cluster, workload, options, machine_memory_bytes=gib * GIB)
    assert len(plan.workers.ranks) == hosts
    assert plan.guest_memory_bytes <= gib * GIB


@pytest.mark.parametrize("limit", [16 * MIB, 160 * MIB, 8 * GIB])
def test_host_limit_is_obeyed(limit: int) -> None:
    """Below the estimate of a host (16 MiB and tensors) and above."""
    plan = plan_of(isolation="process", memory=f"{limit} B")
    assert plan.workers.memory_bytes == limit
    assert plan.guest_memory_bytes == GIB + 4 * limit + 2 * 4 * MIB


def test_limits_beyond_the_machine_are_no_reservation() -> None:
    """A host may use so much, but few do; the guest gets what the machine has."""
    plan = plan_of(isolation="process", memory="16 GiB", machine_memory_bytes=24 * GIB)
    assert plan.workers.memory_bytes == 16 * GIB
    assert plan.guest_memory_bytes == 12 * GIB


def test_host_limit_below_python() -> None:
    text = refusal(memory="8 MiB")
    assert (
        text == "--memory: Python cannot start with 8 MiB of memory\n  give a host at least 16 MiB"
    )


def test_guest_memory_lifts_the_refusal() -> None:
    options: dict[str, Any] = {"topology": "single-cluster", "machine_memory_bytes": SMALL_MACHINE}
    assert "8 hosts need" in refusal(**options)
    assert plan_of(**options, guest_memory="1 GiB").guest_memory_bytes == GIB


def test_guest_memory_is_taken_as_given() -> None:
    plan = plan_of(guest_memory="3 GiB")
    assert plan.guest_memory_bytes == 3 * GIB
    assert plan == plan_of().model_copy(update={"guest_memory_bytes": 3 * GIB})


def test_packets_that_fill_all_paths() -> None:
    """The hosts of a datacenter together fill at most its link, and each at most its NIC's rate."""
    assert windows_bytes(resolve_network(Topology.load("two-sites"))) == TWO_SITES_WINDOWS
    wan = [
        {"between": ["a", "b"], "rate": "10 Gbit/s", "delay": "100 ms", "queue": "10000 packets"}
    ]
    sites = {name: {"hosts": 1, "nic": {"rate": "1 Gbit/s", "delay": 0}} for name in "ab"}
    slow = resolve_network(Topology.model_validate({"datacenters": sites, "wan": wan}))
    assert windows_bytes(slow) == 2 * 2 * (25_000_000 + 15_000_000)
    alone = resolve_network(Topology.model_validate({"datacenters": {"a": {"hosts": 8}}}))
    assert windows_bytes(alone) == 0


def test_packets_take_only_what_the_machine_has() -> None:
    """The guest's memory lies in /dev/shm, which holds half of the machine's."""
    others = plan_of(isolation="process").guest_memory_bytes - 2 * 4 * MIB
    small = plan_of(isolation="process", machine_memory_bytes=2 * others + 6 * MIB)
    assert small.guest_memory_bytes == others + 3 * MIB
    smaller = plan_of(isolation="process", machine_memory_bytes=others)
    assert smaller.guest_memory_bytes == others


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        (
            {"isolation": "container"},
            "use --isolation process or smaller tensors; override this estimate with "
            "--guest-memory",
        ),
        (
            {"isolation": "process"},
            "smaller tensors need less; override this estimate with --guest-memory",
        ),
        (
            {"isolation": "process", "where": "here", "clock": "real"},
            "smaller tensors need less",
        ),
    ],
)
def test_refusal_advises_what_would_help(options: dict[str, Any], advice: str) -> None:
    text = refusal(machine_memory_bytes=2 * GIB, sizes="1 GiB", **options)
    assert text.splitlines()[1] == f"  {advice}"


def two_sites(delay: str) -> Network:
    wan = [{"between": ["a", "b"], "rate": "1 Gbit/s", "delay": delay}]
    return resolve_network(Topology.model_validate({"datacenters": {"a": {}, "b": {}}, "wan": wan}))


def test_timeout() -> None:
    near = two_sites("1 ms")
    assert timeout_s(near, 4096, 2) == 60
    assert timeout_s(near, 2**30, 2) > 20 * 2 * 2**30 * 8 / 1e9
    assert timeout_s(two_sites("300 ms"), 4096, 2) == 600
