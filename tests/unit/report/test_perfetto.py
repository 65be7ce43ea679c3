"""trace.json: the trace event format, what is on which track, and what HTA makes of it."""

import json
import re
from collections import defaultdict
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from testbed.analysis.summarize import collect
from testbed.core.gpus import modelled_gpu
from testbed.plan.model import Change, Plan
from testbed.report.load import load
from testbed.report.perfetto import kernel_name, write_rank_traces, write_trace
from testbed.runfolder.folder import RunDir
from testbed.runfolder.problems import Problem, ProblemCode
from testbed.runfolder.records import (
    NetworkChange,
    Operation,
    RunEnded,
    SeparateWorld,
    StreamSpan,
    append,
)
from testbed.runfolder.status import Status, write_status
from tests.support.synthetic import (
    GBIT,
    MS,
    START_NS,
    make_plan,
    three_dcs,
    two_dcs,
    write_run,
    write_training_run,
)

# "Trace Event Format" (Google, 2016): the phases used here and the fields that each must have;
# times in us.
Fields = dict[str, dict[str, object]]
NUMBER: dict[str, object] = {"type": "number", "minimum": 0}
TEXT: dict[str, object] = {"type": "string", "minLength": 1}
PHASES: dict[str, Fields] = {
    "X": {"name": TEXT, "cat": TEXT, "ts": NUMBER, "dur": NUMBER, "args": {"type": "object"}},
    "M": {
        "name": {"enum": ["process_name", "process_sort_index", "thread_name"]},
        "args": {"type": "object", "minProperties": 1},
    },
    "C": {
        "name": TEXT,
        "ts": NUMBER,
        "args": {"type": "object", "minProperties": 1, "additionalProperties": {"type": "number"}},
    },
    "i": {"name": TEXT, "ts": NUMBER, "s": {"enum": ["g", "p", "t"]}},
}
EVENT = {
    "oneOf": [
        {
            "properties": {
                "ph": {"const": phase},
                "pid": {"type": "integer"},
                "tid": {"type": "integer"},
                **fields,
            },
            "required": ["ph", "pid", "tid", *fields],
        }
        for phase, fields in PHASES.items()
    ]
}
TRACE = {
    "type": "object",
    "required": ["traceEvents", "displayTimeUnit"],
    "properties": {
        "traceEvents": {"type": "array", "items": EVENT},
        "displayTimeUnit": {"enum": ["ms", "ns"]},
    },
}


Event = dict[str, Any]
Trace = dict[str, Any]
Prepare = Callable[[RunDir], None]
Track = tuple[int, int]  # pid, tid


