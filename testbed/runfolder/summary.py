"""summary.json: what a run's records come to, as typed sections; its format has a number.

Format 3 differs from format 2 (testbed 0.1.0) in that a problem is an object with a code and a
message instead of a plain text, and in that the format's number is in the file. Files of format 2
are read as if they were of format 3.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from testbed.core.units import format_ranks
from testbed.plan.model import FORMAT
from testbed.runfolder.files import read_plain, write_json
from testbed.runfolder.problems import Problem, ProblemCode
from testbed.runfolder.records import GLOO, RoundTripRow

CauseKind: TypeAlias = Literal[
    "rate",
    "idle-restart",
    "slow-start",
    "window",
    "receive-window",
    "send-buffer",
    "drops",
    "loss",
    "steps",
    "propagation",
    "late-rank",
    "compute",
]
Coarse: TypeAlias = Literal["latency", "bandwidth", "window", "compute", "loss", "waiting"]


class SummarySection(BaseModel):
    """Base of what summary.json consists of: frozen; keys that are not known are ignored."""

    model_config = ConfigDict(defer_build=True, frozen=True, extra="ignore", populate_by_name=True)


class Spread(SummarySection):
    """How a quantity is spread over iterations or steps.

    Attributes:
        min: The least.
        median: The median.
        p95: The 95th percentile.
        max: The largest.
    """

    min: float
    median: float
    p95: float
    max: float


class CollectiveRow(SummarySection):
    """All measured iterations of one operation at one size in one group with one root.

    `testbed.analysis.operations` defines `time_us` and `slowest_us`.

    Attributes:
        op: Name of the operation.
        bytes: Size as nccl-tests counts it.
        ranks: Number of ranks that take part.
        iterations: Number of measured iterations.
        time_us: What the first rank sees, or what `timed` names.
        slowest_us: Median over the iterations of the slowest rank.
        algbw_gbytes: size / median time, in 10^9 bytes/s.
        busbw_gbytes: algbw_gbytes x the factor of nccl-tests (its doc/PERFORMANCE.md).
        bound_us: Least time that the topology allows; null: not known.
        efficiency: bound_us / median time; null: not known.
        dtype: Type of an element.
        algorithm: gloo, hierarchical or nccl.
        groups: All, or what the groups are that work at the same time.
        group: Description that a script gave the process group.
        group_ranks: Ranks of a script's process group; empty for the groups of a workload.
        root: Rank of the root; null: the first rank of each group, or no root.
        unequal: Whether the ranks' parts differ in size; `bytes` is then the largest rank's size.
        timed: Which time `time_us` is: that of the first rank; from the first start of a sender to
            the last end of a receiver; or from the first start to the last end, where the first
            rank's time is less than the bound, because other ranks began earlier or are farther.
        settled: Whether the iterations are alike, trend (each longer, or each shorter), or swing;
            null: there is only one.
        median_within: Of ``iterations: auto``: how far the median of `time_us` may be off, as a
            share of it, with a confidence of 95 %; null: another number of iterations, or too few.
        below_bound: Whether an iteration took less than its bound: the emulation was wrong.
    """

    op: str
    bytes: int
    ranks: int
    iterations: int
    time_us: Spread
    slowest_us: float
    algbw_gbytes: float
    busbw_gbytes: float
    bound_us: float | None = None
    efficiency: float | None = None
    wrong: int | None = Field(None, description="wrong elements; null: not checked")
    dtype: str = ""
    algorithm: str = GLOO
    groups: str = "all"
    group: str = ""
    group_ranks: list[int] = []
    root: int | None = None
    unequal: bool = False
    timed: Literal["first rank", "one way", "all ranks"] = "first rank"
    settled: Literal["yes", "trend", "swing"] | None = None
    median_within: float | None = None
    below_bound: bool = False

    @property
    def group_name(self) -> str:
        """The description and the ranks of a script's process group; otherwise empty."""
        return f"{self.group} {format_ranks(self.group_ranks)}".strip()

    @property
    def is_unsettled(self) -> bool:
        """Whether the median of the iterations stands for none of them."""
        return self.settled in ("trend", "swing")


