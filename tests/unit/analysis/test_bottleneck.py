"""What is said to dominate, from figures whose cause is known."""

import polars as pl
import pytest

from testbed.analysis.bottleneck import busiest, cause_of_collectives, cause_of_training
from testbed.analysis.network_history import History
from testbed.analysis.verdict import main_operation
from testbed.runfolder.summary import Cause, CollectiveRow, Spread, TrainingSummary
from tests.support.synthetic import GBIT, MS, START_NS, make_network, two_dcs

SECOND = GBIT
EMPTY = pl.DataFrame(
    schema={"time_ns": pl.Int64, "source": pl.String, "link": pl.String, "bytes": pl.Int64}
)  # as of a run without a WAN
LARGE = 1 << 24


def samples(bits: float, seconds: int = 10) -> pl.DataFrame:
    """Make samples of a link from east to west that carries `bits` at an even pace."""
    count = seconds * 10
    return pl.DataFrame(
        {
            "time_ns": [START_NS + number * 100 * MS for number in range(count + 1)],
            "source": "east",
            "link": "east-west",
            "bytes": [int(bits / 8 * number / count) for number in range(count + 1)],
        }
    )


def spread(value: float) -> Spread:
    return Spread(min=value, median=value, p95=value, max=value)


def row(
    size: int,
    seconds: float,
    efficiency: float = 0.1,
    *,
    op: str = "all_reduce",
    iterations: int = 10,
) -> CollectiveRow:
    return CollectiveRow(
        op=op,
        bytes=size,
        ranks=2,
        iterations=iterations,
        time_us=spread(seconds * 1e6),
        slowest_us=seconds * 1e6,
        algbw_gbytes=1.0,
        busbw_gbytes=1.0,
        efficiency=efficiency,
        dtype="float32",
    )


def ops(size: int, seconds: float, iterations: int = 10) -> pl.DataFrame:
    """Make operations of two ranks, one after another."""
    numbers = [number for number in range(iterations) for _rank in range(2)]
    starts = [START_NS + int(number * seconds * SECOND) for number in numbers]
    return pl.DataFrame(
        {
            "op": "all_reduce",
            "bytes": size,
            "group_size": 2,
            "dtype": "float32",
            "phase": "measure",
            "iteration": numbers,
            "start_ns": starts,
            "end_ns": [start + int(seconds * SECOND) for start in starts],
        }
    )


def flows(*window_shares: float) -> pl.DataFrame:
    payload_bytes = [1000] * len(window_shares)
    return pl.DataFrame(
        {"window_limited_share": list(window_shares), "payload_bytes": payload_bytes}
    )


def what(cause: Cause | None) -> str | None:
    return None if cause is None else cause.what


def text(cause: Cause | None) -> str:
    assert cause is not None
    return cause.why.replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.parametrize(
    ("small_s", "bits", "efficiency", "shares", "expected"),
    [
        (0.9, 1e8, 0.1, None, "latency"),  # the small one takes nearly as long, links are idle
        (0.1, 9e9, 0.5, None, "bandwidth"),  # the link is full
        (0.1, 1e9, 0.8, None, "bandwidth"),  # near the bound: a host's card
        (0.1, 1e9, 0.1, None, "window"),  # the time grows, no link is full
        (None, 2e9, 0.1, (0.9, 0.3), "window"),  # connections wait for their windows
        (None, 2e9, 0.1, (0.3, 0.3), "latency"),
        (None, 5e9, 0.1, None, None),  # the figures do not say
    ],
)
def test_collectives(
    small_s: float | None,
    bits: float,
    efficiency: float,
    shares: tuple[float, float] | None,
    expected: str | None,
) -> None:
    rows = [row(LARGE, 1.0, efficiency)]
    if small_s is not None:
        rows.append(row(4096, small_s))
    table = flows(*shares) if shares else None
    history = History((two_dcs(),))
    cause = cause_of_collectives(history, rows, ops(LARGE, 1.0), samples(bits), table)
    assert what(cause) == expected


def test_the_figures_are_told() -> None:
    rows = [row(4096, 0.9), row(LARGE, 1.0)]
    history = History((two_dcs(),))
    cause = cause_of_collectives(history, rows, ops(LARGE, 1.0), samples(5e8), None)
    assert text(cause) == (
        "4 KiB takes 90 % of the time of 16 MiB, and the busiest WAN direction, east to west, "
        "carries 5 % of its rate then"
    )


def test_what_took_most_of_the_time_counts() -> None:
    """Not what has most bytes; and its iterations may overlap: ten of 1 s in 5.5 s."""
    overlapping = ops(4096, 0.5).with_columns(end_ns=pl.col("start_ns") + SECOND)
    rows = [
        row(LARGE, 0.01),
        row(4096, 1.0, op="all_to_all"),
        row(LARGE, 2.0, iterations=1),
    ]
    assert main_operation(rows) == rows[1]
    table = overlapping.with_columns(op=pl.lit("all_to_all"))
    cause = cause_of_collectives(History((two_dcs(),)), rows, table, samples(5e8), None)
    assert what(cause) == "latency"
    assert "5 % of its rate" in text(cause)


def test_one_site_has_no_links() -> None:
    history = History((make_network({"east": 2}, {}),))
    rows = [row(4096, 0.9), row(LARGE, 1.0)]
    assert what(cause_of_collectives(history, rows, ops(LARGE, 1.0), EMPTY, None)) == "latency"
    alone = [row(LARGE, 1.0)]
    assert cause_of_collectives(history, alone, ops(LARGE, 1.0), EMPTY, None) is None


@pytest.mark.parametrize(
    ("computes", "bits", "expected"),
    [(0.7, 1e9, "compute"), (0.2, 7e9, "bandwidth"), (0.2, 1e8, "latency"), (0.2, 4e9, None)],
)
def test_training(computes: float, bits: float, expected: str | None) -> None:
    steps = pl.DataFrame({"start_ns": [START_NS], "end_ns": [START_NS + 10 * SECOND]})
    training = TrainingSummary(
        method="ddp",
        steps=1,
        ranks=2,
        parameters=None,
        step_ms=spread(10_000.0),
        compute_ms=computes * 10_000,
        exposed_ms=0.0,
        overlapped_ms=None,
        compute_utilisation=computes,
        tokens_per_s=1.0,
        wan_bytes_per_step=None,
        wan_bytes_per_token=None,
        final_loss=None,
        seconds=10.0,
    )
    cause = cause_of_training(History((two_dcs(),)), training, steps, samples(bits), None)
    assert what(cause) == expected


def test_busiest() -> None:
    history = History((two_dcs(),))
    use = busiest(history, samples(5e9), START_NS, START_NS + 10 * SECOND, 10.0)
    assert use is not None
    assert use.direction == "east to west"
    assert use.share == pytest.approx(0.5)
    part = busiest(history, samples(5e9), START_NS + 2 * SECOND, START_NS + 4 * SECOND, 2.0)
    assert part is not None
    assert part.share == pytest.approx(0.5)
    assert busiest(history, samples(0).clear(), START_NS, START_NS + SECOND, 1.0) is None
