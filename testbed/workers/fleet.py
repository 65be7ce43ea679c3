"""Common part of both kinds of isolation: start ranks, kill ranks, and wait for their ends."""

from __future__ import annotations

import os
import re
import signal
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from testbed.core.errors import WorkerError
from testbed.core.paths import COMMON
from testbed.plan.model import Plan, PlannedJob, Rank
from testbed.runfolder.files import last_lines
from testbed.runfolder.folder import RunDir
from testbed.runfolder.records import Follower, RankExit
from testbed.runfolder.stacks import END, RankStacks, describe, parse_stacks
from testbed.workers.collector import Collector
from testbed.workers.gpu.device_library import VALUES
from testbed.workers.gpu_hint import gpu_hint
from testbed.workers.job_ends import JobEnds
from testbed.workers.stacks import Logs, rank_of, request_stacks, state_of

POLL_S = 0.05  # on the run's clock: the run ends at most this long after the last rank
# How long other ranks continue after one has failed: their logs then show the consequences.
LAST_WORDS_S = 0.5
LOG_TAIL_LINES = 25
MIB = 2**20
# What torch and gloo write when an operation has timed out.
TIMED_OUT = re.compile(r"tim(ed|e) ?out", re.IGNORECASE)
ANNOUNCEMENT = "testbed: "  # begins the testbed's own lines in a rank's log
ENVIRONMENT = {
    # New memory costs 80 us a page in the guest: glibc keeps freed memory and grows by 64 MiB.
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(64 * MIB),
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONHASHSEED": "0",  # sets of strings have one order
}


