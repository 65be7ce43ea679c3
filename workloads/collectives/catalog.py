"""Operations of the workload `collectives`: sizes, data flow, bounds. Does not import torch.

An operation is declared here; the function with the operation's name in operations.py defines the
buffers, the call and the check.
"""

from __future__ import annotations

from collections.abc import Collection

from testbed.spec.collective import Collective, Cut, DataFlow, Parts, Unequal

HIERARCHICAL = "hierarchical"  # the algorithm in stages; other algorithms have their library's name


def _whole(cut: Cut) -> float:
    return 1.0


def _nothing(cut: Cut) -> float:
    return 0.0


def _parts_of_senders(cut: Cut) -> float:
    return cut.inside / (cut.inside + cut.outside)


def _parts_of_receivers(cut: Cut) -> float:
    return cut.outside / (cut.inside + cut.outside)


def _parts_of_pairs(cut: Cut) -> float:
    return cut.inside * cut.outside / (cut.inside + cut.outside)


def _whole_from_root(cut: Cut) -> float:
    return 1.0 if cut.root_inside else 0.0


def _whole_to_root(cut: Cut) -> float:
    return 0.0 if cut.root_inside else 1.0


def _parts_from_root(cut: Cut) -> float:
    return _parts_of_receivers(cut) if cut.root_inside else 0.0


def _parts_to_root(cut: Cut) -> float:
    return 0.0 if cut.root_inside else _parts_of_senders(cut)


def _messages_to_next(cut: Cut) -> float:
    return float(cut.messages)


def _of_source(parts: Parts, source: int, target: int) -> int:
    return parts[target][source]


def _for_target(parts: Parts, source: int, target: int) -> int:
    return parts[source][target]


def _of_sources(parts: Parts, sources: Collection[int], targets: Collection[int]) -> int:
    most = 0
    for target in targets:
        received = sum(parts[target][source] for source in sources)
        most = max(most, received)

    return most


def _for_targets(parts: Parts, sources: Collection[int], targets: Collection[int]) -> int:
    most = 0
    for source in sources:
        sent = sum(parts[source][target] for target in targets)
        most = max(most, sent)

    return most


def _of_pairs(parts: Parts, sources: Collection[int], targets: Collection[int]) -> int:
    total = 0
    for source in sources:
        total += sum(parts[source][target] for target in targets)

    return total


def _same(ranks: int) -> float:
    return 1.0


def _others(ranks: int) -> float:
    return (ranks - 1) / ranks


def _twice_the_others(ranks: int) -> float:
    return 2 * (ranks - 1) / ranks


_COLLECTIVES = (
    Collective(
        name="all_reduce",
        size="every rank's buffer",
        flow=DataFlow.ALL_TO_ALL,
        crossing=_whole,
        messages=2,
        bus_factor=_twice_the_others,
        hierarchical=True,
    ),
    Collective(
        name="all_gather",
        size="the total over the ranks, which is every rank's output",
        flow=DataFlow.ALL_TO_ALL,
        crossing=_parts_of_senders,
        messages=1,
        bus_factor=_others,
        in_parts=True,
        hierarchical=True,
        unequal=Unequal(_of_source, _of_sources),
    ),
    Collective(
        name="reduce_scatter",
        size="every rank's input",
        flow=DataFlow.ALL_TO_ALL,
        crossing=_parts_of_receivers,
        messages=1,
        bus_factor=_others,
        in_parts=True,
        hierarchical=True,
        unequal=Unequal(_for_target, _for_targets),
    ),
    Collective(
        name="all_to_all",
        size="every rank's input; each rank sends the j-th of its parts to rank j",
        flow=DataFlow.ALL_TO_ALL,
        crossing=_parts_of_pairs,
        messages=0,
        bus_factor=_others,
        in_parts=True,
        separate_output=True,
        unequal=Unequal(_for_target, _of_pairs),
    ),
    Collective(
        name="broadcast",
        size="every rank's buffer",
        flow=DataFlow.FROM_ROOT,
        crossing=_whole_from_root,
        messages=1,
        bus_factor=_same,
        hierarchical=True,
    ),
    Collective(
        name="reduce",
        size="every rank's buffer",
        flow=DataFlow.TO_ROOT,
        crossing=_whole_to_root,
        messages=1,
        bus_factor=_same,
    ),
    Collective(
        name="gather",
        size="the total over the ranks, which is the root's output",
        flow=DataFlow.TO_ROOT,
        crossing=_parts_to_root,
        messages=0,
        bus_factor=_others,
        in_parts=True,
    ),
    Collective(
        name="scatter",
        size="the root's input",
        flow=DataFlow.FROM_ROOT,
        crossing=_parts_from_root,
        messages=0,
        bus_factor=_others,
        in_parts=True,
    ),
    Collective(
        name="send_recv",
        size="what a rank sends to the next rank; the last one sends to the first",
        flow=DataFlow.TO_NEXT,
        crossing=_messages_to_next,
        messages=0,
        bus_factor=_same,
        separate_output=True,
    ),
    Collective(
        name="barrier",
        size="none",
        flow=DataFlow.ALL_TO_ALL,
        crossing=_nothing,
        messages=0,
        bus_factor=_same,
        hierarchical=True,
    ),
)

CATALOG = {collective.name: collective for collective in _COLLECTIVES}
