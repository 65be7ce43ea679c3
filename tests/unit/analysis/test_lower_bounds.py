"""Bounds against cases worked out by hand."""

import time

import pytest

from testbed.analysis.lower_bounds import Bounds, bound_us, concurrent_us
from testbed.plan.model import Network, Rank
from tests.support.synthetic import (
    GBIT,
    MS,
    make_network,
    mesh,
    one_rank_per_host,
    three_dcs,
    two_dcs,
)

MB = 1_000_000
TEN_MS, EIGHT_MS = 10_000, 8_000  # us; 1 MB takes 8 ms at 1 Gbit/s


def bound(network: Network, op: str, size: int) -> float:
    return bound_us(network, one_rank_per_host(network), op, size)


@pytest.mark.parametrize(
    ("op", "size", "expected"),
    [
        ("barrier", 0, TEN_MS),
        ("all_reduce", 0, TEN_MS),
        ("all_reduce", MB, EIGHT_MS + TEN_MS),
        ("broadcast", MB, EIGHT_MS + TEN_MS),
        ("reduce", MB, EIGHT_MS + TEN_MS),
        ("all_gather", MB, EIGHT_MS / 2 + TEN_MS),
        ("reduce_scatter", MB, EIGHT_MS / 2 + TEN_MS),
        ("all_to_all", MB, EIGHT_MS / 2 + TEN_MS),
        ("gather", MB, EIGHT_MS / 2 + TEN_MS),
        ("scatter", MB, EIGHT_MS / 2 + TEN_MS),
        ("send_recv", MB, EIGHT_MS + TEN_MS),
    ],
)
def test_two_hosts_and_one_link(op: str, size: int, expected: float) -> None:
    assert bound(two_dcs(), op, size) == pytest.approx(expected, rel=1e-9)


def test_unknown_operation_and_no_ranks() -> None:
    with pytest.raises(ValueError, match="all_reduce, all_gather"):
        bound(two_dcs(), "all_recude", 8)
    with pytest.raises(ValueError, match="at least one rank"):
        bound_us(two_dcs(), (), "barrier", 0)


def test_three_datacenters_mesh() -> None:
    network = three_dcs(hosts=2)
    # Any subset of one or two DCs sends S over two links of 1 Gbit/s: 4 ms. The volume between the
    # three DCs is 2 (3-1) S = 4 S over six directions: 16/3 ms, which is more.
    assert bound(network, "all_reduce", MB) == pytest.approx(EIGHT_MS * 4 / 6 + TEN_MS)
    # Two DCs hold 4/6 of the data that the third needs: 4/6 x 8 ms / 2 links. The volume, 2 S over
    # six directions, gives the same.
    assert bound(network, "all_gather", MB) == pytest.approx(EIGHT_MS * 4 / 6 / 2 + TEN_MS)
    assert bound(network, "broadcast", MB) == pytest.approx(EIGHT_MS / 2 + TEN_MS)


@pytest.mark.parametrize(
    ("op", "wan_ms"),
    [
        ("all_reduce", 8),  # each way S
        ("all_gather", 4),  # the other half of the data
        ("reduce_scatter", 4),
        ("all_to_all", 8),  # of each of two ranks half of its input
        ("broadcast", 8),
        ("reduce", 8),
        ("gather", 4),
        ("scatter", 4),
        ("send_recv", 8),  # from rank 1 to rank 2, and from rank 3 to rank 0
    ],
)
def test_two_datacenters_of_two_hosts(op: str, wan_ms: int) -> None:
    """MB bytes over 1 Gbit/s between the datacenters."""
    network = make_network({"east": 2, "west": 2}, {("east", "west"): (GBIT, GBIT, 10 * MS)})
    assert bound(network, op, MB) == pytest.approx(wan_ms * 1000 + TEN_MS)


