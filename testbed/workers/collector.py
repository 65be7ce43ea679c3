"""Collect the records of ranks: hosts write into named pipes, and this process fills the files.

Each host has a folder of pipes in place of the folder ``raw`` of the run: one for each file that a
rank of the host may write to. A rank can append, but can neither read nor change what it has
written, and has no pipe of another host. What comes through the pipe of a host's events must be a
record that this host may write.

The pipes are emptied whenever the fleet looks after its ranks, and at once after an event. Writing
wakes nobody otherwise, so a record costs a rank no switch to another process.
"""

from __future__ import annotations

import os
import resource
import select
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from testbed.plan.model import Plan, PlannedJob, Workers
from testbed.runfolder.folder import RunDir
from testbed.runfolder.records import (
    EVENT,
    MOST_BYTES,
    FirstOperation,
    OperationsTotal,
    RankExit,
    RankStarted,
    Record,
    RecordsRefused,
    SeparateWorld,
    ValueDecided,
    append,
)

CHUNK_BYTES = 2**16  # what a pipe holds
MOST_CHUNKS = 64  # at a time: a rank may write faster than this process reads
LONGEST_LINE = 2**20
MOST_BYTES_OF_EVENTS = 2**20
OTHER_FILES = 256  # that this process may have open besides the pipes
APPEND_ONLY = 0o222

# Returns the line to append for a line of a host; None: the host may not write the line.
Check = Callable[[bytes], bytes | None]


