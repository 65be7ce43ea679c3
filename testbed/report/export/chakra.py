"""The operations of each rank as Chakra execution traces; the only module that imports protobuf.

A file <name>.<rank>.et holds a rank's modelled computation and its operations as nodes, in the form
that MLCommons Chakra reads (https://github.com/mlcommons/chakra, schema/protobuf/et_def.proto): a
message of metadata and then one for each node, each after its length. The messages are declared
here with the names and numbers of the fields that the nodes have.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from testbed.core.errors import InputError, MachineError, Place
from testbed.core.observed_order import Work, observed_order
from testbed.core.units import parse_ranks
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
RANKS = ("comm_src", "comm_dst", "comm_tag")  # attributes of 32 bits
PART_OF_WHOLE = ("all_gather", "gather")  # of which a rank's input is only its part
_Field = descriptor_pb2.FieldDescriptorProto
_REPEATED = _Field.LABEL_REPEATED
_SINGLE = _Field.LABEL_OPTIONAL

Attribute = tuple[str, int | bool | str | tuple[int, ...]]


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
    attributes: tuple[Attribute, ...]


def write_chakra(folder: RunDir, target: Path) -> list[Path]:
    """Write a trace for each rank.

    Computation is cut where an operation begins, and each node depends on what
    `testbed.core.observed_order` finds. Warm-up operations and steps are included.

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
        if kind == COLLECTIVE and row["op"] not in COLLECTIVE_TYPES:
            continue
        attributes: list[Attribute] = [("is_cpu_op", False), ("comm_size", _input_bytes(row))]
        if kind == COLLECTIVE:
            attributes.append(("comm_type", COLLECTIVE_TYPES[row["op"]]))
        attributes += _ranks(row, kind)
        group = row["process_group"] or row["group"]
        if group:
            attributes.append(("pg_name", group))
        if row["dtype"]:
            attributes.append(("dtype", row["dtype"]))
        size = f"{row['op']} {row['bytes']} B"
        yield _Work(size, kind, row["start_ns"], row["end_ns"], tuple(attributes))


def _input_bytes(row: Mapping[str, Any]) -> int:
    """Return the bytes that a rank gives to an operation, which Chakra counts."""
    size: int = row["bytes"]
    return size // row["group_size"] if row["op"] in PART_OF_WHOLE else size


def _ranks(row: Mapping[str, Any], kind: int) -> Iterator[Attribute]:
    """Yield the attributes of an operation that name ranks, where its group's ranks are known."""
    members = _members(row)
    if row["root"] is not None and row["root"] < len(members):
        yield "root", members[row["root"]]
    if row["parts"]:
        yield "parts", tuple(row["parts"])
    if kind == COLLECTIVE or row["peer"] is None or row["peer"] >= len(members):
        return
    ends = (row["rank"], members[row["peer"]])
    source, target = ends if kind == SEND else reversed(ends)
    yield from (("comm_src", source), ("comm_dst", target), ("comm_tag", row["tag"]))


def _members(row: Mapping[str, Any]) -> list[int]:
    """Return the ranks of an operation's group in their order; [] if unknown."""
    listed = re.fullmatch(r"[^/:]*:([0-9,-]+)", row["process_group"])
    if listed is not None:
        return parse_ranks(listed[1])
    if row["group_rank"] == row["rank"]:  # all ranks, or the first ones
        return list(range(row["group_size"]))
    return []


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
        attributes = (("is_cpu_op", False), ("step", row["step"]))
        for start_ns, end_ns in zip(times[::2], times[1::2], strict=True):
            name = f"step {row['step']} computation"
            yield _Work(name, COMPUTATION, start_ns, end_ns, attributes)


def _trace(messages: dict[str, Any], work: Sequence[_Work], began_ns: int) -> bytes:
    """Return the trace of a rank; times count from `began_ns`, in whole microseconds."""
    data = io.BytesIO()
    proto.serialize_length_prefixed(messages["GlobalMetadata"](version=VERSION), data)
    times = [Work(each.start_ns, each.end_ns, each.kind == COMPUTATION) for each in work]
    for number, part in enumerate(observed_order(times)):
        each = work[part.work]
        start_us = (part.start_ns - began_ns) // 1000
        node = messages["Node"](
            id=number,
            name=each.name,
            type=each.kind,
            data_deps=part.after,
            start_time_micros=start_us,
            duration_micros=(part.end_ns - began_ns) // 1000 - start_us,
        )
        for name, value in each.attributes:
            attribute = node.attr.add(name=name)
            field = _value_field(name, value)
            if isinstance(value, tuple):
                getattr(attribute, field).values.extend(value)
            else:
                setattr(attribute, field, value)
        proto.serialize_length_prefixed(node, data)
    return data.getvalue()


def _value_field(name: str, value: int | bool | str | tuple[int, ...]) -> str:
    """Return the field of an attribute's value in which Chakra's tools look for it."""
    if isinstance(value, bool):
        return "bool_val"
    if isinstance(value, tuple):
        return "int64_list"
    if name in RANKS:
        return "int32_val"
    return "int64_val" if isinstance(value, int) else "string_val"


def _messages() -> dict[str, Any]:
    """Return the classes of Chakra's messages by name."""
    file = descriptor_pb2.FileDescriptorProto(
        name="testbed/chakra.proto", package=PACKAGE, syntax="proto3"
    )
    _declare(file, "GlobalMetadata", [("version", 1, _Field.TYPE_STRING, _SINGLE)])
    _declare(file, "Int64List", [("values", 1, _Field.TYPE_INT64, _REPEATED)])
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
    _declare_part(attribute, "int64_list", 10, "Int64List", _SINGLE)
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
    _declare_part(node, "attr", 10, "AttributeProto", _REPEATED)
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


def _declare_part(
    message: descriptor_pb2.DescriptorProto, name: str, number: int, part: str, label: int
) -> None:
    """Add a field to a message that holds one message `part`, or several."""
    message.field.add(
        name=name,
        number=number,
        type=_Field.TYPE_MESSAGE,
        label=label,
        type_name=f".{PACKAGE}.{part}",
    )
