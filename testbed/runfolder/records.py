"""Records: one JSON object a line, appended to a file below ``raw/`` as something happens.

Every kind of record is a model here, written with `append` and read with `read` or `Follower`.
Times are Unix ns on the run's clock. A record that lacks a field or has one of a wrong type is not
read; fields that are not known are ignored.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from testbed.runfolder.files import (
    MOST_AT_A_TIME,
    FollowedFile,
    read_plain,
    replace_text,
    write_json,
)
from testbed.runfolder.problems import Problem, ProblemCode

GLOO = "gloo"
NCCL = "nccl"  # as modelled, see docs/gpus.md
INT64_END = 2**63
MOST_BYTES = 512 * 2**20  # of a file of records, some millions


class Record(BaseModel):
    """Base of all records."""

    model_config = ConfigDict(
        defer_build=True, frozen=True, extra="ignore", strict=True, populate_by_name=True
    )

    def to_line(self) -> str:
        """Give the record as a line of JSON with its end of line."""
        return json.dumps(self.model_dump(mode="json", by_alias=True)) + "\n"


class StageBegan(Record):
    """A stage of the run begins."""

    stage: str
    state: Literal["begin"] = "begin"
    time_ns: int
    wall_s: float | None = None


class StageEnded(Record):
    """A stage of the run has ended."""

    stage: str
    state: Literal["end"] = "end"
    time_ns: int
    wall_s: float | None = None


class FirstOperation(Record):
    """Rank 0 begins its first operation or step, from which the network's changes count."""

    stage: str = "ops"
    state: Literal["first"] = "first"
    time_ns: int


class OperationsTotal(Record):
    """How many operations or steps rank 0 is going to record."""

    stage: str = "ops"
    state: Literal["total"] = "total"
    total: int
    unit: Literal["operation", "step"]


class SeparateWorld(Record):
    """A rank has made a default process group that may be on one of several hosts alone."""

    stage: str = "ops"
    state: Literal["separate"] = "separate"
    rank: int
    world_size: int


class ValueDecided(Record):
    """A rank's script has decided by the value of a modelled tensor, for the first time."""

    stage: str = "ops"
    state: Literal["decided"] = "decided"
    rank: int
    file: str
    line: int


class RecordsRefused(Record):
    """A host wrote lines that are not records of its ranks, or more than it may; not kept."""

    stage: str = "ops"
    state: Literal["refused"] = "refused"
    host: str
    lines: int


class RunEnded(Record):
    """The outcome of the run, the last event."""

    stage: str = "run"
    state: Literal["completed", "failed"]
    reason: str = ""
    time_ns: int


_AnyEvent = (
    StageBegan
    | StageEnded
    | FirstOperation
    | OperationsTotal
    | SeparateWorld
    | ValueDecided
    | RecordsRefused
    | RunEnded
)
Event = Annotated[_AnyEvent, Field(discriminator="state")]
EVENT: TypeAdapter[_AnyEvent] = TypeAdapter(Event)


class GuestWork(Record):
    """The work of one of the guests of a run, from its boot to the end of the run.

    Attributes:
        guest: number of the guest.
        wall_s: wall time.
        cpu_s: CPU time of the guest's kernel and processes.
        waits: how often the guest waited for other guests.
        waited_s: wall time for which the guest waited for other guests.
        packets: number of packets sent to other guests.
        bytes: number of bytes sent to other guests.
        hasty: number of packets that came earlier than the least delay of their link.
        machine: name of the machine that ran the guest, if there were several; empty: only one.
    """

    guest: int
    wall_s: float
    cpu_s: float
    waits: int
    waited_s: float
    packets: int
    bytes: int
    hasty: int
    machine: str = ""


class TcpUse(Record):
    """How an operation used the TCP connection of its rank that waited most for its window.

    `peer` is the address of the other end, `bytes` what the rank gave the kernel to send, `rtt_us`
    the least round trip of the connection. Windows are congestion windows in segments: before and
    after the operation. `threshold` is the window at which slow start ends, before the operation;
    None: the first slow start has not ended. `idle_us` is the time without data before the
    operation, `timeout_us` the retransmission timeout then. `receiver_us`, `buffer_us` and
    `busy_us` say for how long the receiver's window, the send buffer or anything kept data waiting.
    `retransmissions` are those of all connections of the rank, in the operation;
    `ever_retransmitted` is about this connection.
    """

    peer: str
    bytes: int
    rtt_us: int
    segment_bytes: int
    window_before: int
    window_after: int
    threshold: int | None = None
    idle_us: int = 0
    timeout_us: int = 0
    receiver_us: int = 0
    buffer_us: int = 0
    busy_us: int = 0
    retransmissions: int = 0
    ever_retransmitted: bool = False


