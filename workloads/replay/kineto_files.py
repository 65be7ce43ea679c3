"""Read traces of PyTorch's profiler (Kineto): JSON with the events of one rank.

Operations of NCCL are kernels of the GPU with names, sizes, types and groups ("Collective name" and
so on, since PyTorch 2.3). Those of gloo are calls on the CPU (kineto_gloo.py).
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from testbed.core.units import UnitError

from .kineto_gloo import GLOO_CALL, gloo_operations
from .timed import Timed, in_observed_order, number_of, sizes_of_type
from .trace import MESSAGES, OPERATIONS, ROOTED, Communication, RankTrace

ENDINGS = (".json", ".json.gz")
GZIP = b"\x1f\x8b"
KERNELS = ("kernel", "gpu_memcpy", "gpu_memset")
STEP = "ProfilerStep#"
NAME, RANKS, GROUP = "Collective name", "Process Group Ranks", "Process Group Name"
NOT_OPERATIONS = ("wait", "init", "coalesced", "end_coalescing")
OPS = {
    "allreduce": "all_reduce",
    "allreduce_coalesced": "all_reduce",
    "broadcast": "broadcast",
    "broadcast_oop": "broadcast",
    "reduce": "reduce",
    "reduce_oop": "reduce",
    "allgather": "all_gather",
    "all_gather": "all_gather",
    "allgather_base": "all_gather",
    "allgather_coalesced": "all_gather",
    "allgather_into_tensor_coalesced": "all_gather",
    "reduce_scatter": "reduce_scatter",
    "reduce_scatter_base": "reduce_scatter",
    "reduce_scatter_tensor_coalesced": "reduce_scatter",
    "alltoall": "all_to_all",
    "all_to_all": "all_to_all",
    "all_to_allv": "all_to_all",
    "alltoall_base": "all_to_all",
    "gather": "gather",
    "scatter": "scatter",
    "barrier": "barrier",
    "send": "send",
    "recv": "recv",
}

Event = Mapping[str, Any]
# What code that expects the fields of a trace raises where they are missing or of another type.
DAMAGED = (KeyError, TypeError, ValueError, AttributeError, OverflowError, ZeroDivisionError)


def read_kineto(path: Path) -> RankTrace:
    """Read the trace of a rank.

    Raises:
        UnitError: The file is not a trace of the profiler, or an operation cannot be replayed.
        OSError: The file cannot be read.
    """
    document = _document(path)
    try:
        return _trace(path, document)
    except UnitError:
        raise
    except DAMAGED as error:
        what = f"the trace {path} is damaged: {type(error).__name__} {error}"
        raise UnitError(what, "write the trace again with export_chrome_trace") from error


def _trace(path: Path, document: Mapping[str, Any]) -> RankTrace:
    events = [event for event in document["traceEvents"] if event.get("ph") == "X"]
    about = document.get("distributedInfo") or {}
    groups = _groups(about)
    operations = _nccl_operations(path, events, groups)
    is_of_cpu = not operations
    if is_of_cpu:
        operations = gloo_operations(path, events, groups)
    if not operations:
        remedy = "profile with NCCL on GPUs since PyTorch 2.3, or with gloo and record_shapes=True"
        raise UnitError(f"the trace {path} has no collectives with their sizes", remedy)

    nodes = in_observed_order(operations, _computation(events, of_cpu=is_of_cpu), _steps(events))
    return RankTrace(
        path,
        nodes,
        groups=groups,
        rank=number_of(about.get("rank")),
        world_size=number_of(about.get("world_size")),
        own_clock=True,
    )


def _document(path: Path) -> dict[str, Any]:
    """Return the contents of a file, which may be compressed."""
    data = path.read_bytes()
    try:
        if data.startswith(GZIP):
            data = gzip.decompress(data)
        document = json.loads(data)
    except (ValueError, OSError, EOFError, zlib.error, RecursionError) as error:
        raise UnitError(f"{path} is not a trace: the file is not valid JSON") from error

    if isinstance(document, list):
        document = {"traceEvents": document}
    if isinstance(document, dict) and isinstance(document.get("traceEvents"), list):
        events = document["traceEvents"]
        kept = [event for event in events if isinstance(event, dict) and "name" in event]
        return {**document, "traceEvents": kept}

    remedy = "use a trace of torch.profiler (export_chrome_trace)"
    if isinstance(document, dict) and "nodes" in document:
        remedy = (
            "the file is an execution trace of the host; convert it with chakra_trace_link and "
            "chakra_converter, or " + remedy
        )
    raise UnitError(f"{path} has no events of a profiler", remedy)


def _groups(about: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the ranks of the process groups that a trace lists, by name."""
    groups: dict[str, tuple[int, ...]] = {}
    for entry in about.get("pg_config") or ():
        ranks = entry.get("ranks")
        if isinstance(ranks, list) and all(isinstance(rank, int) for rank in ranks):
            groups[str(entry.get("pg_name", ""))] = tuple(ranks)
    return groups


