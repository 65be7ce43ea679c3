"""Divide every rate of a network, for a smaller model with the same transfer times.

Delays, losses and the MTU are unchanged. Queues keep their length in time, but hold at least
`LEAST_PACKETS`. A host sends single packets, because a burst of 64 KiB would occupy a slow link for
as long as a burst a thousand times as large occupies a fast link.
"""

from __future__ import annotations

from typing import Any

from testbed.plan.model import Network

LEAST_PACKETS = 64


def scaled(network: Network, divisor: int) -> Network:
    """Return `network` with rates, queues and transfers divided by `divisor`; unchanged for 1."""
    if divisor == 1:
        return network
    divided = _divided(network.model_dump(), divisor)
    slower = Network.model_validate(divided)

    tcp = network.tcp.model_copy(update={"packets_per_skb": 1})
    return slower.model_copy(update={"tcp": tcp})


def _divided(value: Any, divisor: int) -> Any:
    """Return part of a dumped network with all contained rates, queues and transfers divided."""
    if isinstance(value, (list, tuple)):
        return [_divided(item, divisor) for item in value]
    if not isinstance(value, dict):
        return value

    changed = {key: _divided(item, divisor) for key, item in value.items()}
    if "rate_bps" in value:
        _divide_bottleneck(changed, divisor)
    if value.get("flow_rate_bps"):
        changed["flow_rate_bps"] = max(1, value["flow_rate_bps"] // divisor)
    if "byte_ps" in value:
        changed["byte_ps"] = value["byte_ps"] * divisor
    if "pace_bps" in value:
        _divide_transfer(changed, divisor)
    return changed


def _divide_bottleneck(bottleneck: dict[str, Any], divisor: int) -> None:
    """Divide rate and queue of a dumped `plan.Bottleneck`; a short queue keeps its length."""
    rate_bps = bottleneck["rate_bps"]
    if rate_bps:
        bottleneck["rate_bps"] = max(1, rate_bps // divisor)

    packets = bottleneck["queue_packets"]
    least = min(LEAST_PACKETS, packets)
    bottleneck["queue_packets"] = max(least, packets // divisor)


def _divide_transfer(transfer: dict[str, Any], divisor: int) -> None:
    """Divide size and pace of a dumped `plan.Transfer`."""
    size = transfer["bytes"]
    transfer["bytes"] = max(1, size // divisor)

    pace_bps = transfer["pace_bps"]
    if pace_bps is not None:
        transfer["pace_bps"] = max(1, pace_bps // divisor)
