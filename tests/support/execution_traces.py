"""Write traces as other tools do: Chakra's protobuf messages by hand, and the profiler's JSON."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

COMPUTATION, SEND, RECEIVE, COLLECTIVE = 4, 5, 6, 7  # Chakra's NodeType
INT64, BOOL, TEXT = 9, 27, 29  # fields of an attribute


def varint(value: int) -> bytes:
    data = b""
    while value > 0x7F:
        data += bytes([value & 0x7F | 0x80])
        value >>= 7
    return data + bytes([value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def piece(field: int, value: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(value)) + value


def node(
    id: int,
    name: str,
    kind: int,
    *,
    after: Sequence[int] = (),
    duration_us: int = 0,
    start_us: int = 0,
    attributes: Mapping[str, int | str | bool] | None = None,
) -> bytes:
    """A node of Chakra, with data_deps as a packed field."""
    text = number(1, id) + piece(2, name.encode()) + number(3, kind)
    text += piece(5, b"".join(varint(other) for other in after))
    text += number(6, start_us) + number(7, duration_us)
    for key, value in (attributes or {}).items():
        if isinstance(value, bool):
            held = number(BOOL, value)
        elif isinstance(value, int):
            held = number(INT64, value)
        else:
            held = piece(TEXT, value.encode())
        text += piece(10, piece(1, key.encode()) + held)
    return text


def write_chakra(path: Path, nodes: Sequence[bytes]) -> Path:
    """A trace of Chakra: its metadata and nodes, each after its length."""
    messages = [piece(1, b"1.0.0"), *nodes]
    path.write_bytes(b"".join(varint(len(message)) + message for message in messages))
    return path


def collective(id: int, kind: int, size: int, **attributes: int | str) -> bytes:
    """A collective of a type of Chakra (0 is an all-reduce)."""
    every = {"comm_type": kind, "comm_size": size, **attributes}
    return node(id, f"collective {id}", COLLECTIVE, attributes=every)


def kernel(name: str, begin_us: float, length_us: float, **arguments: object) -> dict[str, object]:
    """A kernel of a GPU in a trace of the profiler."""
    event = {"ph": "X", "cat": "kernel", "name": name, "ts": begin_us, "dur": length_us}
    return {**event, "args": {"stream": 7, **arguments}}


def nccl(
    name: str, begin_us: float, length_us: float, items: int, ranks: Sequence[int], **more: object
) -> dict[str, object]:
    """A kernel of NCCL with the names of PyTorch's profiler."""
    arguments = {
        "Collective name": name,
        "In msg nelems": items,
        "Out msg nelems": items,
        "Group size": len(ranks),
        "dtype": "Float",
        "Process Group Name": "0",
        "Process Group Ranks": str(list(ranks)),
        "stream": 20,
        **more,
    }
    return kernel("ncclDevKernel", begin_us, length_us, **arguments)


def write_kineto(path: Path, events: Sequence[Mapping[str, object]], rank: int, ranks: int) -> Path:
    """A trace of the profiler."""
    about = {"backend": "nccl", "rank": rank, "world_size": ranks}
    path.write_text(json.dumps({"distributedInfo": about, "traceEvents": list(events)}))
    return path