class Operation(Record):
    """One operation of torch.distributed on one rank: a row of ops.parquet without its place.

    `phase` is warmup or measure, or train or script where everything that torch.distributed does is
    recorded. `wrong` is the number of elements with a wrong value, -1 if not checked. `group`
    names the process group among those that work at the same time, or is the description that a
    script gave its process group; empty if there is neither.

    `process_group` identifies the process group in which `iteration` counts the operation; empty
    where the workload names its groups itself. `group_rank` is the number of this rank in that
    group, and `root` the number of the operation's root there; None where unknown. `parts` holds
    the bytes of each rank's part, in the order of the group, where the parts differ; None where
    they are equal. `peer` is the number of the other rank of a send or receive in that group, None
    for a receive from anyone, and `tag` the tag of the message. `case` numbers the operations that
    a workload times with the same figures. `tcp` is None where nothing was sent, and for all but
    the first operations of a process.
    """

    op: str
    bytes: int
    group_size: int
    iteration: int
    phase: str
    dtype: str
    start_ns: int
    end_ns: int
    wrong: int = -1
    group: str = ""
    algorithm: str = GLOO
    process_group: str = ""
    group_rank: int | None = None
    root: int | None = None
    parts: list[int] | None = None
    peer: int | None = None
    tag: int = 0
    case: int = 0
    tcp: TcpUse | None = None

    def ended(self, end_ns: int, tcp: TcpUse | None = None) -> Operation:
        """Give the same operation with its end and its use of TCP."""
        return self.model_copy(update={"end_ns": end_ns, "tcp": tcp})


class TrainingStep(Record):
    """One training step on one rank: a row of train.parquet without its place.

    `compute_ns` is the modelled computation, `late_ns` the computation that took longer than
    modelled. `computed_ns` holds the begin and the end, in turn, of each stretch of modelled
    computation, in order; None where they were not recorded.
    """

    step: int
    start_ns: int
    end_ns: int
    compute_ns: int
    late_ns: int
    loss: float | None = None
    tokens: int
    computed_ns: list[int] | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_disordered_edges(cls, value: Any) -> Any:
        if not isinstance(value, dict) or "computed_ns" not in value:
            return value
        edges = value["computed_ns"]
        whole = isinstance(edges, list) and all(isinstance(edge, int) for edge in edges)
        if whole and len(edges) % 2 == 0 and edges == sorted(edges):
            return value
        return {**value, "computed_ns": None}


class GpuWait(Record):
    """For how long the stream of a step waited for operations of one kind.

    `process_group` and `peer` are those of `Operation`; `op` is empty where the kind is not known.
    """

    op: str
    process_group: str
    peer: int | None = None
    ns: int


class GpuStep(Record):
    """One step of training on a modelled GPU, from the end of the optimizer's step before.

    The stream of the optimizer ran kernels for `busy_ns`, had nothing to run for `launch_ns`, and
    waited for kernels of other streams for `streams_ns` and for operations as `waits` say: together
    these are the time since the end of the step before. `flops` are those of products of matrices,
    convolutions and attention, of which `recomputed_flops` repeat what activation checkpointing
    dropped, and `optimizer_flops` belong to the optimizer. `tokens` is the number of indices that
    the largest embedding looked up, of which `token_ranks` ranks have the same; None without an
    embedding. `peak_bytes` is the most memory that tensors have had on the device so far.
    """

    kind: Literal["step"] = "step"
    device: int
    end_ns: int
    busy_ns: int
    launch_ns: int
    streams_ns: int
    waits: list[GpuWait]
    flops: float
    recomputed_flops: float
    optimizer_flops: float
    tokens: int | None
    token_ranks: int = 1
    peak_bytes: int

    @property
    def computes(self) -> bool:
        """Whether there were products outside of the optimizer since the optimizer before."""
        return self.flops > self.optimizer_flops

    @property
    def exposed_ns(self) -> int:
        """For how long the stream waited for operations."""
        return sum(wait.ns for wait in self.waits)


