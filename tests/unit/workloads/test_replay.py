"""What traces of other tools come to in a replay, and which traces are refused before a run."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from testbed.workloads.replay.settings import Replay
from testbed.workloads.replay.trace_set import load_programs

from testbed.core.errors import InputError
from testbed.core.units import UnitError
from testbed.plan.resolve import resolve
from testbed.spec.topology import Topology
from tests.support.execution_traces import (
    COLLECTIVE,
    COMPUTATION,
    RECEIVE,
    SEND,
    collective,
    kernel,
    nccl,
    node,
    write_chakra,
    write_kineto,
)

ALL_REDUCE, ALL_GATHER, ALL_TO_ALL = 0, 2, 6  # Chakra's CollectiveCommType
US = 1000
Program = list[dict[str, Any]]


def programs(pattern: Path, ranks: int, computation: float = 1.0) -> list[Program]:
    loaded: list[Program] = load_programs(str(pattern), ranks, computation)["programs"]
    return loaded


def step_of(size: int, group: str = "") -> list[bytes]:
    """Computation for 70 us, an all-reduce, and computation that waits for it."""
    attributes = {"pg_name": group} if group else {}
    return [
        node(10, "forward", COMPUTATION, duration_us=30),
        node(11, "backward", COMPUTATION, after=[10], duration_us=40),
        collective(12, ALL_REDUCE, size, **attributes),
        node(13, "optimizer", COMPUTATION, after=[11, 12], duration_us=5),
    ]


def test_chakra(tmp_path: Path) -> None:
    """Chains of computation become one item; a trace without times has no pauses."""
    for rank in range(2):
        write_chakra(tmp_path / f"job.{rank}.et", step_of(4096))
    first, second = programs(tmp_path, 2)
    assert first == second
    computing, all_reduce, optimizer = first
    assert computing == {"after": [], "compute_ns": 70 * US}
    assert (all_reduce["op"], all_reduce["bytes"], all_reduce["after"]) == ("all_reduce", 4096, [])
    assert (optimizer["after"], optimizer["compute_ns"]) == ([0, 1], 5 * US)


def test_computation_may_be_faster(tmp_path: Path) -> None:
    write_chakra(tmp_path / "job.0.et", step_of(4096))
    (program,) = programs(tmp_path, 2, computation=0.5)
    assert [item["compute_ns"] for item in program if "compute_ns" in item] == [35_000, 2500]


def test_groups_have_the_ranks_that_use_them(tmp_path: Path) -> None:
    for rank in range(4):
        write_chakra(tmp_path / f"job.{rank}.et", step_of(4096, group=f"pair {rank % 2}"))
    loaded = load_programs(str(tmp_path), 4, 1.0)
    assert loaded["groups"] == {"pair 0": [0, 2], "pair 1": [1, 3]}
    assert [item.get("group") for item in loaded["programs"][3]] == [None, "pair 1", None]


def test_sizes_of_chakra_are_inputs(tmp_path: Path) -> None:
    """A rank gives 100 bytes to an all-gather among three ranks, which holds 300."""
    write_chakra(tmp_path / "one.et", [collective(1, ALL_GATHER, 100)])
    ((item,),) = programs(tmp_path / "one.et", 3)
    assert (item["op"], item["bytes"]) == ("all_gather", 300)


def test_pauses_keep_the_recorded_begins(tmp_path: Path) -> None:
    """A trace of times: work at 10 us, an all-reduce at 50, 15 us after that work has ended."""
    nodes = [
        node(1, "work", COMPUTATION, start_us=10, duration_us=25),
        node(
            2,
            "exchange",
            COLLECTIVE,
            after=[1],
            start_us=50,
            duration_us=9,
            attributes={"comm_type": ALL_REDUCE, "comm_size": 8},
        ),
    ]
    write_chakra(tmp_path / "one.et", nodes)
    ((work, exchange),) = programs(tmp_path / "one.et", 2)
    assert work == {"after": [], "compute_ns": 25 * US}
    assert (exchange["after"], exchange["pause_ns"]) == ([0], 15 * US)


def test_messages_between_ranks(tmp_path: Path) -> None:
    for rank, kind in enumerate((SEND, RECEIVE)):
        attributes = {"comm_size": 64, "comm_src": 0, "comm_dst": 1}
        message = node(1, "message", kind, attributes=attributes)
        write_chakra(tmp_path / f"rank{rank}.et", [message])
    sends, receives = programs(tmp_path, 2)
    assert (sends[0]["op"], sends[0]["peer"]) == ("send", 1)
    assert (receives[0]["op"], receives[0]["peer"]) == ("recv", 0)


def test_a_circle_of_an_older_converter(tmp_path: Path) -> None:
    """Two nodes that wait for each other: the first one in the file begins."""
    nodes = [
        node(5, "first half", COMPUTATION, after=[6], duration_us=1),
        node(6, "second half", COMPUTATION, after=[5], duration_us=2),
        collective(7, ALL_REDUCE, 8),
    ]
    write_chakra(tmp_path / "one.et", nodes)
    (program,) = programs(tmp_path / "one.et", 2)
    assert [item for item in program if "compute_ns" in item] == [{"after": [], "compute_ns": 3000}]


def test_kernels_of_the_profiler(tmp_path: Path) -> None:
    """Kernels from 0 to 100 us with a pause that waits for nothing; an all-reduce from 60 to 130;
    then the optimizer. The all-reduce depends on the part before 60, the optimizer on both.
    """
    events = [
        {"ph": "X", "cat": "user_annotation", "name": "ProfilerStep#3", "ts": 0, "dur": 200},
        kernel("gemm", 0, 40),
        kernel("gemm", 45, 55),
        nccl("allreduce", 60, 70, 1024, [0, 1]),
        kernel("adam", 131, 20),
    ]
    for rank in range(2):
        write_kineto(tmp_path / f"{rank}.json", events, rank, 2)
    for program in programs(tmp_path, 2):
        first, rest, adam = [item for item in program if "compute_ns" in item]
        (all_reduce,) = [item for item in program if "op" in item]
        assert (first["compute_ns"], all_reduce["after"], rest["after"]) == (60 * US, [0], [0])
        assert (all_reduce["op"], all_reduce["bytes"]) == ("all_reduce", 4096)
        assert (all_reduce["dtype"], all_reduce["step"]) == ("float32", 3)
        assert rest["compute_ns"] == 40 * US
        assert (len(adam["after"]), adam["pause_ns"], adam["compute_ns"]) == (2, US, 20 * US)


def test_compressed_traces_and_different_parts(tmp_path: Path) -> None:
    """An all-to-all: rank 0 sends 1 and 3 items, rank 1 sends 4 and 4."""
    for rank, splits in enumerate(("[1, 3]", "[4, 4]")):
        sizes = {"In split size": splits, "In msg nelems": 4 if rank == 0 else 8}
        events = [nccl("all_to_all", 0, 5, 1, [0, 1], **sizes)]
        path = write_kineto(tmp_path / f"{rank}.json", events, rank, 2)
        (tmp_path / f"{rank}.json.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    (first,), (second,) = programs(tmp_path, 2)
    assert (first["parts"], first["received"]) == ([4, 12], [4, 16])
    assert (second["parts"], second["received"]) == ([16, 16], [12, 16])


def chakra_of(*nodes: bytes) -> Callable[[Path], None]:
    """Write a trace of one rank."""

    def write(folder: Path) -> None:
        write_chakra(folder / "one.et", nodes)

    return write


def chakra_of_two(first: list[bytes], second: list[bytes]) -> Callable[[Path], None]:
    """Write a trace of each of two ranks."""

    def write(folder: Path) -> None:
        write_chakra(folder / "job.0.et", first)
        write_chakra(folder / "job.1.et", second)

    return write


def kineto_of(ranks: int, *events: dict[str, object]) -> Callable[[Path], None]:
    """Write a trace of the profiler of one rank."""

    def write(folder: Path) -> None:
        write_kineto(folder / "one.json", events, 0, ranks)

    return write


def text_of(name: str, text: str) -> Callable[[Path], None]:
    """Write a file."""

    def write(folder: Path) -> None:
        (folder / name).write_text(text)

    return write


def three_traces(folder: Path) -> None:
    for rank in range(3):
        write_chakra(folder / f"job.{rank}.et", step_of(8))


def two_kinds(folder: Path) -> None:
    write_chakra(folder / "job.0.et", step_of(8))
    write_kineto(folder / "job.1.json", [nccl("allreduce", 0, 1, 8, [0, 1])], 1, 2)


def one_rank_twice(folder: Path) -> None:
    write_chakra(folder / "a.rank1.et", step_of(8))
    write_chakra(folder / "b.rank1.et", step_of(8))


MESSAGE = node(1, "m", SEND, attributes={"comm_size": 8, "comm_src": 0, "comm_dst": 1})


@pytest.mark.parametrize(
    ("write", "error"),
    [
        (lambda folder: None, "has no traces"),
        (three_traces, "3 traces for 2 ranks"),
        (two_kinds, "traces of two kinds"),
        (one_rank_twice, "both traces of rank 1"),
        (text_of("one.et", "nothing of the kind"), "not a Chakra execution trace"),
        (text_of("one.json", "{"), "not valid JSON"),
        (text_of("one.json", '{"nodes": [], "schema": "1.1"}'), "no events of a profiler"),
        (text_of("one.json", '{"traceEvents": []}'), "no collectives with their sizes"),
        (chakra_of(collective(1, 77, 8)), "unknown collective 77"),
        (chakra_of(node(1, "x", COLLECTIVE, attributes={"comm_type": 0})), "no size"),
        (chakra_of(node(1, "x", SEND, attributes={"comm_size": 8})), "no other rank"),
        (chakra_of(MESSAGE), "one trace cannot be repeated by all ranks: it has a message"),
        (kineto_of(8, nccl("allreduce", 0, 1, 8, range(8))), "is of 8 ranks, but the run has 2"),
        (kineto_of(2, nccl("allswap", 0, 1, 8, [0, 1])), "unknown collective 'allswap'"),
        (kineto_of(2, nccl("allreduce", 0, 1, 8, [0, 1], dtype="Quint")), "unknown type"),
        (kineto_of(2, kernel("ncclKernel_AllReduce", 0, 1)), "has no size and group"),
        (
            kineto_of(2, nccl("allreduce", 0, 1, 8, [0], **{"Process Group Name": "7"})),
            "has only the ranks 0",
        ),
        (chakra_of_two(step_of(8), step_of(16)), "is all_reduce of 8 B on rank 0, and"),
        (chakra_of_two(step_of(8), [*step_of(8), collective(20, 0, 8)]), "rank 1 has 2"),
        (chakra_of_two([*step_of(8), MESSAGE], step_of(8)), "which receives 0"),
        (chakra_of_two(step_of(8), step_of(8)[:2]), "rank 1 has no operation|the run has 2"),
    ],
)
def test_refused(tmp_path: Path, write: Callable[[Path], None], error: str) -> None:
    write(tmp_path)
    with pytest.raises(UnitError, match=error):
        programs(tmp_path, 2)


def test_refused_before_a_run(tmp_path: Path) -> None:
    """The plan of a run has the programs, or says what is wrong with the traces."""
    topology = Topology.load("two-sites")
    with pytest.raises(InputError, match="no trace to replay"):
        resolve(topology, Replay(), machine_memory_bytes=2**40)
    missing = Replay(trace=str(tmp_path / "missing.et"))
    with pytest.raises(InputError, match=r"no trace '.*missing\.et'"):
        resolve(topology, missing, machine_memory_bytes=2**40)

    path = write_chakra(tmp_path / "one.et", step_of(2**20))
    plan = resolve(topology, Replay(trace=str(path)), machine_memory_bytes=2**40)
    (program,) = plan.workers.settings["programs"]
    assert [item.get("op") for item in program] == [None, "all_reduce", None]
    assert plan.workers.workload == "replay"