class Fleet(ABC):
    """The ranks of a run, on their hosts.

    Entering the context starts the zygotes; leaving the context ends every process.
    """

    def __init__(self, run: RunDir, plan: Plan) -> None:
        self.run = run
        self.plan = plan
        # number of processes so far, by rank that the testbed starts
        self._starts: Counter[int] = Counter()
        # rank and process number of the processes that the plan kills
        self._killed: set[tuple[int, int]] = set()
        self._crashed: set[str] = set()  # hosts, of any guest
        self._collector: Collector | None = None
        # why each failed job failed, by its name
        self._failures: dict[str, str] = {}
        self._hosts_to_start = 0
        for change in plan.network.changes:
            self._hosts_to_start += len([host for host in change.started if host in self.hosts])

    @property
    @abstractmethod
    def namespaces(self) -> dict[str, int]:
        """A process in the network namespace of each host that already has one, by host."""

    @abstractmethod
    def _start(self, hosts: Sequence[str], netns: Mapping[str, int]) -> None:
        """Start the ranks of `hosts`; `netns` maps a host to a process in its network namespace."""

    @abstractmethod
    def _kill(self, host: str) -> None:
        """Kill all processes of the ranks of `host`."""

    @abstractmethod
    def lost(self) -> list[str]:
        """Return the hosts whose zygote has ended."""

    @abstractmethod
    def memory_kills(self, host: str) -> int:
        """Return the number of processes of `host` killed by the kernel for lack of memory."""

    @abstractmethod
    def pids(self, host: str) -> list[int]:
        """Return the processes of `host`."""

    @property
    def hosts(self) -> list[str]:
        """The hosts here that have ranks, in the order of their first ranks."""
        return list(dict.fromkeys(rank.host for rank in self.plan.ranks_here))

    @property
    def processes(self) -> list[Rank]:
        """The ranks that the testbed starts here."""
        return self.plan.processes_here

    def processes_of(self, host: str) -> list[Rank]:
        """Return the ranks that the testbed starts on `host`."""
        return [rank for rank in self.processes if rank.host == host]

    def jobs_of(self, host: str) -> list[PlannedJob]:
        """Return those of several jobs that have ranks on `host`."""
        jobs: list[PlannedJob] = []
        for job in self.plan.jobs:
            hosts = {rank.host for rank in job.workers.ranks}
            if host in hosts:
                jobs.append(job)
        return jobs

    def servers_of(self, hosts: Sequence[str]) -> list[Rank]:
        """Return the first rank of each of `hosts`, if hosts run commands of other hosts."""
        if not self.plan.workers.remote_shells:
            return []

        ranks = self.plan.ranks_here
        return [rank for rank in ranks if rank.local_rank == 0 and rank.host in hosts]

    def __enter__(self) -> Self:
        return self

    @abstractmethod
    def __exit__(self, *error: object) -> None:
        """End every rank and remove the ranks' zygotes, groups and containers."""

    def start(self, netns: Mapping[str, int]) -> None:
        """Start all ranks.

        Args:
            netns: a process in each host's network namespace, by host.
        """
        self._netns = dict(netns)
        if self._collector is not None:
            self._collector.open()
        self._starts.update(rank.rank for rank in self.processes)
        self._start(self.hosts, self._netns)

    def _share_values(self, folder: Path) -> Path | None:
        """Find a folder through which modelled GPUs exchange values (docs/gpus.md).

        Args:
            folder: where the folder is made, unless several guests have one in common.

        Returns:
            The folder, which the environment of the ranks names; None if hosts have no such GPUs.
        """
        if not self.plan.workers.has_gpus:
            return None

        values = COMMON
        if not COMMON.is_mount():
            values = folder / "values"
            values.mkdir()
            values.chmod(0o777)
        os.environ[VALUES] = str(values)
        return values

    def kill(self, hosts: Sequence[str]) -> None:
        """Kill the ranks of those of `hosts` that are here, as the plan asks."""
        self._crashed.update(hosts)
        for host in hosts:
            if host not in self.hosts:
                continue
            for rank in self.processes_of(host):
                number = self._starts[rank.rank] - 1
                self._killed.add((rank.rank, number))

            self._kill(host)

    def start_again(self, hosts: Sequence[str]) -> None:
        """Start the killed ranks of those of `hosts` again that are here."""
        here = [host for host in hosts if host in self.hosts]
        if not here:
            return

        for host in here:
            self._starts.update(rank.rank for rank in self.processes_of(host))

        self._hosts_to_start -= len(here)
        self._start(here, self._netns)

    def wait(self, look_elsewhere: Callable[[], None] = lambda: None) -> None:
        """Wait until every rank here has exited with status 0 or was killed as planned.

        Args:
            look_elsewhere: called now and then; raises an error if the run has failed elsewhere.

        The failure of one of several jobs ends the ranks of this job only.

        Raises:
            WorkerError: a rank failed; `__exit__` ends the other ranks.
        """
        exits: Follower[RankExit] = Follower(self.run.rank_exits, RankExit)
        statuses: dict[int, list[int]] = {rank.rank: [] for rank in self.processes}
        jobs = JobEnds(self.run, self.plan)

        while True:
            # read before the exits: a zygote that has finished is not lost
            lost_hosts = self.lost()
            self._collect()
            for record in exits.new():  # in the order of time: the first failure causes others
                with self._of_job(record.rank):
                    self._check_exit(record, len(statuses[record.rank]))
                statuses[record.rank].append(record.status)
                jobs.note_exit(record)

            if self.run.stacks_wanted.exists():
                self.run.stacks_wanted.unlink()
                self.write_stacks()

            running = self._running(statuses)
            jobs.note_ends(running, self._failures)
            if not running and self._is_over(statuses):
                self._collect()
                self._report_failures()
                return

            self._check_lost(lost_hosts, running)
            look_elsewhere()
            self._pause()

    @contextmanager
    def _of_job(self, rank: int) -> Iterator[None]:
        """Let a failure of one of several jobs end only the ranks of this job."""
        job = self.plan.job_of(rank)
        try:
            yield
        except WorkerError as error:
            if job is None:
                raise
            self._failures[job.name] = str(error)
            self._end_ranks(job)

    def _end_ranks(self, job: PlannedJob) -> None:
        """Kill the ranks of a job."""
        pids = self._pids_by_rank()
        for rank in job.all_ranks():
            for pid in pids.get(rank, []):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _report_failures(self) -> None:
        """Raise a WorkerError if a job has failed."""
        if not self._failures:
            return
        texts = [f"the job {name} failed: {reason}" for name, reason in self._failures.items()]
        raise WorkerError("\n".join(texts))

    def _collect(self) -> None:
        """Move the records that ranks have written since the last call into the run folder."""
        if self._collector is not None:
            self._collector.collect()

    def _pause(self) -> None:
        """Wait for `POLL_S`, or until a rank reports an event."""
        if self._collector is not None:
            self._collector.wait(POLL_S)
        else:
            time.sleep(POLL_S)

    def work_folder(self, host: str, job: PlannedJob | None = None) -> Path | None:
        """Return the only folder of the run folder that a host may write to, which exists.

        None: the workload has no working folders.

        Args:
            host: the host.
            job: one of several jobs; the host may write to a folder of each.
        """
        workers = self.plan.workers if job is None else job.workers
        run = self.run if job is None else self.run.job(job.name)
        if workers.workload != "script":
            return None
        folder = run.work(None if workers.settings["shared_folder"] else host)
        folder.mkdir(parents=True, exist_ok=True)
        self._give(folder)
        return folder

    def _give(self, path: Path) -> None:
        """Make the owner of the run folder, as whom containers run, the owner of `path`."""
        owner = self.run.path.stat()
        if path.stat().st_uid != owner.st_uid:
            os.chown(path, owner.st_uid, owner.st_gid)

    def write_stacks(self) -> list[RankStacks]:
        """Append what each rank is doing now to logs/stacks.txt, and return the entries."""
        pids = self._pids_by_rank()
        logs = Logs({rank: self._log(rank) for rank in pids})
        asked: list[int] = []
        for rank, processes in pids.items():
            if request_stacks(processes):
                asked.append(rank)
        logs.await_growth(asked)

        text = ""
        for planned in self.processes:
            rank = planned.rank
            state = "no process is left"
            if pids[rank]:
                newest = pids[rank][-1]
                state = state_of(newest)
            text += f"rank {rank} on {planned.host}: {state}\n{logs.new(rank)}\n"
        text += END
        with self.run.stacks.open("a") as file:
            file.write(text)
        return parse_stacks(text)

    def _pids_by_rank(self) -> dict[int, list[int]]:
        """Return the processes of each started rank, oldest first."""
        pids: dict[int, list[int]] = {}
        for planned in self.processes:
            pids[planned.rank] = []

        for host in self.hosts:
            for pid in self.pids(host):
                rank = self._number(rank_of(pid))
                if rank in pids:
                    pids[rank].append(pid)
        return pids

    def _number(self, rank: tuple[str, int] | None) -> int:
        """Return the number among the ranks of all jobs; -1 for None."""
        if rank is None:
            return -1
        name, number = rank
        firsts = {job.name: job.first for job in self.plan.jobs}
        return firsts.get(name, 0) + number

    def _log(self, rank: int) -> Path:
        run, number = self.run.of_rank(self.plan, rank)
        return run.rank_log(number)

    def _running(self, statuses: Mapping[int, list[int]]) -> set[int]:
        """Return the ranks with a process that has started and not ended."""
        running = set()

        for rank, ended in statuses.items():
            if len(ended) < self._starts[rank]:
                running.add(rank)

        return running

    def _check_exit(self, record: RankExit, number: int) -> None:
        """Raise a WorkerError if process `number` of a rank has failed."""
        if record.status == 0 or (record.rank, number) in self._killed:
            return
        job = self.plan.job_of(record.rank)
        if job is not None and job.name in self._failures:
            return

        stacks = self.write_stacks()
        time.sleep(LAST_WORDS_S)
        absent = self._absent(record.rank, stacks)
        raise WorkerError(absent + self._failure(record.rank, _ending(record.status)))

    def _check_lost(self, hosts: Sequence[str], running: set[int]) -> None:
        """Raise a WorkerError if a rank of `hosts` should be running."""
        for host in hosts:
            for rank in self.processes_of(host):
                if rank.rank in running:
                    raise WorkerError(self._failure(rank.rank, "was lost"))

    def _is_over(self, statuses: Mapping[int, list[int]]) -> bool:
        """Return whether no rank is running and no rank will start again.

        After a rank has exited with status 0, restarted ranks would have no other ranks to join.
        """
        if not self._hosts_to_start:
            return True

        if not self.plan.jobs:
            return any(ended[-1] == 0 for ended in statuses.values())

        for job in self.plan.jobs:
            ends = [statuses[rank] for rank in job.all_ranks() if rank in statuses]
            if job.name not in self._failures and not any(ended[-1] == 0 for ended in ends):
                return False
        return True

    def _absent(self, failed: int, stacks: Sequence[RankStacks]) -> str:
        """Return which ranks did not enter the operation in which a rank timed out; else empty."""
        tail = self._log_tail(failed).splitlines()
        said = [line for line in tail if not line.lstrip().startswith(ANNOUNCEMENT)]
        if not TIMED_OUT.search("\n".join(said)):
            return ""
        outside = [entry for entry in stacks if _is_outside(entry, failed)]
        # A handle's wait() has no Python frame: the handle may be an operation, or an event.
        absent = [entry for entry in outside if not entry.may_wait] or outside
        if not absent:
            return ""
        names = ", ".join(f"rank {self._name(entry.rank)} on {entry.host}" for entry in absent)
        lines = describe(absent)
        for entry in absent:
            numbered = f"rank {entry.rank} on"
            lines = lines.replace(numbered, f"rank {self._name(entry.rank)} on")
        return (
            f"{names} did not enter the operation in which rank {self._name(failed)} timed "
            f"out:\n{lines}\n"
            f"  the stacks of all ranks are in {self.run.stacks.relative_to(self.run.path)}\n"
        )

    def _failure(self, rank: int, ending: str) -> str:
        """Return how a rank ended, the likely reason, and the end of the rank's log."""
        host = self.plan.workers.ranks[rank].host
        text = f"rank {self._name(rank)} on {host} {ending}"
        if self._crashed:
            crashed = ", ".join(sorted(self._crashed))
            text += f", after {crashed} had crashed as scheduled by an event of the topology"

        if self.memory_kills(host):
            limit_mib = self.plan.workers.memory_bytes / MIB
            text += (
                f": out of memory (the limit of a host is {limit_mib:.0f} MiB)\n"
                "  raise it with --memory"
            )

        return text + self._log_tail(rank)

    def _name(self, rank: int) -> str:
        return self.plan.rank_name(rank)

    def _log_tail(self, rank: int) -> str:
        log = self._log(rank)
        try:
            lines = last_lines(log, LOG_TAIL_LINES).splitlines()
        except OSError:
            return ""
        if not lines:
            return ""

        indented = "\n".join(f"    {line}" for line in lines)
        tail = f"; the end of {log.relative_to(self.run.path)}:\n{indented}"
        hint = gpu_hint("\n".join(lines))
        return f"{tail}\n  {hint}" if hint else tail


def _is_outside(entry: RankStacks, failed: int) -> bool:
    """Return whether a rank that is still alive was outside of torch.distributed."""
    return entry.rank != failed and bool(entry.threads) and entry.operation is None


def _ending(status: int) -> str:
    if status < 0:
        return f"was ended by signal {-status}"

    return f"exited with {status}"
