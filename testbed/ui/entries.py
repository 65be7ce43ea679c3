"""Runs and sweeps below a folder of results, each read again only when its files have changed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ConfigDict, ValidationError

from testbed.analysis.verdict import verdict
from testbed.core.errors import InputError
from testbed.core.ownership import is_claimed
from testbed.runfolder.files import read_plain
from testbed.runfolder.folder import RunDir
from testbed.runfolder.status import read_status
from testbed.runfolder.summary import read_summary
from testbed.sweep.folder import SweepDir
from testbed.ui.stage import RunStage, StageWatch, began_s, is_in_progress, modified_s

DEEPEST = 4  # folders between that of the results and a run
MOST_ENTRIES = 5000
MOST_READ = 100  # entries that are read in one look
LONGEST_TEXT = 400  # characters
LOST = "lost"  # state of a run that neither goes on nor has an outcome
Signature = tuple[int, ...]


class RunEntry(BaseModel):
    """A run in the list: what status.json, plan.json and summary.json say in a few words.

    `at` is the path below the folder of results. `stage` is None unless the run is in progress.
    """

    kind: str = "run"
    at: str
    state: str
    faithful: bool | None = None
    topology: str = ""
    workload: str = ""
    ranks: int = 0
    text: str = ""
    began_s: float = 0.0
    seconds: float = 0.0
    stage: RunStage | None = None


class SweepEntry(BaseModel):
    """A sweep or a search in the list, with the number of its points by state."""

    kind: str = "sweep"
    at: str
    state: str
    text: str = ""
    points: int = 0
    completed: int = 0
    failed: int = 0
    running: int = 0
    began_s: float = 0.0
    seconds: float = 0.0


Entry = RunEntry | SweepEntry


class _Named(BaseModel):
    model_config = ConfigDict(extra="ignore")
    name: str = ""


class _Workers(BaseModel):
    model_config = ConfigDict(extra="ignore")
    workload: str = ""
    ranks: list[object] = []


class _PlanGlance(BaseModel):
    """The few values of plan.json that the list shows."""

    model_config = ConfigDict(extra="ignore")
    network: _Named = _Named()
    workers: _Workers = _Workers()


class ResultsFolder:
    """A folder of results, whose runs and sweeps may come from anyone."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self._entries: dict[str, Entry] = {}
        self._signatures: dict[str, Signature] = {}
        self._watches: dict[str, StageWatch] = {}

    def run(self, at: str) -> RunDir:
        """Return a run by its path below the folder.

        Raises:
            InputError: There is no such run, or it holds entries that are not plain files.
        """
        path = self._below(at)
        if not is_run(path):
            raise InputError(f"no run at {at}")
        return RunDir.open(path) if (path / "plan.json").exists() else RunDir(path)

    def sweep(self, at: str) -> SweepDir:
        """Return a sweep by its path below the folder.

        Raises:
            InputError: There is no such sweep.
        """
        path = self._below(at)
        if not is_sweep(path):
            raise InputError(f"no sweep at {at}")
        return SweepDir(path)

    def _below(self, at: str) -> Path:
        """Return a folder below the results, to which no symbolic link and no ``..`` may lead.

        Raises:
            InputError: There is no such folder.
        """
        path = self.path
        for part in PurePosixPath(at).parts:
            path = path / part
            if part in ("/", "..") or path.is_symlink() or not path.is_dir():
                raise InputError(f"no folder at {at}")
        return path

    def look(self) -> list[Entry]:
        """Return the entries, those that changed read again, up to a number in one look."""
        found = dict(_walk(self.path, self.path, 0))
        for at in [at for at in self._entries if at not in found]:
            self._forget(at)

        unread = MOST_READ
        for at, path in found.items():
            signature = _signature(path)
            is_going_on = at in self._entries and self._entries[at].state == "running"
            if not is_going_on and self._signatures.get(at) == signature:
                continue
            if not unread:
                break
            unread -= 1
            self._signatures[at] = signature
            self._entries[at] = self._read(at, path)
        return list(self._entries.values())

    def _forget(self, at: str) -> None:
        del self._entries[at]
        self._signatures.pop(at, None)
        self._watches.pop(at, None)

    def _read(self, at: str, path: Path) -> Entry:
        if is_sweep(path):
            return read_sweep(SweepDir(path), at)
        run = RunDir(path)
        entry = read_run(run, at)
        if entry.state == "running":
            watch = self._watches.setdefault(at, StageWatch(run))
            entry.stage = watch.look()
        else:
            self._watches.pop(at, None)
        return entry


