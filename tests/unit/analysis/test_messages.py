"""Sends and receives of a script become messages, each with its time and bound."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from testbed.analysis.messages import message_rows, messages
from testbed.report.message_table import MOST_ROWS, messages_grid
from testbed.runfolder import schemas
from testbed.runfolder.summary import MessageRow, Spread, Summary
from tests.support.synthetic import MS, make_plan, two_dcs

WORLD = "0:0-3"


def record(
    op: str, rank: int, peer: int | None, start_ms: float, end_ms: float, **more: Any
) -> dict[str, Any]:
    """A row of ops.parquet; ranks of the run are those of the process group unless given."""
    row: dict[str, Any] = dict.fromkeys(schemas.OPS)
    row |= {"op": op, "rank": rank, "group_rank": rank, "peer": peer, "tag": 0, "bytes": 1000}
    row |= {"start_ns": round(start_ms * MS), "end_ns": round(end_ms * MS), "dtype": "float32"}
    return {**row, "process_group": WORLD, "group": "", **more}


def ops(rows: Sequence[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=dict(schemas.OPS), orient="row").sort("start_ns", "rank")


def found(*rows: dict[str, Any]) -> list[tuple[int, int, float]]:
    """Source, target and time in ms of each message."""
    table = messages(ops(rows))
    columns = table.select("source_rank", "target_rank", pl.col("time_us") / 1000)
    return [(source, target, ms) for source, target, ms in columns.iter_rows()]


def test_from_the_send_to_the_end_of_the_receive() -> None:
    """Sends end when the kernel has the data; the receive may have begun before."""
    sent = record("send", 0, 3, 10, 10.5)
    assert found(sent, record("recv", 3, 0, 0, 22)) == [(0, 3, 12)]


def test_pairs_in_order_of_each_channel() -> None:
    rows = [
        record("send", 0, 1, 0, 1),
        record("send", 0, 1, 10, 11),
        record("recv", 1, 0, 0, 5),
        record("recv", 1, 0, 6, 18),
        record("send", 1, 0, 2, 3),
        record("recv", 0, 1, 0, 9),
    ]
    assert found(*rows) == [(0, 1, 5), (1, 0, 7), (0, 1, 8)]


def test_tags_and_groups_are_channels() -> None:
    """A rank of a group has another number there: rank 3 is number 1 of a pair."""
    pair = {"process_group": "pair:1,3"}
    rows = [
        record("send", 0, 1, 0, 1, tag=1),
        record("send", 0, 1, 1, 2, tag=2),
        record("recv", 1, 0, 0, 30, tag=2),
        record("recv", 1, 0, 30, 40, tag=1),
        record("send", 1, 1, 5, 6, **pair, group_rank=0),
        record("recv", 3, 0, 5, 25, **pair, group_rank=1),
    ]
    assert found(*rows) == [(0, 1, 40), (0, 1, 29), (1, 3, 20)]


def test_what_cannot_be_paired_is_left_out() -> None:
    """A send without a receive, and sends to a rank that receives from anyone."""
    rows = [
        record("send", 0, 1, 0, 1),
        record("send", 0, 2, 0, 1),
        record("recv", 2, None, 0, 20),
        record("send", 1, 2, 0, 1),
        record("recv", 2, 1, 0, 20),
    ]
    assert found(*rows) == []


def test_rows_have_the_bound_of_the_path() -> None:
    """1 MB of a rank in one datacenter to one in the other: the delay and the slowest rate."""
    plan = make_plan(two_dcs())
    last = len(plan.workers.ranks) - 1
    size = 10**6
    rows = [
        record("send", 0, last, 0, 1, bytes=size),
        record("recv", last, 0, 0, 100, bytes=size),
        record("send", 0, last, 100, 101, bytes=size),
        record("recv", last, 0, 100, 220, bytes=size),
    ]
    (row,) = message_rows(ops(rows), plan)
    assert (row.source_rank, row.target_rank, row.messages) == (0, last, 2)
    assert (row.time_us.min, row.time_us.max) == (100_000, 120_000)
    ranks = plan.workers.ranks
    delay_us = plan.network.one_way_delay_ns(ranks[0].host, ranks[last].host) / 1000
    assert row.bound_us is not None
    assert row.bound_us > delay_us
    assert row.efficiency == pytest.approx(row.bound_us / 110_000)
    grid = messages_grid(Summary(messages=[row]))
    assert grid.rows[0][1:7] == ["0", str(last), "-", "2", "110 ms", "120 ms"]


def test_no_messages(tmp_path: Path) -> None:
    assert message_rows(ops([]), make_plan(two_dcs())) == []
    assert message_rows(ops([record("all_reduce", 0, None, 0, 1)]), make_plan(two_dcs())) == []


def test_a_long_table_has_the_slowest() -> None:
    rows: list[MessageRow] = []
    for number in range(MOST_ROWS + 5):
        time_us = Spread(min=number, median=number, p95=number, max=number)
        row = MessageRow(source_rank=number, target_rank=0, bytes=1, messages=1, time_us=time_us)
        rows.append(row)
    grid = messages_grid(Summary(messages=rows))
    assert len(grid.rows) == MOST_ROWS
    assert grid.rows[0][1] == "5"
    assert "5 rows with less time in all are left out" in grid.note