class Pipe:
    """A pipe of a host, and the file to which its lines go."""

    def __init__(
        self, host: str, path: Path, target: Path, check: Check | None, most_bytes: int
    ) -> None:
        """Create the pipe.

        Args:
            host: the host.
            path: where to create the pipe.
            target: the file.
            check: what each line must pass; None: every line is copied, and checked when read.
            most_bytes: how much is copied; what follows is refused.
        """
        os.mkfifo(path)
        path.chmod(APPEND_ONLY)
        self.host = host
        self.refused = 0  # lines
        self._path = path
        self.target = target
        self._check = check
        self._bytes_left = most_bytes
        self._rest = b""
        self.fd = -1

    @property
    def is_exhausted(self) -> bool:
        """Whether the host has written as much as it may."""
        return self._bytes_left <= 0

    def open(self) -> None:
        """Open the pipe at both ends, so that it never reaches its end."""
        self.fd = os.open(self._path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def close(self) -> None:
        """Close the pipe, if it is open."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def empty(self) -> None:
        """Move what the pipe holds into the file.

        Raises:
            OSError: the file cannot be written.
        """
        chunks: list[bytes] = []
        while len(chunks) < MOST_CHUNKS:
            try:
                chunks.append(os.read(self.fd, CHUNK_BYTES))
            except BlockingIOError:
                break
        self._keep(b"".join(chunks))

    def _keep(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LONGEST_LINE:
            self._rest = b""
            self.refused += 1

        kept: list[bytes] = []
        for line in lines:
            if not line.strip():  # a bell
                continue
            checked = line if self._check is None else self._check(line)
            if checked is None or self.is_exhausted:
                self.refused += 1
                continue
            kept.append(checked + b"\n")
            self._bytes_left -= len(checked) + 1

        if kept:
            # hostfs writes back closed files, so a reader outside of the guest sees them at once
            with self.target.open("ab") as file:
                file.write(b"".join(kept))


class Collector:
    """The pipes of all hosts."""

    def __init__(self, run: RunDir, plan: Plan, folder: Path) -> None:
        """Create a folder of pipes for each host.

        Args:
            run: the run folder.
            plan: the plan of the run.
            folder: a folder for the folders, created here.
        """
        self._run = run
        self._plan = plan
        self._folder = folder
        self._pipes: list[Pipe] = []
        self._by_fd: dict[int, Pipe] = {}
        self._all = select.poll()
        self._events = select.poll()
        folder.mkdir()
        for host in dict.fromkeys(rank.host for rank in plan.ranks_here):
            self._add_host(host)

    def folder_of(self, host: str, job: PlannedJob | None = None) -> Path:
        """Return the folder of a host's pipes, or of those of one of several jobs."""
        folder = self._folder / host
        return folder if job is None else folder / job.name

    def _add_host(self, host: str) -> None:
        run, workers = self._run, self._plan.workers
        folder = self.folder_of(host)
        folder.mkdir()
        if workers.image is not None:  # the zygote is a process of the host
            ranks = _ranks_of(workers, host)
            self._add(host, folder, run.rank_exits, _record_check(RankExit, ranks))
        if not self._plan.jobs:
            self._add_ranks(host, folder, run, workers)
        for job in self._plan.jobs:
            if _ranks_of(job.workers, host):
                folder = self.folder_of(host, job)
                folder.mkdir()
                self._add_ranks(host, folder, run.job(job.name), job.workers)

    def _add_ranks(self, host: str, folder: Path, run: RunDir, workers: Workers) -> None:
        """Add the pipes of a host's ranks, which number those of `workers`."""
        ranks = _ranks_of(workers, host)
        check = _event_check(ranks)
        if run != self._run and self._plan.jobs[0].workers is workers:
            check = _copying_begin(check, self._run.events)
        self._add(host, folder, run.events, check)
        self._add(host, folder, run.rank_starts, _record_check(RankStarted, ranks))
        for rank in ranks:
            self._add(host, folder, run.rank_ops(rank))
            self._add(host, folder, run.rank_train(rank))
            if workers.has_gpus:
                self._add(host, folder, run.rank_gpu(rank))

    def _add(self, host: str, folder: Path, target: Path, check: Check | None = None) -> None:
        most_bytes = MOST_BYTES if check is None else MOST_BYTES_OF_EVENTS
        path = folder / target.name
        self._pipes.append(Pipe(host, path, target, check, most_bytes))

    def open(self) -> None:
        """Open the pipes, which no process started before inherits.

        Each rank has a file of operations from now on, even if it records none; a command that is
        started once per host may run without torch.

        Raises:
            OSError: the limit of open files cannot be raised far enough, or a file cannot be made.
        """
        for rank in self._plan.ranks_here:
            job = self._plan.job_of(rank.rank)
            workers = self._plan.workers if job is None else job.workers
            if not workers.once_per_host:
                run, number = self._run.of_rank(self._plan, rank.rank)
                run.rank_ops(number).touch()
        _allow_open_files(len(self._pipes) + OTHER_FILES)
        for pipe in self._pipes:
            pipe.open()
            self._by_fd[pipe.fd] = pipe
            self._all.register(pipe.fd, select.POLLIN)
            if pipe.target.name == self._run.events.name:
                self._events.register(pipe.fd, select.POLLIN)

    def wait(self, timeout_s: float) -> None:
        """Wait for an event, at most `timeout_s`."""
        self._events.poll(timeout_s * 1000)

    def collect(self) -> None:
        """Move what all pipes hold into the files of the run folder.

        Raises:
            OSError: a file cannot be written.
        """
        for fd, _events in self._all.poll(0):
            pipe = self._by_fd[fd]
            pipe.empty()
            if pipe.is_exhausted and pipe.target.name == self._run.events.name:
                self._events.unregister(fd)

    def close(self) -> None:
        """Collect what is left, record what was refused, and close the pipes.

        Raises:
            OSError: a file cannot be written.
        """
        if self._by_fd:
            self.collect()
        refused: dict[str, int] = {}
        for pipe in self._pipes:
            pipe.close()
            if pipe.refused:
                refused[pipe.host] = refused.get(pipe.host, 0) + pipe.refused
        for host, lines in refused.items():
            append(self._run.events, RecordsRefused(host=host, lines=lines))
        self._by_fd.clear()
        self._pipes.clear()


@contextmanager
def collecting(run: RunDir, plan: Plan, folder: Path) -> Iterator[Collector]:
    """Collect the records of a run's ranks, which have ended when the block ends."""
    collector = Collector(run, plan, folder)
    try:
        yield collector
    finally:
        collector.close()


def _record_check(kind: type[RankStarted] | type[RankExit], ranks: Sequence[int]) -> Check:
    """Return a check for records of a host's ranks."""

    def check(line: bytes) -> bytes | None:
        try:
            record = kind.model_validate_json(line)
        except ValidationError:
            return None
        return _line(record) if record.rank in ranks else None

    return check


def _event_check(ranks: Sequence[int]) -> Check:
    """Return a check for the events that a host's ranks may report."""

    def check(line: bytes) -> bytes | None:
        try:
            event = EVENT.validate_json(line)
        except ValidationError:
            return None
        if isinstance(event, SeparateWorld | ValueDecided):
            return _line(event) if event.rank in ranks else None
        if isinstance(event, FirstOperation | OperationsTotal):
            return _line(event) if 0 in ranks else None
        return None

    return check


def _copying_begin(check: Check, events: Path) -> Check:
    """Return a check that also appends rank 0's begin and total to the events of the run.

    The run's changes and its progress count from the first job's.
    """

    def check_and_copy(line: bytes) -> bytes | None:
        checked = check(line)
        if checked is not None:
            event = EVENT.validate_json(checked)
            if isinstance(event, FirstOperation | OperationsTotal):
                append(events, event)
        return checked

    return check_and_copy


def _ranks_of(workers: Workers, host: str) -> list[int]:
    return [rank.rank for rank in workers.ranks if rank.host == host]


def _line(record: Record) -> bytes:
    return record.to_line().rstrip().encode()


def _allow_open_files(number: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < number:
        resource.setrlimit(resource.RLIMIT_NOFILE, (number, max(number, hard)))
