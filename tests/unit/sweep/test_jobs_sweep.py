"""Sweeps of several jobs: points, seeds of repeats, columns of what jobs cost each other."""

from pathlib import Path

import pytest

from testbed.core.errors import InputError
from testbed.runfolder.folder import RunDir
from testbed.runfolder.summary import JobRow, Summary, write_summary
from testbed.spec.experiment import Experiment
from testbed.spec.figures import run_figures
from testbed.sweep.points import PlannedPoint, plan_points
from testbed.sweep.results import sound_columns

JOBS = {
    "a": {"workload": "train", "hosts": ["iowa-h0", "ohio-h0"]},
    "b": {"workload": "train", "seed": 7, "hosts": ["iowa-h1", "ohio-h1"]},
}


def planned(**sweep: object) -> list[PlannedPoint]:
    experiment = Experiment.from_mapping(
        {
            "topology": "two-sites",
            "workload": "jobs",
            "settings": {"workload.jobs": JOBS, "run.isolation": "process"},
            "sweep": sweep,
        }
    )
    return plan_points(experiment, {}, machine_memory_bytes=2**40)


def seeds(point: PlannedPoint) -> list[int]:
    return [job.workers.settings["seed"] for job in point.plan.jobs]


def test_a_setting_of_a_job_can_be_swept() -> None:
    points = planned(grid={"workload.jobs.b.start": ["0 s", "1 s"]})
    step_ns = 2 * 100_000  # the ranks of a begin before
    begins = [point.plan.jobs[1].workers.begin_ns for point in points]
    assert begins == [step_ns, 10**9 + step_ns]


def test_repeats_have_other_seeds() -> None:
    """Of the network and of each job, the same for both."""
    first, second = planned(grid={"workload.jobs.b.start": ["0 s"]}, repeats=2)
    assert seeds(first) == [0, 7]
    assert seeds(second) == [second.plan.seed] * 2
    assert second.plan.seed != first.plan.seed


def test_a_wrong_setting_of_a_job_is_refused() -> None:
    with pytest.raises(InputError, match="unknown key 'stat'"):
        planned(grid={"workload.jobs.b.stat": ["0 s"]})


def test_columns_of_a_point(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run")
    rows = []
    for name, start_s, seconds in (("a", 0.0, 3.0), ("b", 1.0, 4.0)):
        row = JobRow(
            job=name,
            workload="train",
            ranks=2,
            hosts=["iowa-h0"],
            state="completed",
            start_s=start_s,
            seconds=seconds,
            alone_seconds=2.0,
        )
        rows.append(row)
    write_summary(run.summary, Summary(jobs=rows))
    columns, damage = sound_columns(run.path, None)
    assert damage == ""
    expected = {"jobs_s": 5.0, "slowdown": 2.0, "seconds_a": 3.0, "slowdown_a": 1.5}
    assert expected.items() <= columns.columns.items()


def test_conditions_of_a_search_may_name_the_cost() -> None:
    assert {"slowdown", "jobs_s", "jobs"} <= run_figures().keys()
