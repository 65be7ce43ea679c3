"""What a summary says of training, from hand-made records; settings of the workload; scaled
networks.
"""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import ValidationError
from testbed.workloads.train.settings import Train

from testbed.analysis.summarize import collect
from testbed.analysis.verdict import verdict
from testbed.core.errors import InputError
from testbed.plan.addressing import resolve_network
from testbed.plan.model import Workers
from testbed.plan.resolve import resolve
from testbed.plan.scaling import scaled
from testbed.report.compare import trainings
from testbed.report.page import write_page
from testbed.report.tables import training_grid
from testbed.runfolder import schemas
from testbed.runfolder.folder import RunDir
from testbed.runfolder.records import Operation, RunEnded, TrainingStep, append
from testbed.runfolder.status import Status
from testbed.runfolder.summary import TrainingSummary
from testbed.spec.options import RunOptions
from testbed.spec.presets import TOPOLOGIES
from testbed.spec.topology import Topology
from testbed.spec.workload import load_workload
from tests.support.synthetic import GBIT, MS, START_NS, make_plan, two_dcs, write_links, write_run


def write_steps(run: RunDir, *, server: bool = False) -> None:
    """Write 12 steps of two ranks: 150 ms, of which 100 ms are computed; 1000 tokens each.

    The loss falls by 0.1 a step. If rank 0 is a parameter server, it computes nothing.
    """
    for rank in range(2):
        for step in range(12):
            start_ns = START_NS + step * 150 * MS
            computes = not (server and rank == 0)
            record = TrainingStep(
                step=step,
                start_ns=start_ns,
                end_ns=start_ns + 150 * MS,
                compute_ns=100 * MS if computes else 0,
                late_ns=0,
                loss=5 - 0.1 * step + 0.02 * rank if computes else None,
                tokens=1000,
            )
            append(run.rank_train(rank), record)


def write_ops(run: RunDir) -> None:
    """Write in each step 70 ms of two operations that overlap by 10 ms: 60 ms."""
    for rank in range(2):
        for step in range(12):
            for begin, end in ((80, 120), (110, 140)):
                operation = Operation(
                    op="all_reduce",
                    bytes=1000,
                    group_size=2,
                    iteration=step,
                    phase="train",
                    dtype="float32",
                    start_ns=START_NS + (150 * step + begin) * MS,
                    end_ns=START_NS + (150 * step + end) * MS,
                )
                append(run.rank_ops(rank), operation)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir.create(tmp_path / "run")
    train = Train(
        method="ddp",
        warmup=2,
        gpu="H100",
        parameters="1 M",
        batch=10,
        sequence=100,
    )
    plan = make_plan(two_dcs(), capture="none")
    changes = {"workload": "train", "settings": train.settings(2)}
    workers = Workers(**(plan.workers.model_dump() | changes))
    plan = plan.model_copy(update={"workers": workers})
    run.plan.write_text(plan.model_dump_json())
    run.fidelity.write_text("[]")
    append(run.events, RunEnded(state="completed", time_ns=0))
    write_links(run, plan)
    return run


def training_of(run: RunDir) -> TrainingSummary:
    training = collect(run).training
    assert training is not None
    return training


def test_summary(run: RunDir) -> None:
    write_steps(run)
    write_ops(run)
    summary = collect(run)
    assert summary.problems == []
    assert summary.collectives == []
    row = training_of(run)
    assert (row.method, row.steps, row.ranks, row.parameters) == ("ddp", 10, 2, 10**6)
    step_ms = row.step_ms
    assert [step_ms.min, step_ms.median, step_ms.p95, step_ms.max] == pytest.approx([150] * 4)
    assert row.compute_ms == pytest.approx(100)
    assert row.exposed_ms == pytest.approx(50)
    assert row.overlapped_ms == pytest.approx(10)
    assert row.compute_utilisation == pytest.approx(2 / 3)
    assert row.tokens_per_s == pytest.approx(2 * 1000 / 0.15)
    assert (row.flops_per_token, row.peak_flops) == (6e6, 989e12)
    assert row.mfu == pytest.approx(6e6 * 1000 / 0.15 / 989e12)
    assert row.final_loss == pytest.approx(3.91)
    # The steps after the warm-up are from 300 ms to 1.8 s; samples end at 1.6 s: 13 of 625 kB in
    # each direction.
    assert row.wan_bytes_per_step == pytest.approx(2 * 13 * 625_000 / 10)
    assert row.wan_bytes_per_token == pytest.approx(2 * 13 * 625_000 / 20_000)
    # All 12 steps take 1.8 s, in which each direction carries 10 MB on 1 Gbit/s.
    assert summary.wan[0].mean_utilisation == pytest.approx(10e6 * 8 / GBIT / 1.8)
    assert pl.read_parquet(run.train).schema == pl.Schema(schemas.TRAIN)


