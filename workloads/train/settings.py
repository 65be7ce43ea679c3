"""Training of a small GPT, with a choice of methods; the time of the computation is modelled."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from testbed.core.gpus import FLOPS_PER_PARAMETER, PEAK_FLOPS
from testbed.core.units import Probability, Size, Time, UnitError
from testbed.spec.base import Count, Flag, Problem, refuse, suggest
from testbed.spec.workload import Workload

MethodName = Literal[
    "ddp",
    "ddp-fp16",
    "powersgd",
    "hierarchical",
    "local-sgd",
    "diloco",
    "streaming-diloco",
    "pipeline",
    "hsdp",
    "async-ps",
]
PREFIXES = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9, "G": 10**9, "T": 10**12}
LEAST_PARAMETERS = 5_000
# of the parameters, beyond the four tensors that every rank is given: moments and outer values
COPIES = 3
FLOAT_BYTES = 4


def parse_number(value: object) -> int:
    """A count such as ``350 M`` or ``1 B`` (10^9).

    Raises:
        UnitError: it is not one.
    """
    match = re.fullmatch(r"\s*([0-9]+\.?[0-9]*)\s*([A-Za-z]?)\s*", str(value))
    if isinstance(value, bool) or match is None or match[2] not in PREFIXES:
        raise UnitError(
            f"{value!r} is not a number of parameters", "write it such as 1000000, 350 M or 1 B"
        )
    return round(float(match[1]) * PREFIXES[match[2]])


def format_number(value: int) -> str:
    """`value` with the largest prefix that leaves it whole."""
    for prefix in ("B", "M", "k"):
        if value and value % PREFIXES[prefix] == 0:
            return f"{value // PREFIXES[prefix]} {prefix}"
    return str(value)


Number = Annotated[
    int, BeforeValidator(parse_number), PlainSerializer(format_number, when_used="json")
]
Positive = Annotated[float, Field(gt=0)]
Part = Annotated[float, Field(ge=0, lt=1)]


class Train(Workload):
    """`steps` steps with `method`.

    A step's computation takes `step_time`, or on `gpu` 6 x parameters x batch x sequence FLOPs /
    (its peak x `mfu`). With `scale` the model has that part of `parameters` and every rate of the
    topology is divided by it, so times stay.
    """

    workload: Literal["train"] = "train"
    method: MethodName = Field("ddp", description="how the ranks learn together")
    steps: Count = Field(20, description="inner steps of each rank")
    warmup: Annotated[int, Field(strict=True, ge=0)] = Field(
        2, description="first steps, left out of the statistics"
    )
    step_time: Time | None = Field(
        None, description="of a forward and a backward pass of one rank's batch"
    )
    gpu: str | None = Field(
        None, description="takes the place of step_time; " + ", ".join(PEAK_FLOPS)
    )
    mfu: Annotated[float, Field(gt=0, le=1)] = Field(
        0.4, description="the part of its peak that the GPU reaches"
    )
    jitter: Probability = Field(
        0.0, description="standard deviation of the steps' computation, a part of it"
    )
    straggler: dict[str, Positive] = Field(
        {}, description="hosts and the factor by which they compute longer"
    )
    parameters: Number = Field(1_000_000, description="of the model")
    scale: Count = Field(1, description="divides parameters and rates")
    layers: Count = 4
    sequence: Count = Field(64, description="tokens of a sequence")
    batch: Count = Field(4, description="sequences of each rank and step")
    seed: Annotated[int, Field(strict=True, ge=0)] = Field(
        0, description="of the model and the order of the text"
    )
    lr: Positive = Field(1e-3, description="of AdamW")
    bucket: Size = Field(
        25 * 2**20, description="gradients that DDP averages at a time; divided by scale"
    )
    powersgd_rank: Count = 2
    sync_every: Count = Field(
        10, description="H: inner steps between two outer ones, or between averages"
    )
    outer_lr: Positive = 0.7
    outer_momentum: Part = 0.9
    fragments: Count = Field(2, description="of streaming-diloco")
    overlap: Annotated[int, Field(strict=True, ge=0)] = Field(
        1, description="tau: steps that an exchange may take"
    )
    exchange_dtype: Literal["float32", "float16"] = Field(
        "float32", description="of outer gradients"
    )
    early_exchange: Flag = Field(
        False, description="diloco and streaming-diloco send each layer during the backward pass"
    )
    microbatches: Count = Field(8, description="of a pipeline's batch")
    schedule: Literal["1f1b", "gpipe"] = Field("1f1b", description="of a pipeline")

    @property
    def divisor(self) -> int:
        """`scale`."""
        return self.scale

    @property
    def computation_ns(self) -> int:
        """Of one step of one rank."""
        if self.gpu is not None:
            flops = FLOPS_PER_PARAMETER * self.parameters * self.batch * self.sequence
            return round(1e9 * flops / (PEAK_FLOPS[self.gpu] * self.mfu))
        return 100_000_000 if self.step_time is None else self.step_time

    @property
    def longest_pause_ns(self) -> int:
        """Of the slowest rank, between two outer steps."""
        slowest = max(1.0, *self.straggler.values()) if self.straggler else 1.0
        return round(self.computation_ns * self.sync_every * slowest * (1 + 4 * self.jitter))

    @property
    def hosts_named(self) -> Iterable[str]:
        """The stragglers."""
        return self.straggler

    def settings(self, ranks: int) -> dict[str, Any]:
        """In base units, with the small model's `parameters` and `bucket`, and `model_parameters`
        of the real one.
        """
        if self.method == "pipeline" and (
            self.microbatches < ranks or self.batch * ranks % self.microbatches
        ):
            problem = f"{self.batch} x {ranks} sequences cannot pass {ranks} ranks in {self.microbatches} micro-batches"
            remedy = "choose microbatches that divide the sequences of all ranks, at least one for each rank"
            refuse([Problem(("microbatches",), problem, remedy)], type(self).__name__)
        return self.model_dump(exclude={"workload", "description", "step_time"}) | {
            "step_seconds": self.computation_ns / 1e9,
            "model_parameters": self.parameters,
            "parameters": self.parameters // self.scale,
            "bucket": max(1, self.bucket // self.scale),
        }

    def largest_tensor_bytes(self, ranks: int) -> int:
        """All parameters in one, and what else a rank keeps of them."""
        return COPIES * FLOAT_BYTES * self.parameters // self.scale

    @model_validator(mode="after")
    def _consistent(self) -> Train:
        problems = []
        if self.gpu is not None and self.gpu not in PEAK_FLOPS:
            problems.append(
                Problem(("gpu",), f"unknown GPU {self.gpu!r}", suggest(self.gpu, PEAK_FLOPS))
            )
        if self.gpu is not None and self.step_time is not None:
            problems.append(
                Problem(("gpu",), "gpu and step_time say the same twice", "leave one of them out")
            )
        if self.parameters // self.scale < LEAST_PARAMETERS:
            what = f"{self.parameters} parameters / {self.scale} are too few for a GPT"
            problems.append(
                Problem(("parameters",), what, f"at least {LEAST_PARAMETERS} must remain")
            )
        if self.method == "streaming-diloco":
            if self.sync_every < self.fragments:
                what = f"{self.fragments} fragments cannot take turns in {self.sync_every} steps"
                problems.append(Problem(("fragments",), what, "choose at most sync_every"))
            if self.overlap >= self.sync_every:
                what = f"an overlap of {self.overlap} steps is not shorter than sync_every"
                problems.append(
                    Problem(("overlap",), what, "a fragment must be back before its next turn")
                )
        if problems:
            refuse(problems, type(self).__name__)
        return self
