"""Settings of `train`: a small GPT, one of several methods, modelled time of computation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from testbed.core.gpus import ACCELERATORS, FLOPS_PER_PARAMETER, NumberFormat, peak_flops
from testbed.core.suggestions import suggest
from testbed.core.units import Probability, Size, Time, UnitError
from testbed.spec.base import Count, Flag, Mistake, refuse
from testbed.spec.workload import Workload

from .method_rules import method_names, method_problems, rank_problems

if TYPE_CHECKING:
    MethodName = str
else:
    MethodName = Literal[method_names()]
PREFIXES = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9, "G": 10**9, "T": 10**12}
LEAST_PARAMETERS = 5_000
# copies of the parameters beyond the four tensors that every rank holds: moments and outer values
COPIES = 3
FLOAT_BYTES = 4
DEFAULT_STEP_NS = 100_000_000
DEVIATIONS = 4  # a pause may be longer by this multiple of the jitter


def parse_number(value: object) -> int:
    """Return the number in a count such as ``350 M`` or ``1 B`` (10^9).

    Raises:
        UnitError: `value` is not a count.
    """
    match = re.fullmatch(r"\s*([0-9]+\.?[0-9]*)\s*([A-Za-z]?)\s*", str(value))
    if isinstance(value, bool) or match is None or match[2] not in PREFIXES:
        raise UnitError(
            f"{value!r} is not a valid number of parameters",
            "use a number such as 1000000, 350 M or 1 B",
        )

    return round(float(match[1]) * PREFIXES[match[2]])


def format_number(value: int) -> str:
    """Return `value` with the largest prefix that leaves a whole number."""
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
    """Training of a small GPT for `steps` steps with `method`.

    The computation of a step takes `step_time`, or on `gpu` 6 x parameters x batch x sequence FLOPs
    / (the GPU's peak x `mfu`). `scale` divides the number of `parameters` of the trained model and
    every rate of the topology, so times do not change.
    """

    replaces: ClassVar[Mapping[str, Sequence[str]]] = {
        "gpu": ("step_time",),
        "step_time": ("gpu", "mfu"),
    }

    workload: Literal["train"] = "train"
    method: MethodName = Field("ddp", description="training method")
    steps: Count = Field(20, description="number of inner steps of each rank")
    warmup: Annotated[int, Field(strict=True, ge=0)] = Field(
        2, description="number of first steps that statistics ignore"
    )
    step_time: Time | None = Field(
        None, description="duration of the forward and backward pass of one rank's batch"
    )
    gpu: str | None = Field(
        None, description="GPU model; replaces step_time; " + ", ".join(ACCELERATORS)
    )
    gpu_dtype: NumberFormat | None = Field(
        None,
        description="number format of the GPU's peak rate; left out, bfloat16, or float16 on V100",
    )
    mfu: Annotated[float, Field(gt=0, le=1)] = Field(
        0.4, description="fraction of its peak rate that the GPU reaches"
    )
    jitter: Probability = Field(
        0.0, description="standard deviation of the computation time of steps, as a fraction"
    )
    straggler: dict[str, Positive] = Field(
        {}, description="hosts, each with the factor by which its computation takes longer"
    )
    parameters: Number = Field(1_000_000, description="number of parameters of the model")
    scale: Count = Field(1, description="divisor of parameters and rates")
    layers: Count = 4
    sequence: Count = Field(64, description="tokens in a sequence")
    batch: Count = Field(4, description="sequences for each rank and step")
    seed: Annotated[int, Field(strict=True, ge=0)] = Field(
        0, description="random seed of the model and of the order of the text"
    )
    lr: Positive = Field(1e-3, description="learning rate of AdamW")
    bucket: Size = Field(
        25 * 2**20, description="bucket size of DDP's gradient averaging; divided by scale"
    )
    powersgd_rank: Count = 2
    sync_every: Count = Field(
        10, description="H: inner steps between two outer steps, or between averages"
    )
    outer_lr: Positive = 0.7
    outer_momentum: Part = 0.9
    fragments: Count = Field(2, description="number of fragments of streaming-diloco")
    overlap: Annotated[int, Field(strict=True, ge=0)] = Field(
        1, description="tau: steps during which an exchange may run in the background"
    )
    exchange_dtype: Literal["float32", "float16"] = Field(
        "float32", description="number format of outer gradients"
    )
    early_exchange: Flag = Field(
        False, description="send each layer during the backward pass (diloco and streaming-diloco)"
    )
    microbatches: Count = Field(8, description="micro-batches in a pipeline's batch")
    schedule: Literal["1f1b", "gpipe"] = Field("1f1b", description="schedule of a pipeline")

    @property
    def divisor(self) -> int:
        """Divisor of the topology's rates, which is `scale`."""
        return self.scale

    def scaled_down(self, factor: int) -> Train | None:
        """Return the workload with `scale` multiplied by `factor`; None if too small for a GPT."""
        scale = self.scale * factor
        if self.parameters // scale < LEAST_PARAMETERS:
            return None
        return self.model_copy(update={"scale": scale})

    @property
    def computation_ns(self) -> int:
        """Modelled time of one step of one rank in ns."""
        peak = peak_flops(self.gpu or "", self.gpu_dtype)
        if peak is not None:
            flops = FLOPS_PER_PARAMETER * self.parameters * self.batch * self.sequence
            return round(1e9 * flops / (peak * self.mfu))

        if self.step_time is not None:
            return self.step_time

        return DEFAULT_STEP_NS

    @property
    def longest_pause_ns(self) -> int:
        """Longest computation of the slowest rank between two outer steps in ns."""
        slowest = max([1.0, *self.straggler.values()])
        longest_jitter = 1 + DEVIATIONS * self.jitter

        return round(self.computation_ns * self.sync_every * slowest * longest_jitter)

    @property
    def hosts_named(self) -> Iterable[str]:
        """The names of the stragglers."""
        return self.straggler

    def settings(self, ranks: int) -> dict[str, Any]:
        """Return the settings in base units.

        `parameters` and `bucket` describe the trained model, `model_parameters` the model before
        scaling.

        Raises:
            ValidationError: the method cannot train on `ranks` ranks with these settings.
        """
        problems = rank_problems(self, ranks)
        if problems:
            refuse(problems, type(self).__name__)

        settings = self.model_dump(exclude={"workload", "description", "step_time"})
        if self.gpu_dtype is None:
            del settings["gpu_dtype"]  # plans with and without this setting are equal
        settings["step_seconds"] = self.computation_ns / 1e9
        settings["model_parameters"] = self.parameters
        settings["parameters"] = self.parameters // self.scale
        settings["bucket"] = max(1, self.bucket // self.scale)

        return settings

    def largest_tensor_bytes(self, ranks: int) -> int:
        """Return the size in bytes of all parameters and a rank's further copies of them."""
        return COPIES * FLOAT_BYTES * self.parameters // self.scale

    @model_validator(mode="after")
    def _consistent(self) -> Train:
        problems = self._gpu_problems()

        if self.parameters // self.scale < LEAST_PARAMETERS:
            problem = f"{self.parameters} parameters / {self.scale} are too few for a GPT"
            remedy = f"at least {LEAST_PARAMETERS} must remain"
            problems.append(Mistake(("parameters",), problem, remedy))

        problems += method_problems(self)
        if problems:
            refuse(problems, type(self).__name__)

        return self

    def _gpu_problems(self) -> list[Mistake]:
        if self.gpu is None:
            return []
        accelerator = ACCELERATORS.get(self.gpu)
        if accelerator is None:
            remedy = suggest(self.gpu, ACCELERATORS)
            return [Mistake(("gpu",), f"unknown GPU {self.gpu!r}", remedy)]

        problems = []
        if self.gpu_dtype is not None and self.gpu_dtype not in accelerator.tflops:
            problem = f"no peak rate of {self.gpu} for {self.gpu_dtype} is known"
            remedy = f"known formats: {', '.join(accelerator.tflops)}"
            problems.append(Mistake(("gpu_dtype",), problem, remedy))
        if self.step_time is not None:
            problem = "gpu and step_time are mutually exclusive"
            problems.append(Mistake(("gpu",), problem, "remove one of the two"))
        return problems
