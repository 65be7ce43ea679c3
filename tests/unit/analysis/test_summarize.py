"""From raw records to tables and summary.json, with whole, damaged and missing records."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from testbed.analysis.operations import bus_factor, iterations
from testbed.analysis.summarize import collect, stages
from testbed.plan.model import FORMAT
from testbed.runfolder import schemas
from testbed.runfolder.folder import RunDir
from testbed.runfolder.problems import Problem, ProblemCode
from testbed.runfolder.records import Event, Operation, RunEnded, StageBegan, StageEnded, append
from testbed.runfolder.schemas import Schema
from testbed.runfolder.summary import Spread, StageRow, Summary, read_summary
from tests.support.synthetic import (
    GBIT,
    MS,
    make_network,
    make_plan,
    three_dcs,
    two_dcs,
    write_pcap,
    write_run,
)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return write_run(tmp_path / "run", make_plan(two_dcs()))


def messages(summary: Summary) -> list[str]:
    return [problem.message for problem in summary.problems]


def test_collectives(run: RunDir) -> None:
    summary = collect(run)
    assert summary.problems == []
    assert [(row.op, row.bytes) for row in summary.collectives] == [
        ("all_reduce", 4096),
        ("all_reduce", 1 << 20),
        ("broadcast", 4096),
        ("broadcast", 1 << 20),
    ]
    big = summary.collectives[1]
    assert big.time_us == Spread(min=50_000, median=60_000, p95=69_000, max=70_000)
    assert big.slowest_us == 61_000
    assert (big.ranks, big.dtype, big.iterations, big.wrong) == (2, "float32", 3, 0)
    assert big.algbw_gbytes == big.busbw_gbytes == pytest.approx((1 << 20) / 0.06 / 1e9)
    bound_us = 10_000 + (1 << 20) * 8 / 1000
    assert big.bound_us == pytest.approx(bound_us)
    assert big.efficiency == pytest.approx(bound_us / 60_000)


def test_the_file_holds_the_summary(run: RunDir) -> None:
    summary = collect(run)
    assert summary.format == FORMAT
    assert read_summary(run.summary) == (summary, [])
    assert "from" in json.loads(run.summary.read_text())["wan"][0]


def test_a_broadcast_ends_when_the_last_rank_has_the_data(run: RunDir) -> None:
    broadcast = collect(run).collectives[3]
    assert broadcast.time_us.median == broadcast.slowest_us == 61_000


def test_wan(run: RunDir) -> None:
    forward, backward = collect(run).wan
    assert (forward.source, forward.target, forward.link) == ("east", "west", "east-west")
    assert (forward.bytes, forward.packets, forward.drops) == (10_000_000, 6400, 2)
    # The last broadcast starts at 1.5 s and ends 71 ms later. 6.25 MB/s on 1 Gbit/s until then; the
    # bytes between then and the last sample at 1.6 s do not count.
    assert forward.mean_utilisation == pytest.approx(0.05)
    assert (forward.captured_bytes, forward.captured_packets) == (15_140, 10)
    assert (backward.captured_bytes, backward.captured_packets) == (330, 5)


def test_stages_fidelity_and_training(run: RunDir) -> None:
    summary = collect(run)
    network = StageRow(stage="network", wall_seconds=1.5, emulated_seconds=0.25)
    assert summary.stages[0] == network
    assert summary.fidelity[0].rtt_ms_measured == 20.004
    assert summary.training is None


def test_tables_have_their_schema(run: RunDir) -> None:
    collect(run)
    ops, links = pl.read_parquet(run.ops), pl.read_parquet(run.links)
    assert ops.schema == pl.Schema(schemas.OPS)
    assert links.schema == pl.Schema(schemas.LINKS)
    assert ops.height == 2 * 2 * 4 * 2
    assert set(ops.select("rank", "host", "dc").iter_rows()) == {
        (0, "east-0", "east"),
        (1, "west-0", "west"),
    }


def test_a_run_without_any_record(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run")
    run.plan.write_text(make_plan(three_dcs()).model_dump_json())
    summary = collect(run)
    assert pl.read_parquet(run.ops).schema == pl.Schema(schemas.OPS)
    assert pl.read_parquet(run.links).schema == pl.Schema(schemas.LINKS)
    assert summary.collectives == []
    assert [row.bytes for row in summary.wan] == [None] * 6
    text = "\n".join(messages(summary))
    for part in (
        "raw/ops-0.jsonl is missing",
        "raw/links.jsonl is missing",
        "fidelity",
        "east-north@east.pcapng",
    ):
        assert part in text


def test_damage_becomes_problems(run: RunDir) -> None:
    run.rank_ops(1).write_text(run.rank_ops(1).read_text()[:-20])
    run.link_samples.write_bytes(b"\xff\xfe\x00")
    run.fidelity.write_text("[{")
    run.events.write_text(
        '{"stage": "network", "state": "begin", "time_ns": 0, "wall_s": 0.0}\n[1]\n{"stage": 3}\n'
    )
    path = run.capture("east-west", "east")
    path.write_bytes(path.read_bytes()[:-5])
    run.capture("east-west", "west").unlink()
    summary = collect(run)
    assert [row.iterations for row in summary.collectives] == [3, 3, 3, 2]
    assert summary.wan[0].captured_packets == 10
    codes = {problem.message: problem.code for problem in summary.problems}
    text = "\n".join(codes)
    for part, code in (
        ("raw/ops-1.jsonl is damaged: 1 of 16 lines", ProblemCode.FILE_DAMAGED),
        ("1 iterations lack the record of a rank", ProblemCode.RECORDS_LEFT_OUT),
        ("cannot read raw/links.jsonl (UnicodeDecodeError)", ProblemCode.FILE_DAMAGED),
        ("cannot read raw/fidelity.json", ProblemCode.FILE_DAMAGED),
        ("raw/events.jsonl: 2 records", ProblemCode.RECORDS_LEFT_OUT),
        ("'network' did not end", ProblemCode.STAGE_UNFINISHED),
        ("east-west@east.pcapng is truncated", ProblemCode.CAPTURE),
        ("east-west@west.pcapng is not readable: No such file", ProblemCode.CAPTURE),
    ):
        assert part in text, text
        assert [codes[message] for message in codes if part in message] == [code]


def test_stages_without_real_time_and_the_outcome() -> None:
    problems: list[Problem] = []
    events: list[Event] = [
        StageBegan(stage="ops", time_ns=0),
        StageEnded(stage="ops", time_ns=2 * GBIT),
        RunEnded(state="completed", time_ns=2 * GBIT),
    ]
    assert stages(events, problems) == [
        StageRow(stage="ops", wall_seconds=None, emulated_seconds=2.0)
    ]
    assert problems == []


def test_records_without_a_column_are_left_out(run: RunDir) -> None:
    with run.rank_ops(0).open("a") as file:
        file.write('{"op": "all_reduce"}\n"text"\n')
    assert "raw/ops-0.jsonl: 2 records lack a column and were skipped" in messages(collect(run))


def test_a_damaged_plan(run: RunDir) -> None:
    run.plan.write_text('{"format": 1')
    summary = collect(run)
    assert summary.collectives == []
    assert summary.wan == []
    assert "cannot read plan.json" in summary.problems[0].message
    assert summary.stages[0].stage == "network"
    assert pl.read_parquet(run.ops).schema == pl.Schema(schemas.OPS)
    assert pl.read_parquet(run.links).schema == pl.Schema(schemas.LINKS)


def test_one_datacenter_lacks_nothing(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", make_plan(make_network({"lab": 3}, {}, nic_bps=GBIT)))
    run.fidelity.unlink()
    summary = collect(run)
    assert summary.problems == []
    assert summary.wan == []
    assert summary.fidelity == []
    assert summary.collectives[1].bound_us == pytest.approx((1 << 20) * 8 / 1000 * 4 / 3)


def test_no_captures_no_captured_columns(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", make_plan(two_dcs(), capture="none"))
    write_pcap(run.capture("east-west", "east"), [])
    assert collect(run).wan[0].captured_bytes is None


@pytest.mark.parametrize(
    ("op", "factor"),
    [
        ("all_reduce", 1.8),
        ("all_gather", 0.9),
        ("reduce_scatter", 0.9),
        ("all_to_all", 0.9),
        ("gather", 0.9),
        ("scatter", 0.9),
        ("broadcast", 1),
        ("reduce", 1),
        ("send_recv", 1),
        ("barrier", 1),
        ("reduce_scatter_tensor", 1),
    ],
)
def test_bus_factors(op: str, factor: float) -> None:
    assert bus_factor(op, 10) == pytest.approx(factor)


def test_time_of_operations_that_go_one_way(tmp_path: Path) -> None:
    """Rank 1 starts 4 ms after rank 0, ends 10 ms after it: the last end counts, or the root's."""
    run = write_run(tmp_path / "run", make_plan(two_dcs()))
    times = {0: (0, 50), 1: (4, 60)}
    for rank, (start, end) in times.items():
        run.rank_ops(rank).unlink()
        for op in ("all_reduce", "broadcast", "reduce", "gather", "scatter", "send_recv"):
            append_op(run, rank, op=op, start_ns=start * MS, end_ns=end * MS)
    measured = {row.op: row.time_us.median / 1000 for row in collect(run).collectives}
    assert measured == {
        "all_reduce": 50,
        "broadcast": 60,
        "reduce": 50,
        "gather": 50,
        "scatter": 60,
        "send_recv": 60,
    }
    run.rank_ops(1).unlink()
    append_op(run, 1, op="reduce", start_ns=-4 * MS, end_ns=0)
    assert collect(run).collectives[0].time_us.median == 54_000


