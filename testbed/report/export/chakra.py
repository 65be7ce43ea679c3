"""The operations of each rank as Chakra execution traces; the only module that imports protobuf.

A file <name>.<rank>.et holds a rank's modelled computation and its operations as nodes, in the form
that MLCommons Chakra reads (https://github.com/mlcommons/chakra, schema/protobuf/et_def.proto): a
message of metadata and then one for each node, each after its length. The messages are declared
here with the names and numbers of the fields that the nodes have.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from testbed.core.errors import InputError, MachineError, Place
from testbed.runfolder.files import replace_bytes
from testbed.runfolder.folder import RunDir
from testbed.runfolder.tables import read_table

try:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, proto
except ImportError as error:
    raise MachineError(
        "protobuf, which writes Chakra's traces, is not installed\n"
        "  run `pip install --editable '.[chakra]'` in the folder of the project"
    ) from error

VERSION = "1.0.0"  # of Chakra's schema
PACKAGE = "ChakraProtoMsg"
COMPUTATION, SEND, RECEIVE, COLLECTIVE = 4, 5, 6, 7  # NodeType
COLLECTIVE_TYPES = {  # CollectiveCommType
    "all_reduce": 0,
    "reduce": 1,
    "all_gather": 2,
    "gather": 3,
    "scatter": 4,
    "broadcast": 5,
    "all_to_all": 6,
    "reduce_scatter": 7,
    "barrier": 9,
}
RANKS = ("comm_src", "comm_dst")  # attributes that hold a rank
LOOK_BACK = 1000  # nodes; no rank has more operations in flight
_Field = descriptor_pb2.FieldDescriptorProto
_REPEATED = _Field.LABEL_REPEATED
_SINGLE = _Field.LABEL_OPTIONAL


@dataclass(frozen=True)
class _Work:
    """A stretch of a rank's time that becomes a node.

    Attributes:
        name: Name of the node.
        kind: NodeType.
        start_ns: Begin in Unix ns on the run's clock.
        end_ns: End in Unix ns.
        attributes: Value of each attribute by name; the name selects the type.
    """

    name: str
    kind: int
    start_ns: int
    end_ns: int
    attributes: tuple[tuple[str, int | bool | str], ...]


def write_chakra(folder: RunDir, target: Path) -> list[Path]:
    """Write a trace for each rank.

    Each node depends on the last computation and the last operation that had ended on its rank when
    it began. Warm-up operations and steps are included. A send or receive has its peer, if its
    process group is that of all ranks.

    Args:
        folder: The run folder.
        target: Existing folder for the files.

    Returns:
        Paths of the files, by rank.

    Raises:
        InputError: The run recorded no operations.
        OSError: A table cannot be read, or a file cannot be written.
    """
    operations = read_table(folder.ops) if folder.ops.is_file() else pl.DataFrame()
    if operations.is_empty():
        remedy = "traces need a run that recorded operations"
        raise InputError("no operations", place=Place(folder.path), remedy=remedy)
    steps = read_table(folder.train) if folder.train.is_file() else None

    messages = _messages()
    began_ns = int(operations["start_ns"].min())  # type: ignore[arg-type]
    if steps is not None:
        began_ns = min(began_ns, int(steps["start_ns"].min()))  # type: ignore[arg-type]
    written: list[Path] = []
    for rank in sorted(operations["rank"].unique().to_list()):
        work = list(_communication(operations.filter(rank=rank)))
        if steps is not None:
            work += _computation(steps.filter(rank=rank))
        path = target / f"{folder.path.name}.{rank}.et"
        replace_bytes(path, _trace(messages, work, began_ns))
        written.append(path)
    return written


def _communication(operations: pl.DataFrame) -> Iterator[_Work]:
    """Yield the operations of a rank.

    Args:
        operations: Rows of ops.parquet (`testbed.runfolder.schemas.OPS`).
    """
    for row in operations.iter_rows(named=True):
        kind = {"send": SEND, "recv": RECEIVE}.get(row["op"], COLLECTIVE)
        attributes: list[tuple[str, int | bool | str]] = [
            ("is_cpu_op", False),
            ("comm_size", row["bytes"]),
        ]
        if kind == COLLECTIVE:
            if row["op"] not in COLLECTIVE_TYPES:
                continue
            attributes.append(("comm_type", COLLECTIVE_TYPES[row["op"]]))
        elif row["peer"] is not None and row["group_rank"] == row["rank"]:
            ends = (row["rank"], row["peer"])
            source, target = ends if kind == SEND else reversed(ends)
            attributes += [("comm_src", source), ("comm_dst", target)]
        group = row["process_group"] or row["group"]
        if group:
            attributes.append(("pg_name", group))
        size = f"{row['op']} {row['bytes']} B"
        yield _Work(size, kind, row["start_ns"], row["end_ns"], tuple(attributes))


def _computation(steps: pl.DataFrame) -> Iterator[_Work]:
    """Yield the stretches of modelled computation of a rank.

    Args:
        steps: Rows of train.parquet (`testbed.runfolder.schemas.TRAIN`).
    """
    for row in steps.iter_rows(named=True):
        times = row["computed_ns"]
        if not times:
            start_ns = row["start_ns"]
            times = [start_ns, start_ns + row["compute_ns"]]
        for start_ns, end_ns in zip(times[::2], times[1::2], strict=True):
            name = f"step {row['step']} computation"
            yield _Work(name, COMPUTATION, start_ns, end_ns, (("is_cpu_op", False),))


def _trace(messages: dict[str, Any], work: Sequence[_Work], began_ns: int) -> bytes:
    """Return the trace of a rank; times count from `began_ns`, in whole microseconds."""
    data = io.BytesIO()
    proto.serialize_length_prefixed(messages["GlobalMetadata"](version=VERSION), data)
    in_order = sorted(work, key=lambda each: (each.start_ns, each.end_ns))
    ended: list[tuple[int, int, bool]] = []  # end, node, whether it is computation
    for number, each in enumerate(in_order):
        node = messages["Node"](
            id=number,
            name=each.name,
            type=each.kind,
            data_deps=_last_ended(ended, each.start_ns),
            start_time_micros=(each.start_ns - began_ns) // 1000,
            duration_micros=(each.end_ns - each.start_ns) // 1000,
        )
        for name, value in each.attributes:
            node.attr.add(name=name, **{_value_field(name, value): value})
        proto.serialize_length_prefixed(node, data)
        ended.append((each.end_ns, number, each.kind == COMPUTATION))
    return data.getvalue()


def _last_ended(ended: Sequence[tuple[int, int, bool]], start_ns: int) -> list[int]:
    """Return the last computation and the last operation that ended by `start_ns`."""
    dependencies: list[int] = []
    for is_computation in (True, False):
        before = [node for node in ended[-LOOK_BACK:] if node[2] == is_computation]
        done = [(end_ns, number) for end_ns, number, _ in before if end_ns <= start_ns]
        if done:
            dependencies.append(max(done)[1])
    return sorted(dependencies)


def _value_field(name: str, value: int | bool | str) -> str:
    """Return the field of an attribute's value in which Chakra's tools look for it."""
    if isinstance(value, bool):
        return "bool_val"
    if name in RANKS:
        return "int32_val"
    return "int64_val" if isinstance(value, int) else "string_val"


def _messages() -> dict[str, Any]:
    """Return the classes of Chakra's messages by name."""
    file = descriptor_pb2.FileDescriptorProto(
        name="testbed/chakra.proto", package=PACKAGE, syntax="proto3"
    )
    _declare(file, "GlobalMetadata", [("version", 1, _Field.TYPE_STRING, _SINGLE)])
    attribute = _declare(
        file,
        "AttributeProto",
        [
            ("name", 1, _Field.TYPE_STRING, _SINGLE),
            ("int32_val", 7, _Field.TYPE_INT32, _SINGLE),
            ("int64_val", 9, _Field.TYPE_INT64, _SINGLE),
            ("bool_val", 27, _Field.TYPE_BOOL, _SINGLE),
            ("string_val", 29, _Field.TYPE_STRING, _SINGLE),
        ],
    )
    attribute.oneof_decl.add(name="value")
    for field in attribute.field[1:]:
        field.oneof_index = 0
    node = _declare(
        file,
        "Node",
        [
            ("id", 1, _Field.TYPE_UINT64, _SINGLE),
            ("name", 2, _Field.TYPE_STRING, _SINGLE),
            ("type", 3, _Field.TYPE_INT32, _SINGLE),
            ("data_deps", 5, _Field.TYPE_UINT64, _REPEATED),
            ("start_time_micros", 6, _Field.TYPE_UINT64, _SINGLE),
            ("duration_micros", 7, _Field.TYPE_UINT64, _SINGLE),
        ],
    )
    node.field.add(
        name="attr",
        number=10,
        type=_Field.TYPE_MESSAGE,
        label=_REPEATED,
        type_name=f".{PACKAGE}.AttributeProto",
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    classes: dict[str, Any] = {}
    for name in ("GlobalMetadata", "Node"):
        descriptor = pool.FindMessageTypeByName(f"{PACKAGE}.{name}")
        classes[name] = message_factory.GetMessageClass(descriptor)
    return classes


def _declare(
    file: descriptor_pb2.FileDescriptorProto, name: str, fields: Sequence[tuple[str, int, int, int]]
) -> descriptor_pb2.DescriptorProto:
    """Add a message with fields of a name, a number, a type and a label to a file."""
    message = file.message_type.add(name=name)
    for field, number, kind, label in fields:
        message.field.add(name=field, number=number, type=kind, label=label)
    return message
