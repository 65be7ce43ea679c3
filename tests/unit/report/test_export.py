"""A run in the formats of other tools, read back."""

import struct
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

import testbed
from testbed.analysis.summarize import collect
from testbed.cli.main import app
from testbed.core.errors import InputError, MachineError
from testbed.runfolder.folder import RunDir
from tests.support.synthetic import START_NS, make_plan, two_dcs, write_run, write_training_run

S = 10**9
Need = Callable[[object, str], None]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    folder = write_run(tmp_path / "run", make_plan(two_dcs()))
    collect(folder)
    return folder


def scalars_of(folder: Path) -> dict[str, float]:
    table = pl.read_csv(folder / "scalars.csv")
    return dict(table.iter_rows())


def test_csv(run: RunDir, tmp_path: Path) -> None:
    target = tmp_path / "out"
    done = CliRunner().invoke(app, ["export", str(run.path), "--to", "csv", "-o", str(target)])
    assert done.exit_code == 0, done.output
    names = [Path(line).name for line in done.stdout.splitlines()]
    assert names[:4] == ["scalars.csv", "collectives.csv", "operations.csv", "links.csv"]

    scalars = scalars_of(target)
    assert scalars["collectives/all_reduce 1048576 B/time_us"] == 60_000
    assert scalars["wan/east-west/bytes"] == 10_000_000
    assert scalars["run/emulated_seconds"] == 2.5
    assert scalars["run/faithful"] == 1
    collectives = pl.read_csv(target / "collectives.csv")
    assert collectives["time_us"].to_list()[:2] == [60_000, 60_000]
    operations = pl.read_csv(target / "operations.csv")
    assert operations.height == pl.read_parquet(run.ops).height
    assert operations["start_ns"].min() == START_NS


def test_csv_of_training(tmp_path: Path) -> None:
    folder = write_training_run(tmp_path / "run", make_plan(two_dcs()))
    collect(folder)
    paths = testbed.open_run(folder.path).export("csv")
    assert folder.path / "csv" / "steps.csv" in paths
    scalars = scalars_of(folder.path / "csv")
    assert scalars["training/compute_utilisation"] == pytest.approx(0.6)
    steps = pl.read_csv(folder.path / "csv/steps.csv").filter(rank=0).sort("step")
    assert steps["loss"].to_list()[:2] == [5.0, 4.5]
    assert steps["computed_ns"].dtype == pl.String


