"""Change the link settings of a running network, with the same nodes."""

from __future__ import annotations

import fcntl
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from testbed.core.errors import InputError
from testbed.core.held_signals import HeldSignals
from testbed.deployments.client import answer
from testbed.deployments.folder import Deployment
from testbed.deployments.requests import Request
from testbed.plan.model import Network
from testbed.plan.resolve import resolve_network
from testbed.runfolder.files import replacing
from testbed.spec.overrides import Override
from testbed.spec.topology import Topology

REMEDY = (
    "settings that can change: those of WAN links (wan.LINK.rate, delay, jitter, loss, "
    "queue, ...) and of NICs (datacenters.DC.nic.rate, delay, jitter, queue); for others, deploy "
    "again with --set"
)
# Fields of a network that may change, in the form of pydantic's `exclude`.
_DIRECTION: Any = {"bottleneck": {"rate_bps", "queue_packets"}, "fibre": True}
_NIC: Any = {"nic_up": True, "nic_down": True, "nic_delay_ns": True, "nic_jitter_ns": True}
_CHANGEABLE: Any = {
    "wan": {"__all__": {"forward": _DIRECTION, "backward": _DIRECTION}},
    "hosts": {"__all__": _NIC},
    "routes": True,
    "tcp": True,
    "changes": True,
}


def change(deployment: Deployment, overrides: Sequence[Override]) -> None:
    """Change the network of a deployment, and store the new plan in the deployment's folder.

    Args:
        deployment: a running deployment.
        overrides: new settings of the topology.

    Raises:
        InputError: as `changed`.
        RunError: the guest's kernel rejects a value.
        GuestLost: the guest has ended.
    """
    lock_file = deployment.path / "set.lock"

    with lock_file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # keeps concurrent changes from undoing each other
        plan = deployment.read_plan()
        network, spec = changed(plan.network, deployment.spec, plan.seed, overrides)
        request = Request(kind="set", network=network)
        changed_plan = plan.model_copy(update={"network": network})
        # Both files exist before the network changes: a full disk prevents the change, not its
        # record. The topology, from which the next change starts, is replaced first.
        with ExitStack() as files:
            new_plan = files.enter_context(replacing(deployment.plan))
            new_spec = files.enter_context(replacing(deployment.spec))
            new_spec.write_text(spec, encoding="utf-8")
            new_plan.write_text(changed_plan.model_dump_json(indent=1) + "\n", encoding="utf-8")
            answer(deployment, request)
            with HeldSignals():
                _replace_both(files, deployment)


def _replace_both(files: ExitStack, deployment: Deployment) -> None:
    """Replace topology and plan by leaving `files`; neither of them if one cannot be replaced."""
    spec_before = deployment.spec.read_text(encoding="utf-8")
    try:
        files.close()
    except OSError:
        with replacing(deployment.spec) as restored:
            restored.write_text(spec_before, encoding="utf-8")

        raise


def changed(
    network: Network, spec: Path, seed: int, overrides: Sequence[Override]
) -> tuple[Network, str]:
    """Return a network with overridden settings, and its topology file.

    Routes and automatic TCP buffers are unchanged, although both are derived from the delays when a
    network is built.

    Args:
        network: the current network.
        spec: the topology file of the network.
        seed: seed of random choices in the network.
        overrides: new settings of the topology.

    Returns:
        The new network, and the text of its topology file.

    Raises:
        InputError: an override is invalid, or changes a setting that is fixed while the network
            runs.
    """
    topology = Topology.load(spec, overrides)
    for override in overrides:
        if not _may_change(override.path):
            raise _refusal(override)

    planned = resolve_network(topology, seed)
    fixed = network.model_dump(exclude=_CHANGEABLE)
    planned_fixed = planned.model_dump(exclude=_CHANGEABLE)
    if planned_fixed != fixed:
        raise _refusal(overrides[-1])

    kept = {"routes": network.routes, "tcp": network.tcp}
    new_network = planned.model_copy(update=kept)
    return new_network, topology.to_yaml()


def _may_change(path: tuple[str, ...]) -> bool:
    """Return whether the setting at `path` in the topology can change while the network runs."""
    if path[0] == "wan" or path[:2] == ("defaults", "wan"):
        return True
    if path[0] in ("datacenters", "defaults"):
        return "nic" in path[1:3]
    return False


def _refusal(override: Override) -> InputError:
    message = f"cannot change {override.key} while the network is deployed"
    return InputError(message, remedy=REMEDY)