def is_run(path: Path) -> bool:
    """Return whether a folder is that of a run, which has a status before it has a plan."""
    return (path / "plan.json").is_file() or (
        (path / "status.json").is_file() and (path / "raw").is_dir()
    )


def is_sweep(path: Path) -> bool:
    """Return whether a folder is that of a sweep or a search."""
    folder = SweepDir(path)
    return folder.index.is_file() or (folder.lock.is_file() and folder.points.is_dir())


def _walk(root: Path, path: Path, depth: int) -> Iterator[tuple[str, Path]]:
    """Yield the runs and sweeps below a folder, by their path below `root`."""
    at = path.relative_to(root).as_posix()
    if is_run(path) or is_sweep(path):
        yield at, path
        return
    if depth == DEEPEST:
        return
    try:
        with os.scandir(path) as listed:
            folders = [entry for entry in listed if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return
    for entry in sorted(folders, key=lambda entry: entry.name)[:MOST_ENTRIES]:
        # A name that is not UTF-8 has no address in a browser.
        if not entry.name.startswith(".") and entry.name.isprintable():
            yield from _walk(root, path / entry.name, depth + 1)


def _signature(path: Path) -> Signature:
    """Return numbers that change when the files behind an entry do."""
    numbers: list[int] = []
    names = (
        "status.json",
        "plan.json",
        "summary.json",
        "sweep.json",
        "points",
        "failed",
        "running",
    )
    for name in names:
        try:
            stat = (path / name).lstat()
        except OSError:
            numbers.append(0)
        else:
            numbers += [stat.st_mtime_ns, stat.st_size]
    return tuple(numbers)


def read_run(run: RunDir, at: str) -> RunEntry:
    """Read the entry of a run, any of whose files may be missing or damaged."""
    status, _problems = read_status(run.status)
    glance = _glance(run.plan)
    entry = RunEntry(
        at=at,
        state=LOST,
        topology=glance.network.name[:LONGEST_TEXT],
        workload=glance.workers.workload[:LONGEST_TEXT],
        ranks=len(glance.workers.ranks),
        began_s=began_s(run),
    )
    if status is None:
        entry.text = "The run has no readable status.json."
        return entry
    entry.seconds = status.wall_seconds
    if is_in_progress(run, status):
        entry.state = "running"
        return entry
    if status.state == "running":
        entry.text = "The run ended without an outcome: it was killed, or its machine went down."
        return entry

    summary, _problems = read_summary(run.summary)
    entry.state = status.state
    entry.faithful = status.faithful
    entry.text = verdict(status, summary)[:LONGEST_TEXT]
    return entry


def _glance(plan: Path) -> _PlanGlance:
    try:
        return _PlanGlance.model_validate_json(read_plain(plan))
    except (OSError, UnicodeDecodeError, ValidationError):
        return _PlanGlance()


def read_sweep(folder: SweepDir, at: str) -> SweepEntry:
    """Read the entry of a sweep."""
    completed, failed, running = map(_count, (folder.points, folder.failed, folder.running))
    entry = SweepEntry(
        at=at,
        state="running" if is_claimed(folder.lock) else "completed",
        completed=completed,
        failed=failed,
        running=running,
        began_s=modified_s(folder.experiment) or modified_s(folder.lock),
    )
    try:
        index = folder.read_index()
    except InputError as error:
        entry.text = error.what[:LONGEST_TEXT]
        return entry

    entry.points = len(index.planned)
    entry.kind = "search" if index.answers or folder.answers.is_file() else "sweep"
    entry.text = " ".join(index.answers)[:LONGEST_TEXT] or index.description[:LONGEST_TEXT]
    is_unfinished = completed < entry.points and entry.kind == "sweep"
    if entry.state == "completed" and is_unfinished:
        entry.state = "failed" if failed else "interrupted"
    return entry


def _count(folder: Path) -> int:
    """Return the number of run folders in a folder."""
    try:
        with os.scandir(folder) as listed:
            return sum(
                entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".")
                for entry in listed
            )
    except OSError:
        return 0
