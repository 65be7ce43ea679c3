"""The options of a run: one model for the command line, experiments, the Python API and the docs.

Every option has a name, which is its keyword in Python. The other three ways to write an option
follow from the name:

    name            capture_filter
    command line    --capture-filter
    environment     TESTBED_CAPTURE_FILTER
    experiment      run.capture_filter

An option whose flag differs, or that experiments lack, says so with `Written`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from testbed.core.paths import absolute_path, why_not_shared
from testbed.core.units import Size, UnitError, format_size, format_time, parse_time
from testbed.spec.base import Mistake, Strict, refuse

NS_PER_S = 10**9
ENVIRONMENT_PREFIX = "TESTBED_"
# Each host has private folders with these names, which hide the machine's folders.
FOLDERS_OF_EACH_HOST = tuple(Path(name) for name in ("/", "/tmp", "/run", "/dev/shm"))
AUTO_GUESTS = 0  # as many as there are CPUs, and as the plan allows
MOST_GUESTS = 64  # SITES_MOST of the guest's kernel
# Bytes; with less, a guest's kernel does not boot, and Docker starts no container.
LEAST_MEMORY = {"guest_memory": 64 * 2**20, "memory": 6 * 2**20}
CAPTURE_DETAILS = ("capture_filter", "capture_snap", "capture_limit")


@dataclass(frozen=True)
class Written:
    """The spelling of an option where the name and the type do not determine it.

    Attributes:
        flag: Flag on the command line; empty: the name with dashes.
        value: Placeholder for the value in help texts; empty: derived from the type.
        default: Default for people; empty: the default value.
        in_experiments: Whether experiments have the option as ``run.NAME``.
    """

    flag: str = ""
    value: str = ""
    default: str = ""
    in_experiments: bool = True


def _within(least: int, most: int | None = None) -> AfterValidator:
    """Return a validator for sizes from `least` to `most` bytes."""
    remedy = f"at least {format_size(least)}"
    if most is not None:
        remedy += f" and at most {format_size(most)}"

    def check(value: int) -> int:
        if value < least or (most is not None and value > most):
            raise UnitError(f"{value} B is out of range", remedy)
        return value

    return AfterValidator(check)


def _check_memory(value: int | None, info: ValidationInfo) -> int | None:
    least = LEAST_MEMORY[str(info.field_name)]
    if value is not None and value < least:
        raise UnitError(f"{value} B is too little memory", f"at least {format_size(least)}")
    return value


def _read_guests(value: object) -> int:
    """Return a number of guests; `AUTO_GUESTS` for auto."""
    if value == "auto":
        return AUTO_GUESTS
    text = str(value).strip()
    if isinstance(value, bool) or not text.isdecimal() or not 1 <= int(text) <= MOST_GUESTS:
        raise UnitError(f"{value!r} is not a number of guests", f"auto, or 1 to {MOST_GUESTS}")
    return int(text)


def _read_wall_time(value: object) -> int:
    """Return the nanoseconds of a time with a unit, or of a number of seconds; at least 1 s."""
    text = str(value).strip()
    is_number = text.replace(".", "", 1).isdecimal()
    nanoseconds = parse_time(f"{text} s" if is_number else value)
    if nanoseconds < NS_PER_S:
        raise UnitError(f"{value!r} is less than 1 s")
    return nanoseconds


WallTime = Annotated[
    int, BeforeValidator(_read_wall_time), PlainSerializer(format_time, when_used="json")
]


def visible_folder(folder: Path) -> Path:
    """Check that a host sees the same contents of `folder` as this machine.

    Raises:
        UnitError: Each host has a private folder with that name, or the name cannot be mounted.
    """
    reason = why_not_shared(folder)
    if reason:
        raise UnitError(reason, "rename the folder")

    if folder in FOLDERS_OF_EACH_HOST:
        raise UnitError(
            f"each host has a separate {folder}", "use a folder below it for files that hosts need"
        )

    return folder


def _readable_folder(path: Path) -> Path:
    if not path.is_dir():
        raise UnitError(f"{path} is not a folder")
    visible_folder(path.resolve())
    return visible_folder(absolute_path(path))


class RunOptions(Strict):
    """Every option of a run."""

    where: Annotated[Literal["guest", "here"], Written(in_experiments=False)] = Field(
        "guest", description="run in a guest kernel, or directly in this machine's kernel (as root)"
    )
    clock: Annotated[
        Literal["virtual", "real"], Written(default="virtual; with --where here: real")
    ] = Field("virtual", description="clock of the run")
    isolation: Literal["container", "process"] = Field(
        "container", description="run each host as a container or as plain processes (quicker)"
    )
    capture: Literal["none", "wan", "all"] = Field(
        "none",
        description="capture packets nowhere, at both ends of every WAN link, or at hosts too",
    )
    capture_filter: Annotated[str, Written(value="EXPRESSION", default="every packet")] = Field(
        "", description="packets to capture, in tcpdump syntax: 'tcp port 29500'"
    )
    capture_snap: Annotated[Size, _within(54, 262_144), Written(value="SIZE", default="128 B")] = (
        Field(128, description="bytes of each packet to capture")
    )
    capture_limit: Annotated[Size, _within(4 * 10**6), Written(value="SIZE", default="256 MB")] = (
        Field(256 * 10**6, description="size limit of the capture of each interface")
    )
    seed: Annotated[int, Field(strict=True, ge=0)] = Field(0, description="random seed")
    image: Annotated[Path | None, Written(default="the system of this machine")] = Field(
        None, description="tar file of a container image with python3, torch and pydantic"
    )
    memory: Annotated[
        Size | None, Written(value="SIZE", default="estimated from its ranks, at least 1 GiB")
    ] = Field(None, description="memory limit of a host, such as 2 GiB")
    cpus: Annotated[float, Field(ge=0.01)] = Field(
        1.0, description="CPU limit of a host (real clock only)"
    )
    guest_memory: Annotated[
        Size | None, Written(value="SIZE", default="estimated from the plan")
    ] = Field(None, description="memory of the guest")
    guests: Annotated[
        int,
        BeforeValidator(_read_guests),
        PlainSerializer(
            lambda guests: "auto" if guests == AUTO_GUESTS else guests, when_used="json"
        ),
        Written(value="auto|INTEGER", default="1"),
    ] = Field(
        1,
        description="guests that carry out the run at the same time, each with some of the "
        "datacenters; auto: as many as there are CPUs",
    )
    ray: Annotated[
        str | None, Written(value="ADDRESS", default="this machine alone", in_experiments=False)
    ] = Field(
        None,
        description="spread the guests over the nodes of a Ray cluster, at this address or auto",
    )
    stall_limit: Annotated[WallTime, Written(value="SECONDS", default="300")] = Field(
        300 * NS_PER_S,
        description="abort when the virtual clock has not moved for so many seconds of wall time",
    )
    time_limit: Annotated[
        WallTime | None, Written(value="SECONDS", default="from the plan, at least 7 days")
    ] = Field(
        None,
        description="end the run after so many seconds of the virtual clock in its operations",
    )
    wall_limit: Annotated[WallTime | None, Written(value="SECONDS", default="none")] = Field(
        None, description="end the run after so many seconds of wall time"
    )
    environment: Annotated[dict[str, str], Written(flag="--env", value="NAME=VALUE")] = Field(
        {}, description="set an environment variable of every rank; may be repeated"
    )
    readable: tuple[Annotated[Path, AfterValidator(_readable_folder)], ...] = Field(
        (),
        description="let hosts read FOLDER, in addition to the folder of a script; may be repeated",
    )

    _check_memories = field_validator(*LEAST_MEMORY)(_check_memory)

    @model_validator(mode="before")
    @classmethod
    def _default_clock(cls, data: Any) -> Any:
        """Default to the real clock without a guest: only guests have a virtual clock."""
        if isinstance(data, Mapping) and data.get("where") == "here" and "clock" not in data:
            return {**data, "clock": "real"}
        return data

    @model_validator(mode="after")
    def _check_capture(self) -> Self:
        if self.capture != "none":
            return self

        remedy = "add --capture wan or --capture all"
        problems = [
            Mistake((name,), "capturing is off", remedy)
            for name in CAPTURE_DETAILS
            if name in self.model_fields_set
        ]
        refuse(problems[:1], type(self).__name__)
        return self

    @model_validator(mode="after")
    def _check_ray(self) -> Self:
        if self.ray is None:
            return self

        what, remedy = "", "add --guests N, with at least two guests"
        if self.guests == AUTO_GUESTS:
            what = "auto counts the CPUs of this machine, not those of the cluster"
        elif self.guests == 1:
            what = "spreads guests over machines, and the run has one guest"
        elif self.ray == "local":
            what = "local is this machine alone"
            remedy = "remove --ray: the guests then run on the CPUs of this machine"
        if what:
            refuse([Mistake(("ray",), what, remedy)], type(self).__name__)
        return self

    @property
    def limits_s(self) -> tuple[float, float | None, float | None]:
        """Return the limits of stalls, of virtual time and of wall time, in seconds."""
        time_s = None if self.time_limit is None else self.time_limit / NS_PER_S
        wall_s = None if self.wall_limit is None else self.wall_limit / NS_PER_S
        return self.stall_limit / NS_PER_S, time_s, wall_s

    def arguments(self) -> list[str]:
        """Return the non-default options as arguments of ``testbed run``."""
        values = self.model_dump(mode="json", exclude_defaults=True)
        arguments: list[str] = []
        for option in run_options():
            if option.name not in values:
                continue

            for text in _argument_texts(values[option.name]):
                arguments += [option.flag, text]

        return arguments


def _argument_texts(value: Any) -> list[str]:
    """Return the texts of a repeatable option, or the single text of another option."""
    if isinstance(value, Mapping):
        return [f"{name}={text}" for name, text in value.items()]
    if isinstance(value, list):
        return [str(item) for item in value]
    return [str(value)]


@dataclass(frozen=True)
class Option:
    """One option of `RunOptions`, as each interface needs it.

    Attributes:
        name: Name of the field of `RunOptions`, and keyword in Python.
        flag: Flag on the command line.
        variable: Environment variable of the option on the command line.
        key: Key in experiments; None: not available in experiments.
        value: Placeholder for the value in help texts.
        default: Default for people; empty: none.
        help: Description of the option.
        field: The field of the model.
    """

    name: str
    flag: str
    variable: str
    key: str | None
    value: str
    default: str
    help: str
    field: FieldInfo

    @property
    def type(self) -> Any:
        """The annotation of a given value: the annotation of the field without None."""
        return _without_none(self.field.annotation)

    @property
    def minimum(self) -> float | None:
        """The smallest accepted number, if the field has a lower bound."""
        for item in self.field.metadata:
            bound: float | None = getattr(item, "ge", None)
            if bound is not None:
                return bound
        return None


def run_options() -> tuple[Option, ...]:
    """Return every option of a run, in the order of help texts."""
    options: list[Option] = []
    for name, field in RunOptions.model_fields.items():
        options.append(_option(name, field))
    return tuple(options)


def experiment_options() -> tuple[Option, ...]:
    """Return the options that experiments have as ``run.NAME``."""
    return tuple(option for option in run_options() if option.key is not None)


def _option(name: str, field: FieldInfo) -> Option:
    written = Written()
    for item in field.metadata:
        if isinstance(item, Written):
            written = item

    flag = written.flag or f"--{name.replace('_', '-')}"
    flag_name = flag.removeprefix("--").replace("-", "_")
    return Option(
        name=name,
        flag=flag,
        variable=f"{ENVIRONMENT_PREFIX}{flag_name.upper()}",
        key=f"run.{name}" if written.in_experiments else None,
        value=written.value or _value_text(field),
        default=written.default or _default_text(field),
        help=field.description or "",
        field=field,
    )


VALUES: Mapping[object, str] = {int: "INTEGER", float: "NUMBER", Path: "PATH", tuple: "FOLDER"}


def _value_text(field: FieldInfo) -> str:
    annotation = _without_none(field.annotation)
    if get_origin(annotation) is Literal:
        return "|".join(get_args(annotation))
    return VALUES[get_origin(annotation) or annotation]


def _default_text(field: FieldInfo) -> str:
    default = field.default
    return "" if default in (None, (), {}) else str(default)


def _without_none(annotation: Any) -> Any:
    if get_origin(annotation) not in (Union, UnionType):
        return annotation

    (remaining,) = (part for part in get_args(annotation) if part is not type(None))
    return remaining
