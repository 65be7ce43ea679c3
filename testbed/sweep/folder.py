"""The folder of a sweep: its files, its lock, and the condition for a completed point.

    experiment.yaml       the experiment as written
    topology.yaml         the topology, if the experiment got one that was made in Python
    sweep.json            the points: names, values, identities
    points/<folder>/      the run folder of each completed point, with point.json
    failed/<folder>/      the run folder of each point whose last attempt failed
    running/<folder>/     points in flight; the next sweep removes leftovers of a killed one
    lock                  held by the sweep that works in the folder
    sweep.parquet         one row per point
    collectives.parquet   one row per point, operation and size
    find.json             the answers of `testbed find`
    optuna-<n>.log        the study of a search over several keys
    sweep.html            the page
    plotly.min.js         the script that draws the figures of the points' pages

A point is done when its folder is below points/. The folder is renamed to that place after all of
its files are on the disk. A sweep can therefore be killed at any moment, and loses only points in
flight.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from testbed.core.errors import DiskFull, InputError
from testbed.core.full_disk import is_disk_full, write_failure
from testbed.core.ownership import claim, owner_of
from testbed.runfolder.files import sync
from testbed.runfolder.folder import RunDir
from testbed.runfolder.status import read_status
from testbed.runfolder.summary import read_summary
from testbed.sweep.index import IndexedPoint, SweepIndex, read_index, write_index
from testbed.sweep.point_record import (
    FILE_NAME as POINT_FILE,
    PointRecord,
    read_point_record,
    write_point_record,
)

PLOTLY = "plotly.min.js"
PLOTLY_OF_POINTS = f"../../{PLOTLY}"  # from the run folder of a point


class NamedPoint(Protocol):
    """A point, planned or in the index."""

    @property
    def identity(self) -> str:
        """Identity of the point."""

    @property
    def folder(self) -> str:
        """Name of the point's run folder."""


