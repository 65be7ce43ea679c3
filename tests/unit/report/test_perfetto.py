"""trace.json: Chrome's trace event format, what is on which track, and what HolisticTraceAnalysis
makes of it.
"""

import json
import re
from collections import defaultdict
from functools import partial

import jsonschema
import pytest

from testbed.analysis.summarize import collect
from testbed.report.load import load
from testbed.report.perfetto import kernel_name, write_rank_traces, write_trace
from testbed.runfolder.folder import append_record
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
NUMBER, TEXT = {"type": "number", "minimum": 0}, {"type": "string", "minLength": 1}
PHASES = {
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


@pytest.fixture
def make(tmp_path):
    """``make(plan, training=False)``: the run folder, and its trace.json as read back."""

    def made(plan, training=False, prepare=lambda run: None):
        run = (write_training_run if training else write_run)(tmp_path / "run", plan)
        prepare(run)
        collect(run)
        return run, json.loads(write_trace(run, load(run)).read_text())

    return made


def slices(trace, **kinds):
    found = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    return [event for event in found if all(event[key] == value for key, value in kinds.items())]


def tracks(trace):
    """From (pid, tid) to the name of the process and of the thread."""
    names = {"process_name": {}, "thread_name": {}}
    for event in trace["traceEvents"]:
        if event["name"] in names:
            names[event["name"]][event["pid"], event["tid"]] = event["args"]["name"]
    return {
        key: (names["process_name"][key[0], 0], name) for key, name in names["thread_name"].items()
    }


@pytest.mark.parametrize("training", [False, True])
def test_it_is_in_the_trace_event_format(make, training):
    _, trace = make(make_plan(three_dcs()), training)
    jsonschema.validate(trace, TRACE)
    named = tracks(trace)
    assert all(
        (event["pid"], event["tid"]) in named
        for event in trace["traceEvents"]
        if event["ph"] in "Xi"
    )


@pytest.mark.parametrize("training", [False, True])
def test_slices_of_a_thread_are_nested_or_apart(make, training):
    _, trace = make(make_plan(three_dcs()), training)
    threads = defaultdict(list)
    for event in slices(trace):
        begin = round(event["ts"] * 1000)
        threads[event["pid"], event["tid"]].append((begin, -(begin + round(event["dur"] * 1000))))
    for spans in threads.values():
        open_ends = []
        for begin, end in sorted(spans):
            while open_ends and open_ends[-1] <= begin:
                open_ends.pop()
            assert not open_ends or -end <= open_ends[-1]
            open_ends.append(-end)


def test_each_rank_has_tracks_in_its_datacenter(make):
    plan = make_plan(three_dcs())
    _, trace = make(plan)
    for rank in plan.workers.ranks:
        expected = (
            f"datacenter {rank.host.split('-')[0]}",
            f"rank {rank.rank} ({rank.host}): operations",
        )
        assert expected in tracks(trace).values()


def test_operations_have_their_times_and_places(make):
    _, trace = make(make_plan(two_dcs()))
    mine = [
        event
        for event in slices(trace, cat="kernel")
        if tracks(trace)[event["pid"], event["tid"]][1][:6] == "rank 1"
    ]
    assert len(mine) == 16
    first = min(mine, key=lambda event: event["ts"])
    assert first["name"] == "ncclDevKernel_AllReduce_f32 4 KiB (gloo)"
    assert trace["baseTimeNanoseconds"] + round(first["ts"] * 1000) == START_NS
    assert first["dur"] == 91_000  # us: the warm-up takes rank 1 91 ms
    assert first["args"]["phase"] == "warmup"


def test_the_wait_for_the_last_rank_is_drawn(make):
    def late(run):
        lines = [json.loads(line) for line in run.rank_ops(1).read_text().splitlines()]
        run.rank_ops(1).write_text(
            "".join(
                json.dumps(row | {"start_ns": row["start_ns"] + 5 * MS}) + "\n" for row in lines
            )
        )

    _, trace = make(make_plan(two_dcs()), prepare=late)
    waits = slices(trace, cat="wait")
    assert {tracks(trace)[event["pid"], event["tid"]][1] for event in waits} == {
        "rank 0 (east-0): operations"
    }
    assert [event["dur"] for event in waits] == [5000] * 8 + [
        1000
    ] * 8  # rank 0's part of a broadcast takes 1 ms


def test_overlapping_operations_have_threads_of_their_own(make):
    def overlap(run):
        row = json.loads(run.rank_ops(0).read_text().splitlines()[0])
        append_record(run.rank_ops(0), row | {"bytes": 8, "start_ns": row["start_ns"] + MS})

    _, trace = make(make_plan(two_dcs()), prepare=overlap)
    small = next(event for event in slices(trace) if event["args"].get("bytes") == 8)
    assert tracks(trace)[small["pid"], small["tid"]][1] == "rank 0 (east-0): operations 2"


def test_steps_hold_computation_and_waits(make):
    _, trace = make(make_plan(two_dcs()), training=True)
    assert [event["dur"] for event in slices(trace, cat="step")] == [100_000] * 12
    computed = [
        event for event in slices(trace, cat="kernel") if not event["name"].startswith("nccl")
    ]
    assert [event["dur"] for event in computed] == [60_000] * 12
    assert [event["dur"] for event in slices(trace, cat="wait")] == [40_000] * 12
    assert slices(trace, name="step 5")[0]["args"] == {"step": 5, "loss": 2.5}


def test_computation_is_where_it_was(make):
    """Here a rank waits for 20 ms, computes for 30, waits for 10 and computes for 30 again."""

    def note(run):
        rows = [json.loads(line) for line in run.rank_train(1).read_text().splitlines()]
        for row in rows:
            row["computed_ns"] = [row["start_ns"] + ms * MS for ms in (20, 50, 60, 90)]
        run.rank_train(1).write_text("".join(json.dumps(row) + "\n" for row in rows))

    _, trace = make(make_plan(two_dcs()), training=True, prepare=note)
    at = next(key for key, (_, name) in tracks(trace).items() if name == "rank 1 (west-0): steps")
    drawn = [
        event
        for event in slices(trace)
        if (event["pid"], event["tid"]) == at and event["ts"] < 100_000
    ]
    assert {(event["cat"], event["ts"], event["dur"]) for event in drawn} == {
        ("step", 0, 100_000),
        *[("kernel", ms * 1000, 30_000) for ms in (20, 60)],
        *[("wait", begin * 1000, length * 1000) for begin, length in ((0, 20), (50, 10), (90, 10))],
    }


def test_counters_of_each_wan_direction(make):
    _, trace = make(make_plan(two_dcs()))
    values = defaultdict(list)
    for event in trace["traceEvents"]:
        if event["ph"] == "C":
            values[event["name"]].append((event["ts"], event["args"]["value"]))
    assert set(values) == {
        f"{way}: {what}"
        for way in ("east → west", "west → east")
        for what in ("used (% of rate)", "queue (bytes)", "dropped (packets)")
    }
    assert values["east → west: used (% of rate)"] == [
        (0, 5.0),
        (1_600_000, 0),
    ]  # 625 kB each 100 ms of 1 Gbit/s
    assert values["east → west: queue (bytes)"][:3] == [(0, 0), (100_000, 10), (200_000, 20)]
    assert [value for _, value in values["west → east: dropped (packets)"]] == [0, 1, 2]


def test_faults_and_warnings_are_instants(make):
    def fail(run):
        fault = {"stage": "fault", "state": "link east-west down", "time_ns": START_NS + GBIT}
        append_record(run.events, fault)
        append_record(
            run.events,
            {
                "stage": "run",
                "state": "failed",
                "reason": "rank 1 died",
                "time_ns": START_NS + 3 * GBIT,
            },
        )
        status = json.loads(run.status.read_text())
        run.write_json(
            run.status, status | {"warnings": ["the CPU was the limit"], "faithful": False}
        )

    _, trace = make(make_plan(two_dcs()), prepare=fail)
    instants = {event["name"]: event["ts"] for event in trace["traceEvents"] if event["ph"] == "i"}
    assert instants == {
        "fault link east-west down": 1e6,
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
    ],
)
def test_names(operation, name):
    assert kernel_name(*operation) == name