class StreamSpan(Record):
    """A stretch of a stream of a modelled GPU: kernels of a part of the model, or a wait.

    `name` is the part of the model and the phase, or the operation for which the stream `waits`.
    """

    kind: Literal["span"] = "span"
    device: int
    stream: int
    start_ns: int
    end_ns: int
    name: str
    waits: bool = False


class GpuEnd(Record):
    """The memory of a modelled GPU, at the end of the process.

    `peak_bytes` is the most that tensors have had, `reserved_bytes` the most that torch's allocator
    has had from the device.
    """

    kind: Literal["end"] = "end"
    device: int
    peak_bytes: int
    reserved_bytes: int | None = None


GpuRecord = GpuStep | StreamSpan | GpuEnd
GPU_RECORD: TypeAdapter[GpuRecord] = TypeAdapter(Annotated[GpuRecord, Field(discriminator="kind")])


class LinkSample(Record):
    """Counters of one direction of a WAN link, cumulative since the link was built.

    `backlog_bytes` is what is in the queue at that moment.
    """

    time_ns: int
    source: str
    target: str
    link: str
    bytes: int
    packets: int
    drops: int
    backlog_bytes: int


class RankStarted(Record):
    """What a rank sees around it when it starts (`capabilities` as in proc(5): CapEff)."""

    rank: int
    host: str
    interfaces: list[str]
    capabilities: int
    no_new_privileges: bool


class RankExit(Record):
    """How a rank ended: its exit status, or the negative number of the signal that ended it."""

    rank: int
    status: int


class NetworkChange(Record):
    """A change of the network that happened: its number in the plan, when it was due and done."""

    number: int
    due_ns: int
    time_ns: int


class TransferEnded(Record):
    """A transfer in the background that has ended, or was ended with the run."""

    source: str
    target: str
    bytes: int
    connections: int = 1
    start_ns: int
    received: int
    error: str | None = None
    end_ns: int

    def to_line(self) -> str:
        """Give the record as a line of JSON; without `error` where no connection failed."""
        return json.dumps(self.model_dump(mode="json", exclude_none=True)) + "\n"


class RoundTripRow(Record):
    """The RTT between two datacenters, measured before the run; null: no answer came.

    Attributes:
        source: Datacenter.
        target: Datacenter.
        rtt_ms_expected: RTT of the plan.
        rtt_ms_measured: Least RTT of several round trips.
        tolerance_ms: Most deviation.
        ok: Whether the deviation is within the tolerance.
    """

    source: str = Field(alias="from")
    target: str = Field(alias="to")
    rtt_ms_expected: float | None = None
    rtt_ms_measured: float | None = None
    tolerance_ms: float | None = None
    ok: bool = False


class TimerLateness(Record):
    """By how much timers were late, in us."""

    median: float
    p99: float
    max: float
    samples: int = 0


class ClockHealth(Record):
    """On the real clock: signs that the kernel could not keep up during the operations.

    `throttled_s` is for how many of `seconds` each control group was held back by its CPU limit,
    `backlog_drops` how many packets found no room in the kernel's backlog, `fibre_drops` the drops
    of each fibre that should have none, by the name of its interface.
    """

    seconds: float
    late_us: TimerLateness
    throttled_s: dict[str, float] = {}
    backlog_drops: int = 0
    fibre_drops: dict[str, int] = {}


class MemoryShortage(Record):
    """How often the kernel had no memory for packets of each host, without zeros."""

    hosts: dict[str, int]


AnyRecord = TypeVar("AnyRecord", bound=Record)


def append(path: Path, record: Record) -> None:
    """Append a record to a file.

    The line is a single write: a writer that is killed leaves at most one broken last line.

    Raises:
        OSError: the file cannot be written.
    """
    with path.open("a") as file:
        file.write(record.to_line())


def write(path: Path, record: Record) -> None:
    """Write a file with a single record, so that a reader sees the complete record or no file.

    Raises:
        OSError: the file cannot be written.
    """
    replace_text(path, record.to_line())