class MakeRun:
    """Makes run folders and their trace.json."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(
        self, plan: Plan, training: bool = False, prepare: Prepare = lambda run: None
    ) -> tuple[RunDir, Trace]:
        write = write_training_run if training else write_run
        run = write(self._path, plan)
        prepare(run)
        collect(run)
        path = write_trace(run, load(run))
        assert path is not None
        trace: Trace = json.loads(path.read_text())
        return run, trace


@pytest.fixture
def make(tmp_path: Path) -> MakeRun:
    return MakeRun(tmp_path / "run")


def slices(trace: Trace, **kinds: str) -> list[Event]:
    """Choose the slices whose fields have these values."""
    chosen = []
    for event in trace["traceEvents"]:
        if event["ph"] == "X" and all(event[key] == value for key, value in kinds.items()):
            chosen.append(event)
    return chosen


def track_of(event: Event) -> Track:
    return event["pid"], event["tid"]


def tracks(trace: Trace) -> dict[Track, tuple[str, str]]:
    """Give the names of process and thread of each track."""
    processes = {}
    threads = {}
    for event in trace["traceEvents"]:
        if event["name"] == "process_name":
            processes[event["pid"]] = event["args"]["name"]
        elif event["name"] == "thread_name":
            threads[track_of(event)] = event["args"]["name"]
    return {track: (processes[track[0]], name) for track, name in threads.items()}


@pytest.mark.parametrize("training", [False, True])
def test_trace_event_format(make: MakeRun, training: bool) -> None:
    _, trace = make(make_plan(three_dcs()), training)
    jsonschema.validate(trace, TRACE)
    named = tracks(trace)
    for event in trace["traceEvents"]:
        if event["ph"] in "Xi":
            assert track_of(event) in named


@pytest.mark.parametrize("training", [False, True])
def test_slices_of_a_thread_are_nested_or_apart(make: MakeRun, training: bool) -> None:
    _, trace = make(make_plan(three_dcs()), training)
    threads: dict[Track, list[tuple[int, int]]] = defaultdict(list)
    for event in slices(trace):
        begin = round(event["ts"] * 1000)
        end = begin + round(event["dur"] * 1000)
        threads[track_of(event)].append((begin, -end))
    for spans in threads.values():
        open_ends: list[int] = []
        for begin, end in sorted(spans):
            while open_ends and open_ends[-1] <= begin:
                open_ends.pop()
            assert not open_ends or -end <= open_ends[-1]
            open_ends.append(-end)


def test_each_rank_has_tracks_in_its_datacenter(make: MakeRun) -> None:
    plan = make_plan(three_dcs())
    _, trace = make(plan)
    for rank in plan.workers.ranks:
        expected = (
            f"datacenter {rank.host.split('-')[0]}",
            f"rank {rank.rank} ({rank.host}): operations",
        )
        assert expected in tracks(trace).values()


def test_operations_have_their_times_and_places(make: MakeRun) -> None:
    _, trace = make(make_plan(two_dcs()))
    names = tracks(trace)
    of_rank_1 = []
    for event in slices(trace, cat="kernel"):
        _, thread = names[track_of(event)]
        if thread.startswith("rank 1 "):
            of_rank_1.append(event)
    assert len(of_rank_1) == 16
    first = min(of_rank_1, key=lambda event: float(event["ts"]))
    assert first["name"] == "ncclDevKernel_AllReduce_f32 4 KiB (gloo)"
    assert trace["baseTimeNanoseconds"] + round(first["ts"] * 1000) == START_NS
    assert first["dur"] == 91_000  # us: the warm-up takes rank 1 91 ms
    assert first["args"]["phase"] == "warmup"


def rewrite(path: Path, change: Callable[[Event], None]) -> None:
    """Change each record of a file."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        change(record)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_the_wait_for_the_last_rank_is_drawn(make: MakeRun) -> None:
    def begin_later(record: Event) -> None:
        record["start_ns"] += 5 * MS

    def prepare(run: RunDir) -> None:
        rewrite(run.rank_ops(1), begin_later)

    _, trace = make(make_plan(two_dcs()), prepare=prepare)
    waits = slices(trace, cat="wait")
    threads = {tracks(trace)[track_of(event)][1] for event in waits}
    assert threads == {"rank 0 (east-0): operations"}
    # Rank 0's part of a broadcast takes 1 ms.
    assert [event["dur"] for event in waits] == [5000] * 8 + [1000] * 8


def test_overlapping_operations_have_separate_threads(make: MakeRun) -> None:
    def prepare(run: RunDir) -> None:
        path = run.rank_ops(0)
        first = Operation.model_validate_json(path.read_text().splitlines()[0])
        overlapping = {"bytes": 8, "start_ns": first.start_ns + MS}
        append(path, first.model_copy(update=overlapping))

    _, trace = make(make_plan(two_dcs()), prepare=prepare)
    small = next(event for event in slices(trace) if event["args"].get("bytes") == 8)
    assert tracks(trace)[track_of(small)][1] == "rank 0 (east-0): operations 2"


def test_steps_hold_computation_and_waits(make: MakeRun) -> None:
    _, trace = make(make_plan(two_dcs()), training=True)
    assert [event["dur"] for event in slices(trace, cat="step")] == [100_000] * 12
    computed = [
        event for event in slices(trace, cat="kernel") if not event["name"].startswith("nccl")
    ]
    assert [event["dur"] for event in computed] == [60_000] * 12
    assert [event["dur"] for event in slices(trace, cat="wait")] == [40_000] * 12
    assert slices(trace, name="step 5")[0]["args"] == {"step": 5, "loss": 2.5}