@pytest.mark.parametrize(
    ("steps", "used", "periods"),
    [(22, 20, 2), (29, 20, 2), (12, 10, 1), (8, 6, 0)],
)
def test_the_exchange_of_diloco_counts(tmp_path: Path, steps: int, used: int, periods: int) -> None:
    """A step computes for 100 ms; after every tenth an exchange takes 600 ms: 160 ms per step.

    The first two steps are the warm-up. With six more there is no exchange.
    """
    plan = make_plan(two_dcs())
    settings = {"method": "diloco", "warmup": 2, "sync_every": 10}
    workers = plan.workers.model_copy(update={"workload": "train", "settings": settings})
    run = write_run(tmp_path / "run", plan.model_copy(update={"workers": workers}))
    for rank in range(2):
        run.rank_ops(rank).write_text("")
        now_ns = START_NS
        for step in range(steps):
            duration_ns = (700 if step % 10 == 9 else 100) * MS
            record = TrainingStep(
                step=step,
                start_ns=now_ns,
                end_ns=now_ns + duration_ns,
                compute_ns=100 * MS,
                late_ns=0,
                tokens=1000,
            )
            append(run.rank_train(rank), record)
            now_ns += duration_ns

    summary = collect(run)
    row = training_of(run)
    mean_ms = 160 if periods else 100
    assert (row.steps, row.period, row.periods) == (used, 10, periods)
    assert row.time_per_step_ms == pytest.approx(mean_ms)
    assert row.step_ms.median == pytest.approx(100)
    assert row.tokens_per_s == pytest.approx(2 * 1000 / (mean_ms / 1000))
    assert row.compute_utilisation == pytest.approx(100 / mean_ms)
    grid = training_grid(summary)
    headers = [column.header.split("\n")[0] for column in grid.columns[:5]]
    assert headers == ["method", "steps", "step", "tokens/s", "used"]
    assert grid.rows[0][2] == f"{mean_ms:.1f}"
    assert ("no whole period" in grid.note) == (periods == 0)
    compared = [difference.what for difference in trainings([summary])]
    assert compared[:3] == ["step (ms)", "tokens/s", "utilisation (%)"]
    assert trainings([summary])[0].values == pytest.approx((mean_ms,))


def test_without_operations_nothing_is_said_of_overlap(run: RunDir) -> None:
    write_steps(run)
    for rank in range(2):
        run.rank_ops(rank).touch()
    assert collect(run).problems == []
    training = training_of(run)
    assert training.overlapped_ms is None
    assert training.exposed_ms == pytest.approx(50)


def test_a_server_that_computes_nothing_does_not_count(run: RunDir) -> None:
    write_steps(run, server=True)
    row = training_of(run)
    assert row.compute_utilisation == pytest.approx(2 / 3)
    assert row.final_loss == pytest.approx(3.92)


def test_no_steps(run: RunDir) -> None:
    run.rank_train(0).write_text('{"step": 5}\n')
    run.rank_train(1).touch()
    summary = collect(run)
    messages = [problem.message for problem in summary.problems]
    assert summary.training is None
    assert "raw/train-0.jsonl: 1 records lack a column and were skipped" in messages
    assert "no training step was recorded after the warm-up" in messages


def test_tables_page_and_verdict(run: RunDir) -> None:
    write_steps(run)
    write_ops(run)
    summary = collect(run)
    grid = training_grid(summary)
    assert grid.rows == [
        [
            "ddp",
            "10/12",
            "150.0",
            "13333",
            "66.7",
            "0.0",
            "150.0",
            "150.0",
            "100.0",
            "50.0",
            "10.0",
            "1.55 MiB",
            "812",
            "3.910",
        ]
    ]
    assert "6e+06 FLOPs per token and a peak of 9.89e+14 FLOP/s" in grid.note
    text = verdict(Status(state="completed"), summary)
    assert "Computation dominates: a step of ddp takes 150 ms among 2 ranks" in text
    assert "a rank computes for 67\N{NO-BREAK SPACE}% of the time" in text
    assert "the loss is 3.910 after 1.8 s" in text
    without = verdict(Status(state="completed"), summary.model_copy(update={"dominant": None}))
    assert (
        "A step of ddp takes 150 ms among 2 ranks, of which 67\N{NO-BREAK SPACE}% is computation"
        in without
    )
    page = write_page(run).read_text()
    assert "Loss against time" in page
    assert "13333" in page