class MessageRow(SummarySection):
    """All messages of one size that a script's rank sent to another rank.

    Attributes:
        source_rank: Rank that sends.
        target_rank: Rank that receives.
        bytes: Size of a message.
        messages: Number of messages.
        time_us: From the start of a send to the end of its receive.
        bound_us: Least time that the topology allows; null: not known.
        efficiency: bound_us / median time; null: not known.
        dtype: Type of an element.
        group: Description that a script gave the process group.
        settled: As for collectives.
    """

    source_rank: int
    target_rank: int
    bytes: int
    messages: int
    time_us: Spread
    bound_us: float | None = None
    efficiency: float | None = None
    dtype: str = ""
    group: str = ""
    settled: Literal["yes", "trend", "swing"] | None = None


class WanRow(SummarySection):
    """What one direction of a WAN link carried, from its first sample to its last.

    `rate_bps` is the mean rate over the time of all operations or steps, `mean_utilisation` the
    part of it that was used in this time. `captured_bytes` counts whole frames at the sending
    router.

    Attributes:
        source: Datacenter that sends.
        target: Datacenter that receives.
        link: Key of the link.
        bytes: Whole frames that the bottleneck sent; null: not measured.
        packets: That the bottleneck sent.
        drops: Packets that the queue dropped.
        rate_bps: Mean rate of the bottleneck over the time of all operations or steps.
        mean_utilisation: Part of rate_bps that was used in this time.
        captured_bytes: Whole frames in the capture at the sending router.
        captured_packets: Packets in the capture at the sending router.
    """

    source: str = Field(alias="from")
    target: str = Field(alias="to")
    link: str = ""
    bytes: int | None
    packets: int | None = None
    drops: int | None = None
    rate_bps: int
    mean_utilisation: float | None
    captured_bytes: int | None = None
    captured_packets: int | None = None


class TransferRow(SummarySection):
    """A transfer in the background: `bps` is bit/s of what was received.

    Attributes:
        source: Host that sends.
        target: Host that receives.
        bytes: To be sent.
        received: Bytes that arrived.
        seconds: From begin to end.
        bps: Bit/s of what was received.
        start_ns: Unix time of the begin on the run's clock.
        error: Why a connection failed.
    """

    source: str = Field(alias="from")
    target: str = Field(alias="to")
    bytes: int
    received: int
    seconds: float
    bps: float | None
    at_s: float | None = Field(description="from the run's first operation on; null: none")
    start_ns: int = 0
    error: str | None = None


class PeriodRow(SummarySection):
    """Throughput between two changes of the network; null where the run was over before.

    Attributes:
        at_s: From the run's first operation or step on.
        what: What happened at the begin of the period.
        seconds: Length.
        unit: What is counted.
        finished: Operations or steps of rank 0 that ended in the period.
        per_s: finished / seconds.
    """

    at_s: float
    what: list[str]
    seconds: float | None
    unit: Literal["operation", "step"]
    finished: int | None = None
    per_s: float | None


class CaptureRow(SummarySection):
    """What is known of one packet capture.

    Attributes:
        capture: Name of the file below captures.
        records: Packets in the file.
        removed_records: Oldest packets, removed to keep to the limit.
        dropped: Packets for which the kernel had no room.
        truncated: Whether the file ends within a packet.
    """

    capture: str
    records: int
    removed_records: int
    dropped: int
    truncated: bool


class TrainingSummary(SummarySection):
    """The steps after the warm-up; every quantity is defined in `workloads.train.summary`.

    Attributes:
        method: Name of the method of training.
        steps: Number of steps after the warm-up, in whole periods if there is one.
        other_steps: Number of the other steps: the warm-up, and parts of periods.
        ranks: Number of ranks that train.
        parameters: Number of parameters of the model.
        scale: By which parameters and rates are divided.
        period: Number of steps from one exchange to the next (`sync_every`); 1 where every step
            exchanges.
        periods: Number of whole periods in `steps`; 0: the steps after the warm-up are fewer.
        time_per_step_ms: Time of the whole periods / steps, exchanges included; null: not known.
        step_ms: Duration of a step; where only some exchange, the median hides the exchange.
        compute_ms: Modelled computation of a step.
        exposed_ms: Time of a step in which a rank waits for data or for slower ranks.
        overlapped_ms: Communication of a step during computation.
        compute_utilisation: Part of the time that is computation.
        tokens_per_s: Tokens of all ranks per second.
        mfu: Model FLOPs utilisation.
        flops_per_token: FLOPs of the model for one token.
        peak_flops: Peak FLOP/s of all GPUs that are modelled.
        wan_bytes_per_step: Over all WAN links.
        wan_bytes_per_token: Over all WAN links.
        final_loss: Loss of the last step.
        seconds: From the first step to the last.
        late_ms: Of a step: computation that took longer than modelled.
    """

    method: str | None
    steps: int
    other_steps: int = 0
    ranks: int
    parameters: int | None
    scale: int = 1
    period: int = 1
    periods: int | None = None
    time_per_step_ms: float | None = None
    step_ms: Spread
    compute_ms: float
    exposed_ms: float
    overlapped_ms: float | None
    compute_utilisation: float | None
    tokens_per_s: float
    mfu: float | None = None
    flops_per_token: float | None = None
    peak_flops: float | None = None
    wan_bytes_per_step: float | None
    wan_bytes_per_token: float | None
    final_loss: float | None
    seconds: float
    late_ms: float = 0.0

    @property
    def mean_step_ms(self) -> float:
        """The time per step; the median in summaries of testbed 0.2 and before."""
        return self.step_ms.median if self.time_per_step_ms is None else self.time_per_step_ms


