"""What two ranks record of what torch.distributed does, over loopback: every operation, its bytes,
its real end.
"""

import json
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import testbed
from testbed.analysis.messages import messages
from testbed.runfolder import schemas
from tests.integration.two_ranks import LATE_S, LAYERS, STEPS, WIDTH

PROJECT = Path(testbed.__file__).parent.parent
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Rows]:
    """The records of both ranks, in the order in which the operations ended."""
    folder = tmp_path_factory.mktemp("records")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    ranks = [
        subprocess.Popen(
            # Names of functions that torch 2.13 begins to replace are those that scripts of today
            # use.
            [
                sys.executable,
                "-W",
                "error",
                "-W",
                "ignore::FutureWarning",
                Path(__file__).parent / "two_ranks.py",
                str(rank),
                port,
                folder / f"{rank}.jsonl",
            ],
            env={"PYTHONPATH": str(PROJECT), "GLOO_SOCKET_IFNAME": "lo"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    said = [rank.communicate(timeout=120)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(said)
    return [
        list(map(json.loads, (folder / f"{rank}.jsonl").read_text().splitlines()))
        for rank in range(2)
    ]


def of(rows: Rows, part: str) -> Rows:
    return [row for row in rows if row["part"] == part]


def shape(rows: Rows) -> list[tuple[str, int, str]]:
    return [(row["op"], row["bytes"], row["dtype"]) for row in rows]


def test_every_operation_with_its_bytes(records: list[Rows]) -> None:
    """256 floats in, by the convention of nccl-tests: gathered sizes are totals over the ranks."""
    f = "float32"
    expected = [
        ("all_reduce", 1024, f),
        ("broadcast", 1024, f),
        ("reduce", 1024, f),
        ("all_gather", 2048, f),
        ("all_gather", 2048, f),
        ("reduce_scatter", 1024, f),
        ("all_to_all", 1024, f),
        ("gather", 2048, f),
        ("scatter", 2048, f),
        ("barrier", 0, ""),
        ("barrier", 0, ""),
        ("all_reduce", 2, "int8"),
        ("reduce_scatter", 8, f),
        ("all_reduce", 12, f),
        ("reduce_scatter", 16, f),
        ("all_reduce", 4 + 8, f),
    ]
    for rows in records:
        assert shape(of(rows, "collectives")) == expected


def test_numbers_are_those_of_the_operation_in_its_group(records: list[Rows]) -> None:
    for rows in records:
        reduces = [row for row in of(rows, "groups") if row["op"] == "all_reduce"]
        assert [(row["group_size"], row["iteration"], row["bytes"]) for row in reduces] == [
            (1, 0, 80),
            (2, 0, 80),
            (2, 1, 80),
        ]


def test_the_root_and_the_group(records: list[Rows]) -> None:
    """Sizes of objects are sent ahead of the objects; those of a gather go to everyone."""
    world, pair = "0:0-1", "pair"
    expected = [
        ("broadcast", ""),
        ("broadcast", pair),
        ("broadcast", pair),
        ("reduce", ""),
        ("gather", ""),
        ("scatter", pair),
        ("broadcast", pair),
        ("broadcast", ""),
        ("broadcast", ""),
        ("all_gather", pair),
        ("gather", pair),
        ("broadcast", ""),
        ("scatter", ""),
        ("scatter", ""),
    ]
    for rank, rows in enumerate(records):
        rooted = of(rows, "rooted")
        assert [(row["op"], row["group"]) for row in rooted] == expected
        assert {row["root"] for row in rooted if row["op"] != "all_gather"} == {1}
        assert {row["group_rank"] for row in rooted} == {rank}
        of_world = {row["process_group"] for row in rooted if not row["group"]}
        of_pair = {row["process_group"] for row in rooted if row["group"]}
        assert of_world == {world}
        assert len(of_pair) == 1
        assert of_pair != of_world
    groups: list[list[str]] = []
    for rows in records:
        groups.append([row["process_group"] for row in of(rows, "rooted")])
    assert groups[0] == groups[1]


def test_worlds_with_the_same_ranks_differ(records: list[Rows]) -> None:
    names = [of(rows, "own_world")[0]["process_group"] for rows in records]
    assert all(name.endswith("/0:0") for name in names)
    assert names[0] != names[1]


def test_groups_without_a_name_differ_by_their_store(records: list[Rows]) -> None:
    """As those of torchft, of which a host with several ranks has one for each."""
    names: list[list[str]] = []
    for rows in records:
        of_rank = of(rows, "unnamed")
        assert [row["iteration"] for row in of_rank] == [0, 1, 0, 1]
        names.append([row["process_group"] for row in of_rank])
    assert names[0] == names[1]
    ends = [name.rpartition("/:")[2] for name in dict.fromkeys(names[0])]
    assert [end.partition("quorum")[2] for end in ends] == ["/replica/0", "/replica/1"]


def test_parts_that_differ(records: list[Rows]) -> None:
    parts = [of(rows, "unequal")[0]["parts"] for rows in records]
    assert parts == [[8, 16], [24, 32]]
    for rows in records:
        assert [row["parts"] for row in of(rows, "collectives")] == [None] * 16
        assert len({row["bytes"] for row in of(rows, "unequal")[1:]}) == 2  # sizes, then objects


def test_messages(records: list[Rows]) -> None:
    """Two sends and receives, one of them from anyone, and one each way at once."""
    counts: list[Counter[str]] = []
    for rows in records:
        sent_or_received = of(rows, "messages")
        counts.append(Counter(row["op"] for row in sent_or_received))
        assert {row["bytes"] for row in sent_or_received} == {256}
        other = {row["peer"] for row in sent_or_received if row["op"] == "send"}
        assert other == {1 - records.index(rows)}
    assert counts == [{"send": 3, "recv": 1}, {"send": 1, "recv": 3}]
    from_anyone = [row for row in of(records[1], "messages") if row["peer"] is None]
    assert [row["op"] for row in from_anyone] == ["recv"]


def table_of(records: list[Rows], part: str) -> pl.DataFrame:
    """The records of a part as rows of ops.parquet."""
    rows: Rows = []
    for rank, of_rank in enumerate(records):
        for row in of(of_rank, part):
            values = {name: row.get(name) for name in schemas.OPS}
            rows.append({**values, "rank": rank})
    return pl.DataFrame(rows, schema=dict(schemas.OPS), orient="row")


def test_sends_and_receives_are_messages(records: list[Rows]) -> None:
    """Not those to rank 1, which has received one of them from anyone."""
    paired = messages(table_of(records, "messages"))
    assert paired.select("source_rank", "target_rank", "bytes").rows() == [(1, 0, 256)]
    late = messages(table_of(records, "late"))
    assert late.select("source_rank", "target_rank", "bytes").rows() == [(1, 0, 28)]
    assert 0 <= late["time_us"][0] < 1e6 * LATE_S


def test_all_reduces_of_ddp(records: list[Rows]) -> None:
    """One bucket in the first step, then three of two layers; before the first, the parameters are
    laid alike.
    """
    layer = 4 * WIDTH * WIDTH
    for rows in records:
        ddp = of(rows, "ddp")
        reduced = [row["bytes"] for row in ddp if row["op"] == "all_reduce"]
        assert reduced == [LAYERS * layer, *([2 * layer] * (LAYERS // 2) * (STEPS - 1))]
        first, second, third, *_ = ddp
        assert (first["op"], second["op"]) == ("all_gather", "broadcast")  # shapes are compared
        assert (third["op"], third["bytes"]) == ("broadcast", LAYERS * layer)


def test_fsdp(records: list[Rows]) -> None:
    """One layer of 100 x 100: gathered, and its gradient scattered."""
    for rows in records:
        assert shape(of(rows, "fsdp")) == [
            ("all_gather", 40_000, "float32"),
            ("reduce_scatter", 40_000, "float32"),
        ]


def test_the_end_is_the_real_one(records: list[Rows]) -> None:
    """Nobody waits until 2 x LATE_S: with 0.5 s, what rank 1 joins late ends then, within 0.4 s for
    a busy machine.
    """
    first, second = (of(rows, "late") for rows in records)
    assert {row["op"] for row in first} == {"all_reduce", "recv"}
    for row in first:
        assert (row["end_ns"] - row["start_ns"]) / 1e9 == pytest.approx(LATE_S + 0.15, abs=0.25)
    assert all(row["end_ns"] >= row["start_ns"] for row in first + second)


def test_failures_are_not_recorded(records: list[Rows]) -> None:
    for rows in records:
        assert of(rows, "lonely") == []


def test_nothing_is_recorded_once_it_is_closed(records: list[Rows]) -> None:
    for rows in records:
        assert 4 * 99 not in {row["bytes"] for row in rows}
