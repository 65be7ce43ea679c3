"""What is said to dominate, from figures whose cause is known."""

import polars as pl
import pytest

from testbed.analysis.bottleneck import busiest, dominant
from testbed.analysis.headline import main_operation
from testbed.analysis.network_history import History
from tests.support.synthetic import GBIT, MS, START_NS, make_network, two_dcs

SECOND = GBIT
EMPTY = pl.DataFrame(
    schema={"time_ns": pl.Int64, "source": pl.String, "link": pl.String, "bytes": pl.Int64}
)  # as of a run without a WAN


def samples(bits, seconds=10):
    """Of a link from east to west that carries `bits` at an even pace."""
    times = range(0, seconds * 10 + 1)
    return pl.DataFrame(
        {
            "time_ns": [START_NS + i * 100 * MS for i in times],
            "source": "east",
            "link": "east-west",
            "bytes": [int(bits / 8 * i / times[-1]) for i in times],
        }
    )


def row(size, seconds, efficiency=0.1):
    return {
        "op": "all_reduce",
        "bytes": size,
        "ranks": 2,
        "dtype": "float32",
        "algorithm": "gloo",
        "groups": "all",
        "time_us": {"median": seconds * 1e6},
        "efficiency": efficiency,
        "iterations": 10,
    }


def ops(size, seconds, iterations=10):
    """One after another."""
    starts = [START_NS + int(i * seconds * SECOND) for i in range(iterations) for _rank in range(2)]
    return pl.DataFrame(
        {
            "op": "all_reduce",
            "bytes": size,
            "group_size": 2,
            "dtype": "float32",
            "phase": "measure",
            "iteration": [i // 2 for i in range(len(starts))],
            "start_ns": starts,
            "end_ns": [start + int(seconds * SECOND) for start in starts],
        }
    )


def flows(*window_shares):
    return pl.DataFrame(
        {"window_limited_share": list(window_shares), "payload_bytes": [1000] * len(window_shares)}
    )


LARGE = 1 << 24


@pytest.mark.parametrize(
    ("small_s", "bits", "efficiency", "shares", "expected"),
    [
        (0.9, 1e8, 0.1, None, "latency"),  # the small one takes nearly as long, links are idle
        (0.1, 9e9, 0.5, None, "bandwidth"),  # the link is full
        (0.1, 1e9, 0.8, None, "bandwidth"),  # near the bound: a host's card
        (0.1, 1e9, 0.1, None, "window"),  # the time grows, no link is full
        (None, 2e9, 0.1, (0.9, 0.3), "window"),  # connections wait for their windows
        (None, 2e9, 0.1, (0.3, 0.3), "latency"),
        (None, 5e9, 0.1, None, None),  # nothing tells
    ],
)
def test_collectives(small_s, bits, efficiency, shares, expected):
    rows = [row(LARGE, 1.0, efficiency)] + ([] if small_s is None else [row(4096, small_s)])
    found = dominant(
        History((two_dcs(),)),
        {"collectives": rows},
        ops(LARGE, 1.0),
        None,
        samples(bits),
        flows(*shares) if shares else None,
    )
    assert (found and found["what"]) == expected


def test_the_figures_are_told():
    rows = [row(4096, 0.9), row(LARGE, 1.0)]
    found = dominant(
        History((two_dcs(),)), {"collectives": rows}, ops(LARGE, 1.0), None, samples(5e8), None
    )
    assert found["why"].replace("\N{NO-BREAK SPACE}", " ") == (
        "4 KiB takes 90 % of the time of 16 MiB, and the busiest WAN direction, east to west, carries 5 % of its "
        "rate then"
    )


def test_what_took_most_of_the_time_counts():
    """Not what has most bytes; and its iterations may overlap: ten of 1 s in 5.5 s."""
    overlapping = ops(4096, 0.5).with_columns(end_ns=pl.col("start_ns") + SECOND)
    rows = [
        row(LARGE, 0.01),
        {**row(4096, 1.0), "op": "all_to_all"},
        {**row(LARGE, 2.0), "iterations": 1},
    ]
    assert main_operation(rows) == rows[1]
    table = overlapping.with_columns(op=pl.lit("all_to_all"))
    found = dominant(History((two_dcs(),)), {"collectives": rows}, table, None, samples(5e8), None)
    assert found["what"] == "latency"
    assert "5 % of its rate" in found["why"].replace("\N{NO-BREAK SPACE}", " ")


def test_one_site_has_no_links():
    history = History((make_network({"east": 2}, {}),))
    found = dominant(
        history,
        {"collectives": [row(4096, 0.9), row(LARGE, 1.0)]},
        ops(LARGE, 1.0),
        None,
        EMPTY,
        None,
    )
    assert found["what"] == "latency"
    alone = dominant(
        history, {"collectives": [row(LARGE, 1.0)]}, ops(LARGE, 1.0), None, EMPTY, None
    )
    assert alone is None


@pytest.mark.parametrize(
    ("computes", "bits", "expected"),
    [(0.7, 1e9, "compute"), (0.2, 7e9, "bandwidth"), (0.2, 1e8, "latency"), (0.2, 4e9, None)],
)
def test_training(computes, bits, expected):
    steps = pl.DataFrame({"start_ns": [START_NS], "end_ns": [START_NS + 10 * SECOND]})
    summary = {"training": {"compute_utilisation": computes}}
    found = dominant(History((two_dcs(),)), summary, ops(LARGE, 1.0), steps, samples(bits), None)
    assert (found and found["what"]) == expected


def test_busiest():
    history = History((two_dcs(),))
    found = busiest(history, samples(5e9), START_NS, START_NS + 10 * SECOND, 10.0)
    assert found == ("east to west", pytest.approx(0.5))
    assert busiest(history, samples(5e9), START_NS + 2 * SECOND, START_NS + 4 * SECOND, 2.0)[
        1
    ] == pytest.approx(0.5)
    assert busiest(history, samples(0).clear(), START_NS, START_NS + SECOND, 1.0) is None
    assert dominant(None, {"collectives": [row(8, 1.0)]}, ops(8, 1.0), None, EMPTY, None) is None