class ExposedRow(SummarySection):
    """For how long modelled GPUs waited for operations of one kind, per step and rank.

    Attributes:
        op: Name of the operation.
        where: Where the operation spends its time, for people.
        link: Key of the WAN link that is the slowest on its paths; empty: no WAN link.
        ms: Time of a step in which the stream of the optimizer waited for it.
        share: Part of the time of a step.
    """

    op: str
    where: str
    link: str = ""
    ms: float
    share: float


class GpuMemoryRow(SummarySection):
    """The most memory that a rank had on its modelled GPU, in bytes.

    Attributes:
        rank: The rank.
        peak_bytes: The most memory of tensors.
        reserved_bytes: The most memory that torch's allocator had from the device, which includes
            fragments; None if the process did not end by itself.
    """

    rank: int
    peak_bytes: int
    reserved_bytes: int | None = None


class GpuSummary(SummarySection):
    """Steps of training on modelled GPUs; `testbed.analysis.gpu_steps` defines each quantity.

    Attributes:
        gpu: Name of the GPU.
        ranks: Number of ranks that used a GPU.
        steps: Number of steps, without the first one; 0: no optimizer took two steps.
        step_ms: Duration of each step, the mean over the ranks; null without steps.
        time_per_step_ms: Mean duration of a step.
        compute_ms: Of a step: the stream of the optimizer ran kernels.
        exposed_ms: Of a step: that stream waited for operations of torch.distributed.
        streams_ms: Of a step: that stream waited for kernels of other streams.
        launch_ms: Of a step: that stream had nothing to run.
        mfu: Model FLOPs utilisation: FLOPs without those that are repeated / (time x peak).
        hfu: Hardware FLOPs utilisation: all FLOPs / (time x peak).
        flops_per_step: FLOPs of all ranks without those that are repeated.
        peak_flops: Peak of one GPU in FLOP/s, of the number format of mixed precision.
        tokens_per_step: Tokens of all ranks; null: no embedding looked up any.
        tokens_per_s: Tokens of all ranks per second.
        exposed: Waits for operations by kind and place, the longest first.
        memory: The most memory of each rank.
    """

    gpu: str
    ranks: int
    steps: int = 0
    step_ms: Spread | None = None
    time_per_step_ms: float | None = None
    compute_ms: float | None = None
    exposed_ms: float | None = None
    streams_ms: float | None = None
    launch_ms: float | None = None
    mfu: float | None = None
    hfu: float | None = None
    flops_per_step: float | None = None
    peak_flops: float
    tokens_per_step: float | None = None
    tokens_per_s: float | None = None
    exposed: list[ExposedRow] = []
    memory: list[GpuMemoryRow] = []

    def share(self, part_ms: float | None) -> float:
        """Return the part of a step that a time is; 0 without steps."""
        if not part_ms or not self.time_per_step_ms:
            return 0.0
        return part_ms / self.time_per_step_ms


class LoopSummary(SummarySection):
    """The steps of a script: a sequence of operations that one rank repeats.

    Attributes:
        rank: The rank.
        steps: Number of steps whose duration is known.
        operations: Number of operations of a step.
        step_ms: From the first operation of a step to that of the next.
        communication: Part of the time in which an operation was in progress; null: no time passed.
    """

    rank: int
    steps: int
    operations: int
    step_ms: Spread
    communication: float | None


