"""The folder of a sweep: what counts as done, locking, and what a kill or a full disk leaves."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from testbed.core.errors import InputError
from testbed.runfolder.files import replace_text
from testbed.sweep.folder import SweepDir
from testbed.sweep.index import IndexedPoint, SweepIndex
from testbed.sweep.point_record import PointRecord, read_point_record

COMPLETED = PointRecord(identity="abc", name="one", state="completed", wall_seconds=2.5)
FAILED = PointRecord(identity="abc", name="one", state="failed", reason="it broke")


def in_flight(folder: SweepDir, name: str = "one.abc") -> Path:
    path = folder.running / name
    (path / "logs").mkdir(parents=True)
    (path / "summary.json").write_text("{}")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> SweepDir:
    return SweepDir.create(tmp_path / "sweep")


def test_settled_point_is_done(folder: SweepDir) -> None:
    path = in_flight(folder)
    assert folder.done() == {}
    assert folder.settle(path, COMPLETED) == folder.points / "one.abc"
    assert folder.done() == {"abc": folder.points / "one.abc"}
    assert read_point_record(folder.points / "one.abc") == COMPLETED
    assert not path.exists()


def test_failed_point_makes_room_for_the_next_attempt(folder: SweepDir) -> None:
    folder.settle(in_flight(folder), FAILED)
    assert folder.done() == {}
    assert set(folder.failures()) == {"abc"}
    folder.settle(in_flight(folder), COMPLETED)
    assert set(folder.done()) == {"abc"}
    assert folder.failures() == {}


def test_damaged_record(folder: SweepDir) -> None:
    (folder.points / "two").mkdir()
    (folder.points / "three").mkdir()
    (folder.points / "three/point.json").write_text('{"identity": "abc", "sta')
    assert folder.done() == {}


def test_record_of_testbed_0_1(folder: SweepDir) -> None:
    """point.json had no format number then; a number of a later format is refused."""
    path = in_flight(folder)
    record = {"identity": "abc", "name": "one", "state": "completed", "wall_seconds": 2.5}
    (path / "point.json").write_text(json.dumps(record))
    assert read_point_record(path) == COMPLETED
    (path / "point.json").write_text(json.dumps(record | {"format": 2}))
    assert read_point_record(path) is None


def test_index_is_read_as_written(folder: SweepDir) -> None:
    point = IndexedPoint(name="p", identity="i", values={"delay": "1 ms"}, repeat=1, seed=2)
    index = SweepIndex(name="mine", axes=["delay"], target_loss=2.5, points=[point])
    folder.write_index(index)
    assert json.loads(folder.index.read_text())["format"] == 1
    read = folder.read_index()
    assert read.written
    assert read.repeated
    assert read == index.model_copy(update={"written": read.written})


def test_damaged_index(folder: SweepDir) -> None:
    with pytest.raises(InputError, match=r"cannot read .*sweep\.json: No such file"):
        folder.read_index()
    folder.index.write_text('{"name": "mine", "poi')
    with pytest.raises(
        InputError, match=r"sweep\.json is damaged, or written by another version of testbed"
    ):
        folder.read_index()


def test_lock(folder: SweepDir) -> None:
    refused = pytest.raises(InputError, match=f"another sweep is using .*process {os.getpid()}")
    with folder.locked(), refused, folder.locked():
        pass
    with folder.locked():
        pass


def test_points_in_flight_are_removed(folder: SweepDir) -> None:
    in_flight(folder)
    folder.log("one.abc").write_text("x")
    with folder.locked():
        assert list(folder.running.iterdir()) == []


def test_foreign_folder(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="holds files that are not of a sweep"):
        SweepDir.create(tmp_path)
    with pytest.raises(InputError, match="is not a sweep folder"):
        SweepDir.open(tmp_path)


def test_kill_leaves_whole_points(tmp_path: Path) -> None:
    """Kill a process that settles points without end; each folder below points/ is complete."""
    code = f"""
        from pathlib import Path
        from testbed.sweep.folder import SweepDir
        from testbed.sweep.point_record import PointRecord
        folder = SweepDir.create(Path({str(tmp_path / "sweep")!r}))
        with folder.locked():
            for number in range(10**6):
                path = folder.running / f"p.{{number}}"
                path.mkdir()
                for name in ("summary.json", "ops.parquet"):
                    (path / name).write_text("x" * 10_000)
                record = PointRecord(identity=str(number), name="p", state="completed")
                folder.settle(path, record)
                print(number, flush=True)
    """
    for seconds in (0.05, 0.2):
        with subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True
        ) as sweep:
            assert sweep.stdout is not None
            sweep.stdout.readline()
            with pytest.raises(subprocess.TimeoutExpired):
                sweep.wait(seconds)
            sweep.send_signal(signal.SIGKILL)
        folder = SweepDir.create(tmp_path / "sweep")
        done = folder.done()
        assert done
        assert len(done) == len(list(folder.points.iterdir()))
        for path in done.values():
            assert (
                (path / "summary.json").stat().st_size
                == (path / "ops.parquet").stat().st_size
                == 10_000
            )
        with folder.locked():
            assert list(folder.running.iterdir()) == []


def test_full_disk_leaves_the_old_value(tmp_path: Path) -> None:
    """A process that may not write more than 4 KiB, as on a full disk, fails and breaks nothing."""
    path = tmp_path / "value.json"
    replace_text(path, "[1]\n", durably=True)
    code = f"""
        import resource, signal
        from pathlib import Path
        from testbed.runfolder.files import replace_text
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        replace_text(Path({str(path)!r}), "x" * 10_000, durably=True)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert "OSError" in done.stderr
    assert path.read_text().strip() == "[1]"
    assert list(tmp_path.iterdir()) == [path]
