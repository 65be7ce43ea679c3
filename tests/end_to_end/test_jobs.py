"""Several jobs on one network: what they cost each other by arithmetic, repetition, failures.

Links of 100 Mbit/s and 1 ms. The links a-b and c-d share nothing; b-c only joins the halves.
"""

import json
import math
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.support.runs import Command, Folder

FRAME = 1514 / 1448
MIB = 2**20
ITERATIONS, WARMUP = 10, 1
NETWORK = """
datacenters:
  a: {hosts: 1, nic: {rate: 1 Gbit/s, delay: 0}}
  b: {hosts: 1, nic: {rate: 1 Gbit/s, delay: 0}}
  c: {hosts: 2, nic: {rate: 1 Gbit/s, delay: 0}}
  d: {hosts: 2, nic: {rate: 1 Gbit/s, delay: 0}}
wan:
  - {between: [a, b], rate: 100 Mbit/s, delay: 1 ms}
  - {between: [b, c], rate: 100 Mbit/s, delay: 1 ms}
  - {between: [c, d], rate: 100 Mbit/s, delay: 1 ms, queue: 64 packets}
"""
REDUCE = "workload: collectives, ops: [all_reduce], sizes: [1 MiB]"
JOBS = f"""
workload: jobs
jobs:
  apart: {{{REDUCE}, iterations: 5, hosts: [a, b]}}
  left: {{{REDUCE}, iterations: {ITERATIONS}, hosts: [c-h0, d-h0]}}
  right: {{{REDUCE}, iterations: {ITERATIONS}, hosts: [c-h1, d-h1]}}
"""
QUEUE = """
workload: jobs
jobs:
  bulk:
    {workload: collectives, ops: [broadcast], sizes: [24 MiB], iterations: 1, warmup: 0,
      hosts: [c-h0, d-h0]}
  small:
    {workload: collectives, ops: [all_reduce], sizes: [4 KiB], iterations: 40,
      hosts: [c-h1, d-h1], start: 500 ms}
"""
FAILING = f"""
workload: jobs
jobs:
  good: {{{REDUCE}, iterations: 3, hosts: [c-h0, d-h0]}}
  bad:
    command: [script.py]
    hosts: [c-h0, d-h0]
    start: 2 s
"""
SCRIPT = """
import time
import torch
import torch.distributed as dist

dist.init_process_group("gloo")
dist.all_reduce(torch.ones(1))
open(f"rank-{dist.get_rank()}.txt", "w").write("here")
if dist.get_rank() == 1:
    raise SystemExit(7)
time.sleep(10_000)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("jobs")
    (path / "network.yaml").write_text(NETWORK)
    (path / "jobs.yaml").write_text(JOBS)
    (path / "queue.yaml").write_text(QUEUE)
    (path / "script.py").write_text(SCRIPT)
    failing = FAILING.replace("script.py", str(path / "script.py"))
    (path / "failing.yaml").write_text(failing)
    return path


@pytest.fixture(scope="module")
def first(command: Command, folder: Path) -> Folder:
    words = ["run", folder / "network.yaml", folder / "jobs.yaml", "--isolation", "process"]
    command(*words, "--out", folder / "first")
    return Folder(folder / "first")


def jobs_of(run: Folder) -> dict[str, Any]:
    return {row["job"]: row for row in run.summary["jobs"]}


def operations(run: Path) -> list[str]:
    """What the ranks of a run or a job did."""
    return [path.read_text() for path in sorted(run.glob("raw/ops-*.jsonl"))]


def test_jobs_on_separate_links_do_not_change_each_other(first: Folder) -> None:
    """Every operation of every rank begins and ends at the same nanosecond."""
    beside = operations(first.path / "jobs/apart")
    assert len(beside) == 2
    assert beside == operations(first.path / "alone/apart")
    assert jobs_of(first)["apart"]["seconds"] == jobs_of(first)["apart"]["alone_seconds"]


def test_two_equal_jobs_share_a_link(first: Folder) -> None:
    """Alone an all-reduce between two ranks sends its size once each way, at 100 Mbit/s: 88 ms,
    and 2 to 8 round trips of 2 ms for its two steps, at most one more for each of them that
    begins in slow start. Two jobs need the link for twice as long; TCP does not share it evenly at
    every moment, and one ends first, so each takes 1.6 to 2.05 times as long.
    """
    least_s = MIB * 8 * FRAME / 100e6
    jobs = jobs_of(first)
    for name in ("left", "right"):
        (figure,) = jobs[name]["figures"]
        assert figure["what"] == "all_reduce of 1 MiB, float32"
        assert least_s < figure["alone_ms"] / 1000 < least_s + 8 * 0.002
        assert 1.6 < figure["ms"] / figure["alone_ms"] < 2.05
    ends = [jobs[name]["start_s"] + jobs[name]["seconds"] for name in ("left", "right")]
    alone_s = jobs["left"]["alone_seconds"] + jobs["right"]["alone_seconds"]
    # the link is busy until the last job ends: it needs the sum, without idle gaps of one alone
    assert 2 * (ITERATIONS + WARMUP) * least_s < max(ends) < 1.02 * alone_s


def test_tables_have_the_job(first: Folder) -> None:
    ranks = first.ops.group_by("job").agg(pl.col("rank").unique().sort(), pl.len()).sort("job")
    assert ranks["job"].to_list() == ["apart", "left", "right"]
    assert ranks["rank"].to_list() == [[0, 1]] * 3
    assert ranks["len"].to_list() == [2 * 6, 2 * 11, 2 * 11]


def test_each_job_has_a_run_folder(command: Command, first: Folder) -> None:
    left = Folder(first.path / "jobs/left")
    assert left.status["state"] == "completed"
    assert left.status["faithful"]
    assert left.summary["collectives"][0]["wrong"] == 0
    assert "job" not in left.ops.columns
    printed = command("compare", left.path, first.path / "alone/left").stdout
    assert "all_reduce" in printed


def test_the_page_names_the_jobs(first: Folder) -> None:
    page = (first.path / "report.html").read_text()
    for name in ("apart", "left", "right"):
        assert f'href="jobs/{name}/report.html"' in page
        assert (first.path / f"jobs/{name}/report.html").is_file()
    threads = {
        event["args"]["name"]
        for event in json.loads((first.path / "trace.json").read_text())["traceEvents"]
        if event["name"] == "thread_name"
    }
    assert any(name.startswith("rank 1 of right (d-h1)") for name in threads)


def test_a_run_repeats(command: Command, folder: Path, first: Folder) -> None:
    """To the nanosecond, also without the runs of each job alone."""
    out = folder / "second"
    words = ["run", folder / "network.yaml", folder / "jobs.yaml", "--isolation", "process"]
    command(*words, "--set", "workload.alone=false", "--out", out)
    for name in ("apart", "left", "right"):
        assert operations(out / "jobs" / name) == operations(first.path / "jobs" / name)
    assert not (out / "alone").exists()
    assert jobs_of(Folder(out))["left"]["alone_seconds"] is None


def test_a_small_job_waits_in_the_queue_of_a_large_one(command: Command, folder: Path) -> None:
    """A message crosses from c to d twice in an all-reduce, and waits in the queue that the
    broadcast fills: all 64 packets at most, and at least what cubic leaves of packets in flight
    and queue (0.7 of them) after a drop, less the packets in flight.
    """
    out = folder / "queue"
    words = ["run", folder / "network.yaml", folder / "queue.yaml", "--isolation", "process"]
    command(*words, "--capture", "wan", "--out", out)
    packet_ms = 1514 * 8 / 100e6 * 1000
    in_flight = 2 / packet_ms
    least_ms = (0.7 * (in_flight + 64) - in_flight) * packet_ms
    jobs = jobs_of(Folder(out))
    (figure,) = jobs["small"]["figures"]
    assert 2 * least_ms < figure["ms"] - figure["alone_ms"] < 2 * 64 * packet_ms
    assert jobs["bulk"]["seconds"] < 1.03 * jobs["bulk"]["alone_seconds"]  # 3 % of the bytes
    flows = pl.read_parquet(out / "flows.parquet").filter(pl.col("job") == "bulk")
    sent = flows.filter((pl.col("from_dc") == "c") & (pl.col("link") == "c-d"))
    assert sent["payload_bytes"].sum() == pytest.approx(24 * MIB, rel=0.01)
    assert "d-h0 (rank 1 of bulk)" in (out / "report.html").read_text()


def test_a_failing_job_does_not_hide_the_other(command: Command, folder: Path) -> None:
    """A script that fails on a host of another job, in containers."""
    out = folder / "failing"
    words = ["run", folder / "network.yaml", folder / "failing.yaml", "--isolation", "container"]
    failed = command(*words, "--out", out, status=1)
    assert "the job bad failed: rank 1 of bad on d-h0 exited with 7" in failed.stderr
    good, bad = Folder(out / "jobs/good"), Folder(out / "jobs/bad")
    assert (good.status["state"], good.status["faithful"]) == ("completed", True)
    assert good.summary["collectives"][0]["iterations"] == 3
    assert bad.status["state"] == "failed"
    assert (out / "jobs/bad/work/c-h0/rank-0.txt").read_text() == "here"
    rows = jobs_of(Folder(out))
    # begins are 2 s and two ranks of 0.1 ms apart, less what the jobs take to their first operation
    assert math.isclose(rows["bad"]["start_s"], 2, abs_tol=0.3)
    assert not (out / "alone").exists()