def _steps(events: Sequence[Event]) -> list[tuple[float, int]]:
    """Return begin in us and number of each training step: those on the GPU if it has any."""
    for category in ("gpu_user_annotation", "user_annotation"):
        steps: list[tuple[float, int]] = []
        for event in events:
            number = str(event["name"]).removeprefix(STEP)
            is_step = str(event["name"]).startswith(STEP) and number.isdecimal()
            if is_step and event.get("cat") == category:
                steps.append((float(event["ts"]), int(number)))
        if steps:
            return sorted(steps)
    return []


def _computation(events: Sequence[Event], *, of_cpu: bool) -> list[tuple[float, float]]:
    """Return begin and end in us of each piece of computation."""
    pieces: list[tuple[float, float]] = []
    for event in events:
        if of_cpu:
            is_one = event.get("cat") == "cpu_op" and not event["name"].startswith(GLOO_CALL)
        else:
            is_one = event.get("cat") in KERNELS and not _is_of_nccl(event)
        if is_one:
            begin = float(event["ts"])
            pieces.append((begin, begin + float(event.get("dur", 0))))
    return pieces


def _is_of_nccl(event: Event) -> bool:
    name = str(event["name"]).lower()
    return NAME in event.get("args", {}) or name.startswith(("nccl", "rccl"))


def _nccl_operations(
    path: Path, events: Sequence[Event], groups: dict[str, tuple[int, ...]]
) -> list[Timed]:
    """Return the operations on the GPU, and add their groups to `groups`."""
    operations: list[Timed] = []
    for event in events:
        if event.get("cat") != "kernel" or not _is_of_nccl(event):
            continue
        arguments = event.get("args", {})
        if NAME not in arguments:
            remedy = "PyTorch since 2.3 records them; profile with a newer one"
            raise UnitError(f"{path}: the kernel {event['name']} has no size and group", remedy)
        if arguments[NAME] in NOT_OPERATIONS:
            continue
        begin = float(event["ts"])
        communication = _nccl_communication(path, arguments, groups)
        lane = "" if communication.op in MESSAGES else f"stream {arguments.get('stream', '')}"
        end = begin + float(event.get("dur", 0))
        operations.append(Timed(str(event["name"]), begin, end, communication, lane))
    return operations


def _nccl_communication(
    path: Path, arguments: Mapping[str, Any], groups: dict[str, tuple[int, ...]]
) -> Communication:
    named = str(arguments[NAME])
    op = OPS.get(named.lower().strip("_"))
    if op is None:
        known = ", ".join((*OPERATIONS, *MESSAGES))
        raise UnitError(f"{path}: unknown collective {named!r}", f"known are {known}")

    group = str(arguments.get(GROUP, ""))
    ranks = _ranks(arguments)
    if ranks:
        groups[group] = ranks
    size = number_of(arguments.get("Group size")) or len(groups.get(group, ())) or 1
    dtype, item = sizes_of_type(path, str(arguments.get("dtype", "Byte")))
    sent = (number_of(arguments.get("In msg nelems")) or 0) * item
    received = (number_of(arguments.get("Out msg nelems")) or 0) * item
    root = number_of(arguments.get("Rank")) if op in ROOTED else None
    members = groups.get(group, ())
    if root is not None and root < len(members):
        root = members[root]
    peer = number_of(arguments.get("Dst Rank" if op == "send" else "Src Rank"))
    if op in MESSAGES and peer is None:
        remedy = "PyTorch since 2.4 records them; profile with a newer one"
        raise UnitError(f"{path}: a message ({op}) has no other rank", remedy)
    return Communication(
        op=op,
        bytes=_whole(op, sent, received, size),
        group=group,
        dtype=dtype,
        is_part=op in ("gather", "scatter"),
        root=root,
        peer=peer if op in MESSAGES else None,
        parts=_parts(op, sent, arguments),
    )


def _whole(op: str, sent: int, received: int, ranks: int) -> int:
    """Return the bytes of an operation, as workloads/collectives/catalog.py counts them.

    Of a gather or a scatter, the bytes of one rank's part.
    """
    if op == "all_gather":
        return received if received > sent else sent * ranks
    if op == "reduce_scatter":
        return sent if sent > received else received * ranks
    if op in ("all_to_all", "gather", "send"):
        return sent
    if op in ("scatter", "recv"):
        return received or sent
    return 0 if op == "barrier" else max(sent, received)


def _parts(op: str, sent: int, arguments: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the bytes for each rank of an all-to-all with different parts."""
    splits = _numbers(arguments.get("In split size"))
    if op != "all_to_all" or len(set(splits)) <= 1:
        return ()
    return tuple(sent * split // sum(splits) for split in splits)


def _ranks(arguments: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the ranks of a group; a long list is cut, and given by its first rank and stride."""
    ranks = _numbers(arguments.get(RANKS))
    size = number_of(arguments.get("Group size")) or 0
    first = number_of(arguments.get("Global rank start"))
    stride = number_of(arguments.get("Global rank stride"))
    if len(ranks) != size and first is not None and stride and size:
        return tuple(range(first, first + size * stride, stride))
    return ranks if len(ranks) == size or not size else ()


def _numbers(value: object) -> tuple[int, ...]:
    """Return the whole numbers of a list in a text, such as ``[0, 1]``; () if it has others."""
    texts = str(value or "").strip("[]").split(",")
    texts = [text.strip() for text in texts]
    if not all(text.isdecimal() for text in texts):
        return ()
    return tuple(int(text) for text in texts)