class RateRow(SummarySection):
    """On the real clock: the rate of a WAN direction while its queue was never empty.

    Attributes:
        source: Datacenter that sends.
        target: Datacenter that receives.
        seconds: In which the queue was never empty.
        rate_bps: That was measured.
        planned_bps: Rate of the plan.
        ok: Whether both are near to each other.
    """

    source: str = Field(alias="from")
    target: str = Field(alias="to")
    seconds: float
    rate_bps: int
    planned_bps: int
    ok: bool


class StageRow(SummarySection):
    """How long a stage took: wall seconds, and seconds of the run's clock; null: not known.

    Attributes:
        stage: Name.
        wall_seconds: Seconds of the machine.
        emulated_seconds: Seconds of the run's clock.
    """

    stage: str
    wall_seconds: float | None
    emulated_seconds: float | None


class GuestRow(SummarySection):
    """The work of one of several guests that carried out a run.

    Attributes:
        guest: Number of the guest.
        datacenters: What the guest built.
        cpu_seconds: CPU time of the guest's kernel and processes, from boot to end.
        waited_seconds: Wall time for which the guest waited for other guests.
        packets: Number of packets sent to other guests.
        bytes: Number of bytes sent to other guests.
        hasty: Number of packets that came earlier than the least delay of their link.
    """

    guest: int
    datacenters: list[str]
    cpu_seconds: float
    waited_seconds: float
    packets: int
    bytes: int
    hasty: int = 0


class JobFigure(SummarySection):
    """A time of one of several jobs, beside the other jobs and alone.

    Attributes:
        what: A step, or an operation and its size.
        ms: Beside the other jobs, in ms.
        alone_ms: Alone on the network, in ms; null: not measured.
    """

    what: str
    ms: float
    alone_ms: float | None = None

    @property
    def slowdown(self) -> float | None:
        """How many times as long it takes beside the other jobs; None: not known."""
        return self.ms / self.alone_ms if self.alone_ms else None


class JobRow(SummarySection):
    """One of several workloads that ran at the same time.

    Attributes:
        job: Name of the job.
        workload: What it ran.
        ranks: Number of its ranks.
        hosts: Hosts of its ranks.
        state: How the job ended.
        reason: Why it did not complete.
        start_s: When its first operation or step began, after the first one of all jobs; null: it
            had none.
        seconds: From its first operation's or step's start to the last one's end; null: it had
            none.
        alone_seconds: The same when the job ran alone; null: not measured.
        figures: Times of its steps or operations.
    """

    job: str
    workload: str
    ranks: int
    hosts: list[str]
    state: str
    reason: str = ""
    start_s: float | None = None
    seconds: float | None = None
    alone_seconds: float | None = None
    figures: list[JobFigure] = []

    @property
    def slowdown(self) -> float | None:
        """How many times as long the job takes beside the other jobs; None: not known."""
        if self.seconds is None or not self.alone_seconds:
            return None
        return self.seconds / self.alone_seconds


class Cause(SummarySection):
    """What the run's time is spent on above all, and the figures that say so.

    Attributes:
        what: What dominates, of few kinds.
        why: The figures, in words.
        cause: The cause by name; null in folders of testbed 0.2 and before.
        share: Part of the time that is computation, where waiting is a large part too.
    """

    what: Coarse
    why: str
    cause: CauseKind | None = None
    share: float | None = None


class Summary(SummarySection):
    """The whole of summary.json.

    Attributes:
        format: Number of the format of run folders.
        collectives: A row for each operation, size, number of ranks and type.
        messages: A row for each pair of ranks and size of a script's sends.
        wan: A row for each direction of a WAN link.
        transfers: In the background.
        periods: Between changes of the network.
        captures: A row for each file of packets.
        training: Of a run that trained.
        loop: Of a script that repeats a sequence of operations.
        gpu: Of a run with modelled GPUs.
        fidelity: Round-trip times before the run.
        rates: Of full links, on the real clock.
        stages: Where the time went.
        guests: Of a run in several guests.
        jobs: Of a run with several jobs, whose folders have a summary each.
        problems: What is missing or damaged.
        dominant: What the run's time is spent on above all.
    """

    format: int = FORMAT
    collectives: list[CollectiveRow] = []
    messages: list[MessageRow] = []
    wan: list[WanRow] = []
    transfers: list[TransferRow] = []
    periods: list[PeriodRow] = []
    captures: list[CaptureRow] = []
    training: TrainingSummary | None = None
    loop: LoopSummary | None = None
    gpu: GpuSummary | None = None
    fidelity: list[RoundTripRow] = []
    rates: list[RateRow] = []
    stages: list[StageRow] = []
    guests: list[GuestRow] = []
    jobs: list[JobRow] = Field([], exclude_if=operator.not_)
    problems: list[Problem] = []
    dominant: Cause | None = None


