"""Plans of several jobs: hosts, ranks, ports, begins and memory."""

from pathlib import Path

import pytest

from testbed.core.errors import InputError
from testbed.plan.model import Plan
from testbed.plan.resolve import resolve
from testbed.spec.options import RunOptions
from testbed.spec.topology import Topology
from testbed.spec.workload import load_workload

KIB, MIB = 2**10, 2**20
TEXT = """
workload: jobs
jobs:
  a: {workload: collectives, ops: [all_reduce], sizes: [1 MiB], hosts: [ohio, iowa-h0]}
  b: {workload: collectives, ops: [all_reduce], sizes: [2 MiB], ranks_per_host: 2, start: 1 s}
"""


def planned(tmp_path: Path, text: str = TEXT, **options: object) -> Plan:
    path = tmp_path / "jobs.yaml"
    path.write_text(text)
    return resolve(
        Topology.load("two-sites"),
        load_workload(path),
        RunOptions(isolation="process", **options),
        machine_memory_bytes=2**40,
    )


def test_jobs_have_their_own_ranks(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    a, b = plan.jobs
    assert [rank.host for rank in a.workers.ranks] == ["iowa-h0", "ohio-h0", "ohio-h1"]
    assert [rank.rank for rank in b.workers.ranks] == list(range(8))
    assert [rank.local_rank for rank in b.workers.ranks] == [0, 1] * 4
    assert (a.first, b.first) == (0, 3)
    assert [rank.rank for rank in plan.workers.ranks] == list(range(11))
    assert plan.workers.ranks[3].host == b.workers.ranks[0].host == "iowa-h0"
    assert plan.workers.workload == "jobs"
    assert (plan.rank_name(2), plan.rank_name(3)) == ("2 of a", "0 of b")


def test_jobs_meet_at_different_ports_and_times(tmp_path: Path) -> None:
    """Ranks of all jobs begin 0.1 ms apart, from the start of their job on."""
    a, b = planned(tmp_path).jobs
    assert (a.workers.master_port, b.workers.master_port) == (29500, 29600)
    assert (a.workers.begin_ns, b.workers.begin_ns) == (0, 10**9 + 3 * 100_000)


def test_a_host_has_memory_for_the_ranks_of_all_its_jobs(tmp_path: Path) -> None:
    """16 MiB a rank, 16 KiB for each rank of its job, its buffer and as much for gloo.

    A rank of a and two of b share a host.
    """
    plan = planned(tmp_path)
    host = (16 + 1 + 1) * MIB + 3 * 16 * KIB + 2 * ((16 + 2 + 2) * MIB + 8 * 16 * KIB)
    packets = 2 * 3 * MIB + 2 * 8 * 2 * MIB
    assert plan.guest_memory_bytes == 2**30 + 4 * host + packets


def test_a_plan_of_jobs_is_read_as_written(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


def test_the_plan_of_a_job_alone(tmp_path: Path) -> None:
    """The same workers at the same time, and nothing else; a job beside others has its name."""
    plan = planned(tmp_path, capture="wan")
    a, b = plan.jobs
    alone = plan.alone(b)
    assert (alone.workers, alone.jobs, alone.job, alone.capture) == (b.workers, (), "", "none")
    assert alone.network == plan.network
    assert plan.for_job(a).job == "a"


def test_plans_of_one_workload_have_no_keys_of_jobs() -> None:
    """Sweeps of earlier versions find their points by the text of the plan."""
    text = resolve(Topology.load("two-sites"), load_workload("collectives")).model_dump_json()
    for key in ('"jobs"', '"job"', '"begin_ns"'):
        assert key not in text


@pytest.mark.parametrize(
    ("jobs", "error"),
    [
        (
            "a: {workload: train, hosts: [texas]}",
            "jobs.a.hosts: unknown host or datacenter 'texas'",
        ),
        ("a: {workload: train, straggler: {iowa-h7: 2}}", "jobs.a: the workload names an unknown"),
        ("a: {workload: replay}", "jobs.a: no trace to replay"),
        ("a: {workload: train, method: pipeline, hosts: [iowa-h0]}", "jobs.a.microbatches: 4 x 1"),
    ],
)
def test_jobs_that_do_not_fit_the_network(tmp_path: Path, jobs: str, error: str) -> None:
    with pytest.raises(InputError) as caught:
        planned(tmp_path, f"workload: jobs\njobs:\n  {jobs}\n")
    assert error in str(caught.value)


def test_jobs_need_one_guest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a run with several jobs needs one guest"):
        planned(tmp_path, guests=2)
    assert planned(tmp_path, guests="auto").sites == ()
