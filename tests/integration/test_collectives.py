"""Operations and hierarchy with real ranks on loopback, and values that show mistakes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from testbed.workloads.collectives.checked_values import PERIOD, Values

from testbed.workers.lib.hierarchy import rails

LOOPBACK = Path(__file__).parent / "loopback.py"
CHECKED = ("flat", "in_place", "odd_sizes", "groups", "alone")
HIERARCHIES = ("equal", "uneven", "crossed", "one_datacenter", "one_rank_each")
OTHERS = ("connections", "misuse", "agreement")
Results = dict[str, list[dict[str, Any]]]  # by scenario, of each rank, by case


@pytest.fixture(scope="module")
def results() -> Results:
    """The results of all scenarios, in one process that imports torch once."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(LOOPBACK), *CHECKED, *HIERARCHIES, *OTHERS],
        env=os.environ | {"PYTHONPATH": str(LOOPBACK.parent.parent.parent)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    by_scenario: Results = json.loads(done.stdout)
    return by_scenario


@pytest.mark.parametrize("scenario", [*CHECKED, *HIERARCHIES])
def test_right_results_and_tampered_ones(results: Results, scenario: str) -> None:
    """No element of any result is wrong; with one element changed, exactly one is."""
    assert len(results[scenario]) == 4
    for rank, outcomes in enumerate(results[scenario]):
        assert len(outcomes) >= 8
        bad = {case: outcome for case, outcome in outcomes.items() if outcome != [0, 1]}
        assert bad == {}, f"rank {rank}: [wrong, wrong after tampering]"


def test_every_operation_and_type_was_tried(results: Results) -> None:
    assert len(results["flat"][0]) == 10 * 8


def test_the_number_of_connections(results: Results) -> None:
    """Each of four ranks has three to each other, before the first operation and after."""
    for of_rank in results["connections"]:
        assert of_rank.pop("before") == of_rank.pop("connections") == [0, 3 * 3]
        assert set(map(tuple, of_rank.values())) == {(0, 1)}


def test_ranks_agree_when_to_stop(results: Results) -> None:
    """Rank 0 knows its median after six equal times; after 15, if three of them are outliers (the
    95 % interval of 15 values leaves out three at each end); and never if they swing: the limit.
    """
    expected = {"steady": 6, "slow start": 15, "swing": 20}
    assert results["agreement"] == [expected] * 4


def test_misuse_of_a_hierarchy(results: Results) -> None:
    for rank, of_rank in enumerate(results["misuse"]):
        twice, missing, root = of_rank["messages"]
        assert twice == missing == "every rank must be in exactly one datacenter"
        assert "must be the first rank of a datacenter, one of [0, 2]" in root
        # Rank r has (r + 1) times 0 ... 7; part r of the sum is 10 times 2 r and 2 r + 1. The
        # output is in the input.
        assert of_rank["sum"] == [20.0 * rank, 20.0 * rank + 10]


def test_rails() -> None:
    assert rails([[0, 1], [2, 3]]) == [[0, 2], [1, 3]]
    assert rails([[0, 1, 2], [3]]) == [[0, 3], [1], [2]]


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.uint8, torch.bfloat16, torch.float16, torch.float32, torch.int64]
)
@pytest.mark.parametrize("ranks", [1, 4, 100])
def test_values_and_their_sum(dtype: torch.dtype, ranks: int) -> None:
    """The expected sum is that of the ranks' values, also over the end of a period; int8 wraps."""
    values = Values(ranks, dtype)
    offset, size = PERIOD - 100, 300
    total = torch.zeros(size, dtype=dtype)
    one = torch.empty(size, dtype=dtype)
    for rank in range(ranks):
        values.fill(one, rank, offset)
        assert values.differing(one, rank, offset) == 0
        total += one
    assert values.differing_from_sum(total, offset) == 0
    total[7] += 1
    assert values.differing_from_sum(total, offset) == 1


def test_values_of_many_ranks_share_memory() -> None:
    """The values of 256 ranks, of which an all-gather checks all, are parts of one table."""
    values = Values(256, torch.float32)
    tables = {values._of_rank(rank).untyped_storage().data_ptr() for rank in range(256)}
    assert len(tables) == 1
    buffer = torch.empty(PERIOD + 1)
    values.fill(buffer, 255, offset=7)
    assert buffer[0] == values._of_rank(255)[7] == values._of_rank(0)[(7 + 255 * 4099) % PERIOD]


def test_values_show_exchanged_parts_and_ranks() -> None:
    """At another place, or of another rank, most elements differ."""
    values = Values(8, torch.float32)
    x = torch.empty(4096)
    values.fill(x, 3)
    for rank, offset in [(2, 0), (4, 0), (3, 1), (3, 512), (3, 4096), (3, 65536)]:
        assert values.differing(x, rank, offset) > 0.6 * len(x)
    assert values.differing_from_sum(x * 8) > 0.6 * len(x)
    assert values.differing(torch.zeros(4096), 3) > 0.6 * len(x)