def test_send_recv_needs_only_its_neighbours() -> None:
    """Each rank sends to the next one alone, in the order of the ranks."""
    wan = {
        ("east", "west"): (GBIT, GBIT // 100, 1 * MS),
        ("west", "north"): (GBIT, GBIT, 2 * MS),
        ("north", "east"): (GBIT // 2, GBIT, 3 * MS),
    }
    network = make_network({"east": 1, "west": 1, "north": 1}, wan, nic_bps=10 * GBIT)
    # Only north sends to east; at most 0.5 Gbit/s directly and 0.01 over west, which is 1 ms away.
    assert bound(network, "send_recv", MB) == pytest.approx(EIGHT_MS / 0.51 + 1000)
    # Two ranks on each of two hosts: the second's and the fourth's next ranks are on the other.
    pair = two_dcs()
    ranks = [Rank(rank=i, local_rank=i % 2, host=pair.hosts[i // 2].name) for i in range(4)]
    assert bound_us(pair, ranks, "send_recv", MB) == pytest.approx(EIGHT_MS + TEN_MS)
    alternating = [Rank(rank=i, local_rank=i // 2, host=pair.hosts[i % 2].name) for i in range(4)]
    assert bound_us(pair, alternating, "send_recv", MB) == pytest.approx(2 * EIGHT_MS + TEN_MS)
    assert bound_us(pair, ranks[:2], "send_recv", MB) == 0


def test_groups_at_the_same_time_share_the_cuts() -> None:
    """Two rails send 2 S each way over the link in an all-reduce; groups inside send nothing."""
    network = make_network(
        {"east": 2, "west": 2}, {("east", "west"): (GBIT, GBIT, 10 * MS)}, nic_bps=10 * GBIT
    )
    ranks = one_rank_per_host(network)
    rails = [Bounds(network, ranks[i::2]) for i in (0, 1)]
    assert rails[0].us("all_reduce", MB) == pytest.approx(EIGHT_MS + TEN_MS)
    assert concurrent_us(rails, "all_reduce", MB) == pytest.approx(2 * EIGHT_MS + TEN_MS)
    assert concurrent_us(rails, "all_gather", MB) == pytest.approx(EIGHT_MS + TEN_MS)
    assert concurrent_us(rails, "barrier", 0) == TEN_MS
    assert concurrent_us(rails[:1], "all_reduce", MB) == rails[0].us("all_reduce", MB)
    inside = [Bounds(network, ranks[:2]), Bounds(network, ranks[2:])]
    nic_us = EIGHT_MS / 10  # 10 Gbit/s
    assert concurrent_us(inside, "all_reduce", MB) == pytest.approx(nic_us)


def test_asymmetric_rates() -> None:
    network = make_network({"east": 1, "west": 1}, {("east", "west"): (GBIT, GBIT // 10, 10 * MS)})
    to_west_us, to_east_us = EIGHT_MS + TEN_MS, 10 * EIGHT_MS + TEN_MS
    assert bound(network, "broadcast", MB) == pytest.approx(to_west_us)
    assert bound(network, "reduce", MB) == pytest.approx(to_east_us)
    assert bound(network, "all_reduce", MB) == pytest.approx(to_east_us)


def test_equal_nics_in_one_datacenter_give_the_ring_bound() -> None:
    network = make_network({"lab": 4}, {}, nic_bps=GBIT, nic_delay_ns=1 * MS)
    assert bound(network, "all_reduce", MB) == pytest.approx(EIGHT_MS * 2 * 3 / 4 + 1000)
    assert bound(network, "all_gather", MB) == pytest.approx(EIGHT_MS * 3 / 4 + 1000)


def test_ranks_of_one_host_count_once() -> None:
    network = two_dcs()
    ranks = [Rank(rank=i, local_rank=i % 2, host=network.hosts[i // 2].name) for i in range(4)]
    assert bound_us(network, ranks, "all_reduce", MB) == pytest.approx(EIGHT_MS + TEN_MS)
    assert bound_us(network, ranks, "all_gather", MB) == pytest.approx(EIGHT_MS / 2 + TEN_MS)
    assert bound_us(network, ranks[:2], "all_reduce", MB) == 0


def test_a_relay_can_be_faster_than_the_direct_link() -> None:
    wan = {
        ("east", "west"): (GBIT, GBIT, 50 * MS),
        ("east", "north"): (GBIT, GBIT, 10 * MS),
        ("north", "west"): (GBIT, GBIT, 10 * MS),
    }
    network = make_network({"east": 1, "north": 1, "west": 1}, wan)
    assert bound(network, "barrier", 0) == 20_000
    ends = [rank for rank in one_rank_per_host(network) if not rank.host.startswith("north")]
    assert bound_us(network, ends, "barrier", 0) == 50_000


def test_two_hundred_hosts_in_twenty_datacenters_are_quick() -> None:
    names = [f"dc{i}" for i in range(20)]
    network = make_network(dict.fromkeys(names, 10), mesh(names, GBIT, 10 * MS))
    begin = time.perf_counter()
    bounds = Bounds(network, one_rank_per_host(network))
    for exponent in range(12, 28):
        bounds.us("all_reduce", 1 << exponent)
    assert time.perf_counter() - begin < 5
