"""Training across two sites, 1 Gbit/s and 10 ms apart: what a step costs with DDP and with
DiLoCo.
"""

from pathlib import Path

import polars as pl
import pytest

from tests.support.runs import Command, Folder, records_of_ranks, set_options

PARAMETERS, STEPS, WARMUP, EVERY = 400_000, 10, 2, 4
JOB = {
    "parameters": PARAMETERS,
    "steps": STEPS,
    "warmup": WARMUP,
    "step_time": "50 ms",
    "sync_every": EVERY,
    "lr": 0.01,
}
FRAME = 1514 / 1448
ISOLATIONS = {"ddp": "container", "diloco": "process"}


@pytest.fixture(scope="module")
def runs(
    command: Command, pair: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Folder]:
    """A run of each method: of DDP in containers, of DiLoCo in processes."""
    folder = tmp_path_factory.mktemp("train")
    words = set_options(JOB)
    for method, isolation in ISOLATIONS.items():
        out = folder / method
        job = [*words, "--set", f"workload.method={method}"]
        command("run", pair, "train", *job, "--isolation", isolation, "--out", out)
    return {method: Folder(folder / method) for method in ISOLATIONS}


@pytest.mark.parametrize("method", ["ddp", "diloco"])
def test_the_run_is_complete_and_learns(runs: dict[str, Folder], method: str) -> None:
    run = runs[method]
    assert run.status["state"] == "completed"
    assert run.status["faithful"], run.status
    assert run.summary["problems"] == []
    row = run.summary["training"]
    assert (row["method"], row["steps"], row["ranks"]) == (method, STEPS - WARMUP, 2)
    assert row["compute_ms"] == pytest.approx(50, rel=1e-3)
    assert row["late_ms"] == 0
    steps = pl.read_parquet(run.path / "train.parquet")
    assert steps.height == 2 * STEPS
    loss = steps.group_by("step").agg(pl.col("loss").mean()).sort("step")["loss"]
    assert loss[-1] == pytest.approx(row["final_loss"])
    assert loss[-1] < 0.9 * loss[0]


def test_ddp_exchanges_every_gradient_in_every_step(runs: dict[str, Folder]) -> None:
    """Between two ranks the ring sends all bytes once each way, in whole frames: within 3 %.

    They take longer than a round trip, and the only bucket leaves when the backward pass is over:
    all of it shows.
    """
    row = runs["ddp"].summary["training"]
    operations = pl.read_parquet(runs["ddp"].path / "ops.parquet").filter(op="all_reduce")
    size = max(operations["bytes"].to_list())  # the layers come as near to `parameters` as they can
    assert size == pytest.approx(4 * row["parameters"], rel=0.02)
    assert row["wan_bytes_per_step"] == pytest.approx(2 * size * FRAME, rel=0.05)
    assert row["exposed_ms"] > 8e3 * size * FRAME / 1e9 + 2 * 20
    assert row["step_ms"]["median"] == pytest.approx(
        row["compute_ms"] + row["exposed_ms"], rel=0.02
    )


def test_diloco_exchanges_as_much_every_few_steps(runs: dict[str, Folder]) -> None:
    """Two exchanges in the eight steps that count; the others have nothing to wait for.

    An exchange takes twice as long as one of DDP: it comes after 150 ms of silence, and TCP starts
    slowly again.
    """
    ddp, diloco = (runs[method].summary["training"] for method in ("ddp", "diloco"))
    assert diloco["wan_bytes_per_step"] == pytest.approx(
        ddp["wan_bytes_per_step"] / EVERY, rel=0.05
    )
    assert diloco["step_ms"]["median"] == pytest.approx(50, rel=0.02)
    assert diloco["compute_utilisation"] > 1.3 * ddp["compute_utilisation"]


@pytest.mark.proof
@pytest.mark.usefixtures("load")
def test_a_machine_under_load(
    runs: dict[str, Folder], command: Command, pair: Path, tmp_path: Path
) -> None:
    """Every operation, step and loss of DDP in containers is the same, to the nanosecond."""
    words = set_options(JOB | {"method": "ddp"})
    options = ["--isolation", ISOLATIONS["ddp"], "--out", tmp_path / "loaded"]
    command("run", pair, "train", *words, *options, timeout_s=600)
    expected = records_of_ranks(runs["ddp"].path)
    assert len(expected) == 4
    assert records_of_ranks(tmp_path / "loaded") == expected


def test_what_is_printed(runs: dict[str, Folder], command: Command) -> None:
    printed = command("report", runs["ddp"].path).stdout
    assert "Training" in printed
    assert "step of ddp takes" in printed
    header, row = command("report", runs["ddp"].path, "-f", "csv").stdout.splitlines()
    assert header.startswith("method,steps,step (ms),")
    assert row.startswith(f"ddp,{STEPS - WARMUP}/{STEPS},")
