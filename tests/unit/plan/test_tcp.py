"""TCP settings of hosts in the plan."""

from typing import Any

import pytest
from pydantic import ValidationError

from testbed.core.errors import InputError
from testbed.plan.addressing import resolve_network
from testbed.plan.model import CpuTime, Network
from testbed.plan.scaling import scaled
from testbed.plan.tcp import receive_limit, send_limit
from testbed.spec.topology import Topology

MIB = 2**20


def network(tcp: Any = None, own: Any = None, mtu: int = 1500) -> Network:
    """Two datacenters, of which the second may have its own settings."""
    second: dict[str, Any] = {} if own is None else {"tcp": own}
    written = {
        "datacenters": {"a": {}, "b": second},
        "wan": [{"between": ["a", "b"], "rate": "1 Gbit/s", "delay": "1 ms"}],
        "mtu": mtu,
    }
    if tcp is not None:
        written["tcp"] = tcp
    return resolve_network(Topology.model_validate(written))


def test_a_burst_of_one_packet_needs_a_larger_send_buffer() -> None:
    """1448 bytes of data count as 2408; 64 KiB as 960 more."""
    assert send_limit(4 * MIB, 1500, 1) == round(4 * MIB * 2408 / 1448 * 65536 / 66496)
    assert send_limit(4 * MIB, 1500, 43) == 4 * MIB


@pytest.mark.parametrize(("mtu", "shares"), [(1500, 153), (9000, 231)])
def test_window(mtu: int, shares: int) -> None:
    assert receive_limit(3 * MIB, mtu, 1) == round(3 * MIB * 256 / shares)


def test_buffers_by_name() -> None:
    linux = network("linux").tcp
    older = network({"buffer": "linux-5"}).tcp
    assert linux.buffer_bytes == 6 * MIB
    assert older.buffer_bytes == receive_limit(3 * MIB, 1500, 1)
    assert linux.send_buffer_bytes == older.send_buffer_bytes == send_limit(4 * MIB, 1500, 1)


def test_a_datacenter_has_its_own_settings() -> None:
    mixed = network("linux", {"congestion_control": "bbr"})
    first, second = mixed.hosts
    assert first.tcp is None
    assert second.tcp is not None
    assert second.tcp.congestion_control == "bbr"
    assert second.tcp.buffer_bytes == 16 * MIB
    assert mixed.tcp.congestion_control == "cubic"


def test_cpu() -> None:
    """80 Gbit/s are 100 ps for each byte; a network at a tenth of the rates copies as slowly."""
    cpu = {"copy_rate": "80 Gbit/s", "call_time": "1 us"}
    topology = Topology.model_validate({"datacenters": {"a": {"cpu": cpu, "hosts": 2}}})
    network = resolve_network(topology)
    assert [host.cpu for host in network.hosts] == [CpuTime(call_ns=1000, byte_ps=100)] * 2
    assert scaled(network, 10).hosts[0].cpu == CpuTime(call_ns=1000, byte_ps=1000)


@pytest.mark.parametrize(
    ("cpu", "reason"),
    [
        ({"copy_rate": "1 Mbit/s"}, "the copy rate must be from 10 Mbit/s to 8 Tbit/s"),
        ({"call_time": "1 s"}, "call_time"),
    ],
)
def test_impossible_cpu(cpu: dict[str, str], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        Topology.model_validate({"datacenters": {"a": {"cpu": cpu}}})


def test_flow_rate() -> None:
    topology = Topology.model_validate(
        {"datacenters": {"a": {"hosts": 2, "nic": {"flow_rate": "5 Gbit/s"}}}}
    )
    assert [host.flow_rate_bps for host in resolve_network(topology).hosts] == [5 * 10**9] * 2


def test_jitter_of_a_nic() -> None:
    nic = {"delay": "1 ms", "jitter": "100 us"}
    topology = Topology.model_validate({"datacenters": {"a": {"hosts": 1, "nic": nic}}})
    (host,) = resolve_network(topology).hosts
    assert (host.nic_jitter_ns, host.least_nic_delay_ns) == (100_000, 900_000)


def test_more_jitter_than_delay() -> None:
    written = {"datacenters": {"a": {"nic": {"delay": "1 us", "jitter": "2 us"}}}}
    with pytest.raises(ValueError, match="the jitter of the NIC exceeds its delay"):
        Topology.model_validate(written)


@pytest.mark.parametrize("own", [False, True])
def test_a_wrong_name(own: bool) -> None:
    with pytest.raises((InputError, ValueError), match="linux, linux-5, or settings such as"):
        network(own="windows") if own else network("windows")