@dataclass(frozen=True)
class SweepDir:
    """Paths of one sweep, and operations on its files."""

    path: Path

    @classmethod
    def create(cls, path: Path) -> SweepDir:
        """Create the folder `path`, or open the sweep that `path` already holds.

        Raises:
            InputError: The folder holds other files, or cannot be created.
        """
        folder = cls(path.resolve())

        try:
            path.mkdir(parents=True, exist_ok=True)
            is_sweep = folder.lock.exists() or folder.index.exists()
            if not is_sweep and any(path.iterdir()):
                raise InputError(
                    f"the folder {path} holds files that are not of a sweep",
                    remedy="name another folder with --out",
                )
            for part in (folder.points, folder.failed, folder.running):
                part.mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(
                f"cannot make the folder {path}: {error.strerror}",
                remedy="choose another with --out",
            ) from error

        return folder

    @classmethod
    def open(cls, path: Path) -> SweepDir:
        """Open the folder of a sweep that has started.

        Raises:
            InputError: `path` is not the folder of a sweep.
        """
        folder = cls(path.resolve())
        if not folder.index.is_file():
            raise InputError(f"{path} is not a sweep folder: no {folder.index.name}")
        return folder

    @property
    def experiment(self) -> Path:
        """Path of the experiment as written."""
        return self.path / "experiment.yaml"

    @property
    def topology(self) -> Path:
        """Path of the topology, if it was made in Python."""
        return self.path / "topology.yaml"

    @property
    def index(self) -> Path:
        """Path of the index of points (see `testbed.sweep.index`)."""
        return self.path / "sweep.json"

    @property
    def points(self) -> Path:
        """Folder with the run folders of completed points."""
        return self.path / "points"

    @property
    def failed(self) -> Path:
        """Folder with the run folders of failed points."""
        return self.path / "failed"

    @property
    def running(self) -> Path:
        """Folder with the run folders of points in flight."""
        return self.path / "running"

    @property
    def lock(self) -> Path:
        """Path of the lock file, which names the sweep that works in the folder."""
        return self.path / "lock"

    @property
    def table(self) -> Path:
        """Path of the table with one row per point."""
        return self.path / "sweep.parquet"

    @property
    def collectives(self) -> Path:
        """Path of the table with one row per point, operation and size."""
        return self.path / "collectives.parquet"

    @property
    def answers(self) -> Path:
        """Path of the answers of `testbed find` (see `testbed.sweep.answers`)."""
        return self.path / "find.json"

    def study(self, number: int) -> Path:
        """Return the path of a study of Optuna, by the number of the search from 1."""
        return self.path / f"optuna-{number}.log"

    @property
    def page(self) -> Path:
        """Path of the page."""
        return self.path / "sweep.html"

    @property
    def plotly(self) -> Path:
        """Path of the script that the points' pages share."""
        return self.path / PLOTLY

    def log(self, point_folder: str) -> Path:
        """Return the path of the output of a point in flight, by the point's folder name."""
        return self.running / f".{point_folder}.log"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the sweep's lock, and remove points in flight that a killed sweep left.

        Raises:
            InputError: Another sweep works in the folder.
        """
        try:
            lock = claim(self.lock)
        except BlockingIOError as error:
            owner = owner_of(self.lock) or "unknown process"
            raise InputError(
                f"another sweep is using {self.path} ({owner})",
                remedy="wait until that sweep ends, or choose another folder with --out",
            ) from error
        with lock:
            self.clear_running()
            yield

    def clear_running(self) -> None:
        """Remove the folders of points in flight."""
        for entry in self.running.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)

    def done(self) -> dict[str, Path]:
        """Return the run folders of completed points by identity."""
        return _run_folders(self.points, "completed")

    def failures(self) -> dict[str, Path]:
        """Return the run folders of failed points by identity."""
        return _run_folders(self.failed, "failed")

    def damages(self, points: Iterable[NamedPoint]) -> dict[str, str]:
        """Return why settled points cannot be read, by identity; sound points are left out."""
        reasons: dict[str, str] = {}
        for point in points:
            run_folder = self.points / point.folder
            reason = _why_damaged(run_folder, point.identity) if run_folder.is_dir() else ""
            if reason:
                reasons[point.identity] = reason
        return reasons

    def settle(self, run_folder: Path, record: PointRecord) -> Path:
        """Move a run folder to points/ or failed/, after all of its files are on the disk.

        Args:
            run_folder: A folder on the same file system; created if missing.
            record: Outcome of the point.

        Returns:
            The new path of the run folder.

        Raises:
            OSError: A file cannot be written.
        """
        run_folder.mkdir(exist_ok=True)
        write_point_record(run_folder, record)
        for file in run_folder.rglob("*"):
            if file.is_file() and not file.is_symlink():
                sync(file)

        parent = self.points if record.state == "completed" else self.failed
        target = parent / run_folder.name
        for earlier in (target, self.failed / run_folder.name):
            self._remove_at_once(earlier)

        run_folder.rename(target)
        sync(parent)
        return target

    def _remove_at_once(self, run_folder: Path) -> None:
        """Remove a settled run folder atomically: a kill leaves all of the folder or none."""
        if run_folder.exists():
            removed = self.running / f".removed-{run_folder.name}"
            run_folder.rename(removed)
            shutil.rmtree(removed, ignore_errors=True)

    def read_index(self) -> SweepIndex:
        """Read sweep.json.

        Raises:
            InputError: The file cannot be read.
        """
        return read_index(self.index)

    def with_earlier_points(self, index: SweepIndex) -> SweepIndex:
        """Return an index with the complete points that an earlier form of the experiment had.

        A point that only runs again, because of another version, is not one of them.

        Args:
            index: The index of the experiment in its present form.
        """
        if not self.index.is_file():
            return index
        try:
            earlier = self.read_index().points
        except InputError:
            return index

        identities = {point.identity for point in index.points}
        settings = [(point.values, point.repeat) for point in index.points]
        done = self.done()
        kept: list[IndexedPoint] = []
        for point in earlier:
            is_new = point.identity not in identities
            runs_again = (point.values, point.repeat) in settings
            if is_new and not runs_again and point.identity in done:
                kept.append(point.model_copy(update={"in_grid": False}))
        return index.model_copy(update={"points": [*index.points, *kept]})

    def write_index(self, index: SweepIndex) -> None:
        """Write sweep.json.

        Raises:
            OSError: The file cannot be written.
        """
        write_index(self.index, index)

    def disk_full(self) -> DiskFull:
        """Return the error that ends a sweep when the disk is full."""
        return DiskFull(
            f"the disk of {self.path} is full: the sweep was aborted\n"
            f"  {len(self.done())} complete points were kept; free some space, and run the same "
            "command again to resume"
        )

    @contextmanager
    def full_disk_reported(self) -> Iterator[None]:
        """Convert an `OSError` for a full disk to an error that explains how to resume.

        Raises:
            DiskFull: The disk is full.
            MachineError: A file of the sweep cannot be written or read for another reason.
        """
        try:
            yield
        except OSError as error:
            if is_disk_full(error):
                raise self.disk_full() from error
            doing = f"a file of the sweep {self.path} could not be written or read"
            remedy = "complete points were kept; run the same command again to resume"
            raise write_failure(error, doing, remedy) from error


def _why_damaged(run_folder: Path, identity: str) -> str:
    """Return why the run folder of a complete point cannot be read; empty if it can."""
    record = read_point_record(run_folder)
    if record is None:
        return f"{POINT_FILE} is missing or damaged"
    if record.identity != identity or record.state != "completed":
        return f"{POINT_FILE} is not that of this complete point"
    run = RunDir(run_folder)
    _status, problems = read_status(run.status)
    _summary, summary_problems = read_summary(run.summary)
    for problem in (*problems, *summary_problems):
        return problem.message
    return ""


def _run_folders(parent: Path, state: str) -> dict[str, Path]:
    """Return the run folders below `parent` whose record has `state`, by identity."""
    run_folders: dict[str, Path] = {}
    if not parent.is_dir():
        return run_folders
    for run_folder in parent.iterdir():
        record = read_point_record(run_folder)
        if record is not None and record.state == state:
            run_folders[record.identity] = run_folder
    return run_folders
