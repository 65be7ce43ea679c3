"""Bounds against cases worked out by hand."""

import time

import pytest
from synthetic import GBIT, MS, make_network, mesh, one_rank_per_host, three_dcs, two_dcs

from testbed.bounds import Bounds, bound_us
from testbed.plan import Rank

MB = 1_000_000
TEN_MS, EIGHT_MS = 10_000, 8_000  # us; 1 MB takes 8 ms at 1 Gbit/s


def bound(network, op, size):
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
    ],
)
def test_two_hosts_and_one_link(op, size, expected):
    assert bound(two_dcs(), op, size) == pytest.approx(expected, rel=1e-9)


def test_unknown_operation_and_no_ranks():
    with pytest.raises(ValueError, match="all_reduce, all_gather"):
        bound(two_dcs(), "all_recude", 8)
    with pytest.raises(ValueError, match="at least one rank"):
        bound_us(two_dcs(), (), "barrier", 0)


def test_three_datacenters_mesh():
    network = three_dcs(hosts=2)
    # Any subset of one or two DCs sends S over two links of 1 Gbit/s: 4 ms. The volume between the three DCs is
    # 2 (3-1) S = 4 S over six directions: 16/3 ms, which is more.
    assert bound(network, "all_reduce", MB) == pytest.approx(EIGHT_MS * 4 / 6 + TEN_MS)
    # Two DCs hold 4/6 of the data that the third needs: 4/6 x 8 ms / 2 links. The volume, 2 S over
    # six directions, gives the same.
    assert bound(network, "all_gather", MB) == pytest.approx(EIGHT_MS * 4 / 6 / 2 + TEN_MS)
    assert bound(network, "broadcast", MB) == pytest.approx(EIGHT_MS / 2 + TEN_MS)


def test_asymmetric_rates():
    network = make_network({"east": 1, "west": 1}, {("east", "west"): (GBIT, GBIT // 10, 10 * MS)})
    assert bound(network, "broadcast", MB) == pytest.approx(EIGHT_MS + TEN_MS)  # only east to west
    assert bound(network, "reduce", MB) == pytest.approx(10 * EIGHT_MS + TEN_MS)  # only west to east
    assert bound(network, "all_reduce", MB) == pytest.approx(10 * EIGHT_MS + TEN_MS)


def test_equal_nics_in_one_datacenter_give_the_ring_bound():
    network = make_network({"lab": 4}, {}, nic_bps=GBIT, nic_delay_ns=1 * MS)
    assert bound(network, "all_reduce", MB) == pytest.approx(EIGHT_MS * 2 * 3 / 4 + 1000)
    assert bound(network, "all_gather", MB) == pytest.approx(EIGHT_MS * 3 / 4 + 1000)


def test_ranks_of_one_host_count_once():
    network = two_dcs()
    ranks = [Rank(rank=i, local_rank=i % 2, host=network.hosts[i // 2].name) for i in range(4)]
    assert bound_us(network, ranks, "all_reduce", MB) == pytest.approx(EIGHT_MS + TEN_MS)
    assert bound_us(network, ranks, "all_gather", MB) == pytest.approx(EIGHT_MS / 2 + TEN_MS)
    assert bound_us(network, ranks[:2], "all_reduce", MB) == 0


def test_a_relay_can_be_faster_than_the_direct_link():
    wan = {
        ("east", "west"): (GBIT, GBIT, 50 * MS),
        ("east", "north"): (GBIT, GBIT, 10 * MS),
        ("north", "west"): (GBIT, GBIT, 10 * MS),
    }
    network = make_network({"east": 1, "north": 1, "west": 1}, wan)
    assert bound(network, "barrier", 0) == 20_000
    ends = [rank for rank in one_rank_per_host(network) if not rank.host.startswith("north")]
    assert bound_us(network, ends, "barrier", 0) == 50_000


def test_two_hundred_hosts_in_twenty_datacenters_are_quick():
    names = [f"dc{i}" for i in range(20)]
    network = make_network(dict.fromkeys(names, 10), mesh(names, GBIT, 10 * MS))
    begin = time.perf_counter()
    bounds = Bounds(network, one_rank_per_host(network))
    for exponent in range(12, 28):
        bounds.us("all_reduce", 1 << exponent)
    assert time.perf_counter() - begin < 5