def test_the_preset_is_the_default() -> None:
    preset = load_workload("train")
    assert isinstance(preset, Train)
    assert preset.settings(4) == Train().settings(4)


def test_time_of_a_step() -> None:
    assert Train().settings(2)["step_seconds"] == 0.1
    assert Train(step_time="350 ms").settings(2)["step_seconds"] == 0.35
    settings = Train(gpu="A100", mfu=0.5, parameters="1 B", batch=8, sequence=2048).settings(2)
    assert settings["step_seconds"] == pytest.approx(6e9 * 8 * 2048 / 156e12)


def test_scale_divides_the_model_and_keeps_its_time() -> None:
    whole, small = (Train(parameters="1 B", gpu="H100", scale=scale) for scale in (1, 1000))
    assert small.settings(2)["step_seconds"] == whole.settings(2)["step_seconds"]
    assert (small.settings(2)["parameters"], small.settings(2)["model_parameters"]) == (
        10**6,
        10**9,
    )
    assert small.settings(2)["bucket"] == 25 * 2**20 // 1000
    assert small.largest_tensor_bytes(2) * 1000 == whole.largest_tensor_bytes(2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"parameters": "many"}, "'many' is not a valid number of parameters"),
        ({"parameters": 1000}, "1000 parameters / 1 are too few for a GPT"),
        ({"gpu": "H1000"}, "nearest: H100"),
        ({"gpu": "H100", "step_time": "1 s"}, "gpu and step_time are mutually exclusive"),
        (
            {"method": "streaming-diloco", "sync_every": 2, "fragments": 3},
            "3 fragments do not fit into 2 steps",
        ),
        ({"method": "streaming-diloco", "overlap": 10}, "an overlap of 10 steps is not shorter"),
        ({"method": "dpp"}, "'dpp' is not one of"),
        ({"outer_momentum": 1.0}, "outer_momentum"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Train(**settings)


def test_a_pipeline_needs_micro_batches_for_all_ranks() -> None:
    with pytest.raises(
        ValidationError, match="4 x 4 sequences cannot be split over 4 ranks in 3 micro-batches"
    ):
        Train(method="pipeline", microbatches=3).settings(4)


def two_sites() -> Topology:
    return Topology.load(TOPOLOGIES.find("two-sites"))


def test_a_straggler_must_exist() -> None:
    with pytest.raises(InputError, match=r"names an unknown host 'iowa-h9'\n  nearest: iowa-h"):
        resolve(two_sites(), Train(straggler={"iowa-h9": 2.0}), RunOptions(isolation="process"))


def test_a_scaled_network() -> None:
    """Rates and the time that queues hold by the divisor; delays, addresses and everything else
    stay.
    """
    network = resolve_network(two_sites())
    small = scaled(network, 100)
    for old, new in zip(network.wan[0].directions, small.wan[0].directions, strict=True):
        assert new.bottleneck.rate_bps == old.bottleneck.rate_bps // 100
        assert new.bottleneck.queue_packets == max(64, old.bottleneck.queue_packets // 100)
        assert new.fibre == old.fibre
    assert [host.nic_up.rate_bps * 100 for host in small.hosts] == [
        host.nic_up.rate_bps for host in network.hosts
    ]
    assert [host.address for host in small.hosts] == [host.address for host in network.hosts]
    assert small.tcp.packets_per_skb == 1
    assert scaled(network, 1) is network
    plan = resolve(two_sites(), Train(parameters="1 B", scale=100), RunOptions(isolation="process"))
    assert plan.network == small


def test_a_long_pause_is_not_a_hang() -> None:
    """Ranks that compute for 200 s between two outer steps wait for each other."""
    plan = resolve(
        two_sites(),
        Train(method="diloco", step_time="2 s", sync_every=100),
        RunOptions(isolation="process"),
    )
    assert plan.workers.timeout_s > 400
