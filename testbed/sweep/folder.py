"""The files of a sweep's folder.

    experiment.yaml     what was written
    sweep.json          the points: names, values, identities
    points/<folder>/    the run folder of each point whose result is complete, with point.json
    failed/<folder>/    that of each point whose last attempt failed
    running/<folder>/   those in flight; what a killed sweep leaves here is removed by the next one
    lock                held by the sweep that works in the folder
    sweep.parquet       a row for each point; collectives.parquet: a row for each point and
    collective sweep.html          the page

A point is done when its folder is below points/: it gets there by a rename, after all its files are
on the disk. So a sweep may be killed at any moment, and loses only what was in flight.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from testbed.core.errors import InputError
from testbed.runfolder.folder import read_json

FORMAT = 1
POINT_FILE = "point.json"


@dataclass(frozen=True)
class Record:
    """point.json: how an attempt to run a point ended."""

    identity: str
    name: str
    state: str  # completed | failed
    reason: str = ""
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0  # of the guest and of the process around it
    attempt: int = 1


@dataclass(frozen=True)
class SweepDir:
    """Paths of one sweep, and what is done in it."""

    path: Path

    @classmethod
    def create(cls, path: Path) -> SweepDir:
        """Make `path`, or take up a sweep that is there already.

        Raises:
            InputError: it holds something else, or cannot be made.
        """
        folder = cls(path.resolve())
        try:
            path.mkdir(parents=True, exist_ok=True)
            if any(path.iterdir()) and not (folder.lock.exists() or folder.index.exists()):
                raise InputError(
                    f"the folder {path} holds something that is not a sweep",
                    remedy="name another one with --out",
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
        """The folder of a sweep that has begun.

        Raises:
            InputError: it is none.
        """
        folder = cls(path.resolve())
        if not folder.index.is_file():
            raise InputError(f"{path} is not the folder of a sweep: it has no {folder.index.name}")
        return folder

    @property
    def experiment(self) -> Path:
        """What was written."""
        return self.path / "experiment.yaml"

    @property
    def index(self) -> Path:
        """The points: see `write_index`."""
        return self.path / "sweep.json"

    @property
    def points(self) -> Path:
        """Run folders of complete points."""
        return self.path / "points"

    @property
    def failed(self) -> Path:
        """Run folders of failed points."""
        return self.path / "failed"

    @property
    def running(self) -> Path:
        """Run folders of points in flight."""
        return self.path / "running"

    @property
    def lock(self) -> Path:
        """Locked by the sweep that works here."""
        return self.path / "lock"

    @property
    def table(self) -> Path:
        """A row for each point."""
        return self.path / "sweep.parquet"

    @property
    def collectives(self) -> Path:
        """A row for each point and collective."""
        return self.path / "collectives.parquet"

    @property
    def page(self) -> Path:
        """The page."""
        return self.path / "sweep.html"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other sweeps out, and remove what a killed one left in flight.

        Raises:
            InputError: another sweep works here.
        """
        with self.lock.open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                lock.seek(0)
                raise InputError(
                    f"another sweep works in {self.path} (process {lock.read().strip() or 'unknown'})",
                    remedy="wait until it has ended, or name another folder with --out",
                ) from error
            lock.truncate(0)
            lock.write(f"{os.getpid()}\n")
            lock.flush()
            self.clear_running()
            yield

    def clear_running(self) -> None:
        """Remove the folders of points in flight."""
        for left in self.running.iterdir():
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)

    def log(self, name: str) -> Path:
        """What the process of the point with the folder `name` prints while it is in flight."""
        return self.running / f".{name}.log"

    def done(self) -> dict[str, Path]:
        """The folders of complete points by identity."""
        return self._records(self.points, "completed")

    def failures(self) -> dict[str, Path]:
        """The folders of failed points by identity."""
        return self._records(self.failed, "failed")

    def _records(self, parent: Path, state: str) -> dict[str, Path]:
        found = {}
        for folder in parent.iterdir() if parent.is_dir() else ():
            record = read_json(folder / POINT_FILE, [])
            if record.get("state") == state:
                found[str(record["identity"])] = folder
        return found

    def settle(self, folder: Path, record: Record) -> Path:
        """Move `folder` to where its outcome belongs, after all of it is on the disk; returns the
        new place.

        Raises:
            OSError: it cannot be written.
        """
        folder.mkdir(exist_ok=True)
        write_durably(folder / POINT_FILE, asdict(record))
        for file in folder.rglob("*"):
            if file.is_file() and not file.is_symlink():
                _sync(file)
        target = (self.points if record.state == "completed" else self.failed) / folder.name
        for old in (target, self.failed / folder.name):
            shutil.rmtree(old, ignore_errors=True)
        folder.rename(target)
        _sync(target.parent)
        return target

    def write_index(self, value: dict[str, Any]) -> None:
        """Write sweep.json.

        Raises:
            OSError: it cannot be written.
        """
        write_durably(
            self.index, {"format": FORMAT, "written": time.strftime("%Y-%m-%d %H:%M:%S"), **value}
        )


def read_record(folder: Path) -> Record | None:
    """point.json of `folder`; None if there is none."""
    found = read_json(folder / POINT_FILE, [])
    known = {name: found[name] for name in Record.__dataclass_fields__ if name in found}
    return Record(**known) if {"identity", "name", "state"} <= known.keys() else None


def write_durably(path: Path, value: Any) -> None:
    """Write JSON so that after a crash `path` holds the old value or the whole new one.

    Raises:
        OSError: it cannot be written; the old value is untouched.
    """
    new = path.with_name(path.name + ".new")
    try:
        with new.open("w") as file:
            file.write(json.dumps(value, indent=1, default=str) + "\n")
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