def append_op(run: RunDir, rank: int, **values: object) -> None:
    operation = Operation(
        op="all_reduce",
        bytes=1 << 20,
        group_size=2,
        iteration=0,
        phase="measure",
        dtype="float32",
        start_ns=0,
        end_ns=50 * MS,
        wrong=0,
    )
    append(run.rank_ops(rank), operation.model_copy(update=values))


def test_groups_at_the_same_time(tmp_path: Path) -> None:
    """Of ranks 0 and 2 and of ranks 1 and 3: the slower one counts, and both share the link."""
    links = {("east", "west"): (GBIT, GBIT, 10 * MS)}
    plan = make_plan(make_network({"east": 2, "west": 2}, links))
    settings = plan.workers.settings | {"groups": "rail"}
    workers = plan.workers.model_copy(update={"settings": settings})
    run = write_run(tmp_path / "run", plan.model_copy(update={"workers": workers}))
    for rank in range(4):
        run.rank_ops(rank).unlink()
        end_ns = (70 if rank % 2 else 50) * MS
        group = f"rail-{rank % 2}"
        for iteration in (0, 1):
            append_op(run, rank, group=group, iteration=iteration, end_ns=end_ns, wrong=rank)
    (row,) = collect(run).collectives
    assert (row.ranks, row.groups, row.iterations, row.algorithm) == (2, "rail", 2, "gloo")
    assert row.time_us.median == row.slowest_us == 70_000
    assert row.wrong == 2 * (1 + 2 + 3)
    assert row.bound_us == pytest.approx(10_000 + 2 * (1 << 20) * 8 / 1000)
    for rank in (1, 3):  # the last iteration of a whole group is lost
        run.rank_ops(rank).write_text(run.rank_ops(rank).read_text().splitlines(keepends=True)[0])
    summary = collect(run)
    assert summary.collectives[0].iterations == 1
    assert "1 iterations lack the record of a rank and were skipped" in messages(summary)


