"""Memory of a run, and the timeout of its operations."""

from typing import Any

import pytest
from testbed.workloads.collectives.settings import Collectives

from testbed.core.errors import InputError
from testbed.plan.budget import timeout_s
from testbed.plan.model import Network, Plan
from testbed.plan.resolve import resolve, resolve_network
from testbed.spec.options import RunOptions
from testbed.spec.topology import Topology

MIB, GIB = 2**20, 2**30
SMALL_MACHINE = 4 * GIB  # single-cluster's 8 hosts in containers need 5.6 GiB


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
    assert plan.guest_memory_bytes == 2 * GIB + 4 * (400 + 64) * MIB
    assert plan.workers.memory_bytes == GIB


def test_memory_of_processes() -> None:
    plan = plan_of(sizes="1 GiB", isolation="process")
    assert plan.workers.memory_bytes == 250 * MIB + 4 * GIB
    assert plan.guest_memory_bytes == GIB + 4 * (250 * MIB + 4 * GIB)


@pytest.mark.parametrize("limit", [16 * MIB, 160 * MIB, 8 * GIB])
def test_host_limit_is_obeyed(limit: int) -> None:
    """Below the estimate of a host (250 MiB and tensors) and above."""
    plan = plan_of(isolation="process", memory=f"{limit} B")
    assert plan.workers.memory_bytes == limit
    assert plan.guest_memory_bytes == GIB + 4 * limit


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
