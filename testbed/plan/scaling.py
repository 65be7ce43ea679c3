"""A network with every rate divided: for a model that is smaller by as much, so that transfers take
the same time.

Delays, losses and the MTU stay. Queues hold as much *time* as before, but at least `LEAST_PACKETS`.
A host hands over its packets one at a time: 64 KiB at once would fill a slow link for as long as a
thousand times as much a fast one.
"""

from __future__ import annotations

from typing import Any

from testbed.plan.model import Network

LEAST_PACKETS = 64


def scaled(network: Network, divisor: int) -> Network:
    """`network` with all rates, queues and transfers divided by `divisor`; itself if that is 1."""
    if divisor == 1:
        return network
    slower = Network.model_validate(_divided(network.model_dump(), divisor))
    return slower.model_copy(update={"tcp": network.tcp.model_copy(update={"packets_per_skb": 1})})


def _divided(value: Any, divisor: int) -> Any:
    if isinstance(value, dict):
        changed = {key: _divided(item, divisor) for key, item in value.items()}
        if "rate_bps" in value:  # a plan.Bottleneck
            changed["rate_bps"] = max(1, value["rate_bps"] // divisor)
            changed["queue_packets"] = max(
                min(LEAST_PACKETS, value["queue_packets"]), value["queue_packets"] // divisor
            )
        if "pace_bps" in value:  # a plan.Transfer
            changed["bytes"] = max(1, value["bytes"] // divisor)
            changed["pace_bps"] = value["pace_bps"] and max(1, value["pace_bps"] // divisor)
        return changed
    if isinstance(value, (list, tuple)):
        return [_divided(item, divisor) for item in value]
    return value
