"""Read MLCommons Chakra's execution traces: protobuf messages, each after its length.

The numbers of the fields are those of et_def.proto, versions 0.0.4 and 1.0.0
(https://github.com/mlcommons/chakra). The reader needs no protobuf package.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from testbed.core.units import UnitError

from .trace import MESSAGES, OPERATIONS, Communication, Node, RankTrace

ENDING = ".et"
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  # wire types of protobuf
METADATA, COMPUTATION, SEND, RECEIVE, COLLECTIVE = 1, 4, 5, 6, 7  # NodeType
MEMORY = (2, 3)
COLLECTIVES = {  # CollectiveCommType
    0: "all_reduce",
    1: "reduce",
    2: "all_gather",
    3: "gather",
    4: "scatter",
    5: "broadcast",
    6: "all_to_all",
    7: "reduce_scatter",
    8: "reduce_scatter",
    9: "barrier",
}
PART_OF_WHOLE = ("all_gather", "gather")  # comm_size is a rank's input
NS_PER_US = 1000
SIGNED = (7, 9, 15, 17)  # fields of an attribute: int32, int64, sint32, sint64
ZIGZAG = (15, 17)
NUMBERS = (7, 9, 11, 13, 15, 17, 27)
TEXT = 29

Value = int | str | tuple[int, ...]


@dataclass(frozen=True)
class _Message:
    """A node as it stands in the file."""

    id: int
    name: str
    kind: int
    after: tuple[int, ...]
    start_us: int
    duration_us: int
    attributes: Mapping[str, Value]


def read_chakra(path: Path) -> RankTrace:
    """Read the trace of a rank.

    Raises:
        UnitError: The file is not a Chakra trace, or a node cannot be replayed.
        OSError: The file cannot be read.
    """
    data = path.read_bytes()
    try:
        _head, *rest = list(_messages(data))
        messages = [_message(text) for text in rest]
    except (ValueError, IndexError) as error:
        remedy = "a trace holds protobuf messages of et_def.proto, each after its length"
        raise UnitError(f"{path} is not a Chakra execution trace", remedy) from error
    if not messages:
        raise UnitError(f"the trace {path} has no nodes")

    kept = [message for message in messages if message.kind != METADATA]
    numbers = {message.id: number for number, message in enumerate(kept)}
    has_times = any(message.start_us for message in kept)
    nodes: list[Node] = []
    for message in kept:
        others = {other for other in message.after if other in numbers} - {message.id}
        after = sorted(numbers[other] for other in others)
        step = message.attributes.get("step")
        node = Node(
            name=message.name,
            after=tuple(after),
            start_ns=message.start_us * NS_PER_US if has_times else None,
            duration_ns=message.duration_us * NS_PER_US,
            lane=_lane(message),
            step=step if isinstance(step, int) else None,
            communication=_communication(path, message),
        )
        nodes.append(node)
    return RankTrace(path, nodes)


def _lane(message: _Message) -> str:
    """Return what runs a node: a thread of the CPU, a stream of the GPU, or memory."""
    attributes = message.attributes
    is_message = message.kind in (SEND, RECEIVE)
    thread = attributes.get("stream", attributes.get("tid", ""))
    if is_message or (message.kind == COLLECTIVE and not thread):
        return ""
    if message.kind in MEMORY:
        return "memory"
    return f"{'cpu' if attributes.get('is_cpu_op') else 'gpu'} {thread}"


def _communication(path: Path, message: _Message) -> Communication | None:
    attributes = message.attributes
    is_described = "comm_type" in attributes or "comm_size" in attributes
    is_call = bool(attributes.get("is_cpu_op")) and not is_described  # starts one of the GPU
    if message.kind not in (SEND, RECEIVE, COLLECTIVE) or is_call:
        return None
    where = f"node {message.id} ({message.name}) of {path}"
    size = attributes.get("comm_size", attributes.get("tensor_size"))
    group = attributes.get("pg_name", "")
    dtype = attributes.get("dtype", "uint8")
    if message.kind == COLLECTIVE:
        kind = attributes.get("comm_type", 0)
        op = COLLECTIVES.get(kind) if isinstance(kind, int) else None
        if op is None:
            known = ", ".join(OPERATIONS)
            raise UnitError(f"{where}: unknown collective {kind!r}", f"known are {known}")
    else:
        op = MESSAGES[message.kind - SEND]
    if not isinstance(size, int):
        if op != "barrier":
            raise UnitError(f"{where}: no size", "the attribute comm_size holds the bytes")
        size = 0
    peer = attributes.get("comm_dst" if op == "send" else "comm_src")
    if op in MESSAGES and not isinstance(peer, int):
        remedy = "the attributes comm_src and comm_dst name the ranks of a message"
        raise UnitError(f"{where}: no other rank", remedy)
    root, tag, parts = (attributes.get(name) for name in ("root", "comm_tag", "parts"))
    return Communication(
        op=op,
        bytes=size,
        group=str(group),
        dtype=str(dtype),
        is_part=op in PART_OF_WHOLE,
        root=root if isinstance(root, int) else None,
        peer=peer if isinstance(peer, int) and op in MESSAGES else None,
        tag=tag if isinstance(tag, int) else 0,
        parts=parts if isinstance(parts, tuple) else (),
    )


def _messages(data: bytes) -> Iterator[memoryview]:
    """Yield the messages of a file."""
    view = memoryview(data)
    position = 0
    while position < len(view):
        length, position = _varint(view, position)
        if position + length > len(view):
            raise ValueError("a message ends early")
        yield view[position : position + length]
        position += length


def _message(text: memoryview) -> _Message:
    """Return a node."""
    numbers = {1: 0, 3: 0, 6: 0, 7: 0}
    name = ""
    after: list[int] = []
    attributes: dict[str, Value] = {}
    for field, value in _fields(text):
        if field in numbers and isinstance(value, int):
            numbers[field] = value
        elif field == 2 and not isinstance(value, int):
            name = bytes(value).decode()
        elif field in (4, 5):
            after += _list_of(value)
        elif field == 10 and not isinstance(value, int):
            key, content = _attribute(value)
            attributes[key] = content
    return _Message(numbers[1], name, numbers[3], tuple(after), numbers[6], numbers[7], attributes)


def _attribute(text: memoryview) -> tuple[str, Value]:
    """Return the name and the value of an attribute; an empty text for values of other types."""
    name = ""
    result: Value = ""
    for field, value in _fields(text):
        if field == 1 and not isinstance(value, int):
            name = bytes(value).decode()
        elif field in NUMBERS and isinstance(value, int):
            result = _signed(field, value)
        elif field == TEXT and not isinstance(value, int):
            result = bytes(value).decode()
        elif field - 1 in NUMBERS and not isinstance(value, int):
            items: list[int] = []
            for _number, item in _fields(value):
                items += _list_of(item)
            result = tuple(items)
    return name, result


def _signed(field: int, value: int) -> int:
    if field in ZIGZAG:
        return (value >> 1) ^ -(value & 1)
    if field in SIGNED and value >= 2**63:
        return value - 2**64
    return value


def _list_of(value: int | memoryview) -> list[int]:
    """Return the numbers of a repeated field, packed or not."""
    if isinstance(value, int):
        return [value]
    numbers: list[int] = []
    position = 0
    while position < len(value):
        number, position = _varint(value, position)
        numbers.append(number)
    return numbers


def _fields(text: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield number and value of each field of a message; numbers of fixed size are left out."""
    position = 0
    while position < len(text):
        key, position = _varint(text, position)
        field, kind = key >> 3, key & 7
        if kind == VARINT:
            value, position = _varint(text, position)
            yield field, value
        elif kind == LENGTH:
            length, position = _varint(text, position)
            if position + length > len(text):
                raise ValueError("a field ends early")
            yield field, text[position : position + length]
            position += length
        elif kind in (FIXED64, FIXED32):
            position += 8 if kind == FIXED64 else 4
        else:
            raise ValueError(f"unknown wire type {kind}")


def _varint(text: memoryview, position: int) -> tuple[int, int]:
    """Return the number at a position, in seven bits a byte, and the position after it."""
    value = shift = 0
    while True:
        byte = text[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")