def test_mistakes(run: RunDir, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown format 'cvs'"):
        testbed.open_run(run.path).export("cvs")  # type: ignore[arg-type]
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot create"):
        testbed.open_run(run.path).export("csv", tmp_path / "file")
    run.summary.unlink()
    with pytest.raises(InputError, match=r"no summary\.json"):
        testbed.open_run(run.path).export("csv")


def test_tensorboard_without_its_library(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    monkeypatch.delitem(sys.modules, "testbed.report.export.tensorboard", raising=False)
    with pytest.raises(MachineError, match=r"tensorboardX.* is not installed\n.*\[tensorboard\]"):
        testbed.open_run(run.path).export("tensorboard")
    assert not (run.path / "tensorboard").exists()


def records_of(path: Path) -> Iterator[bytes]:
    """Yield the records of a TFRecord file: length, its checksum, data, their checksum."""
    data = path.read_bytes()
    position = 0
    while position < len(data):
        (length,) = struct.unpack_from("<Q", data, position)
        begin = position + 12
        yield data[begin : begin + length]
        position = begin + length + 4


def test_tensorboard(need: Need, tmp_path: Path) -> None:
    """Steps of 100 ms with a loss that falls by 0.5, and 10 MB in 1.6 s: 50 Mbit/s each way."""
    need(find_spec("tensorboardX"), "tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    folder = write_training_run(tmp_path / "run", make_plan(two_dcs()))
    collect(folder)
    (path,) = testbed.open_run(folder.path).export("tensorboard", tmp_path / "logs")
    values: dict[str, list[tuple[int, float, float]]] = {}
    for record in records_of(path):
        event = Event.FromString(record)
        for value in event.summary.value:
            point = (event.step, event.wall_time, value.simple_value)
            values.setdefault(value.tag, []).append(point)

    losses = values["steps/loss"]
    assert [(step, loss) for step, _time, loss in losses] == [(n, 5 - n / 2) for n in range(6)]
    assert losses[0][1] == pytest.approx(START_NS / S + 0.1)
    assert [step_ms for _step, _time, step_ms in values["steps/step_ms"]] == [100] * 6
    rates = values["links/east-west/rate_gbps"]
    assert [step for step, _time, _rate in rates] == [100 * n for n in range(1, 17)]
    assert all(rate == pytest.approx(0.05) for _step, _time, rate in rates)
    assert len(values["operations/all_reduce_1048576_B/time_us"]) == 6
    ((_step, _time, utilisation),) = values["training/compute_utilisation"]
    assert utilisation == pytest.approx(0.6)


def fields_of(message: bytes) -> dict[int, list[object]]:
    """The values of a protobuf message by the number of the field, without any schema."""
    from google.protobuf.empty_pb2 import Empty
    from google.protobuf.unknown_fields import UnknownFieldSet

    fields: dict[int, list[object]] = {}
    for field in UnknownFieldSet(Empty.FromString(message)):
        fields.setdefault(field.field_number, []).append(field.data)
    return fields


def messages_of(path: Path) -> Iterator[bytes]:
    """Yield the messages of a file in which each follows its length, in seven bits a byte."""
    data = path.read_bytes()
    position = 0
    while position < len(data):
        length = shift = 0
        while True:
            byte = data[position]
            position += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        yield data[position : position + length]
        position += length


def test_chakra(need: Need, tmp_path: Path) -> None:
    """Steps of 100 ms: 60 ms of computation, and an all-reduce in the last 50 ms, on two ranks.

    The computation is cut where the all-reduce begins, after 50 ms.

    The numbers of the fields are those of Chakra's et_def.proto: Node has id 1, name 2, type 3,
    data_deps 5, start_time_micros 6, duration_micros 7 and attr 10; an attribute has name 1,
    int64_val 9, bool_val 27. COMP_NODE is 4, COMM_COLL_NODE 7.
    """
    need(find_spec("google.protobuf"), "protobuf")
    folder = write_training_run(tmp_path / "run", make_plan(two_dcs()))
    collect(folder)
    paths = testbed.open_run(folder.path).export("chakra", tmp_path / "traces")
    assert [path.name for path in paths] == ["run.0.et", "run.1.et"]

    head, *nodes = [fields_of(message) for message in messages_of(paths[0])]
    assert head == {1: [b"1.0.0"]}
    assert len(nodes) == 3 * 6
    computation, rest, all_reduce, second, *_ = nodes
    assert computation[2] == rest[2] == [b"step 0 computation"]
    assert (computation[3], computation[7], rest[7]) == ([4], [50_000], [10_000])
    assert 6 not in computation  # it begins at 0, which protobuf leaves out
    assert all_reduce[2] == [b"all_reduce 1048576 B"]
    assert (all_reduce[1], all_reduce[3]) == ([2], [7])
    assert (all_reduce[6], all_reduce[7]) == ([50_000], [50_000])
    assert rest[5] == all_reduce[5] == [b"\0"]  # both after the computation's first part
    assert second[6] == [100_000]
    assert second[5] == [b"\1\2"]

    attributes: dict[object, dict[int, list[object]]] = {}
    for attribute in all_reduce[10]:
        assert isinstance(attribute, bytes)
        fields = fields_of(attribute)
        attributes[fields[1][0]] = fields
    assert attributes[b"comm_size"][9] == [1 << 20]
    assert attributes[b"comm_type"][9] == [0]
    assert attributes[b"is_cpu_op"][27] == [0]


def test_messages_of_chakra(need: Need, run: RunDir, tmp_path: Path) -> None:
    """A send from rank 0 to rank 1: comm_src and comm_dst are int32_val, the field 7."""
    need(find_spec("google.protobuf"), "protobuf")
    message = {"phase": "script", "op": "send", "peer": 1, "group_rank": 0, "process_group": "w"}
    operations = pl.read_parquet(run.ops).filter(rank=0).head(1)
    changed = [
        pl.lit(value).cast(operations[name].dtype).alias(name) for name, value in message.items()
    ]
    operations.with_columns(changed).write_parquet(run.ops)
    (path,) = testbed.open_run(run.path).export("chakra", tmp_path / "traces")
    _head, node = [fields_of(each) for each in messages_of(path)]
    assert node[3] == [5]  # COMM_SEND_NODE
    ranks: dict[object, object] = {}
    for attribute in node[10]:
        assert isinstance(attribute, bytes)
        fields = fields_of(attribute)
        ranks[fields[1][0]] = fields.get(7)
    assert (ranks[b"comm_src"], ranks[b"comm_dst"]) == ([0], [1])
    assert b"comm_type" not in ranks


def test_chakra_needs_operations(need: Need, run: RunDir) -> None:
    need(find_spec("google.protobuf"), "protobuf")
    run.ops.unlink()
    with pytest.raises(InputError, match="no operations"):
        testbed.open_run(run.path).export("chakra")
