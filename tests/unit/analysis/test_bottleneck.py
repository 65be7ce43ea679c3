"""What is said to dominate, from figures whose cause is known."""

from typing import Any

import polars as pl
import pytest

from testbed.analysis.bottleneck import busiest, cause_of_collectives, cause_of_training
from testbed.analysis.network_history import History
from testbed.analysis.verdict import main_operation
from testbed.runfolder import schemas
from testbed.runfolder.records import TcpUse
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
    numbers = sorted([*range(iterations), *range(iterations)])
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


def tcp_use(**values: Any) -> TcpUse:
    """Make the use of a connection of 20 ms whose window of 2000 segments is no limit."""
    usual = TcpUse(
        peer="10.1.0.1",
        bytes=4096,
        rtt_us=20_000,
        segment_bytes=1448,
        window_before=2000,
        window_after=2000,
        threshold=1500,
        idle_us=1000,
        timeout_us=220_000,
    )
    return usual.model_copy(update=values)


def evidence(
    seconds: float, use: TcpUse, *, ranks: int = 2, late_s: float = 0.0
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Make ops.parquet and the use of TCP of ten iterations; the last rank begins later."""
    operations: list[dict[str, Any]] = []
    uses: list[dict[str, Any]] = []
    for iteration in range(10):
        for rank in range(ranks):
            start_ns = START_NS + int(iteration * seconds * SECOND)
            end_ns = start_ns + int(seconds * SECOND)
            if rank == ranks - 1:
                start_ns += int(late_s * SECOND)
            operation: dict[str, Any] = {
                "op": "all_reduce",
                "group_size": ranks,
                "iteration": iteration,
                "phase": "script",
                "process_group": "0:all",
                "rank": rank,
                "start_ns": start_ns,
            }
            uses.append({**operation, **use.model_dump()})
            of_rank = {"bytes": LARGE, "dtype": "float32", "end_ns": end_ns, "group": ""}
            of_rank |= {"case": 0, "dc": ["east", "west"][rank % 2]}
            operations.append({**operation, **of_rank})

    return pl.DataFrame(operations), pl.DataFrame(uses, schema=dict(schemas.TCP))


@pytest.mark.parametrize(
    ("seconds", "use", "bits", "expected", "figure"),
    [
        # A second of idling is four halvings: 125 segments are left of 2000. 4000 segments take
        # log2(1 + 4000 / 125) = 5.04 round trips of 20 ms; 4.04 of them are waiting.
        (
            0.2,
            {"idle_us": 1_000_000, "bytes": 4000 * 1448},
            1e8,
            "idle-restart",
            "80.9 ms pass because the congestion window started again after a pause, from 125 to",
        ),
        # Nothing is paused; a window of 10 below the threshold is that of a pause before.
        (
            0.2,
            {"window_before": 10, "window_after": 900, "bytes": 1000 * 1448},
            1e8,
            "idle-restart",
            "from 10 to 900 segments",
        ),
        # log2(1 + 1000 / 10) = 6.66 round trips
        (
            0.2,
            {
                "window_before": 10,
                "window_after": 1000,
                "threshold": None,
                "bytes": 1000 * 1448,
            },
            1e8,
            "slow-start",
            "113 ms pass while the congestion window grows",
        ),
        # 1000 segments by 100 in each round trip: 9 of 10 round trips are waiting
        (
            0.25,
            {
                "window_before": 100,
                "window_after": 105,
                "bytes": 1000 * 1448,
                "ever_retransmitted": True,
            },
            1e8,
            "window",
            "180 ms pass because the congestion window is small, 100 segments",
        ),
        (0.2, {"receiver_us": 150_000}, 1e8, "receive-window", "senders wait 150 ms"),
        (0.2, {"buffer_us": 150_000}, 1e8, "send-buffer", "senders wait 150 ms"),
        (0.6, {"retransmissions": 2}, 1e8, "drops", "a full queue dropped"),
        (0.05, {}, 1e7, "propagation", "2.0 round trips of 20 ms"),
        (0.2, {}, 1.5e9, "rate", "carries 75 % of its rate"),
        (1.0, {}, 1e8, None, ""),  # nothing explains a second
    ],
)
def test_the_cause_is_what_the_ranks_saw(
    seconds: float, use: dict[str, Any], bits: float, expected: str | None, figure: str
) -> None:
    history = History((two_dcs(),))
    calls, tcp = evidence(seconds, tcp_use(**use))
    carried = samples(bits, round(10 * seconds) or 1)
    cause = cause_of_collectives(history, [row(LARGE, seconds)], calls, carried, None, tcp)
    if expected is None:
        assert cause is None
        return

    assert cause is not None
    assert cause.cause == expected
    assert figure in text(cause)


def test_the_steps_of_a_ring() -> None:
    """14 steps of eight ranks, of which each takes a round trip of 20 ms."""
    calls, tcp = evidence(0.3, tcp_use(), ranks=8)
    main = row(LARGE, 0.3).model_copy(update={"ranks": 8})
    cause = cause_of_collectives(History((two_dcs(),)), [main], calls, samples(1e6), None, tcp)
    assert cause is not None
    assert (cause.cause, cause.what) == ("steps", "latency")
    assert "14.0 round trips of 20 ms pass one after another" in text(cause)


def test_a_rank_that_begins_late() -> None:
    calls, tcp = evidence(1.02, tcp_use(), late_s=1.0)
    cause = cause_of_collectives(
        History((two_dcs(),)), [row(LARGE, 1.02)], calls, samples(1e6), None, tcp
    )
    assert cause is not None
    assert cause.cause == "late-rank"
    assert "a rank begins 1 s after the first" in text(cause)


def test_what_says_nothing_is_not_said() -> None:
    rows = [row(4096, 0.999), row(LARGE, 1.0)]
    cause = cause_of_collectives(History((two_dcs(),)), rows, ops(LARGE, 1.0), samples(1e6), None)
    assert text(cause).startswith("4 KiB takes as long as 16 MiB, and the busiest WAN direction")
    assert "carries less than 1 % of its rate" in text(cause)


def test_one_site_has_no_links() -> None:
    history = History((make_network({"east": 2}, {}),))
    rows = [row(4096, 0.9), row(LARGE, 1.0)]
    assert what(cause_of_collectives(history, rows, ops(LARGE, 1.0), EMPTY, None)) == "latency"
    alone = [row(LARGE, 1.0)]
    assert cause_of_collectives(history, alone, ops(LARGE, 1.0), EMPTY, None) is None


def trained(computes: float) -> TrainingSummary:
    return TrainingSummary(
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


@pytest.mark.parametrize(
    ("computes", "bits", "expected"),
    [(0.7, 1e9, "compute"), (0.2, 7e9, "bandwidth"), (0.2, 1e8, "latency"), (0.2, 4e9, None)],
)
def test_training(computes: float, bits: float, expected: str | None) -> None:
    steps = pl.DataFrame({"start_ns": [START_NS], "end_ns": [START_NS + 10 * SECOND]})
    training = trained(computes)
    cause = cause_of_training(History((two_dcs(),)), training, steps, samples(bits), None)
    assert what(cause) == expected


def test_computation_that_shares_the_time() -> None:
    """57 % of 10 s are computed. 4.3 s of waiting are mostly pauses of the congestion window."""
    steps = pl.DataFrame({"start_ns": [START_NS], "end_ns": [START_NS + 10 * SECOND]})
    calls, tcp = evidence(1.0, tcp_use(idle_us=1_000_000, bytes=60_000 * 1448))
    in_training = pl.lit("train")
    calls = calls.with_columns(phase=in_training)
    tcp = tcp.with_columns(phase=in_training)
    training = trained(0.57)
    history = History((two_dcs(),))
    cause = cause_of_training(history, training, steps, samples(1e8), None, calls, tcp)
    assert cause is not None
    assert (cause.what, cause.share) == ("compute", 0.57)
    said = text(cause)
    assert "a rank computes for 57 % of the time and waits for 43 %" in said
    assert "the congestion window started again after a pause" in said


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
