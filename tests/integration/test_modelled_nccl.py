"""The choices of the modelled NCCL, by hand: algorithm, protocol, channels, trees."""

from typing import Any

import pytest

from testbed.workers.gpu.nccl import ALGORITHMS, PROTOCOLS, allowed, used_channels

CHOICES = """
import torch.distributed as dist
import testbed.workers.gpu.nccl as nccl
backend = nccl._compiled_backend()
network = backend.NetworkSettings()
network.card_gbytes = 1.25
"""


def test_all_reduces_of_eight_hosts(on_gpus: Any) -> None:
    """Times by NCCL's model: latencies of steps, and bytes over the rate that the search finds."""
    result, _ = on_gpus(
        CHOICES
        + """
sizes = (1024, 65536, 2**27)
print(json.dumps([backend.choose_all_reduce(network, size, 8, 8) for size in sizes]))
"""
    )
    small, medium, large = result
    # a ring has 14 steps, which NCCL counts as those of a tree with one rank on each host; a tree
    # has 3 levels, up and down
    rate = 1.2e3  # B/us: the largest of the search's rates below 1.25 GB/s
    ring = rate * 8 / 14
    tree = rate * 0.92 / 2
    assert small[3] == pytest.approx(
        [
            6.6 + 14 * 5.0 + 1024 / (ring / 2),
            (8.4 + 14 * 14.0) * 1.4 + 1024 / ring,
            6.8 + 2 * 3 * 5.0 + 1024 / (tree / 3.8 * 0.9),
            8.4 + 2 * 3 * 14.0 + 1024 / (tree * 0.9),
        ]
    )
    assert small[:3] == [True, True, 1]  # a tree with LL
    # a ring with LL; on each channel 512 threads get 8 B for each of 8 ranks at least
    assert medium[:3] == [False, True, 2]
    assert large[:3] == [False, False, 2]  # a ring


def test_what_the_environment_allows(on_gpus: Any) -> None:
    result, _ = on_gpus(
        CHOICES
        + """
network.may_tree = False
rings = backend.choose_all_reduce(network, 1024, 8, 8)
network.may_tree, network.may_ring, network.may_ll = True, False, False
trees = backend.choose_all_reduce(network, 2**27, 8, 8)
one_host = backend.choose_all_reduce(network, 1024, 8, 1)
print(json.dumps([rings, trees, one_host]))
"""
    )
    rings, trees, one_host = result
    assert rings[:2] == [False, True]
    assert trees[:3] == [True, False, 2]
    assert one_host[:3] == [False, False, 2]


def test_names_in_variables() -> None:
    assert allowed("", ALGORITHMS) == {"ring", "tree"}
    assert allowed("Tree", ALGORITHMS) == {"tree"}
    assert allowed("^tree,collnet", ALGORITHMS) == {"ring"}
    assert allowed("LL,LL128", PROTOCOLS) == {"ll"}
    assert allowed("NVLS", ALGORITHMS) == {"ring", "tree"}


def test_numbers_of_channels() -> None:
    assert used_channels(24, {}) == 24
    assert used_channels(24, {"NCCL_MAX_NCHANNELS": "16", "NCCL_MAX_CTAS": "8"}) == 8
    assert used_channels(2, {"NCCL_MIN_CTAS": "4"}) == 4
    assert used_channels(24, {"NCCL_MAX_NCHANNELS": "4", "NCCL_MIN_NCHANNELS": "6"}) == 6


def test_trees_span_all_ranks(on_gpus: Any) -> None:
    """Each rank but one is the child of its parent; of a host, one rank has the way out."""
    trees, _ = on_gpus(
        CHOICES
        + """
trees = []
for hosts in (1, 2, 3, 4, 5, 7, 8, 10):
    host_of_rank = [rank // 2 for rank in range(2 * hosts)]
    for second in (False, True):
        ranks = range(2 * hosts)
        trees.append([backend.place_in_tree(rank, host_of_rank, second) for rank in ranks])
print(json.dumps(trees))
"""
    )
    assert len(trees) == 16
    for places in trees:
        assert [parent for parent, _children in places].count(-1) == 1
        for rank, (parent, children) in enumerate(places):
            assert len(children) <= 3
            assert all(places[child][0] == rank for child in children)
            if parent >= 0:
                assert rank in places[parent][1]
            if rank % 2:  # the second rank of a host
                assert (parent, children) == (rank - 1, [])
