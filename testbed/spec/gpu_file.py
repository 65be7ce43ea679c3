"""Kinds of GPUs to model: by name, or from a YAML file of the user."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, ValidationError

from testbed.core.gpus import (
    DEVICES,
    TERA,
    Accelerator,
    Device,
    ModelledGpu,
    NumberFormat,
    modelled_gpu,
)
from testbed.core.suggestions import suggest
from testbed.core.units import Quantity, Rate, Size, Time, UnitError
from testbed.spec import yaml_reader
from testbed.spec.base import Mistake, Strict, input_error, refuse

FILE_ENDINGS = (".yaml", ".yml")
BITS = 8
HALF: tuple[NumberFormat, NumberFormat] = ("bfloat16", "float16")
PEAK = Quantity(
    name="peak rate",
    base="FLOP/s",
    example="989 TFLOP/s",
    units={
        "FLOP/s": 1,
        "GFLOP/s": 10**9,
        "TFLOP/s": TERA,
        "PFLOP/s": 1000 * TERA,
        "EFLOP/s": 10**6 * TERA,
    },
    synonyms={
        "GFLOPS": "GFLOP/s",
        "TFLOPS": "TFLOP/s",
        "PFLOPS": "PFLOP/s",
        "EFLOPS": "EFLOP/s",
    },
)


def _peak(value: object) -> float:
    flops = float(PEAK.exact(value))
    if flops == 0:
        raise UnitError("the peak rate must be greater than 0", "leave out formats without a peak")

    return flops


Peak = Annotated[float, BeforeValidator(_peak)]


class GpuFile(Strict):
    """A kind of GPU in a file. Values that are left out are those of the kind `like`."""

    name: str | None = Field(None, min_length=1, description="name in reports")
    like: str | None = Field(None, description="kind that has the values that are left out")
    peak: dict[NumberFormat, Peak] = Field(
        {}, description="peak of dense products by number format"
    )
    memory: Size | None = Field(None, description="memory that torch.cuda reports")
    memory_rate: Rate | None = Field(None, description="bandwidth of the memory")
    peer_rate: Rate | None = Field(None, description="rate to other GPUs of the host, each way")
    host_rate: Rate | None = Field(None, description="rate of copies from and to main memory")
    kernel_time: Time | None = Field(None, description="least time between starts of kernels")
    device_name: str | None = Field(None, min_length=1, description="name that torch.cuda shows")
    capability: tuple[int, int] | None = Field(None, description="compute capability")
    multiprocessors: int | None = Field(None, ge=1, description="number of multiprocessors")
    channels: int | None = Field(
        None, ge=0, description="channels of NCCL's rings inside a host, a multiprocessor each"
    )
    source: str = Field("", description="where the figures come from")

    def gpu(self, default_name: str) -> ModelledGpu:
        """Return the kind of GPU.

        Args:
            default_name: name of a GPU whose file has no name.

        Raises:
            ValidationError: a value is missing, or `like` is unknown.
        """
        refuse(self._mistakes(), type(self).__name__)
        base = ModelledGpu(
            default_name,
            Accelerator({}, 0, 0.0, self.source),
            Device(default_name, (9, 0), 132, 0.0),
        )
        if self.like is not None:
            base = modelled_gpu(self.like)

        return ModelledGpu(
            self.name or default_name,
            self._accelerator(base.accelerator),
            self._device(base.device),
        )

    def _mistakes(self) -> list[Mistake]:
        if self.like is not None:
            if self.like in DEVICES:
                return []
            what = f"unknown kind of GPU {self.like!r}"
            return [Mistake(("like",), what, suggest(self.like, DEVICES, "known kinds"))]

        mistakes: list[Mistake] = []
        if not set(HALF) & set(self.peak):
            what = "the peak of bfloat16 or float16 is missing"
            mistakes.append(Mistake(("peak",), what, "such as {bfloat16: 989 TFLOP/s}"))
        for key in ("memory", "memory_rate", "peer_rate"):
            if getattr(self, key) is None:
                remedy = "give a value, or the kind that has the missing values: like: H100"
                mistakes.append(Mistake((key,), "required key is missing", remedy))

        return mistakes

    def _accelerator(self, base: Accelerator) -> Accelerator:
        tflops = {**base.tflops}
        for number_format, flops in self.peak.items():
            tflops[number_format] = flops / TERA

        # kernels of both have one rate: a peak for one of them is that of both
        bfloat16, float16 = HALF
        for given, other in ((bfloat16, float16), (float16, bfloat16)):
            if given in self.peak and other not in self.peak:
                tflops[other] = tflops[given]

        return Accelerator(
            tflops=tflops,
            memory_bytes=self.memory or base.memory_bytes,
            memory_bytes_per_s=_bytes_per_s(self.memory_rate, base.memory_bytes_per_s),
            source=self.source or base.source,
        )

    def _device(self, base: Device) -> Device:
        return Device(
            device_name=self.device_name or base.device_name,
            capability=self.capability or base.capability,
            multiprocessors=self.multiprocessors or base.multiprocessors,
            peer_bytes_per_s=_bytes_per_s(self.peer_rate, base.peer_bytes_per_s),
            host_bytes_per_s=_bytes_per_s(self.host_rate, base.host_bytes_per_s),
            kernel_ns=base.kernel_ns if self.kernel_time is None else float(self.kernel_time),
            source=self.source or base.source,
            reported_bytes=self.memory or base.reported_bytes,
            channels=base.channels if self.channels is None else self.channels,
        )


def _bytes_per_s(rate_bps: int | None, default: float) -> float:
    return default if rate_bps is None else rate_bps / BITS


def load_gpu(name_or_path: str) -> ModelledGpu:
    """Return a kind of GPU by its name, or from a file.

    Raises:
        UnitError: the name is unknown.
        InputError: the file cannot be read, or is wrong; the message lists every error.
    """
    if not name_or_path.endswith(FILE_ENDINGS):
        if name_or_path not in DEVICES:
            remedy = suggest(name_or_path, DEVICES, "known kinds")
            raise UnitError(f"unknown kind of GPU {name_or_path!r}", f"{remedy}; or a file.yaml")

        return modelled_gpu(name_or_path)

    path = Path(name_or_path)
    source = yaml_reader.load(path)
    try:
        return GpuFile.model_validate(source).gpu(path.stem)
    except ValidationError as error:
        locate = partial(yaml_reader.place_of, source)
        raise input_error(error, GpuFile, locate) from error
