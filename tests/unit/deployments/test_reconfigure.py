"""The plan of a network after a change; the change itself is tested in a guest."""

from pathlib import Path

import pytest

from testbed.core.errors import InputError
from testbed.deployments.reconfigure import changed
from testbed.network.verify import loss_of
from testbed.plan.model import Fibre, Loss, Network
from testbed.plan.resolve import resolve_network
from testbed.spec.overrides import parse_overrides
from testbed.spec.topology import Topology

TRIANGLE = """
name: triangle
datacenters: {a: {hosts: 2}, b: {}, c: {}}
wan:
  - {mesh: all, rate: 1 Gbit/s, delay: 10 ms}
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(TRIANGLE)
    return path


def change(spec: Path, *settings: str) -> tuple[Network, Network]:
    """The network before and after."""
    network = resolve_network(Topology.load(spec))
    new, written = changed(network, spec, 0, parse_overrides(settings, ["topology"])["topology"])
    spec.write_text(written)
    return network, new


def test_one_link_changes_and_routes_stay(spec: Path) -> None:
    """30 ms on a-b would make the way by c the shorter one, if the network were built again."""
    before, after = change(spec, "wan.a-b.delay=30 ms")
    assert [link.forward.fibre.delay_ns for link in after.wan] == [
        30_000_000,
        10_000_000,
        10_000_000,
    ]
    assert after.routes == before.routes
    assert resolve_network(Topology.load(spec)).routes != before.routes
    assert after.wan[1:] == before.wan[1:]
    assert (after.hosts, after.datacenters, after.tcp) == (
        before.hosts,
        before.datacenters,
        before.tcp,
    )


def test_changes_add_up(spec: Path) -> None:
    change(spec, "wan.a-b.delay=30 ms")
    _before, after = change(spec, "wan.a-b.rate=2 Gbit/s", "topology.datacenters.a.nic.delay=1 ms")
    link = after.wan[0].forward
    assert (link.fibre.delay_ns, link.bottleneck.rate_bps) == (30_000_000, 2_000_000_000)
    assert [host.nic_delay_ns for host in after.hosts] == [1_000_000, 1_000_000, 5_000, 5_000]


@pytest.mark.parametrize(
    "setting",
    [
        "datacenters.a.hosts=3",
        "mtu=9000",
        "tcp.congestion_control=bbr",
        "routing=hops",
        "name=other",
        "wan.mesh.mesh=[a, b]",
    ],
)
def test_what_cannot_change(spec: Path, setting: str) -> None:
    with pytest.raises(InputError) as refused:
        change(spec, setting)
    assert "deploy again with --set" in str(refused.value) or "no path" in str(refused.value)


@pytest.mark.parametrize(
    ("fibre", "mean", "spread"),
    [
        (Fibre(delay_ns=0, seed=0, loss=Loss(p=0.02)), 0.02, 1),
        (Fibre(delay_ns=0, seed=0, loss=Loss(p=0.5), corrupt=0.5), 0.75, 1),
        # In the bad state a tenth of the time, for 10 packets on average; half of them are lost
        # there.
        (
            Fibre(
                delay_ns=0,
                seed=0,
                loss=Loss(model="gilbert-elliott", p=1 / 90, r=0.1, one_minus_h=0.5),
            ),
            0.05,
            (2 - 1 / 90 - 0.1) / (1 / 90 + 0.1),
        ),
    ],
)
def test_expected_loss(fibre: Fibre, mean: float, spread: float) -> None:
    assert loss_of(fibre) == pytest.approx((mean, spread))
