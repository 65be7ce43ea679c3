"""The workload jobs: settings of each job, hosts and starts, and what cannot be combined."""

from pathlib import Path
from typing import Any

import pytest

from testbed.core.errors import InputError
from testbed.spec.overrides import parse_overrides
from testbed.spec.workload import Workload, load_workload

TWO = """
workload: jobs
jobs:
  a: {workload: train, method: diloco, hosts: [iowa]}
  b: {workload: collectives, sizes: [1 MiB], start: 250 ms}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "two.yaml"
    path.write_text(TWO)
    return path


def loaded(file: Path, *sets: str) -> Workload:
    overrides = parse_overrides(list(sets), ["workload"])["workload"]
    return load_workload(file, overrides)


def settings_of(workload: Workload) -> dict[str, dict[str, Any]]:
    return {placed.name: placed.workload.settings(4) for placed in workload.placed}


def test_jobs_have_the_settings_of_their_workloads(file: Path) -> None:
    a, b = loaded(file).placed
    assert (a.name, a.hosts, a.start_ns) == ("a", ("iowa",), 0)
    assert (b.name, b.hosts, b.start_ns) == ("b", (), 250_000_000)
    train = load_workload("train", parse_overrides(["method=diloco"], ["workload"])["workload"])
    assert a.workload.settings(4) == train.settings(4)
    assert b.workload.settings(4)["sizes"] == [2**20]


def test_the_file_can_be_written_and_read_again(file: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.yaml"
    again.write_text(loaded(file).to_yaml())
    assert loaded(again) == loaded(file)


def test_the_preset_is_valid() -> None:
    assert [placed.name for placed in load_workload("jobs").placed] == ["training", "reduce"]


def test_a_setting_of_a_job_can_be_set(file: Path) -> None:
    changed = loaded(file, "workload.jobs.b.sizes=[4 MiB]", "workload.jobs.a.method=ddp")
    settings = settings_of(changed)
    assert settings["b"]["sizes"] == [2**22]
    assert settings["a"]["method"] == "ddp"


def test_a_setting_of_all_jobs_can_be_set(file: Path) -> None:
    starts = [placed.start_ns for placed in loaded(file, "workload.jobs.*.start=1 s").placed]
    assert starts == [10**9, 10**9]


@pytest.mark.parametrize(
    ("setting", "error"),
    [
        ("workload.jobs.a.metod=ddp", "unknown key 'metod'"),
        ("workload.jobs.a.workload=tain", "unknown workload 'tain'"),
        ("workload.jobs.a.workload=jobs", "unknown workload 'jobs'"),
        ("workload.jobs.c={hosts: [iowa]}", "a job needs a workload or a command"),
        ("workload.jobs.a.start=soon", "'soon' is not a time"),
        ("workload.jobs.A={workload: train}", "'A' is not a valid name of a job"),
        ("workload.jobs.a.scale=10", "all jobs need the same scale"),
        ("workload.ranks_per_host=2", "ranks_per_host is a setting of each job"),
        ("workload.jobs.c={command: [-c, '1'], gpu: H100}", "a job cannot have modelled GPUs"),
        ("workload.jobs.c={command: [mpirun, ls]}", "a job cannot start its ranks with a launcher"),
        ("workload.jobs={}", "at least 1 item"),
    ],
)
def test_wrong_jobs(file: Path, setting: str, error: str) -> None:
    with pytest.raises(InputError) as caught:
        loaded(file, setting)
    assert error in str(caught.value)
    assert "jobs" in str(caught.value)