def test_computation_is_where_it_was(make: MakeRun) -> None:
    """A rank waits for 20 ms, computes for 30, waits for 10 and computes for 30 again."""

    def note(record: Event) -> None:
        record["computed_ns"] = [record["start_ns"] + ms * MS for ms in (20, 50, 60, 90)]

    def prepare(run: RunDir) -> None:
        rewrite(run.rank_train(1), note)

    _, trace = make(make_plan(two_dcs()), training=True, prepare=prepare)
    names = tracks(trace)
    drawn = set()
    for event in slices(trace):
        _, thread = names[track_of(event)]
        if thread == "rank 1 (west-0): steps" and event["ts"] < 100_000:
            drawn.add((event["cat"], event["ts"], event["dur"]))
    assert drawn == {
        ("step", 0, 100_000),
        ("kernel", 20_000, 30_000),
        ("kernel", 60_000, 30_000),
        ("wait", 0, 20_000),
        ("wait", 50_000, 10_000),
        ("wait", 90_000, 10_000),
    }


def test_counters_of_each_wan_direction(make: MakeRun) -> None:
    _, trace = make(make_plan(two_dcs()))
    values: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for event in trace["traceEvents"]:
        if event["ph"] == "C":
            values[event["name"]].append((event["ts"], event["args"]["value"]))
    directions = ("east → west", "west → east")
    quantities = ("used (% of rate)", "queue (bytes)", "dropped (packets)")
    assert set(values) == set(map(": ".join, product(directions, quantities)))
    assert values["east → west: used (% of rate)"] == [
        (0, 5.0),
        (1_600_000, 0),
    ]  # 625 kB each 100 ms of 1 Gbit/s
    assert values["east → west: queue (bytes)"][:3] == [(0, 0), (100_000, 10), (200_000, 20)]
    assert [value for _, value in values["west → east: dropped (packets)"]] == [0, 1, 2]


def test_a_run_that_ends_before_the_first_sample(make: MakeRun) -> None:
    def prepare(run: RunDir) -> None:
        run.link_samples.write_text("")

    _, trace = make(make_plan(two_dcs()), prepare=prepare)
    assert [event for event in trace["traceEvents"] if event["ph"] == "C"] == []


def test_events_without_a_time(make: MakeRun) -> None:
    def prepare(run: RunDir) -> None:
        append(run.events, SeparateWorld(rank=0, world_size=1))

    _, trace = make(make_plan(two_dcs()), prepare=prepare)
    assert [event["name"] for event in slices(trace, cat="stage")] == ["network", "workers", "ops"]


def test_failure_changes_and_warnings_are_instants(make: MakeRun) -> None:
    change = Change(at_ns=GBIT, what=("east-west is down", "west-0 is off"))
    network = two_dcs().model_copy(update={"changes": (change,)})

    def prepare(run: RunDir) -> None:
        done = NetworkChange(number=0, due_ns=START_NS + GBIT, time_ns=START_NS + GBIT)
        append(run.changes, done)
        ended = RunEnded(state="failed", reason="rank 1 died", time_ns=START_NS + 3 * GBIT)
        append(run.events, ended)
        warning = Problem(code=ProblemCode.CPU_BUSY, message="the CPU was the limit")
        write_status(run.status, Status(state="failed", faithful=False, warnings=[warning]))

    _, trace = make(make_plan(network), prepare=prepare)
    instants = {event["name"]: event["ts"] for event in trace["traceEvents"] if event["ph"] == "i"}
    assert instants == {
        "east-west is down; west-0 is off": 1e6,
        "run failed rank 1 died": 3e6,
        "warning: the CPU was the limit": 3e6,
    }
    assert [event["name"] for event in slices(trace, cat="stage")] == ["network", "workers", "ops"]


@pytest.mark.parametrize(
    ("operation", "name"),
    [
        (("all_reduce", 1 << 24, "float32"), "ncclDevKernel_AllReduce_f32 16 MiB (gloo)"),
        (("reduce_scatter", 100, "bfloat16"), "ncclDevKernel_ReduceScatter_bf16 100 B (gloo)"),
        (("barrier", 0, ""), "ncclDevKernel_Barrier (gloo)"),
        (("barrier", 0, "", "nccl"), "ncclDevKernel_Barrier (nccl)"),
    ],
)
def test_names(operation: tuple[str, int, str], name: str) -> None:
    assert kernel_name(*operation) == name