def write_round_trips(path: Path, rows: Sequence[RoundTripRow]) -> None:
    """Write raw/fidelity.json, the RTTs between datacenters that were measured before the run.

    Raises:
        OSError: the file cannot be written.
    """
    write_json(path, [row.model_dump(mode="json", by_alias=True) for row in rows])


def read(
    path: Path, kind: type[AnyRecord] | TypeAdapter[Any], *, may_be_empty: bool = False
) -> tuple[list[Any], list[Problem]]:
    """Read the records of a file that may be missing or damaged.

    Args:
        path: the file.
        kind: the model of its records, or `EVENT`.
        may_be_empty: whether a file without a line is all right.

    Returns:
        The records up to the first line that is not JSON, without those that lack a field; and a
        problem for everything that is missing or was left out.
    """
    name = f"{path.parent.name}/{path.name}"
    problems: list[Problem] = []

    def report(code: ProblemCode, message: str) -> None:
        problems.append(Problem(code=code, message=message))

    try:
        text = read_plain(path, most_bytes=MOST_BYTES)
    except FileNotFoundError:
        report(ProblemCode.FILE_MISSING, f"{name} is missing")
        return [], problems
    except (OSError, UnicodeDecodeError) as error:
        report(ProblemCode.FILE_DAMAGED, f"cannot read {name} ({type(error).__name__})")
        return [], problems

    lines = [line for line in text.splitlines() if line.strip()]
    if not lines and not may_be_empty:
        report(ProblemCode.NO_RECORDS, f"{name} is empty")

    values = _json_values(lines)
    damaged = len(lines) - len(values)
    if damaged:
        message = f"{name} is damaged: {damaged} of {len(lines)} lines were skipped"
        report(ProblemCode.FILE_DAMAGED, message)

    records = _sound_records(values, kind)
    left_out = len(values) - len(records)
    if left_out:
        message = f"{name}: {left_out} records lack a column and were skipped"
        report(ProblemCode.RECORDS_LEFT_OUT, message)
    return records, problems


def read_clock_health(path: Path) -> ClockHealth | None:
    """Read raw/strain.json, a single record; None if it is missing or damaged."""
    try:
        return ClockHealth.model_validate_json(read_plain(path))
    except (OSError, UnicodeDecodeError, ValidationError):
        return None


def read_memory_shortage(path: Path) -> MemoryShortage | None:
    """Read raw/memory-shortage.json, a single record; None if it is missing or damaged."""
    try:
        return MemoryShortage.model_validate_json(read_plain(path))
    except (OSError, UnicodeDecodeError, ValidationError):
        return None


class Follower(Generic[AnyRecord]):
    """Reads the records of a growing file, each of them once."""

    def __init__(
        self,
        path: Path,
        kind: type[AnyRecord] | TypeAdapter[Any],
        *,
        most_bytes: int = MOST_AT_A_TIME,
    ) -> None:
        """Follow a file from its beginning; `most_bytes` are read at a time."""
        self._file = FollowedFile(path, most_bytes=most_bytes)
        self._kind = kind

    def new(self) -> list[Any]:
        """Give the records that were completed since the last call; none while there is no file."""
        values = _json_values(self._file.new_lines(), stop=False)
        return _sound_records(values, self._kind)


def _json_values(lines: list[str] | list[bytes], *, stop: bool = True) -> list[Any]:
    """Decode lines of JSON, up to the first broken one or (`stop` is False) without broken ones."""
    values: list[Any] = []
    for line in lines:
        try:
            value = json.loads(line)
            # No table holds an integer beyond 64 bits; such a line has no record.
            values.append(None if _has_large_integer(value) else value)
        except (ValueError, RecursionError):
            if stop:
                break
    return values


def _has_large_integer(value: Any) -> bool:
    if isinstance(value, int):
        return not -INT64_END <= value < INT64_END
    if isinstance(value, dict):
        return any(_has_large_integer(part) for part in value.values())
    if isinstance(value, list):
        return any(_has_large_integer(part) for part in value)
    return False


def _sound_records(values: list[Any], kind: type[AnyRecord] | TypeAdapter[Any]) -> list[Any]:
    validate = kind.validate_python if isinstance(kind, TypeAdapter) else kind.model_validate
    records: list[Any] = []
    for value in values:
        try:
            records.append(validate(value))
        except ValidationError:
            continue
    return records
