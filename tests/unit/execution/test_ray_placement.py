"""How guests are divided among the nodes of a cluster."""

import pytest

from testbed.core.errors import MachineError
from testbed.execution.ray_placement import NodeOffer, groups_for_nodes

GIB = 2**30


@pytest.mark.parametrize(
    ("cpus", "groups"),
    [
        ([1, 1, 1, 1], [(0,), (1,), (2,), (3,)]),
        ([8, 8], [(0, 2), (1, 3)]),
        ([1, 3], [(0, 2, 3), (1,)]),
        ([2, 1, 1, 1, 1], [(0,), (1,), (2,), (3,)]),
    ],
)
def test_each_node_gets_guests_for_its_cpus(cpus: list[int], groups: list[tuple[int, ...]]) -> None:
    nodes = [NodeOffer(number, 64 * GIB) for number in cpus]
    assert groups_for_nodes([GIB] * 4, nodes) == groups


def test_each_node_gets_guests_for_its_memory() -> None:
    nodes = [NodeOffer(8, 2 * GIB), NodeOffer(4, 9 * GIB)]
    assert groups_for_nodes([GIB, 5 * GIB, 4 * GIB], nodes) == [(0,), (1, 2)]


@pytest.mark.parametrize(
    ("nodes", "what"),
    [
        ([], "has 0 node"),
        ([NodeOffer(8, 64 * GIB)], "has 1 node with a CPU"),
        ([NodeOffer(1, 64 * GIB), NodeOffer(1, 64 * GIB)], "guest 2 needs a CPU"),
        ([NodeOffer(8, 2 * GIB), NodeOffer(8, GIB)], "guest 0 needs a CPU and 4 GiB of memory"),
    ],
)
def test_a_cluster_that_is_too_small(nodes: list[NodeOffer], what: str) -> None:
    with pytest.raises(MachineError, match=what) as raised:
        groups_for_nodes([4 * GIB] * 3, nodes)
    assert raised.value.exit_status == 3
