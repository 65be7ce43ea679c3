"""Change a network that stands: the same nodes, with other settings of their links."""

from __future__ import annotations

import fcntl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from testbed.core.errors import InputError
from testbed.deployments.client import answer
from testbed.deployments.folder import Deployment
from testbed.deployments.mailbox import Request
from testbed.plan.model import Network
from testbed.plan.resolve import resolve_network
from testbed.spec.overrides import Override
from testbed.spec.topology import Topology

REMEDY = (
    "live changes are those of WAN links (wan.LINK.rate, delay, jitter, loss, queue, ...) and of NICs "
    "(datacenters.DC.nic.rate, delay, queue); for others, deploy anew with --set"
)
_SHAPE: Any = {"bottleneck": {"rate_bps", "queue_packets"}, "fibre": True}
_LIVE: Any = {
    "wan": {"__all__": {"forward": _SHAPE, "backward": _SHAPE}},
    "hosts": {"__all__": {"nic_up": True, "nic_down": True, "nic_delay_ns": True}},
    "routes": True,
    "tcp": True,
    "changes": True,
}


def change(deployment: Deployment, overrides: Sequence[Override]) -> None:
    """Change the network of `deployment`, and note what it is now.

    Raises:
        InputError: as `changed`.
        RunError: the guest's kernel does not take a value.
        GuestLost: the guest has ended.
    """
    with (deployment.path / "set.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another change must not be undone by this one
        plan = deployment.read_plan()
        network, spec = changed(plan.network, deployment.spec, plan.seed, overrides)
        answer(deployment, Request(kind="set", network=network))
        deployment.write(deployment.spec, spec)
        deployment.write(
            deployment.plan,
            plan.model_copy(update={"network": network}).model_dump_json(indent=1) + "\n",
        )


def changed(
    network: Network, spec: Path, seed: int, overrides: Sequence[Override]
) -> tuple[Network, str]:
    """`network`, which came from the topology file `spec`, with `overrides`; and what is then
    written.

    Routes stay as they are, and so do automatic TCP buffers, though both come from the delays when
    a network is built.

    Raises:
        InputError: an override is wrong, or changes what cannot change while the network stands.
    """
    topology = Topology.load(spec, overrides)
    for override in overrides:
        if not _may_change(override.path):
            raise _refusal(override)
    new = resolve_network(topology, seed)
    if new.model_dump(exclude=_LIVE) != network.model_dump(exclude=_LIVE):
        raise _refusal(overrides[-1])
    tcp = network.tcp.model_copy(update={"packets_per_skb": new.tcp.packets_per_skb})
    return new.model_copy(update={"routes": network.routes, "tcp": tcp}), topology.to_yaml()


def _may_change(path: tuple[str, ...]) -> bool:
    in_nic = path[0] in ("datacenters", "defaults") and "nic" in path[1:3]
    return path[0] == "wan" or path[:2] == ("defaults", "wan") or in_nic


def _refusal(override: Override) -> InputError:
    return InputError(f"{override.key} cannot change while the network stands", remedy=REMEDY)
