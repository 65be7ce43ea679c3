"""Turn traces into programs: what each rank does in a replay, as JSON values of the plan.

A program is a list of items in an order in which each item follows those that it waits for. An item
begins when the items of `after` have ended and `pause_ns` has passed; operations begin in the order
of the program. Chains of computation become one item.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import TypedDict

from testbed.core.units import UnitError

from .trace import Node, RankTrace

MOST_ITEMS = 200_000  # of all programs of a run


class ProgramItem(TypedDict, total=False):
    """Computation for `compute_ns`, or an operation.

    Attributes:
        after: numbers of the items that have to end before.
        pause_ns: time after their end.
        compute_ns: duration of computation; missing in operations.
        step: number of the training step.
        op: the operation, as in workloads/collectives/catalog.py, or send or recv.
        bytes: its size.
        dtype: torch's data type.
        group: name of the process group; missing for all ranks.
        root: the root among all ranks.
        peer: the other rank of a message, among all ranks.
        tag: tag of the message.
        parts: bytes that the rank sends to each rank of the group.
        received: bytes that the rank receives from each.
    """

    after: list[int]
    pause_ns: int
    compute_ns: int
    step: int
    op: str
    bytes: int
    dtype: str
    group: str
    root: int
    peer: int
    tag: int
    parts: list[int]
    received: list[int]


Program = list[ProgramItem]


class _Step:
    """A node on its way to an item."""

    def __init__(self, node: Node, after: set[int]) -> None:
        self.node = node
        self.after = after
        self.pause_ns = 0
        self.duration_ns = node.duration_ns

    @property
    def is_computation(self) -> bool:
        return self.node.communication is None


def begin_ns(trace: RankTrace) -> int:
    """Return the begin of a trace's first node; 0 if it has no times."""
    begins = [node.start_ns for node in trace.nodes if node.start_ns is not None]
    return min(begins, default=0)


def make_program(
    trace: RankTrace, origin_ns: int, computation: float
) -> list[tuple[ProgramItem, Node]]:
    """Return the items of a rank, each with the node that it comes from.

    Args:
        trace: The trace.
        origin_ns: Time in the trace at which the replay begins.
        computation: Factor on computation and pauses.
    """
    steps = _in_lanes(trace)
    _set_pauses(steps, origin_ns)
    kept = _joined(steps)
    items: list[tuple[ProgramItem, Node]] = []
    for step in kept:
        item: ProgramItem = {"after": sorted(step.after)}
        if step.pause_ns:
            item["pause_ns"] = round(step.pause_ns * computation)
        if step.is_computation:
            item["compute_ns"] = round(step.duration_ns * computation)
        if step.node.step is not None:
            item["step"] = step.node.step
        items.append((item, step.node))
    return items


def check_size(programs: Mapping[str, Sequence[ProgramItem]]) -> None:
    """Raise UnitError if the programs are too long for a plan."""
    total = sum(len(program) for program in programs.values())
    if total > MOST_ITEMS:
        raise UnitError(
            f"the traces have {total} pieces of work (at most {MOST_ITEMS})",
            "record fewer training steps",
        )


def _in_lanes(trace: RankTrace) -> list[_Step]:
    """Return the nodes in an order that obeys what they wait for, each after its lane's last."""
    order = _sorted(trace)
    places = {number: place for place, number in enumerate(order)}
    last_of_lane: dict[str, int] = {}
    steps: list[_Step] = []
    for place, number in enumerate(order):
        node = trace.nodes[number]
        after: set[int] = set()
        for other in node.after:
            in_other_lane = not node.lane or trace.nodes[other].lane != node.lane
            if in_other_lane and places[other] < place:
                after.add(places[other])
        if node.lane in last_of_lane:
            after.add(last_of_lane[node.lane])
        if node.lane:
            last_of_lane[node.lane] = place
        steps.append(_Step(node, after))
    return steps


def _sorted(trace: RankTrace) -> list[int]:
    """Return the numbers of the nodes, the earliest first of those that wait for nothing.

    Older converters of Chakra write nodes that wait for each other in a circle. Of these, the first
    in the file does not wait.
    """
    nodes = trace.nodes
    missing = [len(node.after) for node in nodes]
    followers: list[list[int]] = [[] for _node in nodes]
    for number, node in enumerate(nodes):
        for other in node.after:
            followers[other].append(number)

    ready = [(node.start_ns or 0, number) for number, node in enumerate(nodes) if not node.after]
    heapq.heapify(ready)
    waiting = iter(range(len(nodes)))
    done: set[int] = set()
    order: list[int] = []
    while len(order) < len(nodes):
        number = heapq.heappop(ready)[1] if ready else next(waiting)
        if number in done:
            continue
        done.add(number)
        order.append(number)
        for follower in followers[number]:
            missing[follower] -= 1
            if not missing[follower]:
                heapq.heappush(ready, (nodes[follower].start_ns or 0, follower))
    return order


def _set_pauses(steps: Sequence[_Step], origin_ns: int) -> None:
    """Set the pause of each node so that, with recorded durations, it begins as recorded."""
    ends_ns: list[int] = []
    for step in steps:
        ready_ns = max((ends_ns[other] for other in step.after), default=0)
        start_ns = step.node.start_ns
        if start_ns is not None:
            step.pause_ns = max(0, start_ns - origin_ns - ready_ns)
        ends_ns.append(ready_ns + step.pause_ns + step.duration_ns)


def _joined(steps: Sequence[_Step]) -> list[_Step]:
    """Return the steps with chains of computation as one step, and renumber them."""
    followers = [0] * len(steps)
    for step in steps:
        for other in step.after:
            followers[other] += 1

    new_place: dict[int, int] = {}
    kept: list[_Step] = []
    for place, step in enumerate(steps):
        before = next(iter(step.after)) if len(step.after) == 1 else None
        if before is not None and step.is_computation and followers[before] == 1:
            earlier = kept[new_place[before]]
            same = earlier.node.lane == step.node.lane and earlier.node.step == step.node.step
            if earlier.is_computation and same:
                earlier.duration_ns += step.pause_ns + step.duration_ns
                new_place[place] = new_place[before]
                continue
        step.after = {new_place[other] for other in step.after}
        new_place[place] = len(kept)
        kept.append(step)
    return kept
