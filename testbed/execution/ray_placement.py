"""Divide the guests of a run among the nodes of a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from testbed.core.errors import MachineError
from testbed.core.units import format_size


@dataclass(frozen=True)
class NodeOffer:
    """What a node has.

    Attributes:
        cpus: number of CPUs.
        memory_bytes: memory for tasks.
    """

    cpus: int
    memory_bytes: int


def groups_for_nodes(
    memory_bytes: Sequence[int], nodes: Sequence[NodeOffer]
) -> list[tuple[int, ...]]:
    """Return the guests of each node: as many nodes as possible, each with guests for its CPUs.

    Args:
        memory_bytes: memory of each guest, by its number.
        nodes: the nodes of the cluster.

    Returns:
        The numbers of the guests of each node; guest 0 is in the first group.

    Raises:
        MachineError: there is only one node, or the guests do not fit.
    """
    if len(nodes) < 2:
        raise MachineError(
            f"the Ray cluster has {len(nodes)} node with a CPU, and --ray spreads guests over "
            "several\n  start more nodes (ray start --address), or use --guests without --ray"
        )
    largest = sorted(nodes, key=lambda node: (node.cpus, node.memory_bytes), reverse=True)
    largest = largest[: len(memory_bytes)]
    groups: list[list[int]] = [[] for _node in largest]
    room_bytes = [node.memory_bytes for node in largest]
    for number, needed_bytes in enumerate(memory_bytes):
        fitting: list[int] = []
        for place, node in enumerate(largest):
            if len(groups[place]) < node.cpus and needed_bytes <= room_bytes[place]:
                fitting.append(place)
        if not fitting:
            raise MachineError(
                f"guest {number} needs a CPU and {format_size(needed_bytes, 3)} of memory, and no "
                f"node of the Ray cluster has that beside the other {len(memory_bytes) - 1} "
                "guests\n  start more or larger nodes (ray start --memory), or use fewer guests"
            )
        place = min(fitting, key=lambda place: (len(groups[place]) / largest[place].cpus, place))
        groups[place].append(number)
        room_bytes[place] -= needed_bytes
    used = [tuple(group) for group in groups if group]
    return sorted(used, key=lambda group: group[0])
