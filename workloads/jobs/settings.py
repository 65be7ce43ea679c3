"""Settings of `jobs`: several workloads at the same time, each on some of the hosts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    create_model,
    model_validator,
)

from testbed.core.suggestions import suggest
from testbed.core.units import Time, UnitError
from testbed.spec.base import Flag, Mistake, Strict, refuse
from testbed.spec.workload import PlacedWorkload, Workload, registry

JOB_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
COMMAND = "script"  # the workload of a job that has only a command


class Placement(Strict):
    """Where and when a job runs."""

    hosts: list[str] = Field(
        [], description="hosts of the job, and datacenters with all their hosts; empty: all hosts"
    )
    start: Time = Field(0, description="time from the start of the workers to that of the job")


def _check_job_name(name: str) -> str:
    """Check a job's name, which is part of the names of files.

    Raises:
        UnitError: the name is not valid.
    """
    if JOB_NAME.fullmatch(name) is None:
        raise UnitError(
            f"{name!r} is not a valid name of a job",
            "use up to 32 lower-case letters, digits and inner hyphens",
        )
    return name


def _job_models() -> dict[str, type[Workload]]:
    """Return a model of a job for each other workload: its settings and those of `Placement`."""
    models: dict[str, type[Workload]] = {}
    for name, model in registry().items():
        if name != "jobs":
            job_name = f"{model.__name__}Job"
            bases: Any = (Placement, model)
            models[name] = create_model(job_name, __base__=bases, __doc__=model.__doc__)
    return models


JOB_MODELS = _job_models()


def _with_workload(value: object) -> object:
    """Return a job's mapping with a known workload; that of a job with a command is `script`.

    Raises:
        UnitError: the workload is missing or unknown.
    """
    if not isinstance(value, Mapping):
        return value

    name = value.get("workload", COMMAND if "command" in value else None)
    if name is None:
        raise UnitError(
            "a job needs a workload or a command",
            f"write workload: {next(iter(JOB_MODELS))}, or command: [train.py, --lr, 3e-4]",
        )
    if name not in JOB_MODELS:
        raise UnitError(f"unknown workload {name!r}", suggest(name, JOB_MODELS, "workloads"))
    return {**value, "workload": name}


def _workload_of(value: Any) -> str:
    name = value.get("workload") if isinstance(value, Mapping) else getattr(value, "workload", "")
    return f"({name})"


if TYPE_CHECKING:
    AnyJob = Placement
else:
    AnyJob = Annotated[
        Union[  # noqa: UP007 (made of a list)
            tuple(Annotated[model, Tag(f"({name})")] for name, model in JOB_MODELS.items())
        ],
        Discriminator(_workload_of),
        BeforeValidator(_with_workload),
    ]

JobName = Annotated[str, AfterValidator(_check_job_name)]


class Jobs(Workload):
    """Several workloads on one network at the same time, each with its own figures.

    A job has the settings of its workload, and also `hosts` and `start`. Jobs may share hosts, and
    so their NICs. Each job has its own ranks, from 0, and its own process group.
    """

    workload: Literal["jobs"] = "jobs"
    jobs: dict[JobName, AnyJob] = Field(
        min_length=1, description="name: the settings of a workload, hosts and start"
    )
    alone: Flag = Field(
        True,
        description="also run each job alone afterwards, to show what the jobs cost each other",
    )

    @property
    def placed(self) -> list[PlacedWorkload]:
        """The jobs, in the order written."""
        jobs: list[PlacedWorkload] = []
        for name, job in self.jobs.items():
            jobs.append(PlacedWorkload(name, _without_placement(job), tuple(job.hosts), job.start))
        return jobs

    @property
    def divisor(self) -> int:
        """Divisor of the topology's rates: the jobs' `scale`, which is equal."""
        return self.placed[0].workload.divisor

    def settings(self, ranks: int) -> dict[str, Any]:
        """Return what holds for all jobs; the plan has the settings of each job."""
        return {"alone": self.alone and len(self.jobs) > 1}

    def largest_tensor_bytes(self, ranks: int) -> int:
        """Return the size in bytes of the largest tensor of a rank of any job."""
        return max(job.workload.largest_tensor_bytes(ranks) for job in self.placed)

    @model_validator(mode="after")
    def _possible_together(self) -> Jobs:
        problems: list[Mistake] = []
        if self.ranks_per_host != 1:
            what = "ranks_per_host is a setting of each job"
            problems.append(Mistake(("ranks_per_host",), what, "write it below jobs.NAME"))

        divisors = {job.name: job.workload.divisor for job in self.placed}
        if len(set(divisors.values())) > 1:
            scales = ", ".join(f"{name} {divisor}" for name, divisor in divisors.items())
            what = f"all jobs need the same scale, which divides the rates of the network: {scales}"
            problems.append(Mistake(("jobs",), what))

        for job in self.placed:
            problems += _job_problems(job)
        refuse(problems, type(self).__name__)
        return self


def _without_placement(job: Placement) -> Workload:
    """Return the workload of a job, without its hosts and start."""
    kind: str = getattr(job, "workload")  # noqa: B009 (of every model of a job)
    written = job.model_dump(
        mode="json", exclude_unset=True, by_alias=True, exclude={"hosts", "start"}
    )
    return registry()[kind].model_validate(written)


def _job_problems(job: PlacedWorkload) -> list[Mistake]:
    """Return what several jobs on one network do not support."""
    workload = job.workload
    if workload.has_modelled_gpus:
        what = "a job cannot have modelled GPUs"
        return [Mistake(("jobs", job.name, "gpu"), what, "run the script alone, without jobs")]

    if workload.starts_from_first_host:
        what = "a job cannot start its ranks with a launcher that reaches other hosts"
        remedy = "use torchrun, or the script itself, which each host starts"
        return [Mistake(("jobs", job.name, "command"), what, remedy)]
    return []