def analysed(path):
    """What HolisticTraceAnalysis 0.5 finds in a file: its rank; us of communication, of
    computation, of both at once.

    Its rules: the rank is the first match of a pattern in any line (common/trace_file.py); events
    without dur or cat are dropped, `args.stream` defaults to -1 (common/trace_parser.py), and
    kernels are those with another stream; their names tell the type (utils/utils.py); intervals of
    a type are merged (analyzers/communication_analysis.py).
    """
    text = path.read_text()
    rank = next(
        int(match[1])
        for line in text.splitlines()
        if (match := re.search(r'"rank":\s+(\d+)', line))
    )
    events = [
        event for event in json.loads(text)["traceEvents"] if "dur" in event and "cat" in event
    ]
    kernels = [event for event in events if event["args"].get("stream", -1) != -1]
    sends = [event for event in kernels if re.match(r"^nccl.*Kernel", event["name"])]
    others = r"(^nccl.*Kernel)|(.*(Memcpy)|(Memset))|(.*Sync)"
    computes = [event for event in kernels if not re.match(others, event["name"])]
    both = length(sends) + length(computes) - length(sends + computes)
    return rank, length(sends), length(computes), both


def length(events):
    """us that the union of the events takes."""
    total, until = 0.0, 0.0
    for begin, end in sorted((event["ts"], event["ts"] + event["dur"]) for event in events):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total


def test_analysis_of_each_rank_counts_communication_and_computation(make, tmp_path):
    run, _ = make(make_plan(two_dcs()), training=True)
    paths = write_rank_traces(run, load(run), tmp_path / "traces")
    near = partial(pytest.approx, abs=0.01)
    assert [path.name for path in paths] == ["rank-0.json", "rank-1.json"]
    # Six steps: each computes for 60 ms and communicates for the last 50 of 100, 10 of them at
    # once.
    assert [analysed(path) for path in paths] == [
        (rank, near(300e3), near(360e3), near(60e3)) for rank in (0, 1)
    ]
    for path in paths:
        jsonschema.validate(json.loads(path.read_text()), TRACE)
    assert analysed(run.trace)[0] == 0


def test_there_is_none_without_a_plan(make):
    run, _ = make(make_plan(two_dcs()))
    run.plan.write_text("{")
    assert write_trace(run, load(run)) is None