def test_groups_without_names_have_no_bound(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", make_plan(three_dcs(hosts=1)))
    for rank in range(3):
        run.rank_ops(rank).unlink()
        append_op(run, rank)  # of two ranks each, but of which?
    (row,) = collect(run).collectives
    assert (row.bound_us, row.efficiency) == (None, None)


def table_of(rows: list[tuple[int, int, int, int]], op: str = "all_reduce") -> pl.DataFrame:
    """Make records of operations: (rank, iteration, start, end) in ms."""
    records: list[dict[str, Any]] = []
    for rank, iteration, start, end in rows:
        record = {
            "op": op,
            "bytes": 1024,
            "group_size": 2,
            "dtype": "float32",
            "algorithm": "gloo",
            "group": "",
            "process_group": "",
            "group_rank": None,
            "root": None,
            "parts": None,
            "case": 0,
            "wrong": -1,
            "rank": rank,
            "iteration": iteration,
            "start_ns": start * MS,
            "end_ns": end * MS,
        }
        records.append(record)
    types: Schema = {"group_rank": pl.Int32, "root": pl.Int32, "parts": pl.List(pl.Int64)}
    return pl.DataFrame(records, schema_overrides=dict(types)).sort("start_ns", "rank")


def test_process_groups_after_a_crash_have_iterations_of_their_own() -> None:
    """Ranks 0 and 1, then 0 and 2 while 1 is away, then 0 and 1 once more.

    The number 0 of ranks 0 and 2 never ended on 2.
    """
    table = iterations(
        table_of(
            [
                (0, 0, 0, 10),
                (1, 0, 1, 10),
                (0, 1, 20, 30),
                (1, 1, 20, 31),
                (0, 0, 100, 140),
                (0, 1, 150, 180),
                (2, 1, 160, 180),
                (1, 0, 201, 230),
                (0, 0, 200, 230),
            ]
        )
    )
    assert table.sort("time_us")["time_us"].to_list() == [10_000, 10_000, 30_000, 30_000, 40_000]
    assert table.filter(~pl.col("whole"))["time_us"].to_list() == [40_000]


def test_a_sender_may_be_done_before_the_receiver_begins() -> None:
    """Of three broadcasts the last does not end at rank 1."""
    rows = [(0, 0, 0, 1), (1, 0, 5, 10), (0, 0, 50, 51), (1, 0, 60, 61), (0, 0, 100, 101)]
    table = iterations(table_of(rows, "broadcast"))
    assert table["whole"].to_list() == [True, True, False]
    assert table["time_us"].to_list()[:2] == [10_000, 11_000]
