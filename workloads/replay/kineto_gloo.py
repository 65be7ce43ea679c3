"""Operations of gloo in a trace of PyTorch's profiler.

A call is an event ``c10d::allreduce_`` with the shapes of its tensors (``record_shapes=True``). The
operation itself is a later event ``gloo:all_reduce`` on one of gloo's threads, with the type of its
items. No event names the process group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from testbed.core.units import UnitError

from .timed import Timed, sizes_of_type
from .trace import MESSAGES, Communication

GLOO_CALL = "c10d::"
CARRIED_OUT = "gloo:"


class Call(NamedTuple):
    """How to read the event of a call.

    Attributes:
        op: Name of the operation.
        tensors: Position of the argument whose tensors give the size.
        is_part: Whether these are one rank's part of the whole.
        root: Position of the root's number.
        peer: Position of the other rank's number.
        tag: Position of the tag.
    """

    op: str
    tensors: int
    is_part: bool = False
    root: int | None = None
    peer: int | None = None
    tag: int | None = None


CALLS = {
    "allreduce_": Call("all_reduce", 0),
    "allreduce_coalesced_": Call("all_reduce", 0),
    "broadcast_": Call("broadcast", 0, root=2),
    "reduce_": Call("reduce", 0, root=3),
    "allgather_": Call("all_gather", 1, is_part=True),
    "_allgather_base_": Call("all_gather", 1, is_part=True),
    "reduce_scatter_": Call("reduce_scatter", 0, is_part=True),
    "_reduce_scatter_base_": Call("reduce_scatter", 1),
    "alltoall_": Call("all_to_all", 1),
    "alltoall_base_": Call("all_to_all", 1),
    "gather_": Call("gather", 1, is_part=True, root=3),
    "scatter_": Call("scatter", 0, is_part=True, root=3),
    "send": Call("send", 0, peer=2, tag=3),
    "recv_": Call("recv", 0, peer=2, tag=3),
    "barrier": Call("barrier", 0),
}
NAMES = {"reduce_scatter": ("reduce_scatter", "all_reduce")}  # gloo's, where they differ

Event = Mapping[str, Any]


def gloo_operations(
    path: Path, events: Sequence[Event], groups: Mapping[str, tuple[int, ...]]
) -> list[Timed]:
    """Return the operations of gloo.

    Raises:
        UnitError: An operation is unknown, has no size, or may belong to several groups.
    """
    calls = [event for event in events if event["name"].startswith(GLOO_CALL)]
    if calls and len({frozenset(ranks) for ranks in groups.values()}) > 1:
        raise UnitError(
            f"the trace {path} does not say to which process group an operation of gloo belongs",
            "replay traces of gloo with a single process group, or traces of NCCL",
        )
    threads = [event for event in events if event["name"].startswith(CARRIED_OUT)]
    waiting = sorted(threads, key=lambda event: float(event["ts"]))
    operations: list[Timed] = []
    for event in sorted(calls, key=lambda event: float(event["ts"])):
        name = event["name"].removeprefix(GLOO_CALL)
        if name not in CALLS:
            known = ", ".join(CALLS)
            raise UnitError(f"{path}: unknown collective {event['name']!r}", f"known are {known}")
        call = CALLS[name]
        begin = float(event["ts"])
        end = begin + float(event.get("dur", 0))
        carried_out = _carried_out(call, begin, waiting)
        dtype = "float"
        if carried_out is not None:
            waiting.remove(carried_out)
            end = max(end, float(carried_out["ts"]) + float(carried_out.get("dur", 0)))
            dtype = next(iter(carried_out.get("args", {}).get("Input type") or ()), dtype)
        communication = _communication(path, call, event, dtype)
        operations.append(Timed(event["name"], begin, end, communication))
    return operations


def _carried_out(call: Call, begin_us: float, waiting: Sequence[Event]) -> Event | None:
    """Return the event in which gloo carried out a call; None if there is none."""
    names = [CARRIED_OUT + name for name in NAMES.get(call.op, (call.op,))]
    for event in waiting:
        if event["name"] in names and float(event["ts"]) >= begin_us:
            return event
    return None


def _communication(path: Path, call: Call, event: Event, type_name: str) -> Communication:
    arguments = event.get("args", {})
    shapes = arguments.get("Input Dims")
    values = arguments.get("Concrete Inputs") or ()
    if not isinstance(shapes, list) or len(shapes) <= call.tensors:
        remedy = "profile with record_shapes=True"
        raise UnitError(f"{path}: the call {event['name']} has no sizes", remedy)
    dtype, item = sizes_of_type(path, type_name)
    peer = _at(values, call.peer)
    if call.op in MESSAGES and peer is None:
        raise UnitError(f"{path}: a message ({call.op}) has no other rank")
    return Communication(
        op=call.op,
        bytes=0 if call.op == "barrier" else _items(shapes[call.tensors]) * item,
        dtype=dtype,
        is_part=call.is_part,
        root=_at(values, call.root),
        peer=peer,
        tag=_at(values, call.tag) or 0,
    )


def _at(values: Sequence[object], position: int | None) -> int | None:
    if position is None or position >= len(values):
        return None
    text = str(values[position])
    return int(text) if text.isdecimal() else None


def _items(shape: object) -> int:
    """Return the number of items of a shape, or of all shapes in a list."""
    if not isinstance(shape, list):
        return 0
    if any(isinstance(part, list) for part in shape):
        return sum(_items(part) for part in shape)
    count = 1
    for length in shape:
        count *= int(length)
    return count
