"""Steps on modelled GPUs: figures by hand, the link that steps wait for, the first sentence."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from testbed.analysis.bottleneck import cause_of_gpus
from testbed.analysis.gpu_places import Places
from testbed.analysis.gpu_steps import joined_steps, read_gpus, summarize_gpus
from testbed.analysis.gpu_verdict import of_gpu_steps
from testbed.analysis.lower_bounds import wire_scale
from testbed.analysis.messages import message_rows
from testbed.analysis.value_decisions import value_decisions
from testbed.plan.model import Plan, Rank
from testbed.report.gpu_tables import gpu_grid, memory_grid, waits_grid
from testbed.runfolder import schemas
from testbed.runfolder.folder import RunDir
from testbed.runfolder.records import GpuEnd, GpuStep, GpuWait, ValueDecided, append
from testbed.runfolder.summary import GpuSummary, Summary
from tests.support.synthetic import GBIT, MS, START_NS, make_network, make_plan

PEAK = 1000e12
GROUP = "0:0-3"
# Two hosts in a, one in b, one in c; the link b-c is the slowest.
NETWORK = make_network(
    {"a": 2, "b": 1, "c": 1},
    {
        ("a", "b"): (10 * GBIT, 10 * GBIT, 30 * MS),
        ("b", "c"): (GBIT, GBIT, 10 * MS),
        ("a", "c"): (10 * GBIT, 10 * GBIT, 20 * MS),
    },
)


def plan_of_gpus() -> Plan:
    plan = make_plan(NETWORK)
    settings = {"gpu": "H100", "gpus_per_host": 1}
    workers = plan.workers.model_copy(update={"settings": settings, "workload": "script"})
    return plan.model_copy(update={"workers": workers})


def step(end_ms: int, **values: Any) -> GpuStep:
    """Return a step that ends so long after the begin; without other values it takes no time."""
    nothing = {"busy_ns": 0, "launch_ns": 0, "streams_ns": 0, "waits": [], "tokens": None}
    flops = {"flops": 0.0, "recomputed_flops": 0.0, "optimizer_flops": 0.0}
    return GpuStep(
        device=0, end_ns=START_NS + end_ms * MS, peak_bytes=7, **{**nothing, **flops, **values}
    )


def wait(ms: int, op: str = "all_reduce", peer: int | None = None) -> GpuWait:
    return GpuWait(op=op, process_group=GROUP, peer=peer, ns=ms * MS)


def members() -> pl.DataFrame:
    rows = [{"process_group": GROUP, "rank": rank, "group_rank": rank} for rank in range(4)]
    return pl.DataFrame(rows, schema={name: schemas.OPS[name] for name in rows[0]})


def write_steps(run: RunDir) -> None:
    """Write, for each rank: a first step, and steps of 100 and 200 ms."""
    first = {"busy_ns": 10 * MS, "waits": [wait(60)], "launch_ns": 20 * MS, "streams_ns": 10 * MS}
    second = {"busy_ns": 50 * MS, "waits": [wait(100), wait(40, "send", 3)], "launch_ns": 10 * MS}
    for rank in range(4):
        append(run.rank_gpu(rank), step(50, flops=9e12, busy_ns=5))
        work = {"flops": 6e12, "recomputed_flops": 1e12, "optimizer_flops": 1e12, "tokens": 512}
        append(run.rank_gpu(rank), step(150, **work, **first, token_ranks=2))
        append(run.rank_gpu(rank), step(350, **work, **second, token_ranks=2))
        append(run.rank_gpu(rank), GpuEnd(device=0, peak_bytes=1000 + rank, reserved_bytes=2048))


@pytest.fixture
def summary(tmp_path: Path) -> GpuSummary:
    run = RunDir.create(tmp_path / "run")
    write_steps(run)
    plan = plan_of_gpus()
    problems: list[Any] = []
    gpus = read_gpus(run, plan, problems)
    assert problems == []
    assert gpus.steps["start_ns"].to_list() == [START_NS + 50 * MS] * 4 + [START_NS + 150 * MS] * 4
    return summarize_gpus(plan, gpus, members(), PEAK)


def test_figures_of_steps(summary: GpuSummary) -> None:
    assert (summary.steps, summary.ranks) == (2, 4)
    assert summary.time_per_step_ms == pytest.approx((100 + 200) / 2)
    assert summary.step_ms is not None
    assert (summary.step_ms.min, summary.step_ms.max) == (100, 200)
    assert summary.compute_ms == pytest.approx((10 + 50) / 2)
    assert summary.exposed_ms == pytest.approx((60 + 140) / 2)
    assert summary.streams_ms == pytest.approx(10 / 2)
    assert summary.launch_ms == pytest.approx((20 + 10) / 2)
    # of 6 TFLOP in 150 ms, 4 are the model's: 26.7 of 1000 TFLOP/s
    assert summary.mfu == pytest.approx(4e12 / 0.15 / PEAK)
    assert summary.hfu == pytest.approx(6e12 / 0.15 / PEAK)
    assert summary.flops_per_step == pytest.approx(4 * 4e12)
    # four ranks, of which two share their tokens
    assert summary.tokens_per_step == pytest.approx(4 * 512 / 2)
    assert summary.tokens_per_s == pytest.approx(1024 / 0.15)
    assert [row.peak_bytes for row in summary.memory] == [1000, 1001, 1002, 1003]
    assert [row.reserved_bytes for row in summary.memory] == 4 * [2048]


def test_exposed_communication_by_operation_and_link(summary: GpuSummary) -> None:
    first = summary.exposed[0]
    assert (first.op, first.link) == ("all_reduce", "b-c")
    assert first.ms == pytest.approx(80)
    assert first.share == pytest.approx(160 / 300)
    # sends to rank 3 come from ranks 0 and 1 in a, 2 in b, and 3 itself
    sends = {row.link: row.ms for row in summary.exposed if row.op == "send"}
    # 40 ms in one of two steps: the mean over steps and ranks is 5 ms for each rank
    assert sends == {"a-c": pytest.approx(10), "b-c": pytest.approx(5), "": pytest.approx(5)}


def test_tables_and_sentence(summary: GpuSummary) -> None:
    whole = Summary(gpu=summary)
    (row,) = gpu_grid(whole).rows
    assert row[:8] == ["H100", "4", "2", "150.0", "30.000", "100.0", "5.000", "15.000"]
    assert row[-2:] == ["6827", "1003 B"]
    assert waits_grid(whole).rows[0] == ["all_reduce", "the WAN link b-c", "80.000", "53.3"]
    assert memory_grid(whole).rows[3] == ["3", "0.000", "0.000", "1003", "2048"]
    assert of_gpu_steps(summary) == (
        "The step waits for all_reduce over the WAN link b-c: a step takes 150 ms on 4 H100, of "
        "which a GPU computes for 20.0 %, waits for communication for 66.7 %, waits for its other "
        "streams for 3.3 % and has nothing to run for 10.0 %; MFU 2.7 %; 6827 tokens/s."
    )
    assert cause_of_gpus(summary) is None
    busy = summary.model_copy(update={"compute_ms": 149.0, "exposed_ms": 1.0, "launch_ms": 0.0})
    assert of_gpu_steps(busy).startswith("Computation dominates: ")
    cause = cause_of_gpus(busy)
    assert cause is not None
    assert cause.cause == "compute"


def test_optimizers_without_products_between_them_end_one_step() -> None:
    inner = step(100, flops=5.0, busy_ns=60 * MS, tokens=3)
    outer = step(120, busy_ns=20 * MS, flops=2.0, optimizer_flops=2.0)
    after = step(200, flops=5.0, busy_ns=80 * MS)
    first, second = joined_steps([inner, outer, after])
    assert (first.end_ns, first.busy_ns) == (START_NS + 120 * MS, 80 * MS)
    assert (first.flops, first.optimizer_flops, first.tokens) == (7.0, 2.0, 3)
    assert second == after


def test_runs_without_steps_have_memory_only(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run")
    append(run.rank_gpu(0), GpuEnd(device=0, peak_bytes=5))
    plan = plan_of_gpus()
    summary = summarize_gpus(plan, read_gpus(run, plan, []), members(), PEAK)
    assert (summary.steps, summary.mfu, summary.memory[0].peak_bytes) == (0, None, 5)


@pytest.mark.parametrize(
    ("op", "peer", "rank", "text"),
    [
        ("all_reduce", None, 0, "the WAN link b-c"),
        ("all_to_all", None, 0, "the WAN link b-c"),
        ("send", 1, 0, "the network of a"),
        ("recv", 3, 0, "the WAN link a-c"),
        ("send", 0, 0, "the links inside a host"),
        ("recv", None, 0, "an unknown path"),
    ],
)
def test_places(op: str, peer: int | None, rank: int, text: str) -> None:
    assert Places(plan_of_gpus(), members()).of(op, GROUP, peer, rank).text == text


def test_ranks_of_one_host(tmp_path: Path) -> None:
    plan = plan_of_gpus()
    ranks = [Rank(rank=rank, local_rank=rank, host="a-0") for rank in range(4)]
    workers = plan.workers.model_copy(update={"ranks": tuple(ranks)})
    places = Places(plan.model_copy(update={"workers": workers}), members())
    assert places.of("all_reduce", GROUP, None, 0).text == "the links inside a host"
    assert places.of("all_reduce", "other", None, 0).text == "an unknown path"


def test_decisions_by_values_are_warnings(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run")
    for rank, line in ((0, 7), (1, 7), (2, 9)):
        append(run.events, ValueDecided(rank=rank, file="/x/train.py", line=line))
    messages = [problem.message for problem in value_decisions(run)]
    assert [message.partition(":")[0] for message in messages] == [
        "/x/train.py, line 7",
        "/x/train.py, line 9",
    ]
    assert "(2 ranks;" in messages[0]
    assert "(rank 2;" in messages[1]


def test_scaled_operations_send_a_part_of_their_bytes() -> None:
    """Of 8 MB, at a scale of 10, 0.8 MB leave c over links of 1 and 10 Gbit/s, 10 ms long."""
    plan = plan_of_gpus()
    settings = {**plan.workers.settings, "scale": 10}
    scaled = plan.model_copy(
        update={"workers": plan.workers.model_copy(update={"settings": settings})}
    )
    assert (wire_scale(plan), wire_scale(scaled)) == (1, 10)
    times_us = []
    for one in (plan, scaled):
        ops = message_ops(one, size=8_000_000)
        times_us += [row.bound_us for row in message_rows(ops, one)]
    assert times_us == pytest.approx([64_000 / 11 + 10_000, 6_400 / 11 + 10_000])


def message_ops(plan: Plan, size: int) -> pl.DataFrame:
    """Return the rows of a message from rank 2 in b to rank 3 in c."""
    rows = []
    for op, rank, peer in (("send", 2, 3), ("recv", 3, 2)):
        row = {
            "op": op,
            "bytes": size,
            "group_size": 4,
            "iteration": 0,
            "phase": "script",
            "rank": rank,
            "start_ns": START_NS,
            "end_ns": START_NS + 100 * MS,
            "dtype": "float32",
            "algorithm": "nccl",
            "process_group": GROUP,
            "group": "",
            "group_rank": rank,
            "peer": peer,
            "tag": 0,
            "host": plan.workers.ranks[rank].host,
        }
        rows.append(row)

    # every rank has a record, which says who is in the group
    for rank in (0, 1):
        rows.append({**rows[0], "op": "barrier", "rank": rank, "group_rank": rank, "peer": None})
    return pl.DataFrame(rows, schema=dict(schemas.OPS))
