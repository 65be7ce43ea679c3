"""Run the parts of a run on the nodes of a Ray cluster, one part on a node.

Ray places the parts (a placement group), ships the code, and notices lost nodes and processes. An
actor on each node starts the part's process and passes on what it is asked.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from testbed.core.errors import MachineError, TestbedError
from testbed.execution.cleanup import reap
from testbed.execution.machines import PartLost, RunPart
from testbed.execution.part_process import ENDING_S, PartProcess
from testbed.execution.ray_cluster import (
    connected,
    packed_code,
    ray,
    shipped_code,
    use_shipped_kernel,
)
from testbed.execution.ray_placement import NodeOffer, groups_for_nodes
from testbed.execution.supervise import Progress
from testbed.guest.bridge.library import VARIABLE, bridge_library
from testbed.guest.kernel import Kernel
from testbed.plan.model import Plan

LIBRARY = "guest-bridge.so"
PLACING_S = 60.0  # for the cluster to have the CPUs and the memory free
STARTING_S = 300.0  # for a node to unpack the code and to start a worker


class RayPart:
    """A part of a run on a node of the cluster; see `testbed.execution.machines.RunPart`."""

    def __init__(self, actor: Any, guests: Sequence[int], name: str, address: str) -> None:
        """Use the part of an actor.

        Args:
            actor: Ray's handle of a `_Node`.
            guests: numbers of the guests of the part.
            name: name of the node.
            address: IP address of the node.
        """
        self.guests = tuple(guests)
        self.name = name
        self.address = address
        self._actor = actor
        self._answer: Any = None  # Ray's reference to it

    def ask(self, method: str, *arguments: Any) -> None:
        """Ask for a method of `MachinePart`; see `RunPart.ask`."""
        self._answer = self._actor.call.remote(method, arguments)

    def answer(self, timeout_s: float | None) -> tuple[Any] | None:
        """Return the answer; see `RunPart.answer`.

        Raises:
            MachineError: the method has failed.
            PartLost: the node, its worker or the part's process has ended.
        """
        ready, _ = ray.wait([self._answer], timeout=timeout_s)
        if not ready:
            return None
        answer: tuple[Any] = _get(self._answer)
        return answer


class RayMachines:
    """The nodes of a Ray cluster."""

    def __init__(self, address: str) -> None:
        """Prepare for the cluster at an address; ``auto`` finds one."""
        self._address = address

    @contextmanager
    def place(self, plan: Plan, kernel: Kernel, progress: Progress) -> Iterator[list[RunPart]]:
        """Place a part on each of several nodes; see `testbed.execution.machines.Machines`.

        Raises:
            MachineError: Ray cannot be used, or the cluster's nodes are too few or too small.
        """
        del progress
        with ExitStack() as stack:
            others = {LIBRARY: bridge_library()}
            code = stack.enter_context(packed_code(kernel.path, others))
            stack.enter_context(connected(self._address, code))
            memory = [site.memory_bytes for site in plan.sites]
            groups = groups_for_nodes(memory, _offers())
            bundles: list[dict[str, float]] = []
            for group in groups:
                memory_bytes = sum(memory[number] for number in group)
                bundles.append({"CPU": len(group), "memory": memory_bytes})
            placement = stack.enter_context(_reserved(bundles))
            actors: list[Any] = []
            for number, group in enumerate(groups):
                strategy = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(
                    placement, placement_group_bundle_index=number
                )
                node_class = ray.remote(
                    num_cpus=len(group),
                    memory=bundles[number]["memory"],
                    max_restarts=0,
                    scheduling_strategy=strategy,
                )(_Node)
                actors.append(node_class.remote(group))
            stack.callback(_end, actors)
            places = _get([actor.place.remote() for actor in actors], STARTING_S)
            hosts = [host for host, _address in places]
            parts: list[RunPart] = []
            for number, (host, address) in enumerate(places):
                name = host if hosts.count(host) == 1 else f"{host}, node {number}"
                parts.append(RayPart(actors[number], groups[number], name, address))
            yield parts


class _Node:
    """The actor on a node, which starts the part's process."""

    def __init__(self, guests: Sequence[int]) -> None:
        use_shipped_kernel()
        os.environ[VARIABLE] = str(shipped_code() / LIBRARY)
        self._part = PartProcess(socket.gethostname(), guests, {})

    def place(self) -> tuple[str, str]:
        """Return the name and the IP address of the node."""
        address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        return self._part.name, address

    def call(self, method: str, arguments: Sequence[Any]) -> tuple[Any] | None:
        """Let the part's process call a method of `MachinePart`."""
        self._part.ask(method, *arguments)
        return self._part.answer(None)

    def end(self) -> None:
        """End the part's process, and remove what it may have left."""
        self._part.end()
        reap()


@contextmanager
def _reserved(bundles: Sequence[dict[str, float]]) -> Iterator[Any]:
    """Reserve CPUs and memory on a node for each bundle, within the block.

    Raises:
        MachineError: they are not free.
    """
    group = ray.util.placement_group(list(bundles), strategy="STRICT_SPREAD")
    try:
        ready, _ = ray.wait([group.ready()], timeout=PLACING_S)
        if not ready:
            raise MachineError(
                f"the Ray cluster had no room within {PLACING_S:.0f} s for {len(bundles)} nodes "
                "with the CPUs and the memory of the guests\n  wait until other jobs have ended"
            )
        yield group
    finally:
        ray.util.remove_placement_group(group)


def _offers() -> list[NodeOffer]:
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    offers: list[NodeOffer] = []
    for node in nodes:
        resources = node["Resources"]
        cpus = int(resources.get("CPU", 0))
        if node["Alive"] and cpus >= 1:
            offers.append(NodeOffer(cpus, int(resources.get("memory", 0))))
    return offers


def _end(actors: Sequence[Any]) -> None:
    """End the parts on the nodes that are not lost."""
    endings = [actor.end.remote() for actor in actors]
    ray.wait(endings, num_returns=len(endings), timeout=ENDING_S)
    for actor in actors:
        with suppress(ray.exceptions.RayError):
            ray.kill(actor)


def _get(references: Any, timeout_s: float | None = None) -> Any:
    """Return the results of Ray's references.

    Raises:
        TestbedError: what a node has reported.
        PartLost: a node is lost.
        MachineError: a node could not be used.
    """
    try:
        return ray.get(references, timeout=timeout_s)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, TestbedError):
            raise error.cause from error
        raise MachineError(f"a node of the Ray cluster failed: {error.cause}") from error
    except ray.exceptions.GetTimeoutError as error:
        raise MachineError(f"a node of the Ray cluster did not start in {timeout_s} s") from error
    except ray.exceptions.RayError as error:
        raise PartLost(f"Ray reports {type(error).__name__}") from error
