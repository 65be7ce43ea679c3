"""Warnings about the traffic of a command on a deployed network."""

import pytest

from testbed.deployments.traffic import Traffic
from tests.support.synthetic import two_dcs

BEFORE = Traffic({"a to b": 5, "b to a": 0}, retransmitted=2)


@pytest.mark.parametrize(
    ("now", "warned"),
    [
        (Traffic({"a to b": 17, "b to a": 0}, 37), True),
        (Traffic({"a to b": 5, "b to a": 0}, 40), False),  # nothing was dropped
        (Traffic({"a to b": 0, "b to a": 0}, 2), False),  # the queue was changed, and counts from 0
    ],
)
def test_dropped_super_packets(now: Traffic, warned: bool) -> None:
    network = two_dcs()
    together = network.model_copy(
        update={"tcp": network.tcp.model_copy(update={"packets_per_skb": 44})}
    )
    single = network.model_copy(
        update={"tcp": network.tcp.model_copy(update={"packets_per_skb": 1})}
    )
    assert now.warnings_since(BEFORE, single) == []
    warnings = now.warnings_since(BEFORE, together)
    assert bool(warnings) == warned
    if warned:
        assert warnings[0].startswith("WAN queues dropped super-packets (12 from a to b), because")
        assert "TCP sent 35 segments again" in warnings[0]
