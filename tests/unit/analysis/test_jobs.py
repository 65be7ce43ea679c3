"""A run of several jobs, from the records of its ranks: tables, times, costs and links."""

from pathlib import Path

import polars as pl
import pytest

from testbed.analysis.conclude import conclude
from testbed.analysis.job_links import links_of_job
from testbed.api import open_run
from testbed.core.errors import InputError
from testbed.plan.model import Plan
from testbed.plan.resolve import resolve
from testbed.report.export.choice import export_run
from testbed.report.load import load
from testbed.report.page import write_page
from testbed.runfolder.folder import RunDir
from testbed.runfolder.records import FirstOperation, Operation, RunEnded, append, write_round_trips
from testbed.runfolder.status import Status, read_status, write_status
from testbed.runfolder.summary import Summary, read_summary
from testbed.spec.options import RunOptions
from testbed.spec.topology import Topology
from testbed.spec.workload import load_workload

START_NS = 1_700_000_000_000_000_000
MS = 10**6
LINE = {
    "name": "line",
    "datacenters": {name: {"hosts": 1} for name in "abc"},
    "wan": [
        {"between": ["a", "b"], "rate": "1 Gbit/s", "delay": "1 ms"},
        {"between": ["b", "c"], "rate": "1 Gbit/s", "delay": "1 ms"},
    ],
}
JOBS = """
workload: jobs
jobs:
  left: {workload: collectives, ops: [all_reduce], sizes: [1 MiB], hosts: [a, b]}
  right: {workload: collectives, ops: [all_reduce], sizes: [1 MiB], hosts: [b, c]}
"""


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    file = tmp_path_factory.mktemp("jobs") / "jobs.yaml"
    file.write_text(JOBS)
    topology = Topology.model_validate(LINE)
    options = RunOptions(isolation="process")
    return resolve(topology, load_workload(file), options, machine_memory_bytes=2**40)


def write_operations(folder: RunDir, begin_ms: int, ms: int) -> None:
    """Two all-reduces of `ms` each on two ranks, one after the other."""
    append(folder.events, FirstOperation(time_ns=START_NS + begin_ms * MS))
    for rank in (0, 1):
        for iteration in (0, 1):
            start_ns = START_NS + (begin_ms + iteration * ms) * MS
            operation = Operation(
                op="all_reduce",
                bytes=2**20,
                group_size=2,
                iteration=iteration,
                phase="measure",
                start_ns=start_ns,
                end_ns=start_ns + ms * MS,
                dtype="float32",
                wrong=0,
            )
            append(folder.rank_ops(rank), operation)
    append(folder.events, RunEnded(state="completed", time_ns=START_NS + (begin_ms + 2 * ms) * MS))


@pytest.fixture
def run(tmp_path: Path, plan: Plan) -> RunDir:
    """Left takes 60 ms beside right and 40 ms alone; right begins later and takes 80 ms."""
    run = RunDir.create(tmp_path / "run")
    run.write_plan(plan)
    run.make_jobs(plan)
    run.spec.write_text("# topology\na: 1\n---\n# workload\nb: 1\n")
    write_round_trips(run.fidelity, [])
    write_operations(run.job("left"), 0, 30)
    write_operations(run.job("right"), 10, 40)
    alone = RunDir.create(run.alone("left").path)
    alone.write_plan(plan.alone(plan.jobs[0]))
    write_operations(alone, 0, 20)
    conclude(alone.read_plan(), alone, Status(state="completed", measured=True))
    write_status(alone.status, Status(state="completed"))
    return run


def summary_of(run: RunDir, plan: Plan) -> Summary:
    conclude(plan, run, Status(state="completed", measured=True))
    summary, _problems = read_summary(run.summary)
    return summary


def test_times_and_costs(run: RunDir, plan: Plan) -> None:
    left, right = summary_of(run, plan).jobs
    assert (left.start_s, left.seconds, left.alone_seconds) == (0, 0.06, 0.04)
    assert left.slowdown == pytest.approx(1.5)
    assert [(figure.ms, figure.alone_ms) for figure in left.figures] == [(30, 20)]
    assert (right.start_s, right.seconds, right.alone_seconds) == (0.01, 0.08, None)
    assert right.slowdown is None


def test_tables_name_the_job(run: RunDir, plan: Plan) -> None:
    """The numbers of ranks are those of the job; figures of the page number the ranks of all."""
    summary_of(run, plan)
    ops = pl.read_parquet(run.ops)
    assert ops.columns[:2] == ["job", "rank"]
    ranks = ops.group_by("job", maintain_order=True).agg(pl.col("rank").unique().sort())
    assert dict(ranks.iter_rows()) == {"left": [0, 1], "right": [0, 1]}
    loaded = load(run).ops
    assert loaded is not None
    assert sorted(loaded["rank"].unique()) == [0, 1, 2, 3]


def test_each_job_has_a_status_and_a_summary(run: RunDir, plan: Plan) -> None:
    summary_of(run, plan)
    for name in ("left", "right"):
        folder = run.job(name)
        status, _problems = read_status(folder.status)
        assert status is not None
        assert status.state == "completed"
        summary, _problems = read_summary(folder.summary)
        assert [row.op for row in summary.collectives] == ["all_reduce"]


def test_python_has_the_jobs(run: RunDir, plan: Plan) -> None:
    summary_of(run, plan)
    jobs = open_run(run.path).jobs
    assert list(jobs) == ["left", "right"]
    assert jobs["right"].summary.collectives[0].time_us.median == 40_000
    assert set(jobs["right"].operations["rank"]) == {0, 1}


def test_a_job_has_the_links_between_its_hosts(run: RunDir, plan: Plan) -> None:
    left, right = plan.jobs
    assert links_of_job(plan.for_job(left)) == {("a-b", "a"), ("a-b", "b")}
    assert links_of_job(plan.for_job(right)) == {("b-c", "b"), ("b-c", "c")}
    assert links_of_job(plan.alone(left)) is None


def test_the_page_has_a_part_for_each_job(run: RunDir, plan: Plan) -> None:
    summary_of(run, plan)
    write_status(run.status, Status(state="completed"))
    page = write_page(run).read_text()
    assert "left takes 60 ms, 1.50 times as long as alone" in page
    assert 'href="alone/left/report.html"' in page
    assert 'href="alone/right/report.html"' not in page
    for name in ("left", "right"):
        assert f'id="job-{name}"' in page
        assert "Other jobs ran at the same time" in run.job(name).report.read_text()
    assert "rank 1 of right (c-h0)" in run.trace.read_text()


def test_an_export_of_all_jobs_is_refused(run: RunDir, plan: Plan) -> None:
    summary_of(run, plan)
    with pytest.raises(InputError, match="a run with several jobs has no single chakra export"):
        export_run(run, "chakra", None)
    names = {path.name for path in export_run(run, "csv", None)}
    assert "operations.csv" in names