def write_summary(path: Path, summary: Summary) -> None:
    """Write summary.json so that a reader sees the old file or the whole new one.

    Raises:
        OSError: the file cannot be written.
    """
    write_json(path, summary)


def read_summary(path: Path) -> tuple[Summary, list[Problem]]:
    """Read summary.json, which may be damaged.

    Returns:
        What could be read, and a problem for each part that could not: a missing or damaged file
        gives an empty summary, a damaged section its default, a damaged row is left out.
    """
    document, problems = read_object(path)
    sections: dict[str, Any] = {}
    for name, field in Summary.model_fields.items():
        if name not in document:
            continue
        row_model = _row_model(field.annotation)
        value = document[name]
        if row_model is not None:
            sections[name] = _sound_rows(row_model, name, value, path.name, problems)
            continue
        try:
            sections[name] = _check_section(name, value)
        except ValidationError:
            problems.append(_damaged(f"{path.name}: {name!r} is damaged and was skipped"))
    return Summary.model_construct(**{**_defaults(), **sections}), problems


def read_round_trips(path: Path) -> tuple[list[RoundTripRow], list[Problem]]:
    """Read raw/fidelity.json, the RTTs between datacenters that were measured before the run.

    Returns:
        The sound rows, and the problems of a missing or damaged file.
    """
    name = f"{path.parent.name}/{path.name}"
    try:
        rows = json.loads(read_plain(path))
    except FileNotFoundError:
        message = f"{name} is missing: the network was not verified before the run"
        return [], [Problem(code=ProblemCode.FILE_MISSING, message=message)]
    except (OSError, ValueError, RecursionError) as error:
        return [], [_damaged(f"cannot read {name} ({type(error).__name__})")]
    problems: list[Problem] = []
    return _sound_rows(RoundTripRow, "round trips", rows, name, problems), problems


def read_object(path: Path) -> tuple[dict[str, Any], list[Problem]]:
    """Read a JSON object from a file that may be missing or damaged.

    Returns:
        The object (empty if it could not be read), and the problems.
    """
    try:
        value = json.loads(read_plain(path))
    except (OSError, ValueError, RecursionError) as error:
        message = f"cannot read {path.name} ({type(error).__name__})"
        missing = isinstance(error, FileNotFoundError)
        code = ProblemCode.FILE_MISSING if missing else ProblemCode.FILE_DAMAGED
        return {}, [Problem(code=code, message=message)]
    if not isinstance(value, dict):
        return {}, [_damaged(f"{path.name} is not a JSON object")]
    return value, []


Row = TypeVar("Row", bound=BaseModel)


def _row_model(annotation: Any) -> type[BaseModel] | None:
    """Give the model of the rows of a section that is a list of them."""
    arguments: Sequence[Any] = getattr(annotation, "__args__", ())
    if getattr(annotation, "__origin__", None) is list and len(arguments) == 1:
        row_model: type[BaseModel] = arguments[0]
        return row_model
    return None


def _sound_rows(
    row_model: type[Row], section: str, value: Any, file: str, problems: list[Problem]
) -> list[Row]:
    rows = value if isinstance(value, list) else [value]
    sound: list[Row] = []
    for row in rows:
        try:
            sound.append(row_model.model_validate(row))
        except ValidationError:
            continue
    damaged = len(rows) - len(sound)
    if damaged and value is not None:
        message = f"{file}: {damaged} rows of {section!r} are damaged and were skipped"
        problems.append(_damaged(message))
    return sound


def _check_section(name: str, value: Any) -> Any:
    checked = Summary.model_validate({name: value})
    return getattr(checked, name)


def _defaults() -> dict[str, Any]:
    return Summary().__dict__


def _damaged(message: str) -> Problem:
    return Problem(code=ProblemCode.FILE_DAMAGED, message=message)
