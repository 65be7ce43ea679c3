"""Which backend carries out a plan, and which plans may share a guest."""

from pathlib import Path
from typing import Any

import pytest

from testbed.core.errors import MachineError
from testbed.execution.backend import Backend, backend_for
from testbed.execution.guest_backend import (
    GuestBackend,
    ResidentGuestBackend,
    guest_kernel_version,
    may_share_guest,
)
from testbed.execution.host_backend import HostBackend
from testbed.guest.kernel import Kernel
from testbed.plan.model import CpuTime, Plan
from tests.support.synthetic import make_plan, two_dcs


@pytest.fixture
def plan() -> Plan:
    return make_plan(two_dcs())


def changed(plan: Plan, workers: dict[str, Any] | None = None, **changes: object) -> Plan:
    """Give the plan with some fields of it, or of its workers, changed."""
    return plan.model_copy(
        update={**changes, "workers": plan.workers.model_copy(update=workers or {})}
    )


def test_plan_says_where(plan: Plan) -> None:
    in_guest: Backend = backend_for(plan, resident_guest=None, patience_s=1)
    on_host = backend_for(changed(plan, where="here"), resident_guest=None, patience_s=1)
    assert isinstance(in_guest, GuestBackend)
    assert isinstance(on_host, HostBackend)
    assert (in_guest.subject, on_host.subject) == ("the guest", "the run")


def test_only_guests_model_cpus(plan: Plan) -> None:
    busy = plan.network.hosts[0].model_copy(update={"cpu": CpuTime(call_ns=1000, byte_ps=100)})
    network = plan.network.model_copy(update={"hosts": (busy, *plan.network.hosts[1:])})
    with pytest.raises(MachineError, match="only a guest can model the CPU of hosts"):
        HostBackend().check(changed(plan, where="here", network=network))


def test_resident_guest_takes_precedence(plan: Plan) -> None:
    backend = backend_for(plan, resident_guest=Path("/guest"), patience_s=1)
    assert isinstance(backend, ResidentGuestBackend)


def test_versions_of_guest_kernels() -> None:
    assert guest_kernel_version(None) == "none yet"
    kernel = Kernel(Path("/linux"), "6.12.94", virtual_time=True)
    assert guest_kernel_version(kernel) == "Linux 6.12.94 UML"


@pytest.mark.parametrize(
    ("changes", "workers", "shares"),
    [
        ({}, {}, True),
        ({"where": "here"}, {}, False),
        ({"clock": "real"}, {}, False),
        ({}, {"isolation": "container"}, False),
        ({}, {"workload": "script"}, False),
    ],
)
def test_plans_that_may_share_a_guest(
    plan: Plan, changes: dict[str, Any], workers: dict[str, Any], shares: bool
) -> None:
    workers = {"isolation": "process", **workers}
    changes = {"clock": "virtual", **changes}
    assert may_share_guest(changed(plan, workers, **changes)) == shares
