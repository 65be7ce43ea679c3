"""The folder of a sweep: what counts as done, who may work in it, and what a kill or a full disk
leaves.
"""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from testbed.core.errors import InputError
from testbed.sweep.durable import write_durably
from testbed.sweep.folder import SweepDir
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


def test_a_point_is_done_once_it_is_settled(folder: SweepDir) -> None:
    path = in_flight(folder)
    assert folder.done() == {}
    assert folder.settle(path, COMPLETED) == folder.points / "one.abc"
    assert folder.done() == {"abc": folder.points / "one.abc"}
    assert read_point_record(folder.points / "one.abc") == COMPLETED
    assert not path.exists()


def test_a_failed_point_is_not_done_and_makes_room_for_the_next_attempt(folder: SweepDir) -> None:
    folder.settle(in_flight(folder), FAILED)
    assert folder.done() == {}
    assert set(folder.failures()) == {"abc"}
    folder.settle(in_flight(folder), COMPLETED)
    assert set(folder.done()) == {"abc"}
    assert folder.failures() == {}


def test_a_folder_without_a_sound_record_is_not_done(folder: SweepDir) -> None:
    (folder.points / "two").mkdir()
    (folder.points / "three").mkdir()
    (folder.points / "three/point.json").write_text('{"identity": "abc", "sta')
    assert folder.done() == {}


def test_two_sweeps_in_one_folder_refuse_each_other(folder: SweepDir) -> None:
    refused = pytest.raises(InputError, match=f"another sweep works in .*process {os.getpid()}")
    with folder.locked(), refused, folder.locked():
        pass
    with folder.locked():
        pass


def test_what_was_in_flight_is_removed_by_the_next_sweep(folder: SweepDir) -> None:
    in_flight(folder)
    folder.log("one.abc").write_text("x")
    with folder.locked():
        assert list(folder.running.iterdir()) == []


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="holds something that is not a sweep"):
        SweepDir.create(tmp_path)
    with pytest.raises(InputError, match="not the folder of a sweep"):
        SweepDir.open(tmp_path)


def test_a_kill_at_any_moment_leaves_points_that_are_whole(tmp_path: Path) -> None:
    """A process that settles points without end is killed; each folder below points/ has all its
    files.
    """
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


def test_a_full_disk_leaves_the_old_value(tmp_path: Path) -> None:
    """A process that may not write files of more than 4 KiB, as on a disk that is full, fails and
    breaks nothing.
    """
    path = tmp_path / "value.json"
    write_durably(path, "[1]\n")
    code = f"""
        import resource, signal
        from pathlib import Path
        from testbed.sweep.durable import write_durably
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        write_durably(Path({str(path)!r}), "x" * 10_000)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert "OSError" in done.stderr
    assert path.read_text().strip() == "[1]"
    assert list(tmp_path.iterdir()) == [path]