@pytest.mark.parametrize("library", ["gloo", "nccl"])
def test_the_trace_names_the_library_of_most_operations(make: MakeRun, library: str) -> None:
    def prepare(run: RunDir) -> None:
        for rank in (0, 1):
            rewrite(run.rank_ops(rank), lambda record: record.update(algorithm=library))

    _, trace = make(make_plan(two_dcs()), prepare=prepare)
    assert trace["distributedInfo"]["backend"] == library


def test_streams_of_modelled_gpus_have_threads(make: MakeRun) -> None:
    def prepare(run: RunDir) -> None:
        for stream, name, waits in (
            (0, "layers.0", False),
            (0, "all_reduce", True),
            (3, "x", False),
        ):
            span = StreamSpan(
                device=0,
                stream=stream,
                name=name,
                waits=waits,
                start_ns=START_NS,
                end_ns=START_NS + MS,
            )
            append(run.rank_gpu(0), span)

    plan = make_plan(two_dcs())
    figures = modelled_gpu("H100").settings()
    gpu = {"gpu": "H100", "gpus_per_host": 1, "gpu_figures": figures}
    settings = {**plan.workers.settings, **gpu}
    workers = plan.workers.model_copy(update={"settings": settings})
    _, trace = make(plan.model_copy(update={"workers": workers}), prepare=prepare)
    drawn = []
    for event in slices(trace, cat="stream"):
        drawn.append((tracks(trace)[track_of(event)][1], event["name"], event["dur"]))
    assert drawn == [
        ("rank 0 (east-0): GPU 0, stream 0", "layers.0", 1000),
        ("rank 0 (east-0): GPU 0, stream 0", "waits for all_reduce", 1000),
        ("rank 0 (east-0): GPU 0, stream 3", "x", 1000),
    ]


def analysed(path: Path) -> tuple[int, float, float, float]:
    """Apply the rules of HolisticTraceAnalysis 0.5 to a file.

    The rank is the first match of a pattern in any line (common/trace_file.py). Events without dur
    or cat are dropped, and `args.stream` defaults to -1 (common/trace_parser.py). Kernels are those
    with another stream; their names tell the type (utils/utils.py). Intervals of a type are merged
    (analyzers/communication_analysis.py).

    Returns:
        The rank; us of communication, of computation, of both at once.
    """
    text = path.read_text()
    match = re.search(r'"rank":\s+(\d+)', text)
    assert match is not None
    kernels = []
    for event in json.loads(text)["traceEvents"]:
        if "dur" in event and "cat" in event and event["args"].get("stream", -1) != -1:
            kernels.append(event)
    sends = [event for event in kernels if re.match(r"^nccl.*Kernel", event["name"])]
    others = r"(^nccl.*Kernel)|(.*(Memcpy)|(Memset))|(.*Sync)"
    computes = [event for event in kernels if not re.match(others, event["name"])]
    both = length(sends) + length(computes) - length(sends + computes)
    return int(match[1]), length(sends), length(computes), both


def length(events: list[Event]) -> float:
    """Compute the us that the union of events takes."""
    spans = sorted((event["ts"], event["ts"] + event["dur"]) for event in events)
    total = 0.0
    until = 0.0
    for begin, end in spans:
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total


def test_analysis_of_each_rank(make: MakeRun, tmp_path: Path) -> None:
    run, _ = make(make_plan(two_dcs()), training=True)
    paths = write_rank_traces(run, load(run), tmp_path / "traces")
    assert [path.name for path in paths] == ["rank-0.json", "rank-1.json"]
    # Six steps: each computes for 60 ms and communicates for the last 50 of 100, 10 of them both.
    for number, path in enumerate(paths):
        rank, *figures = analysed(path)
        assert rank == number
        assert figures == pytest.approx([300e3, 360e3, 60e3], abs=0.01)
        jsonschema.validate(json.loads(path.read_text()), TRACE)
    assert analysed(run.trace)[0] == 0


def test_there_is_none_without_a_plan(make: MakeRun) -> None:
    run, _ = make(make_plan(two_dcs()))
    run.plan.write_text("{")
    assert write_trace(run, load(run)) is None
